--- What a handler can ask about the call it serves: `echo.call()`.

local core = require "echostream.core"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local options = require "echostream.options"

local M = {}

---@class echostream.call
---@field id integer                     the request's id; 0 for events
---@field kind "rpc"|"event"|"stream"
---@field name string
---@field session echostream.session
---@field metadata table<string, string> what the caller sent along
---@field deadline number|nil            seconds that were left when `echo.call()` was used; nil: no deadline
---@field attempt integer                1, or 2 for a retry
---@field seq integer?                   events: number in their lane, or among the unreliable ones
---@field gap integer?                   events: how many are missing before this one (0: none)
local Call = {}
Call.__index = Call
Call.__name = "echostream.call"
M.methods = Call

--- Seconds left now (0 when the deadline has passed), or nil without a deadline.
---@return number?
function Call:remaining()
  local ends = self._ends
  return ends and math.max(ends - loop.now(), 0) or nil
end

--- Whether the caller has given up: its answer will be thrown away.
---@return boolean
function Call:cancelled() -- luacheck: ignore 212/self
  return core.call_cancelled() == true
end

--- `fn(code)` runs in a task when the caller gives up (at once when it has).
---@param fn fun(code: integer)
---@return echostream.call self
function Call:on_cancel(fn)
  options.argument("call:on_cancel", "function", fn, "function")
  core.call_on_cancel(fn)
  return self
end

--- Metadata that goes with the answer, whatever that will be: what was set before is replaced. The caller's middleware finds it in
--- `call.trailers`, the caller of a stream in `stream:trailers()`.
---@param trailers table<string, string>  keys lower case, as of other metadata
---@return echostream.call self
function Call:set_trailers(trailers)
  options.argument("call:set_trailers", "trailers", trailers, "table")
  local copy = {}
  for key, value in pairs(trailers) do
    if type(key) ~= "string" or type(value) ~= "string" then
      error(("call:set_trailers: keys and values are strings, got %s = %s"):format(errors.show(key), errors.show(value)), 2)
    end
    copy[key] = value
  end
  if not core.set_call_trailers(copy) then
    error("call:set_trailers: an event has no answer", 2)
  end
  return self
end

--- The call that the running handler serves; nil outside handlers.
---@return echostream.call?
function M.current()
  local call = core.call_info()
  if call then
    call._ends = call.deadline
    call.deadline = nil
    setmetatable(call, Call)
    call.deadline = call:remaining()
    return call
  end
end

return M
