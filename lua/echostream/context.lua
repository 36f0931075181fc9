--- Key/value stores: each server, each client and each session has one.

local broadcast = require "echostream.broadcast"
local errors = require "echostream.errors"
local options = require "echostream.options"
local task = require "echostream.task"
local view = require "echostream.view"

local M = {}

---@class echostream.context
local Context = {}
Context.__index = Context
Context.__name = "echostream.context"

--- Makes an empty store. With a host it also knows the sessions.
---@param host? echostream.host
---@return echostream.context
function M.new(host)
  -- The host is not kept alive by its context: a context may outlive it in a session's hands.
  return setmetatable({ _values = {}, _watchers = false, _host = setmetatable({ host }, { __mode = "v" }) }, Context)
end

-- In tasks, in the order of the changes.
local function changed(self, key, value, old)
  for _, fn in ipairs(self._watchers[key] or {}) do
    task.spawn(fn, value, old, key)
  end
end

--- Stores a value under a key; nil removes it.
---@param key any
---@param value any
---@return echostream.context self
function Context:set(key, value)
  if key == nil then
    error("context:set: the key is nil", 2)
  end
  local old = self._values[key]
  self._values[key] = value
  if self._watchers and not rawequal(old, value) then
    changed(self, key, value, old)
  end
  return self
end

--- The value under a key, or nil.
---@param key any
---@return any
function Context:get(key)
  if key == nil then
    return nil
  end
  return self._values[key]
end

--- Removes a key and returns what was there.
---@param key any
---@return any
function Context:remove(key)
  if key == nil then
    return nil
  end
  local value = self._values[key]
  self._values[key] = nil
  if self._watchers and value ~= nil then
    changed(self, key, nil, value)
  end
  return value
end

--- `fn(value, old, key)` runs in a task after `set` or `remove` changed what is under a key; `value` is nil when it was removed. A
--- table that changes inside is the same value. What `fn` raises is logged.
---@param key any
---@param fn fun(value: any, old: any, key: any)
---@return fun(): boolean stop  takes it away; false when that was done
function Context:on_change(key, fn)
  if key == nil or key ~= key then
    error("context:on_change: wants a key, got " .. errors.show(key), 2)
  end
  options.argument("context:on_change", "function", fn, "function")
  self._watchers = self._watchers or {}
  local function entry(...) -- the same function may be there twice
    return fn(...)
  end
  local list = { table.unpack(self._watchers[key] or {}) }
  list[#list + 1] = entry
  self._watchers[key] = list
  return function()
    local rest, found = {}, false
    for _, each in ipairs(self._watchers[key] or {}) do
      found = found or each == entry
      if each ~= entry then
        rest[#rest + 1] = each
      end
    end
    self._watchers[key] = #rest > 0 and rest or nil
    return found
  end
end

--- The sessions that are open now, oldest first.
---@return echostream.session[]
function Context:sessions()
  local host = self._host[1]
  local list = {}
  for session in pairs(host and host._sessions or {}) do
    list[#list + 1] = session
  end
  table.sort(list, function(a, b)
    return a.id < b.id
  end)
  return view.of(list)
end

--- Emits an event to every open session, or to those that `to` chooses; it is encoded once. What happens to a session whose
--- send queue is full says the `policy`: "skip" leaves it out (the default; nothing waits), "wait" waits for it up to
--- `timeout` seconds (10), "drop_oldest" keeps the last `outbox` (64) events for it and drops those before, "disconnect" closes
--- it. Events that wait in an outbox keep their order; others overtake them.
---
---     server.context:broadcast("news", "hello")
---     server.context:broadcast({ to = function(session) return session:get "room" == 7 end, policy = "wait" }, "news", "hello")
---@param first string|echostream.broadcast.options  the event's name, or options; then the name comes next
---@param ... any
---@return integer reached   sessions that will get it
---@return integer left_out  sessions that will not; with "drop_oldest" events that were dropped for it
function Context:broadcast(first, ...)
  return broadcast.send(self, first, ...)
end

return M
