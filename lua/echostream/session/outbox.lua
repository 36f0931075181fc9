--- Outboxes: what waits here because a send queue is full, oldest first and bounded. Streams, events, broadcasts and topics
--- that drop the oldest share them.

local M = {}

---@class echostream.outbox
---@field first integer
---@field last integer
---@field bytes integer  that wait
---@field sizes integer[]

--- Makes one. It is emptied whenever there is room, and `over()` is called when nothing waits any more.
---@param attempt fun(item: any): any, any  sends one: "again" as the second result means that there is no room yet
---@param wait_for_room fun(fn: fun())      calls fn once when there may be room
---@param over fun()
---@return echostream.outbox
function M.new(attempt, wait_for_room, over)
  local self = { first = 1, last = 0, bytes = 0, sizes = {}, _attempt = attempt, _over = over }
  self._wait = function()
    wait_for_room(function()
      M.flush(self)
    end)
  end
  self._wait()
  return self
end

--- How many wait.
---@param self echostream.outbox
---@return integer
function M.count(self)
  return self.last - self.first + 1
end

local function shift(self)
  local first = self.first
  self.bytes = self.bytes - self.sizes[first]
  self[first], self.sizes[first] = nil, nil
  self.first = first + 1
end

--- Puts one behind the others; those in front of it go when there are more than `limit` of them, or more than `max_bytes`.
---@param self echostream.outbox
---@param item any
---@param size integer       bytes
---@param limit integer
---@param max_bytes? integer default: any number
---@return integer dropped   how many went
function M.push(self, item, size, limit, max_bytes)
  local dropped = 0
  self.last = self.last + 1
  self[self.last], self.sizes[self.last] = item, size
  self.bytes = self.bytes + size
  while M.count(self) > 1 and (M.count(self) > limit or self.bytes > (max_bytes or math.huge)) do
    shift(self)
    dropped = dropped + 1
  end
  return dropped
end

--- Sends what there is room for.
---@param self echostream.outbox
function M.flush(self)
  while self.first <= self.last do
    local _, err = self._attempt(self[self.first])
    if err == "again" then
      return self._wait()
    elseif self.first <= self.last then
      shift(self)
    end
  end
  self._over()
end

--- Forgets what waits.
---@param self echostream.outbox
---@return integer dropped
function M.clear(self)
  local n = M.count(self)
  while self.first <= self.last do
    shift(self)
  end
  return n
end

return M
