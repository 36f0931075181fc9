--- How many bytes a second pass. Nothing is refused: who sends is told how long to wait before the next piece.

local check = require "echostream.tunnel.rules.check"
local keys = require "echostream.tunnel.limits.keys"

local M = {}

---@class echostream.tunnel.options.bandwidth
---@field up? number     bytes a second from visitors
---@field down? number   bytes a second to visitors
---@field burst? number  bytes that pass at once (default: what passes in a quarter of a second, at least 64 KiB)
---@field per? string|fun(request: echostream.tunnel.request): string?  "request": each has it for itself; "all": all of the rule's share it;
--- "visitor", "user", "host", "header:NAME" (default: "request")

local schema = {
  up = { type = "number", min = 1 },
  down = { type = "number", min = 1 },
  burst = { type = "number", min = 1 },
  per = { type = { "string", "function" }, default = "request" },
}

---@class echostream.tunnel.bandwidth
---@field up number?
---@field down number?
---@field key (fun(request: echostream.tunnel.request): string?)|nil  nil: per request

--- Checks what a rule says.
---@param field string
---@param given any
---@return echostream.tunnel.bandwidth
function M.compile(field, given)
  local checked = check.table(field, given, schema)
  if not checked.up and not checked.down then
    check.fail(field, "wants up, down or both, in bytes a second")
  end
  checked.key = checked.per ~= "request" and keys.compile(field .. ".per", checked.per) or nil
  return checked
end

---@class echostream.tunnel.pacer
local Pacer = { __name = "echostream.tunnel.pacer" }
Pacer.__index = Pacer

--- Tells that n bytes pass now.
---@param direction "in"|"out"  from, or to the visitor
---@param n integer
---@param now number  seconds
---@return number wait  seconds before more of this direction may pass; 0: at once
function Pacer:pass(direction, n, now)
  local spec = self._spec
  local rate = direction == "in" and spec.up or direction == "out" and spec.down
  if not rate then
    return 0
  end
  local burst = spec.burst or math.max(rate / 4, 65536)
  return self._buckets:spend(direction .. self._key, n, rate, burst, now)
end

--- What paces one request.
---@param spec echostream.tunnel.bandwidth
---@param buckets echostream.tunnel.buckets  shared ones
---@param own fun(): echostream.tunnel.buckets  makes some for this request alone
---@param scope string
---@param request echostream.tunnel.request
---@return echostream.tunnel.pacer?  nil: the function `per` says that there is no limit
function M.pacer(spec, buckets, own, scope, request)
  if not spec.key then
    return setmetatable({ _spec = spec, _buckets = own(), _key = "" }, Pacer)
  end
  local key = spec.key(request)
  return key and setmetatable({ _spec = spec, _buckets = buckets, _key = scope .. "\0" .. key }, Pacer) or nil
end

return M
