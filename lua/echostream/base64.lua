--- Base64 (RFC 4648, section 4), for what people and browsers are given as text.

local M = {}

local alphabet <const> = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

--- Bytes as text, with padding.
---@param bytes string
---@return string
function M.encode(bytes)
  return (bytes:gsub("..?.?", function(part)
    local a, b, c = part:byte(1, 3)
    local n = a << 16 | (b or 0) << 8 | (c or 0)
    local out = ""
    for shift = 18, 0, -6 do
      local i = (n >> shift & 63) + 1
      out = out .. alphabet:sub(i, i)
    end
    return out:sub(1, #part + 1) .. ("="):rep(3 - #part)
  end))
end

--- The bytes of a text, whose white space and padding do not count; nil when it is none.
---@param text string
---@return string?
function M.decode(text)
  local digits = text:gsub("%s", ""):gsub("=+$", "")
  if digits:find("[^%w+/]") or #digits % 4 == 1 then
    return nil
  end
  return (digits:gsub("..?.?.?", function(part)
    local n = 0
    for i = 1, 4 do
      local digit = i <= #part and alphabet:find(part:sub(i, i), 1, true) or 1
      n = n << 6 | digit - 1
    end
    return string.char(n >> 16 & 255, n >> 8 & 255, n & 255):sub(1, #part - 1)
  end))
end

return M
