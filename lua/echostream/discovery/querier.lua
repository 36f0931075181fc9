--- The asking half of multicast DNS: what is browsed for is asked again and again, ever more rarely (RFC 6762, section 5.2); what was
--- heard is kept as long as its TTL says, asked for again before that ends, and forgotten after it. Only what somebody browses for is
--- kept, and no more than some thousand records, whatever comes.

local address = require "echostream.address"
local dns_sd = require "echostream.discovery.dns_sd"
local loop = require "echostream.loop"
local message = require "echostream.discovery.message"

local M = {}

local TYPE = message.TYPE

local FIRST_MIN, FIRST_MAX = 0.02, 0.12     -- many may start at once
local INTERVAL_MAX = 3600
local REFRESH = { 0.80, 0.85, 0.90, 0.95 }  -- of a TTL: questions for what is about to end (section 5.2)
local REFRESH_SPREAD = 0.02
local GOODBYE, FLUSH_GRACE = 1, 1           -- seconds that a record lives after a goodbye; after its set was replaced
local MAX_TTL = 9000
local SWEEP_MIN = 0.05
local RESOLVE = { 0.02, 1, 2, 4 }           -- pauses before questions for a service that is known by name only

--- The most records that are kept, services of one browse, and addresses of one host (of each family) and services there.
M.MAX_RECORDS, M.MAX_SERVICES, M.MAX_ADDRESSES, M.MAX_ON_HOST = 4096, 512, 16, 64

-- Records of one name.
local MOST = { [TYPE.PTR] = 2 * M.MAX_SERVICES, [TYPE.SRV] = 8, [TYPE.TXT] = 8, [TYPE.A] = M.MAX_ADDRESSES, [TYPE.AAAA] = M.MAX_ADDRESSES }

-- Seconds between looks at what has changed: a flood of answers costs no more than its reading.
local LOOK = 0.05

---@class echostream.discovery.querier
local Querier = {}
Querier.__index = Querier

function M.new(engine)
  return setmetatable({
    engine = engine, browses = {}, n_records = 0, cache = {},
    services = {}, -- by the instance's key: what is known under a name that was pointed to
    hosts = {},    -- by the host's key: keys of the services there
    timer = nil, due = math.huge,
    touched = {}, looked = -1, looking = nil, -- services that something was heard about
  }, Querier)
end

-- The cache ---------------------------------------------------------------------------------------------------

local function slot_of(type, key)
  return type .. "\0" .. key
end

local function entries(self, type, key)
  return self.cache[slot_of(type, key)] or {}
end

local function copy(map)
  local out = {}
  for key, value in pairs(map) do
    out[key] = value
  end
  return out
end

local arm

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
      arm(self, entry.due)
    end
  end
end

-- True: it is there now.
local function put(self, link, record)
  local now, slot = loop.now(), slot_of(record.type, message.key(record.name))
  local list, found = self.cache[slot] or { by_id = {} }, nil
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
      arm(self, found.due)
    end
    return false
  end
  local new = not found
  if new then
    if self.n_records >= M.MAX_RECORDS or #list >= MOST[record.type] then
      return false
    end
    found = { link = link }
    list[#list + 1] = found
    self.cache[slot] = list
    self.n_records = self.n_records + 1
  end
  found.record, found.born, found.ttl, found.asked = record, now, math.min(record.ttl, MAX_TTL), 0
  found.expires = now + found.ttl
  if new then
    index(list, found)
  end
  plan(found, now)
  arm(self, found.due)
  return true
end

local function drop(self, slot, keep)
  local list = self.cache[slot]
  local left = { by_id = {} }
  for _, entry in ipairs(list or {}) do
    if keep and keep(entry) then
      left[#left + 1] = entry
      index(left, entry)
    else
      self.n_records = self.n_records - 1
    end
  end
  self.cache[slot] = #left > 0 and left or nil
end

-- What is known on a link with more than half of its time left: it need not be told again (section 7.1).
local function known_on(self, link, key)
  local list, now = {}, loop.now()
  for _, entry in ipairs(entries(self, TYPE.PTR, key)) do
    if entry.link == link and (entry.expires - now) * 2 > entry.ttl then
      local known = copy(entry.record)
      known.ttl, known.flush = math.floor(entry.expires - now), false
      list[#list + 1] = known
    end
  end
  return list
end

-- Services ----------------------------------------------------------------------------------------------------

local function order_of(ip)
  return (ip:find "^127%." or ip == "::1") and 4 or not ip:find ":" and 1 or ip:find "^fe8" and 3 or 2
end

-- The addresses under which a service is reached, best first.
local function addresses_of(self, srv_entries)
  local list, seen = {}, {}
  for _, srv in ipairs(srv_entries) do
    local key = message.key(srv.record.target)
    for _, kind in ipairs { TYPE.A, TYPE.AAAA } do
      for _, entry in ipairs(entries(self, kind, key)) do
        local ip = entry.record.address
        local order = order_of(ip)
        local full = address.join(order == 3 and ip .. "%" .. entry.link.name or ip, srv.record.port)
        if not seen[full] and srv.record.port > 0 then
          seen[full] = true
          list[#list + 1] = { order, full }
        end
      end
    end
  end
  table.sort(list, function(a, b)
    if a[1] ~= b[1] then
      return a[1] < b[1]
    end
    return a[2] < b[2]
  end)
  for i, entry in ipairs(list) do
    list[i] = entry[2]
  end
  return list
end

-- What is known of a service; nil while it is too little.
local function describe(self, service)
  local srv, txt = entries(self, TYPE.SRV, service.key), entries(self, TYPE.TXT, service.key)
  if not srv[1] or not txt[1] then
    return nil
  end
  local addresses = addresses_of(self, srv)
  if not addresses[1] then
    return nil
  end
  local newest = txt[1]
  for _, entry in ipairs(txt) do
    newest = entry.born > newest.born and entry or newest
  end
  return {
    name = service.name, type = service.type, address = addresses[1], addresses = addresses,
    properties = dns_sd.properties_of(newest.record.strings), host = srv[1].record.target, port = srv[1].record.port,
  }, table.concat(addresses, " ") .. "\0" .. newest.record.rdata
end

local function is_pointed_to(self, browse, service)
  local list = self.cache[slot_of(TYPE.PTR, browse.key)]
  return list ~= nil and list.by_id[service.key] ~= nil
end

-- A service is not on these hosts any more.
local function leave_hosts(self, service, hosts)
  for host in pairs(hosts) do
    local keys = self.hosts[host]
    service.hosts[host], keys[service.key] = nil, nil
    if next(keys) == nil then
      self.hosts[host] = nil
      drop(self, slot_of(TYPE.A, host))
      drop(self, slot_of(TYPE.AAAA, host))
    end
  end
end

local function forget_service(self, service)
  for _, kind in ipairs { TYPE.SRV, TYPE.TXT } do
    drop(self, slot_of(kind, service.key))
  end
  self.services[service.key] = nil
  leave_hosts(self, service, copy(service.hosts))
end

-- A service may have moved: the hosts that no record names any more are forgotten, or whoever says ever new ones fills the memory.
local function forget_hosts(self, service)
  local gone = copy(service.hosts)
  for _, entry in ipairs(entries(self, TYPE.SRV, service.key)) do
    gone[message.key(entry.record.target)] = nil
  end
  leave_hosts(self, service, gone)
end

local function ask_about(self, service)
  local questions = {}
  local srv = entries(self, TYPE.SRV, service.key)
  if not srv[1] then
    questions[1] = { name = service.instance, type = TYPE.SRV }
  end
  if not entries(self, TYPE.TXT, service.key)[1] then
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
  if service.asking or not pause then
    return
  end
  service.asking, service.tries = true, service.tries + 1
  self.engine:after(pause, function()
    service.asking = false
    if self.services[service.key] == service and not describe(self, service) then
      ask_about(self, service)
      resolve(self, service)
    end
  end)
end

-- Tells those who browse what has changed about a service.
local function touch(self, service)
  forget_hosts(self, service)
  local found, signature = describe(self, service)
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
  local now, touched, next_due = loop.now(), {}, math.huge
  local questions = {} -- by link
  for slot, list in pairs(self.cache) do
    local over = false
    for _, entry in ipairs(list) do
      if entry.expires <= now then
        over = true
        mark(self, touched, entry)
      else
        if entry.due <= now then
          local ask = questions[entry.link] or {}
          questions[entry.link] = ask
          ask[slot] = { name = entry.record.name, type = entry.record.type }
          entry.asked = entry.asked + 1
          plan(entry, now)
        end
        next_due = math.min(next_due, entry.due)
      end
    end
    if over then
      drop(self, slot, function(entry) return entry.expires > now end)
    end
  end
  for link, asked in pairs(questions) do
    local list = {}
    for _, question in pairs(asked) do
      list[#list + 1] = question
    end
    for from = 1, #list, 16 do
      self.engine:ask(link, table.move(list, from, math.min(from + 15, #list), 1, {}), {})
    end
  end
  touch_all(self, touched)
  arm(self, next_due)
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

-- A pointer to an instance: is it somebody's?
local function heard_pointer(self, link, record, touched)
  local name = message.key(record.name)
  for browse in pairs(self.browses) do
    if browse.key == name then
      local key, label = message.key(record.target), dns_sd.name_of(record.target, browse.type)
      if label and (browse.pointed[key] or record.ttl > 0 and browse.n < M.MAX_SERVICES) then
        put(self, link, record)
        if not browse.pointed[key] then
          browse.pointed[key], browse.n = true, browse.n + 1
        end
        self.services[key] = self.services[key]
          or { key = key, instance = record.target, name = label, type = browse.type, tries = 0, asking = false, hosts = {} }
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
  local kept = put(self, link, record)
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
    put(self, link, record)
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
      self.engine:ask(link, { { name = browse.question, type = TYPE.PTR } }, known_on(self, link, browse.key))
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
  for _, entry in ipairs(entries(self, TYPE.PTR, browse.key)) do -- others have asked for it already
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
    drop(self, slot_of(TYPE.PTR, browse.key))
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
  for slot, list in pairs(self.cache) do
    for _, entry in ipairs(list) do
      if not there[entry.link] then
        mark(self, touched, entry)
      end
    end
    drop(self, slot, function(entry) return there[entry.link] end)
  end
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
