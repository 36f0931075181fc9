--- Something that callbacks of the engine raise and one task waits for. Raised twice before somebody looks is raised once.

local task = require "echostream.task"

local M = {}

---@class echostream.tunnel.signal
local Signal = {}
Signal.__index = Signal
Signal.__name = "echostream.tunnel.signal"

--- Makes one that is not raised.
---@return echostream.tunnel.signal
function M.new()
  local self = setmetatable({ _raised = false, _resume = nil, _start = nil }, Signal)
  local function undo()
    self._resume = nil
  end
  self._start = function(resume)
    self._resume = resume
    return undo
  end
  return self
end

--- Wakes who waits, or the next who will. From anywhere, never waits.
function Signal:raise()
  self._raised = true
  local resume = self._resume
  if resume then
    self._resume = nil
    resume(true)
  end
end

--- Waits until it is raised, and takes that back. For one task at a time.
---@param timeout? number  seconds
---@return true|nil ok, echostream.error? err  `timeout`, `cancelled`
function Signal:wait(timeout)
  if not self._raised then
    local ok, err = task.await(self._start, timeout)
    if not ok then
      return nil, err
    end
  end
  self._raised = false
  return true
end

return M
