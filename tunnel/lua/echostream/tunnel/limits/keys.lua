--- Who shares a limit: keys made of requests.

local addresses = require "echostream.tunnel.limits.addresses"
local check = require "echostream.tunnel.rules.check"
local show = require("echostream.errors").show

local M = {}

local MAX_KEY <const> = 256 -- bytes of a key that count: visitors may choose it

--- The key of an address: IPv4 as it is; of IPv6 the /64, for that is what one visitor has.
---@param ip string
---@return string
function M.address(ip)
  if not ip:find(":", 1, true) then
    return ip
  end
  local family, high = addresses.parse(ip)
  if family == 6 then
    return ("%x/64"):format(high)
  end
  return ip
end

local ways = {
  all = function()
    return ""
  end,
  visitor = function(request)
    return M.address(request.client_ip)
  end,
  user = function(request)
    return request.user and "=" .. request.user or M.address(request.client_ip)
  end,
  host = function(request)
    return request.host
  end,
}

--- Compiles the option `per`: "visitor", "user" (of requests without one: the visitor), "host", "all", "header:NAME" (of requests without
--- it: the visitor), or
--- a function that returns a text, or nil for no limit.
---@param field string
---@param per string|function
---@return fun(request: echostream.tunnel.request): string?
function M.compile(field, per)
  if type(per) == "function" then
    return function(request)
      local key = per(request)
      if type(key) == "string" and #key > MAX_KEY then
        return key:sub(1, MAX_KEY) .. #key
      end
      return key ~= nil and key ~= false and tostring(key) or nil
    end
  end
  local name = per:match "^header:([%w!#$%%&'*+%-.^_`|~]+)$"
  if name then
    name = name:lower()
    return function(request)
      local value = request.head and request.head:get(name)
      if not value then
        return M.address(request.client_ip)
      end
      return "=" .. (#value > MAX_KEY and value:sub(1, MAX_KEY) .. #value or value)
    end
  end
  return ways[per] or check.fail(field, "wants visitor, user, host, all, header:NAME or a function, got %s", show(per))
end

return M
