--- Key/value stores: each server, each client and each session has one.

local broadcast = require "echostream.broadcast"

local M = {}

---@class echostream.context
---@field host echostream.host?  the server or client it belongs to
local Context = {}
Context.__index = Context
Context.__name = "echostream.context"

--- Makes an empty store. With a host it also knows the sessions.
---@param host? echostream.host
---@return echostream.context
function M.new(host)
  -- The host is not kept alive by its context: a context may outlive it in a session's hands.
  return setmetatable({ _values = {}, _host = setmetatable({ host }, { __mode = "v" }) }, Context)
end

--- Stores a value under a key; nil removes it.
---@param key any
---@param value any
---@return echostream.context self
function Context:set(key, value)
  if key == nil then
    error("context:set: the key is nil", 2)
  end
  self._values[key] = value
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
  return value
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
  return list
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
