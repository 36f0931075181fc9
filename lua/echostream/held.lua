--- Code that computes and never waits: nothing else runs in this process meanwhile.

local loop = require "echostream.loop"

local M = {}

--- Makes a function that says whether the code that calls it, now and then and from a hook, has computed for too long since it waited
--- last: false, or why it ought to be interrupted. What counts is this process's own time: one that was stopped has computed nothing.
---@param most number  seconds
---@return fun(): string|false
function M.watch(most)
  local turn, since
  return function()
    local now, this = os.clock(), loop.current().core:turn()
    if this ~= turn then
      turn, since = this, now
    end
    return now - since > most and ("it computed for %g s without waiting, and nothing else runs here meanwhile"):format(most)
  end
end

return M
