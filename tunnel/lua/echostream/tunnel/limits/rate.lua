--- How many requests somebody may begin in a second: 429 with Retry-After.

local check = require "echostream.tunnel.rules.check"
local errors = require "echostream.tunnel.errors"
local keys = require "echostream.tunnel.limits.keys"

local M = {}

---@class echostream.tunnel.options.rate
---@field rate number     requests a second, in the long run
---@field burst? number   at once (default: `rate`, at least 1)
---@field per? string|fun(request: echostream.tunnel.request): string?  "visitor" (IPv6: the /64), "user", "host", "all", "header:NAME"
--- (default: "visitor")

local schema = {
  rate = { type = "number", min = 0.000001, max = 1e9, required = true },
  burst = { type = "number", min = 1, max = 1e9 },
  per = { type = { "string", "function" }, default = "visitor" },
}

---@class echostream.tunnel.rate
---@field rate number
---@field burst number
---@field per string|function
---@field key fun(request: echostream.tunnel.request): string?
local Rate = { __name = "echostream.tunnel.rate" }
Rate.__index = Rate

--- Takes a token of the request's bucket.
---@param buckets echostream.tunnel.buckets
---@param scope string  whose limit it is: "rule api"
---@param request echostream.tunnel.request
---@param now number    seconds
---@return true? ok, echostream.error? err  429 that says when
function Rate:take(buckets, scope, request, now)
  local key = self.key(request)
  if key == nil then
    return true
  end
  local ok, wait = buckets:take(scope .. "\0" .. key, self.rate, self.burst, now)
  if ok then
    return true
  end
  local limit = scope .. " rate"
  return nil, errors.new(429, ("too many requests: %s"):format(limit), { limit = limit, retry_after = wait })
end

--- Checks what a rule says.
---@param field string
---@param given any
---@return echostream.tunnel.rate
function M.compile(field, given)
  local checked = check.table(field, given, schema)
  checked.burst = checked.burst or math.max(1, checked.rate)
  checked.key = keys.compile(field .. ".per", checked.per)
  return setmetatable(checked, Rate)
end

return M
