--- Signals beside those that end a process. The handle of a signal is kept and used again, never closed, as those of loop.lua are.

local loop = require "echostream.loop"

local M = {}

local handles = {}

--- Calls `fn()` whenever the process gets a signal; nil: no longer, and the system does what it does by itself. Does not keep the
--- loop running.
---@param name "sighup"|"sigusr1"|"sigusr2"|"sigwinch"|"sigpipe"
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

local function nothing()
end

--- From now on writing to somebody who went away is an error of that write, and not the end of the process. A handler does that rather
--- than ignoring the signal, which programs that we start would inherit. Everything that writes to pipes or stream sockets calls this.
function M.survive_broken_pipes()
  if not handles.sigpipe then
    M.on("sigpipe", nothing)
  end
end

return M
