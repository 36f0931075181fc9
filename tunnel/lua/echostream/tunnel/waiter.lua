--- What a task waits for in an exchange or a socket. An edge that comes while nobody waits is kept: the next wait ends at once, and its
--- caller looks again at what is there.

local task = require "echostream.task"

local M = {}

---@class echostream.tunnel.waiter
local Waiter = {}
Waiter.__index = Waiter
Waiter.__name = "echostream.tunnel.waiter"

--- Makes one.
---@return echostream.tunnel.waiter
function M.new()
  return setmetatable({ _woken = false, _resume = nil, _start = nil }, Waiter)
end

-- Most never wait: what is needed for it is made by the first that does.
local function prepare(self)
  local function undo()
    self._resume = nil
  end
  function self._start(resume)
    self._resume = resume
    return undo
  end
  return self._start
end

--- Ends the wait, or the next one. From anywhere; never waits.
function Waiter:wake()
  local resume = self._resume
  if resume then
    self._resume = nil
    resume(true)
  else
    self._woken = true
  end
end

--- Waits for `wake`. One task at a time.
---@param timeout? number  seconds
---@return true|nil ok, echostream.error? err  `timeout`, `cancelled`
function Waiter:wait(timeout)
  if self._woken then
    self._woken = false
    return true
  end
  return task.await(self._start or prepare(self), timeout)
end

return M
