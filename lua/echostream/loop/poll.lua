--- A descriptor that the kernel can wait for, watched on the loop: for libraries that bring one of their own (an epoll descriptor, an
--- inotify one, a pipe) and are stepped when it is readable.
---
---     local watch = poll.open(fd, function() library:step() end)
---     watch:ref()      -- the loop runs while it is there

local loop = require "echostream.loop"

local M = {}

---@class echostream.poll
---@field fd integer
local Poll = {}
Poll.__index = Poll
Poll.__name = "echostream.poll"

--- From now on it keeps the loop running. Harmless twice.
function Poll:ref()
  if not self._handle:is_closing() then
    self._handle:ref()
  end
end

--- From now on it does not. Harmless twice.
function Poll:unref()
  if not self._handle:is_closing() then
    self._handle:unref()
  end
end

--- Ends watching; nothing is called any more. The descriptor stays open: close it afterwards. Harmless twice.
function Poll:close()
  if not self._handle:is_closing() then
    self._handle:stop()
  end
  loop.close_handle(self._handle)
end

--- Watches a descriptor for reading. Does not keep the loop running before `ref`. The descriptor must not be closed before `close`, and
--- only one may watch it.
---@param fd integer
---@param fn fun()  called while it is readable, once in each round of the loop; what it raises is logged
---@return echostream.poll? watch, string? err
function M.open(fd, fn)
  if loop.current().sim then
    return nil, "the simulation has no descriptors"
  end
  local handle, err = loop.luv().new_poll(fd)
  if not handle then
    return nil, err
  end
  handle:unref()
  local ok
  ok, err = handle:start("r", loop.guard("a descriptor's reader", function(problem)
    if not problem then
      fn()
    end
  end))
  if not ok then
    loop.close_handle(handle)
    return nil, err
  end
  return setmetatable({ fd = fd, _handle = handle }, Poll)
end

return M
