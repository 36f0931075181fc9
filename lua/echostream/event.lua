--- Events beyond `add_event`: handlers for one event only.

local options = require "echostream.options"

local M = {}

---@class echostream.events.methods  of servers and clients
local Host = {}
M.methods = Host

--- Handles the next event of a name, whoever sends it, and no other: the handler is taken away before it runs, so it may call
--- `once` again. `remove_event` takes back what has not happened yet.
---@param name string
---@param fn fun(session: echostream.session, ...)
---@param opts? echostream.handler_options  as of `add_event`
---@return self
function Host:once(name, fn, opts)
  options.argument("once", "name", name, "string")
  options.argument("once", "handler", fn, "function")
  local over = false
  return (self:add_event(name, function(...)
    if not over then -- others may be under way when the handler allows several at once
      over = true
      self:remove_event(name)
      return fn(...)
    end
  end, opts))
end

return M
