--- A table of limited size: what was asked for longest ago goes first.

local M = {}

---@class echostream.lru
---@field entries integer  now
---@field bytes integer    now
local Lru = { __name = "echostream.lru" }
Lru.__index = Lru

local ENTRY <const> = 300 -- bytes that an entry costs besides its own

local function unlink(node)
  node.before.behind, node.behind.before = node.behind, node.before
end

-- Into the ring of all, as the one that was asked for last.
local function link(self, node)
  node.before, node.behind = self._ring.before, self._ring
  node.before.behind, node.behind.before = node, node
end

local function drop(self, node)
  unlink(node)
  self._by_key[node.key] = nil
  self.entries, self.bytes = self.entries - 1, self.bytes - node.size
end

---@package
--- The value of a key, which is thereby the last that was asked for; or nil.
---@param key string
---@return any
function Lru:get(key)
  local node = self._by_key[key]
  if node then
    unlink(node)
    link(self, node)
    return node.value
  end
end

---@package
--- Keeps a value, in the place of the one that the key had, unless it is too large for all the room there is.
---@param key string
---@param value any
---@param bytes integer
function Lru:put(key, value, bytes)
  if self._by_key[key] then
    drop(self, self._by_key[key])
  end
  local node = { key = key, value = value, size = bytes + ENTRY, before = false, behind = false }
  if node.size > self._max_bytes then
    return
  end
  self._by_key[key] = node
  link(self, node)
  self.entries, self.bytes = self.entries + 1, self.bytes + node.size
  while self.entries > self._max_entries or self.bytes > self._max_bytes do
    drop(self, self._ring.behind)
  end
end

---@package
--- Takes away every value that `fits`. How many.
---@param fits fun(value: any): boolean
---@return integer
function Lru:remove(fits)
  local before = self.entries
  for _, node in pairs(self._by_key) do
    if fits(node.value) then
      drop(self, node)
    end
  end
  return before - self.entries
end

--- Makes an empty one.
---@param max_entries integer
---@param max_bytes integer
---@return echostream.lru
function M.new(max_entries, max_bytes)
  local ring = {}
  ring.before, ring.behind = ring, ring
  return setmetatable({ entries = 0, bytes = 0, _max_entries = max_entries, _max_bytes = max_bytes, _by_key = {}, _ring = ring }, Lru)
end

return M
