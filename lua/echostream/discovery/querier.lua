--- The asking half of multicast DNS: what is browsed for is asked again and again, ever more rarely (RFC 6762, section 5.2); what was
--- heard is kept as long as its TTL says, asked for again before that ends, and forgotten after it. Only what somebody browses for is
--- kept, and no more than some thousand records, whatever comes.

local caches = require "echostream.discovery.querier.cache"
local describe = require("echostream.discovery.querier.service").describe
local dns_sd = require "echostream.discovery.dns_sd"
local loop = require "echostream.loop"
local message = require "echostream.discovery.message"

local M = {}

local TYPE = message.TYPE

local FIRST_MIN, FIRST_MAX = 0.02, 0.12     -- many may start at once
local INTERVAL_MAX = 3600
local SWEEP_MIN = 0.05
local RESOLVE = { 0.02, 1, 2, 4 }           -- pauses before questions for a service that is known by name only

--- The most records that are kept, services of one browse, and addresses of one host (of each family) and services there.
M.MAX_RECORDS, M.MAX_SERVICES, M.MAX_ADDRESSES, M.MAX_ON_HOST = 4096, 512, 16, 64

-- Seconds between looks at what has changed: a flood of answers costs no more than its reading.
local LOOK = 0.05

---@class echostream.discovery.querier
local Querier = {}
Querier.__index = Querier

local arm

function M.new(engine)
  local self = setmetatable({
    engine = engine, browses = {}, cache = nil,
    services = {}, -- by the instance's key: what is known under a name that was pointed to
    hosts = {},    -- by the host's key: keys of the services there
    timer = nil, due = math.huge,
    touched = {}, looked = -1, looking = nil, -- services that something was heard about
    evicted = -math.huge,
  }, Querier)
  self.cache = caches.new(M, function(due)
    arm(self, due)
  end)
  return self
end

local function copy(map)
  local out = {}
  for key, value in pairs(map) do
    out[key] = value
  end
  return out
end

-- Services ----------------------------------------------------------------------------------------------------

local function is_pointed_to(self, browse, service)
  local by_id = self.cache:entries(TYPE.PTR, browse.key).by_id
  return by_id ~= nil and by_id[service.key] ~= nil
end

-- A service is not on these hosts any more.
local function leave_hosts(self, service, hosts)
  for host in pairs(hosts) do
    local keys = self.hosts[host]
    service.hosts[host], keys[service.key] = nil, nil
    if next(keys) == nil then
      self.hosts[host] = nil
      self.cache:drop(TYPE.A, host)
      self.cache:drop(TYPE.AAAA, host)
    end
  end
end

local function forget_service(self, service)
  for _, kind in ipairs { TYPE.SRV, TYPE.TXT } do
    self.cache:drop(kind, service.key)
  end
  self.services[service.key] = nil
  leave_hosts(self, service, copy(service.hosts))
end

-- A service may have moved: the hosts that no record names any more are forgotten, or whoever says ever new ones fills the memory.
local function forget_hosts(self, service)
  local gone = copy(service.hosts)
  for _, entry in ipairs(self.cache:entries(TYPE.SRV, service.key)) do
    gone[message.key(entry.record.target)] = nil
  end
  leave_hosts(self, service, gone)
end

local function ask_about(self, service)
  local questions = {}
  local srv = self.cache:entries(TYPE.SRV, service.key)
  if not srv[1] then
    questions[1] = { name = service.instance, type = TYPE.SRV }
  end
  if not self.cache:entries(TYPE.TXT, service.key)[1] then
    questions[#questions + 1] = { name = service.instance, type = TYPE.TXT }
  end
  if srv[1] then
    questions[#questions + 1] = { name = srv[1].record.target, type = TYPE.A }
    questions[#questions + 1] = { name = srv[1].record.target, type = TYPE.AAAA }
  end
  for _, link in ipairs(self.engine.network.links) do
    self.engine:ask(link, questions, {})
  end
end

-- Asks for what a service still lacks, some times.
local function resolve(self, service)
  local pause = RESOLVE[service.tries + 1]
  service.silent = service.silent or not pause
  if service.asking or not pause then
    return
  end
  service.asking, service.tries = true, service.tries + 1
  self.engine:after(pause, function()
    service.asking = false
    if self.services[service.key] == service and not describe(self.cache, service) then
      ask_about(self, service)
      resolve(self, service)
    end
  end)
end

-- Tells those who browse what has changed about a service.
local function touch(self, service)
  forget_hosts(self, service)
  local found, signature = describe(self.cache, service)
  local wanted = false
  for browse in pairs(self.browses) do
    local told = browse.told[service.key]
    if browse.pointed[service.key] and not is_pointed_to(self, browse, service) then
      browse.pointed[service.key] = nil
      browse.n = browse.n - 1
    end
    if browse.pointed[service.key] then
      wanted = true
    end
    if browse.pointed[service.key] and found then
      if told ~= signature then
        browse.told[service.key] = signature
        browse.sink:set(service.key, found)
      end
    elseif told then
      browse.told[service.key] = nil
      browse.sink:unset(service.key)
    end
  end
  if not wanted then
    forget_service(self, service)
  elseif not found then
    resolve(self, service)
  else
    service.silent = false
  end
end

local function look(self)
  local keys = self.touched
  self.touched, self.looked = {}, loop.now()
  for key in pairs(keys) do
    if self.services[key] then
      touch(self, self.services[key])
    end
  end
end

-- Looks at these services again: now, or soon when that was done a moment ago.
local function touch_all(self, keys)
  for key in pairs(keys) do
    self.touched[key] = true
  end
  if self.looking or next(self.touched) == nil then
    return
  end
  local wait = self.looked + LOOK - loop.now()
  if wait <= 0 then
    return look(self)
  end
  self.looking = self.engine:after(wait, function()
    self.looking = nil
    look(self)
  end)
end

-- Time --------------------------------------------------------------------------------------------------------

-- The services that an entry of the cache says something about.
local function mark(self, touched, entry)
  local record = entry.record
  if record.type == TYPE.PTR then
    touched[message.key(record.target)] = true
  elseif record.type == TYPE.A or record.type == TYPE.AAAA then
    for key in pairs(self.hosts[message.key(record.name)] or {}) do
      touched[key] = true
    end
  else
    touched[message.key(record.name)] = true
  end
end

-- Forgets what is too old and asks for what soon will be.
local function sweep(self)
  local touched = {}
  local questions, due = self.cache:sweep(function(entry)
    mark(self, touched, entry)
  end)
  for link, list in pairs(questions) do
    for from = 1, #list, 16 do
      self.engine:ask(link, table.move(list, from, math.min(from + 15, #list), 1, {}), {})
    end
  end
  touch_all(self, touched)
  arm(self, due)
end

function arm(self, due)
  if due >= self.due or due == math.huge then
    return
  end
  if self.timer then
    self.timer:stop()
  end
  self.due = due
  self.timer = self.engine:after(math.max(due - loop.now(), SWEEP_MIN), function()
    self.timer, self.due = nil, math.huge
    sweep(self)
  end)
end

-- Answers -----------------------------------------------------------------------------------------------------

-- There are as many services as may be: one that was pointed to but of which nobody has said more, though it was asked for as often as is
-- worth it, makes room for another. Not often, or a flood of pointers would keep us busy.
local function make_room(self, browse)
  if self.evicted + LOOK > loop.now() then
    return false
  end
  self.evicted = loop.now()
  for key in pairs(browse.pointed) do
    local service = self.services[key]
    if service and not browse.told[key] and service.silent then
      self.cache:drop(TYPE.PTR, browse.key, function(entry) return message.key(entry.record.target) ~= key end)
      touch(self, service)
      return not browse.pointed[key]
    end
  end
  return false
end

-- A pointer to an instance: is it somebody's?
local function heard_pointer(self, link, record, touched)
  local name = message.key(record.name)
  for browse in pairs(self.browses) do
    if browse.key == name then
      local key, label = message.key(record.target), dns_sd.name_of(record.target, browse.type)
      if label and (browse.pointed[key] or record.ttl > 0 and (browse.n < M.MAX_SERVICES or make_room(self, browse))) then
        self.cache:put(link, record)
        if not browse.pointed[key] then
          browse.pointed[key], browse.n = true, browse.n + 1
        end
        self.services[key] = self.services[key]
          or { key = key, instance = record.target, name = label, type = browse.type, tries = 0, asking = false, silent = false, hosts = {} }
        touched[key] = true
      end
    end
  end
end

local function heard_server(self, link, record, touched)
  local key = message.key(record.name)
  if not self.services[key] then
    return
  end
  local kept = self.cache:put(link, record)
  touched[key] = true
  if record.type == TYPE.SRV and kept then
    local host = message.key(record.target)
    local there, n = self.hosts[host] or {}, 0
    for _ in pairs(there) do
      n = n + 1
    end
    if n < M.MAX_ON_HOST then
      self.hosts[host], there[key], self.services[key].hosts[host] = there, true, true
    end
  end
end

local function heard_address(self, link, record, touched)
  local keys = self.hosts[message.key(record.name)]
  if keys then
    self.cache:put(link, record)
    for key in pairs(keys) do
      touched[key] = true
    end
  end
end

local passes = {
  { [TYPE.PTR] = heard_pointer },
  { [TYPE.SRV] = heard_server, [TYPE.TXT] = heard_server },
  { [TYPE.A] = heard_address, [TYPE.AAAA] = heard_address },
}

--- An answer came: pointers first, then what they point to, then where that is.
---@package
function Querier:heard_response(packet, link)
  if next(self.browses) == nil then
    return
  end
  local touched = {}
  for _, pass in ipairs(passes) do
    for _, list in ipairs { packet.answers, packet.additionals } do
      for _, record in ipairs(list) do
        if pass[record.type] and record.class == 1 then
          pass[record.type](self, link, record, touched)
        end
      end
    end
  end
  touch_all(self, touched)
end

-- Browsing ----------------------------------------------------------------------------------------------------

local function ask_again(self, browse, pause, interval)
  browse.timer = self.engine:after(pause, function()
    if not self.browses[browse] then
      return
    end
    for _, link in ipairs(self.engine.network.links) do
      self.engine:ask(link, { { name = browse.question, type = TYPE.PTR } }, self.cache:known_on(link, browse.key))
    end
    for key in pairs(browse.pointed) do
      local service = self.services[key]
      if service and not browse.told[key] and not service.asking then
        service.tries = 0
        resolve(self, service)
      end
    end
    ask_again(self, browse, interval, math.min(interval * 2, INTERVAL_MAX))
  end)
end

--- Looks for services of a type until `unbrowse`.
---@param type string
---@param subtype string?
---@param sink { set: fun(self, key: string, found: table), unset: fun(self, key: string) }
---@return table browse
---@package
function Querier:browse(type, subtype, sink)
  local question = subtype and dns_sd.subtype(subtype, type) or type .. ".local"
  local browse = { type = type, question = question, key = message.key(question), sink = sink, pointed = {}, n = 0, told = {} }
  self.browses[browse] = true
  for _, entry in ipairs(self.cache:entries(TYPE.PTR, browse.key)) do -- others have asked for it already
    local key = message.key(entry.record.target)
    if self.services[key] and not browse.pointed[key] then
      browse.pointed[key], browse.n = true, browse.n + 1
      touch(self, self.services[key])
    end
  end
  ask_again(self, browse, FIRST_MIN + loop.random() * (FIRST_MAX - FIRST_MIN), 1)
  return browse
end

--- Looks no more.
---@package
function Querier:unbrowse(browse)
  if not self.browses[browse] then
    return
  end
  self.browses[browse] = nil
  if browse.timer then
    browse.timer:stop()
  end
  local shared = false
  for other in pairs(self.browses) do
    shared = shared or other.key == browse.key
  end
  if not shared then
    self.cache:drop(TYPE.PTR, browse.key)
    for key in pairs(browse.pointed) do
      if self.services[key] then
        touch(self, self.services[key])
      end
    end
  end
end

function Querier:is_idle()
  return next(self.browses) == nil
end

--- Interfaces came or went: what was heard on those that are gone is forgotten, and everybody is asked again.
---@package
function Querier:links_changed()
  local there, touched = {}, {}
  for _, link in ipairs(self.engine.network.links) do
    there[link] = true
  end
  self.cache:keep_links(there, function(entry)
    mark(self, touched, entry)
  end)
  touch_all(self, touched)
  for browse in pairs(self.browses) do
    browse.timer:stop()
    ask_again(self, browse, FIRST_MIN + loop.random() * (FIRST_MAX - FIRST_MIN), 1)
  end
end

function Querier:close()
  for browse in pairs(self.browses) do
    self:unbrowse(browse)
  end
  for _, name in ipairs { "timer", "looking" } do
    if self[name] then
      self[name]:stop()
    end
  end
end

return M
