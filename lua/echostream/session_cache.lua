--- Where clients keep session tickets: what makes the next handshake with the same server shorter, and early data (0-RTT)
--- possible. Each ticket is used once. A store has two methods, which may wait:
---
---     store:get(key)           --> the string that was put last, or nil
---     store:put(key, value)    -- value nil: forget it
---
--- Keys are text that names server, protocol and trust. Values are secret: whoever has one can pretend to be this client where
--- clients are known by certificates.

local errors = require "echostream.errors"
local log = require "echostream.log"

local M = {}

--- Tickets that a store in memory keeps.
M.LIMIT = 256

---@class echostream.session_cache
---@field get fun(self, key: string): string?
---@field put fun(self, key: string, value: string?)

---@class echostream.session_cache.memory: echostream.session_cache
local Memory = {}
Memory.__index = Memory
Memory.__name = "echostream.session_cache"

--- A store in memory. When it is full, what was put first goes.
---@param limit? integer entries, default 256
---@return echostream.session_cache
function M.memory(limit)
  return setmetatable({ _limit = limit or M.LIMIT, _entries = {}, _count = 0, _clock = 0 }, Memory)
end

function Memory:get(key)
  local entry = self._entries[key]
  return entry and entry.value
end

local function drop_oldest(self)
  local oldest
  for key, entry in pairs(self._entries) do
    if not oldest or entry.at < self._entries[oldest].at then
      oldest = key
    end
  end
  self._entries[oldest] = nil
  self._count = self._count - 1
end

function Memory:put(key, value)
  if self._entries[key] then
    self._entries[key] = nil
    self._count = self._count - 1
  end
  if value ~= nil then
    if self._count >= self._limit then
      drop_oldest(self)
    end
    self._clock = self._clock + 1
    self._entries[key] = { value = value, at = self._clock }
    self._count = self._count + 1
  end
end

local shared

--- The store that an option means: `true` is the one of this process.
---@param option boolean|table|nil
---@return echostream.session_cache?
---@package
function M.of(option)
  if option == true then
    shared = shared or M.memory()
    return shared
  end
  return option or nil
end

--- Checks the option; raises when it is no store.
---@param where string
---@param option any
---@param level? integer
---@package
function M.check(where, option, level)
  if type(option) == "table" and (type(option.get) ~= "function" or type(option.put) ~= "function") then
    error(('%s: option "session_cache" wants true, or a table with the methods get(key) and put(key, value)'):format(where),
      (level or 2) + 1)
  end
end

local function call(store, method, key, value)
  local ok, result = pcall(store[method], store, key, value)
  if not ok then
    log.write("error", ("session_cache:%s failed: %s"):format(method, errors.from(result).message))
    return nil
  end
  return result
end

--- Takes the ticket for a key out of the store.
---@param store echostream.session_cache
---@param key string
---@return string?
---@package
function M.take(store, key)
  local value = call(store, "get", key)
  if value == nil then
    return nil
  elseif type(value) ~= "string" then
    log.write("error", ("session_cache:get gave a %s, not a string"):format(type(value)))
    return nil
  end
  call(store, "put", key, nil)
  return value
end

--- The function that keeps the tickets of one connection.
---@param store echostream.session_cache
---@param key string
---@return fun(ticket: string)
---@package
function M.keeper(store, key)
  return function(ticket)
    call(store, "put", key, ticket)
  end
end

return M
