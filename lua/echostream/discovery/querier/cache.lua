--- What was heard: records by type and name, each kept as long as its TTL says, and for each link that it was heard on. No more than some
--- thousand, whatever comes.

local loop = require "echostream.loop"
local message = require "echostream.discovery.message"

local M = {}

local TYPE = message.TYPE

local REFRESH <const> = { 0.80, 0.85, 0.90, 0.95 } -- of a TTL: questions for what is about to end (section 5.2)
local REFRESH_SPREAD <const> = 0.02
local GOODBYE <const>, FLUSH_GRACE <const> = 1, 1 -- seconds that a record lives after a goodbye; after its set was replaced
local MAX_TTL <const> = 9000

---@class echostream.discovery.cache
---@field n integer  records
---@field slots table<string, table>  by type and name
local Cache = {}
Cache.__index = Cache

--- Makes an empty one.
---@param limits { MAX_RECORDS: integer, MAX_SERVICES: integer, MAX_ADDRESSES: integer }
---@param arm fun(due: number)  is told when one of them is to be looked at, on the loop's clock
---@return echostream.discovery.cache
function M.new(limits, arm)
  local most = { [TYPE.PTR] = 2 * limits.MAX_SERVICES, [TYPE.SRV] = 8, [TYPE.TXT] = 8, [TYPE.A] = limits.MAX_ADDRESSES,
    [TYPE.AAAA] = limits.MAX_ADDRESSES } -- of one name
  return setmetatable({ slots = {}, n = 0, limits = limits, most = most, arm = arm }, Cache)
end

-- Where the records of one type and name are.
local function slot_of(type, key)
  return type .. "\0" .. key
end

--- The records of a type and a name, with `by_id`: those of each target or value.
---@param kind integer
---@param key string
---@return table entries
function Cache:entries(kind, key)
  return self.slots[slot_of(kind, key)] or {}
end

-- When it is to be asked for again.
local function plan(entry, now)
  local step = REFRESH[entry.asked + 1]
  entry.due = step and entry.born + entry.ttl * (step + loop.random() * REFRESH_SPREAD) or math.huge
  if entry.due <= now then -- it was there already when somebody began to care
    entry.asked = entry.asked + 1
    return plan(entry, now)
  end
  entry.due = math.min(entry.due, entry.expires)
end

-- What tells entries of one name and type apart.
local function id_of(record)
  return record.type == TYPE.PTR and message.key(record.target) or record.rdata
end

local function index(list, entry)
  local id = id_of(entry.record)
  list.by_id[id] = list.by_id[id] or {}
  table.insert(list.by_id[id], entry)
end

-- Another set of records has replaced these (section 10.2).
local function flush(self, list, link, record, now)
  for _, entry in ipairs(list) do
    if entry.link == link and entry.record.rdata ~= record.rdata and now - entry.born > FLUSH_GRACE
      and entry.expires > now + FLUSH_GRACE then
      entry.expires = now + FLUSH_GRACE
      entry.due = math.min(entry.due, entry.expires)
      self.arm(entry.due)
    end
  end
end

--- A record was heard on a link. True: it is there now.
---@return boolean
function Cache:put(link, record)
  local now, slot = loop.now(), slot_of(record.type, message.key(record.name))
  local list, found = self.slots[slot] or { by_id = {} }, nil
  for _, entry in ipairs(list.by_id[id_of(record)] or {}) do
    found = entry.link == link and entry or found
  end
  if record.flush and record.type ~= TYPE.PTR then
    flush(self, list, link, record, now)
  end
  if record.ttl == 0 then
    if found then
      found.expires = math.min(found.expires, now + GOODBYE)
      found.due = found.expires
      self.arm(found.due)
    end
    return false
  end
  local new = not found
  if new then
    if self.n >= self.limits.MAX_RECORDS or #list >= self.most[record.type] then
      return false
    end
    found = { link = link }
    list[#list + 1] = found
    self.slots[slot] = list
    self.n = self.n + 1
  end
  found.record, found.born, found.ttl, found.asked = record, now, math.min(record.ttl, MAX_TTL), 0
  found.expires = now + found.ttl
  if new then
    index(list, found)
  end
  plan(found, now)
  self.arm(found.due)
  return true
end

--- Forgets the records of a slot but those that `keep` wants.
---@param slot string
---@param keep? fun(entry: table): boolean
function Cache:drop_slot(slot, keep)
  local list = self.slots[slot]
  local left = { by_id = {} }
  for _, entry in ipairs(list or {}) do
    if keep and keep(entry) then
      left[#left + 1] = entry
      index(left, entry)
    else
      self.n = self.n - 1
    end
  end
  self.slots[slot] = #left > 0 and left or nil
end

--- Forgets the records of a type and a name but those that `keep` wants.
---@param kind integer
---@param key string
---@param keep? fun(entry: table): boolean
function Cache:drop(kind, key, keep)
  self:drop_slot(slot_of(kind, key), keep)
end

--- What is known on a link with more than half of its time left: it need not be told again (section 7.1).
---@param link table
---@param key string
---@return table[] records
function Cache:known_on(link, key)
  local list, now = {}, loop.now()
  for _, entry in ipairs(self:entries(TYPE.PTR, key)) do
    if entry.link == link and (entry.expires - now) * 2 > entry.ttl then
      local known = {}
      for field, value in pairs(entry.record) do
        known[field] = value
      end
      known.ttl, known.flush = math.floor(entry.expires - now), false
      list[#list + 1] = known
    end
  end
  return list
end

-- Time --------------------------------------------------------------------------------------------------------

--- Forgets what is too old, and finds what to ask for because it soon will be.
---@param over fun(entry: table)  is told of each that is forgotten
---@return table<table, table[]> questions  by link
---@return number due  when to look again
function Cache:sweep(over)
  local now, asked, due = loop.now(), {}, math.huge
  for slot, list in pairs(self.slots) do
    local old = false
    for _, entry in ipairs(list) do
      if entry.expires <= now then
        old = true
        over(entry)
      else
        if entry.due <= now then
          local ask = asked[entry.link] or {}
          asked[entry.link] = ask
          ask[slot] = { name = entry.record.name, type = entry.record.type }
          entry.asked = entry.asked + 1
          plan(entry, now)
        end
        due = math.min(due, entry.due)
      end
    end
    if old then
      self:drop_slot(slot, function(entry) return entry.expires > now end)
    end
  end
  local questions = {}
  for link, by_slot in pairs(asked) do
    local list = {}
    for _, question in pairs(by_slot) do
      list[#list + 1] = question
    end
    questions[link] = list
  end
  return questions, due
end

--- Forgets what was heard on links that are gone.
---@param there table<table, boolean>
---@param gone fun(entry: table)
function Cache:keep_links(there, gone)
  for slot, list in pairs(self.slots) do
    for _, entry in ipairs(list) do
      if not there[entry.link] then
        gone(entry)
      end
    end
    self:drop_slot(slot, function(entry) return there[entry.link] end)
  end
end

return M
