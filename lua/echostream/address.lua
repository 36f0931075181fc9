--- Reading and writing addresses: "example.org:5000", "[::1]:5000", ":5000", "5000", 5000.

local errors = require "echostream.errors"

local M = {}

--- Whether `host` is an IPv4 or IPv6 literal.
---@param host string
---@return "ip4"|"ip6"|nil
function M.literal(host)
  local a, b, c, d = host:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$")
  if a then
    for _, part in ipairs { a, b, c, d } do
      if #part > 3 or tonumber(part) > 255 then
        return nil
      end
    end
    return "ip4"
  end
  if host:find(":.*:") and host:find("^[%x:.]+%%?%w*$") then
    return "ip6"
  end
end

--- "127.0.0.1", 5000 -> "127.0.0.1:5000"; IPv6 literals get brackets.
---@param host string
---@param port integer
---@return string
function M.join(host, port)
  if host:find(":", 1, true) then
    return ("[%s]:%d"):format(host, port)
  end
  return ("%s:%d"):format(host, port)
end

local function bad(where, text, why)
  error(("%s: %s is not an address: %s (write \"127.0.0.1:5000\", \"example.org:5000\", \"[::1]:5000\", \":5000\" or 5000)")
    :format(where, errors.show(text), why), 0)
end

--- Takes an address apart. Raises (without a position) when it makes no sense.
---@param where string   for the message
---@param text string|integer
---@param default_host string  the host of ":5000" and 5000
---@return string host, integer port
function M.parse(where, text, default_host)
  if math.type(text) == "integer" then
    text = ":" .. text
  elseif type(text) ~= "string" then
    bad(where, text, "wants a string or a port number")
  end
  local host, port = text:match("^%[([^%]]+)%]:(%d+)$")
  if host then
    if M.literal(host) ~= "ip6" then
      bad(where, text, "only IPv6 literals stand in brackets")
    end
  elseif text:find("^%d+$") then
    host, port = default_host, text
  else
    host, port = text:match("^([^:]*):(%d+)$")
    if not host then
      bad(where, text, text:find("://", 1, true) and "it is a URL, and an address is no more than its host and port"
        or M.literal(text) == "ip6" and "an IPv6 address with a port needs brackets" or "there is no port")
    end
    if host == "" then
      host = default_host
    elseif host == "*" then
      host = "0.0.0.0"
    end
    if host:find("[%s/@\0]") or #host > 253 then
      bad(where, text, "the host name has characters that no host name has")
    end
  end
  local number = tonumber(port)
  if #port > 5 or number > 65535 then
    bad(where, text, "ports end at 65535")
  end
  return host, math.tointeger(number)
end

return M
