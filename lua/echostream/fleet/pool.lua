--- Pools: the connections to one target, which may have several addresses. Kept warm, as many as are needed, on the best address.
---
--- One task per pool does everything that takes time: it dials while there are fewer connections than wanted, and looks at them every
--- `check` seconds. Calls only choose among the connections that are open, or wait for the next one.

local core = require "echostream.core"
local backoff = require "echostream.backoff"
local client = require "echostream.client"
local errors = require "echostream.errors"
local hooks = require "echostream.hooks"
local log = require "echostream.log"
local loop = require "echostream.loop"
local quality = require "echostream.quality"
local reconnect = require "echostream.reconnect"
local task = require "echostream.task"

local M = {}

---@class echostream.options.pool  `pool = { … }` of fleets: of each target
---@field min? integer  connections that are kept open, from the start on (default: 1)
---@field max? integer  connections at most (default: 4)
---@field per_connection? integer  calls under way on each of them that make another one be opened (default: 64)
---@field idle? number  seconds without a call after which one beyond `min` is closed (default: 60)
---@field connect_timeout? number  seconds for connecting to one address (default: 5)
---@field check? number  seconds between two looks at the connections (default: 1)
---@field max_loss? number  0 to 1: the share of packets lost between two looks that is too much (default: 0.2)
---@field max_rtt? number  seconds: a round trip that is too long (default: none is)
---@field silent? number  seconds without a packet from the peer, while something is sent to it, that are too many (default: 3)
---@field hold? number  seconds that a bad address is not used unless there is no other; each time twice as long, up to 64 times (default: 10)
---@field paths? string[]  local addresses ("192.0.2.7:0"): when quality falls, a connection first moves to the next of them

--- Fields of the option `pool`.
---@type table<string, echostream.options.field>
M.fields = {
  min = { type = "integer", min = 0, default = 1 },
  max = { type = "integer", min = 1, default = 4 },
  per_connection = { type = "integer", min = 1, default = 64 },
  idle = { type = "seconds", default = 60 },
  connect_timeout = { type = "seconds", default = 5 },
  check = { type = "seconds", min = 0.001, default = 1 },
  max_loss = { type = "number", min = 0, max = 1, default = 0.2 },
  max_rtt = { type = "seconds" },
  silent = { type = "seconds", default = 3 },
  hold = { type = "seconds", default = 10 },
  paths = { type = "strings" },
}

---@class echostream.pool
---@field name string
---@field address string  the one that new connections go to
local Pool = {}
Pool.__index = Pool
Pool.__name = "echostream.fleet.pool"

-- Pauses between attempts while no address answers, or none keeps a connection.
local PAUSES = { first = 0.1, factor = 2, cap = 5, jitter = 1 }

--- Makes a pool, which begins with `start`.
---@package
---@param name string
---@param addresses string[]  in order of preference
---@param opts table  checked: M.fields
---@param client_options table  of echo.client
---@param told { prepare?: fun(client: echostream.client, name: string), changed?: fun(what: string, detail: any) }
---@return echostream.pool
function M.new(name, addresses, opts, client_options, told)
  local list = {}
  for i, address in ipairs(addresses) do
    list[i] = { address = address, bad_until = nil, times = 0 }
  end
  local given = {}
  for key, value in pairs(client_options) do
    given[key] = value
  end
  given.connect_timeout = opts.connect_timeout
  return setmetatable({
    name = name, address = addresses[1],
    _addresses = list, _current = 1, _options = opts, _client_options = given, _hooks = told,
    _open = {}, _spare = {}, _made = 0, _instance = core.random(16),
    _waiting = {}, _wanted = opts.min, _closed = false, _wake = nil, _keeper = nil,
    _pauses = backoff.of(PAUSES), _not_before = 0, _newest = nil,
    dialled = 0, lost = 0, switched = 0, migrated = 0,
  }, Pool)
end

local function changed(self, what, detail)
  if self._hooks.changed then
    self._hooks.changed(what, detail)
  end
end

local function wake(self)
  local resume = self._wake
  self._wake = nil
  if resume then
    resume(true)
  end
end

local function release(self)
  local waiting = self._waiting
  self._waiting = {}
  for resume in pairs(waiting) do
    resume(true)
  end
end

local function usable(entry)
  local session = entry.client.session
  return not entry.retired and session ~= nil and not session.draining and entry.client:is_open()
end

local function remove(self, entry, err)
  entry.lost = err
  for i, other in ipairs(self._open) do
    if other == entry then
      table.remove(self._open, i)
      self.lost = self.lost + 1
      wake(self)
      return
    end
  end
end

-- Addresses ---------------------------------------------------------------------------------------------------

-- The best address now: the first that is not bad, else the one that ceases to be first.
local function best(self)
  local now, soonest = loop.now(), 1
  for i, entry in ipairs(self._addresses) do
    if not entry.bad_until or entry.bad_until <= now then
      return i
    elseif entry.bad_until < self._addresses[soonest].bad_until then
      soonest = i
    end
  end
  return soonest
end

local function use(self, index)
  if index ~= self._current then
    self._current, self.address = index, self._addresses[index].address
    self.switched = self.switched + 1
    changed(self, "address", self.address)
  end
end

local function mark_bad(self, index)
  local entry = self._addresses[index]
  entry.times = math.min(entry.times + 1, 7)
  entry.bad_until = loop.now() + self._options.hold * 2 ^ (entry.times - 1)
end

-- Connections -------------------------------------------------------------------------------------------------

-- A client that is not connected, used or new; nil, err when it cannot be prepared. To servers all clients of a pool are one, with one
-- instance and ids that differ: so a call can be sent again over another connection, and be recognised.
local function slot_for(self)
  for i = #self._spare, 1, -1 do
    if self._spare[i].client.state == "closed" and self._spare[i].client.session == nil then
      return table.remove(self._spare, i)
    end
  end
  local slot = { client = client.new(self._client_options), entry = nil }
  self._made = self._made + 1
  slot.client._instance = self._instance
  slot.client._host:request_id(self._made << 32)
  slot.client:on_disconnect(function(_, err)
    local entry = slot.entry
    if entry then
      slot.entry = nil
      if #self._spare < self._options.max then
        table.insert(self._spare, slot)
      end
      remove(self, entry, err)
    end
  end)
  if self._hooks.prepare then
    local _, err = hooks.call("fleet.prepare", "internal", self._hooks.prepare, slot.client, self.name)
    if err ~= nil then
      return nil, err -- a client without its handlers is of no use
    end
  end
  return slot
end

-- One attempt at the best address.
local function dial(self)
  local index = best(self)
  local slot, problem = slot_for(self)
  if not slot then
    return nil, problem
  end
  local entry = { client = slot.client, index = index, used = loop.now(), since = loop.now(), watch = quality.new() }
  slot.entry = entry
  local ok, err = entry.client:connect(self._addresses[index].address)
  if not ok then
    slot.entry = nil
    table.insert(self._spare, slot)
    if #self._addresses > 1 then
      mark_bad(self, index)
    end
    return nil, err
  elseif self._closed then
    entry.client:close()
    return nil, errors.new("cancelled", "the pool was closed")
  elseif not entry.client:is_open() then
    return nil, errors.new("connection_closed", "the connection was lost at once")
  end
  use(self, index)
  self._open[#self._open + 1] = entry
  self.dialled = self.dialled + 1
  return entry
end

local function count_usable(self)
  local n = 0
  for _, entry in ipairs(self._open) do
    n = n + (usable(entry) and 1 or 0)
  end
  return n
end

local function retire(entry)
  entry.retired = true
end

-- What stands on a worse address than the one that is used now serves no new calls once there is a better one.
local function prefer(self)
  for _, entry in ipairs(self._open) do
    if entry.index ~= self._current and usable(entry) then
      retire(entry)
    end
  end
end

-- A connection whose quality fell: another local path, or another address. In a task of its own.
local function leave(self, entry, why)
  local paths = self._options.paths
  if paths and (entry.moves or 0) < #paths then
    entry.moves = (entry.moves or 0) + 1
    changed(self, "migrate", why)
    entry.leaving = true
    local moved = entry.client:migrate { bind = paths[entry.moves], timeout = self._options.connect_timeout }
    entry.leaving, entry.watch = false, quality.new()
    if moved then
      self.migrated = self.migrated + 1
      return
    end
  end
  changed(self, "bad", why)
  if #self._addresses > 1 then
    mark_bad(self, entry.index)
    if best(self) == entry.index then
      return -- the others are worse
    end
  end
  retire(entry)
  wake(self)
end

local function look(self)
  local opts, now = self._options, loop.now()
  for _, entry in ipairs(table.move(self._open, 1, #self._open, 1, {})) do
    local stats = entry.client:stats()
    local busy = entry.client._ud:in_flight() > 0
    if busy then
      entry.used = now
    end
    if entry.retired or entry.client.session and entry.client.session.draining then
      if not busy or entry.client.session == nil then
        task.spawn(entry.client.close, entry.client)
      end
    elseif stats and not entry.leaving then
      local why = quality.judge(entry.watch, stats, now, opts)
      if not why and now - entry.since > 2 * opts.hold then
        self._addresses[entry.index].times = 0 -- it has been good for long enough
      end
      if why then
        entry.watch = quality.new()
        task.spawn(leave, self, entry, why)
      elseif not busy and now - entry.used >= opts.idle and count_usable(self) > opts.min then
        retire(entry)
        task.spawn(entry.client.close, entry.client)
      end
    end
  end
  self._wanted = math.max(opts.min, math.min(self._wanted, count_usable(self)))
end

-- Whether a connection to a better address is due: one that was bad and may be good again.
local function better_due(self)
  local index = best(self)
  return #self._open > 0 and index < self._current and count_usable(self) > 0
end

-- It failed: the next attempt is not at once.
local function hold_off(self)
  self._not_before = loop.now() + self._pauses:next()
end

-- A server that accepts connections and drops them again, or says at once that it goes away, is as good as one that does not answer.
local function judge_newest(self)
  local entry = self._newest
  if not entry then
    return
  end
  local lived = loop.now() - entry.since
  if usable(entry) then
    if self._pauses:worked(lived) then
      self._newest = nil
    end
    return
  end
  self._newest = nil
  if not entry.retired and not self._pauses:worked(lived) then
    self.error = entry.lost or self.error
    hold_off(self)
  end
end

-- One more connection is needed, or a better one is due.
local function try(self, missing)
  local entry, err = dial(self)
  if entry then
    self._newest = entry
    prefer(self)
    release(self)
  elseif missing then
    self.error = err
    hold_off(self)
    if reconnect.is_final(err) and self._pauses.attempts == 1 then
      log.write("error", ("fleet: %s refuses us: %s"):format(self.name, err.message))
    end
  end
end

local function keep(self)
  local opts = self._options
  local next_look = loop.now() + opts.check
  local function missing()
    return count_usable(self) < math.max(self._wanted, next(self._waiting) and 1 or 0)
  end
  while not self._closed do
    judge_newest(self)
    local due = missing()
    if due and loop.now() >= self._not_before or not due and better_due(self) then
      try(self, due)
      judge_newest(self)
    end
    local now = loop.now()
    local pause = (missing() and math.min(self._not_before, next_look) or next_look) - now
    if pause > 0 then
      task.await(function(resume)
        self._wake = resume
      end, pause)
    end
    if loop.now() >= next_look then
      next_look = loop.now() + opts.check
      look(self)
    end
  end
end

--- Begins to dial.
---@package
function Pool:start()
  self._keeper = task.spawn(keep, self)
end

-- Use ---------------------------------------------------------------------------------------------------------

--- The number of calls and streams under way.
---@return integer
---@package
function Pool:in_flight()
  local n = 0
  for _, entry in ipairs(self._open) do
    n = n + entry.client._ud:in_flight()
  end
  return n
end

--- Whether a call could go out now.
---@return boolean
---@package
function Pool:is_ready()
  for _, entry in ipairs(self._open) do
    if usable(entry) then
      return true
    end
  end
  return false
end

local function least_busy(self)
  local chosen, least
  for _, entry in ipairs(self._open) do
    if usable(entry) then
      local n = entry.client._ud:in_flight()
      if not least or n < least then
        chosen, least = entry, n
      end
    end
  end
  return chosen, least
end

local function unsent(code, message)
  local err = errors.new(code, message)
  err.processed = "no"
  return err
end

--- A connection: the least busy one. When there is none it waits for one, at most `timeout` seconds. In a task.
---@param timeout? number
---@return echostream.client|nil client, echostream.error? err
---@package
function Pool:take(timeout)
  local opts = self._options
  local ends = timeout and loop.now() + timeout
  while true do
    if self._closed then
      return nil, unsent("connection_closed", ("the pool of %s was closed"):format(self.name))
    end
    local entry, n = least_busy(self)
    if entry then
      if n >= opts.per_connection and #self._open < opts.max and self._wanted <= #self._open then
        self._wanted = #self._open + 1
        wake(self)
      end
      entry.used = loop.now()
      return entry.client
    end
    wake(self)
    local ok, why = task.await(function(resume)
      self._waiting[resume] = true
      return function()
        self._waiting[resume] = nil
      end
    end, ends and math.max(ends - loop.now(), 0))
    if not ok and why.code == "cancelled" then
      why.processed = "no"
      return nil, why
    elseif not ok then
      return nil, unsent("unavailable", ("no connection to %s in time%s"):format(self.name,
        self.error and ": " .. self.error.message or ""))
    end
  end
end

--- What there is: `open`, `in_flight`, `address`, `dialled`, `lost`, `switched` (addresses), `migrated` (paths).
---@return table
---@package
function Pool:stats()
  return { open = count_usable(self), in_flight = self:in_flight(), address = self.address, dialled = self.dialled, lost = self.lost,
    switched = self.switched, migrated = self.migrated }
end

--- Closes every connection. In a task.
---@package
function Pool:close()
  self._closed = true
  release(self)
  if self._keeper then
    self._keeper:cancel()
  end
  local closing = {}
  for _, entry in ipairs(self._open) do
    closing[#closing + 1] = task.spawn(entry.client.close, entry.client)
  end
  for _, one in ipairs(closing) do
    one:wait()
  end
end

return M
