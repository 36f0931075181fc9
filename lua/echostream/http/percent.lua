--- Percent-encoding (RFC 3986, section 2.1).

local errors = require "echostream.errors"

local M = {}

local function byte_of(hex)
  return string.char(tonumber(hex, 16))
end

--- Decodes once: what comes out is never decoded again.
---@param text string
---@return string? bytes, echostream.error? err  `invalid_argument`: a `%` without two hexadecimal digits
function M.decode(text)
  if not text:find("%", 1, true) then
    return text
  end
  local bytes, n = text:gsub("%%(%x%x)", byte_of)
  local _, signs = text:gsub("%%", "")
  if n ~= signs then
    return nil, errors.new("invalid_argument", "a percent sign wants two hexadecimal digits after it")
  end
  return bytes
end

local function hex_of(c)
  return ("%%%02X"):format(c:byte())
end

--- Encodes everything but letters, digits and `- . _ ~`.
---@param bytes string
---@param keep? string  more characters that stay, such as "/" for a path
---@return string
function M.encode(bytes, keep)
  if not keep then
    return (bytes:gsub("[^A-Za-z0-9%-._~]", hex_of))
  end
  return (bytes:gsub("[^A-Za-z0-9%-._~]", function(c)
    return keep:find(c, 1, true) and c or hex_of(c)
  end))
end

return M
