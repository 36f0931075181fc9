--- Key/value stores: each server, each client and each session has one.

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

--- Emits an event to every open session. It never waits: a session whose send queue is full is left out.
---@param name string
---@param ... any
---@return integer queued   sessions that will get it
---@return integer skipped  sessions that will not
function Context:broadcast(name, ...)
  local queued, skipped = 0, 0
  for _, session in ipairs(self:sessions()) do
    if session:try_emit(name, ...) then
      queued = queued + 1
    else
      skipped = skipped + 1
    end
  end
  return queued, skipped
end

return M
