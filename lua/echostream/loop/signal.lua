--- Signals beside those that end a process. The handle of a signal is kept and used again, never closed, as those of loop.lua are.

local loop = require "echostream.loop"

local M = {}

local handles = {}

--- Calls `fn()` whenever the process gets a signal; nil: no longer, and the system does what it does by itself. Does not keep the
--- loop running.
---@param name "sighup"|"sigusr1"|"sigusr2"|"sigwinch"
---@param fn function?
function M.on(name, fn)
  local handle = handles[name]
  if not handle and fn then
    handle = loop.luv().new_signal()
    handle:unref()
    handles[name] = handle
  end
  if fn then
    handle:start(name, loop.guard("what follows " .. name, function()
      fn()
    end))
  elseif handle then
    handle:stop()
  end
end

return M
