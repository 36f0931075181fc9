--- The answering half of multicast DNS: services are probed for (RFC 6762, section 8.1), announced (8.3), defended (9), and withdrawn
--- (10.1). A name that is taken is changed: "name (2)".
---
---     probing --3 probes, nobody minds--> announcing --2 announcements--> up --close--> withdrawn
---        ^ somebody has the name: "name (2)"; a simultaneous probe wins: 1 s later once more        ^ (also at once, from anywhere)

local dns_sd = require "echostream.discovery.dns_sd"
local log = require "echostream.log"
local loop = require "echostream.loop"
local message = require "echostream.discovery.message"

local M = {}

local TYPE = message.TYPE
local ANY_CLASS = 255

local PROBES, PROBE_EVERY = 3, 0.25
local ANNOUNCEMENTS, ANNOUNCE_EVERY = 2, 1
local LOST_WAIT = 1                               -- after a simultaneous probe that won
local CONFLICTS, CONFLICT_TIME, CONFLICT_WAIT = 15, 10, 5 -- so many conflicts within so many seconds: slowly from now on
local SHARED_MIN, SHARED_MAX = 0.02, 0.12         -- answers that others may give too wait a little
local TRUNCATED_MIN, TRUNCATED_MAX = 0.4, 0.5     -- more known answers follow
local AGAIN, DEFEND_AGAIN = 1, 0.25               -- a record is not multicast again before
local MAX_PENDING = 1024                          -- answers that wait, on a link
local LEGACY_TTL = 10

---@class echostream.discovery.service
---@field name string
---@field type string
---@field state "probing"|"announcing"|"up"|"withdrawn"
---@field changed fun(service: echostream.discovery.service, what: "up"|"renamed")
local Responder = {}
Responder.__index = Responder

local function uniform(from, to)
  return from + loop.random() * (to - from)
end

local function record_key(record)
  return record.type .. "\0" .. message.key(record.name) .. "\0" .. record.rdata
end

local function new_host()
  return ("es-%06x%06x.local"):format(math.floor(loop.random() * 0x1000000), math.floor(loop.random() * 0x1000000))
end

--- The half of an engine.
---@param engine echostream.discovery.engine
function M.new(engine)
  return setmetatable({ engine = engine, services = {}, former = {}, former_before = {}, pending = setmetatable({}, { __mode = "k" }),
    sent = setmetatable({}, { __mode = "k" }) }, Responder)
end

-- Records -----------------------------------------------------------------------------------------------------

local function name_records(service)
  service.instance = dns_sd.instance(service.name, service.type)
  service.key, service.host_key = message.key(service.instance), message.key(service.host)
  service.shared, service.unique = dns_sd.records(service)
end

-- The addresses of a service's host, as this link sees them.
local function address_records(service, link)
  local list = {}
  for _, addresses in ipairs { link.ip4, link.ip6 } do
    for _, ip in ipairs(addresses) do
      if not service.ip or service.ip == ip or service.ip == "0.0.0.0" and not ip:find ":" then
        local rdata, kind = message.pack_address(ip)
        list[#list + 1] = message.record { name = service.host, type = kind, rdata = rdata, address = ip, ttl = dns_sd.HOST_TTL,
          flush = true }
      end
    end
  end
  return list
end

-- All records of a service on a link; none where it has no address.
local function records_on(service, link)
  local list = address_records(service, link)
  if #list == 0 then
    return {}, {}
  end
  local unique = table.move(service.unique, 1, #service.unique, 1, {})
  table.move(list, 1, #list, #unique + 1, unique)
  return service.shared, unique
end

local function concat(a, b)
  return table.move(b, 1, #b, #a + 1, table.move(a, 1, #a, 1, {}))
end

local function copy_with(records, change)
  local list = {}
  for i, record in ipairs(records) do
    local copy = {}
    for key, value in pairs(record) do
      copy[key] = value
    end
    change(copy)
    list[i] = copy
  end
  return list
end

-- Life of a service -------------------------------------------------------------------------------------------

local function again(self, service, seconds, fn)
  if service.timer then
    service.timer:stop()
  end
  service.timer = self.engine:after(seconds, function()
    service.timer = nil
    if service.state ~= "withdrawn" then
      fn()
    end
  end)
end

local function announce(self, service, left)
  for _, link in ipairs(self.engine.network.links) do
    local shared, unique = records_on(service, link)
    local all = concat(shared, unique)
    self:note_sent(link, all)
    self.engine:answer(link, all)
  end
  service.announced = true
  if service.state == "probing" then
    service.state, service.slow = "announcing", false
    service:changed "up"
  end
  if left > 1 then
    again(self, service, ANNOUNCE_EVERY, function()
      announce(self, service, left - 1)
    end)
  elseif service.state == "announcing" then
    service.state = "up"
  end
end

local function probe(self, service, number)
  if number > PROBES then
    return announce(self, service, ANNOUNCEMENTS)
  end
  service.asked = true
  for _, link in ipairs(self.engine.network.links) do
    local _, unique = records_on(service, link)
    if #unique > 0 then
      self.engine:send(link, {
        questions = { { name = service.instance, type = TYPE.ANY }, { name = service.host, type = TYPE.ANY } },
        authorities = copy_with(unique, function(record) record.flush = false end),
      })
    end
  end
  again(self, service, PROBE_EVERY, function()
    probe(self, service, number + 1)
  end)
end

local function begin(self, service, wait)
  service.state = "probing"
  again(self, service, wait, function()
    probe(self, service, 1)
  end)
end

-- How long to wait before the next probe: many conflicts make it slow.
local function conflict_wait(service)
  local now, list = loop.now(), service.conflicts
  list[#list + 1] = now
  while list[1] and now - list[1] > CONFLICT_TIME do
    table.remove(list, 1)
  end
  service.slow = service.slow or #list >= CONFLICTS
  return service.slow and CONFLICT_WAIT or uniform(0, PROBE_EVERY)
end

-- Somebody else has our name. While probing it is theirs; later both ask again, and the one who loses takes another. Until we have asked
-- for it what others say is no news: an answer may come by IPv4 and IPv6, and anybody could say ever new names.
local function conflict(self, service, what)
  local wait = conflict_wait(service)
  service.asked = false
  if what == "host" then
    self.former[service.host_key] = true
    service.host = new_host()
    name_records(service)
  elseif service.state == "probing" then
    local before = service.name
    service.name = dns_sd.next_name(before)
    name_records(service)
    log.write("info", ("discovery: the name %s is taken, this service is %s now"):format(before, service.name))
    service:changed "renamed"
  end
  begin(self, service, wait)
end

--- Publishes a service; it is up when `changed(service, "up")` was called.
---@param fields { name: string, type: string, subtypes: string[], port: integer, strings: string[], ip?: string, changed: function }
---@return echostream.discovery.service
---@package
function Responder:add(fields)
  local service = { state = "probing", announced = false, asked = false, conflicts = {}, host = new_host(), timer = nil }
  for key, value in pairs(fields) do
    service[key] = value
  end
  name_records(service)
  self.services[service] = true
  begin(self, service, uniform(0, PROBE_EVERY))
  return service
end

--- Whether somebody could reach the service, on some interface.
---@param fields { ip?: string }
---@return boolean
---@package
function Responder:has_address(fields)
  for _, link in ipairs(self.engine.network.links) do
    if #address_records({ ip = fields.ip, host = "x" }, link) > 0 then
      return true
    end
  end
  return false
end

--- Forgets the names of hosts that were given up some seconds ago.
---@package
function Responder:age()
  self.former_before, self.former = self.former, {}
end

--- Takes a service back, with a goodbye to those who know it. It may be called from a finaliser: it starts no timer, and sockets
--- are left to `release`.
---@param service echostream.discovery.service
---@package
function Responder:remove(service)
  if not self.services[service] then
    return
  end
  self.services[service] = nil
  self.former[service.host_key] = true
  service.state = "withdrawn"
  if not service.announced or self.engine.closed then
    return
  end
  for _, link in ipairs(self.engine.network.links) do
    local shared, unique = records_on(service, link)
    local all = {}
    for _, record in ipairs(concat(shared, unique)) do
      if not record.meta then -- others may have services of this type
        all[#all + 1] = record
      end
    end
    self.engine:answer(link, copy_with(all, function(record) record.ttl = 0 end))
  end
end

function Responder:is_idle()
  return next(self.services) == nil
end

--- Interfaces came, went or have other addresses: section 8.3 wants the names probed for once more.
---@package
function Responder:links_changed()
  for service in pairs(self.services) do
    begin(self, service, uniform(0, PROBE_EVERY))
  end
end

--- Takes all back, with goodbyes. It may be called from a finaliser.
---@package
function Responder:withdraw_all()
  for service in pairs(self.services) do
    self:remove(service)
  end
end

function Responder:close()
  for service in pairs(self.services) do
    if service.timer then
      service.timer:stop()
    end
  end
  self:withdraw_all()
end

-- Answering ---------------------------------------------------------------------------------------------------

--- Remembers when records were multicast on a link.
---@package
function Responder:note_sent(link, records)
  local sent, now = self.sent[link] or { n = 0 }, loop.now()
  if sent.n > 4096 then
    sent = { n = 0 }
  end
  self.sent[link] = sent
  for _, record in ipairs(records) do
    local key = record_key(record)
    sent.n = sent.n + (sent[key] and 0 or 1)
    sent[key] = now
  end
end

local function is_up(service)
  return service.state == "announcing" or service.state == "up"
end

local function asks_for(question, key, record)
  return (question.type == TYPE.ANY or question.type == record.type)
    and (question.class == record.class or question.class == ANY_CLASS) and question.key == key
end

local function is_asked_for(questions, record)
  local key = message.key(record.name)
  for _, question in ipairs(questions) do
    if asks_for(question, key, record) then
      return true
    end
  end
  return false
end

local function knows(known, record)
  for _, other in ipairs(known) do
    if other.type == record.type and other.ttl * 2 >= record.ttl and other.rdata == record.rdata
      and message.key(other.name) == message.key(record.name) then
      return true
    end
  end
  return false
end

-- What the questions ask for and the asker does not know: { record, service, shared } by key.
local function answers_to(self, packet, link)
  local found = {}
  for _, question in ipairs(packet.questions) do
    question.key = message.key(question.name)
  end
  for service in pairs(self.services) do
    if is_up(service) then
      local shared, unique = records_on(service, link)
      for i, record in ipairs(concat(shared, unique)) do
        if is_asked_for(packet.questions, record) and not knows(packet.answers, record) then
          found[record_key(record)] = { record = record, service = service, shared = i <= #shared }
        end
      end
    end
  end
  return found
end

-- What goes with answers: whoever asks for a service asks for its host next.
local function additionals_for(self, link, answers)
  local have, more = {}, {}
  for _, record in ipairs(answers) do
    have[record_key(record)] = true
  end
  for service in pairs(self.services) do
    local _, unique = records_on(service, link)
    for _, answer in ipairs(answers) do
      local key = answer.target and message.key(answer.target)
      for _, record in ipairs(is_up(service) and unique or {}) do
        local of_host = record.type == TYPE.A or record.type == TYPE.AAAA
        if (key == service.key or of_host and key == service.host_key) and not have[record_key(record)] then
          have[record_key(record)] = true
          more[#more + 1] = record
        end
      end
    end
  end
  return more
end

local function flush_pending(self, link)
  local waiting, answers, now = self.pending[link], {}, loop.now()
  self.pending[link] = nil
  local sent = self.sent[link] or {}
  for key, entry in pairs(waiting.records) do
    local last = sent[key]
    if is_up(entry.service) and not (last and now - last < (entry.defend and DEFEND_AGAIN or AGAIN)) then
      answers[#answers + 1] = entry.record
    end
  end
  self:note_sent(link, answers)
  self.engine:answer(link, answers, function(some)
    return additionals_for(self, link, some)
  end)
end

local function postpone(self, link, found, wait, ip, defend)
  local waiting = self.pending[link] or { records = {}, n = 0, due = math.huge }
  self.pending[link] = waiting
  for key, entry in pairs(found) do
    if not waiting.records[key] and waiting.n < MAX_PENDING then
      waiting.n = waiting.n + 1
      entry.ip, entry.defend = ip, defend
      waiting.records[key] = entry
    elseif waiting.records[key] then
      waiting.records[key].ip = nil -- two want it: what one knows does not count for the other
    end
  end
  local due = loop.now() + wait
  if due < waiting.due then
    if waiting.timer then
      waiting.timer:stop()
    end
    waiting.due = due
    waiting.timer = self.engine:after(wait, function()
      flush_pending(self, link)
    end)
  end
end

-- Somebody whose question came from a port of its own is no multicast DNS querier: it gets a plain DNS answer (section 6.7).
local function answer_legacy(self, packet, link, ip, port, found)
  local answers = {}
  for _, entry in pairs(found) do
    answers[#answers + 1] = entry.record
  end
  if #answers == 0 or not self.engine:may_unicast() then
    return
  end
  local function plain(record)
    record.flush, record.ttl = false, math.min(record.ttl, LEGACY_TTL)
  end
  self.engine:send(link, {
    id = packet.id, response = true, authoritative = true, questions = packet.questions, answers = copy_with(answers, plain),
    additionals = copy_with(additionals_for(self, link, answers), plain),
  }, ip, port)
end

-- Lua compares strings by the locale: bytes are meant here.
local function compare_bytes(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then
      return x - y
    end
  end
  return #a - #b
end

-- Records in the order of section 8.2: the later set wins.
local function sorted_set(records, key)
  local set = {}
  for _, record in ipairs(records) do
    if message.key(record.name) == key then
      set[#set + 1] = (">I2I2"):pack(record.class, record.type) .. record.rdata
    end
  end
  table.sort(set, function(a, b) return compare_bytes(a, b) < 0 end)
  return set
end

local function compare_sets(a, b)
  for i = 1, math.max(#a, #b) do
    if not a[i] or not b[i] then
      return a[i] and 1 or -1
    end
    local order = compare_bytes(a[i], b[i])
    if order ~= 0 then
      return order
    end
  end
  return 0
end

local function heard_probe(self, packet)
  for service in pairs(self.services) do
    if service.state == "probing" then
      local theirs = sorted_set(packet.authorities, service.key)
      if #theirs > 0 and compare_sets(sorted_set(service.unique, service.key), theirs) < 0 then
        begin(self, service, LOST_WAIT)
      end
    end
  end
end

--- A question came.
---@package
function Responder:heard_query(packet, link, ip, port)
  if #packet.authorities > 0 then
    heard_probe(self, packet)
  end
  if #packet.questions == 0 then -- more of what somebody knows
    local waiting = self.pending[link]
    for key, entry in pairs(waiting and waiting.records or {}) do
      if entry.ip == ip and knows(packet.answers, entry.record) then
        waiting.records[key] = nil
        waiting.n = waiting.n - 1
      end
    end
    return
  end
  local found = answers_to(self, packet, link)
  if next(found) == nil then
    return
  elseif port ~= 5353 then
    return answer_legacy(self, packet, link, ip, port, found)
  end
  local shared, wait = false, 0
  for _, entry in pairs(found) do
    shared = shared or entry.shared
  end
  if packet.truncated then
    wait = uniform(TRUNCATED_MIN, TRUNCATED_MAX)
  elseif shared then
    wait = uniform(SHARED_MIN, SHARED_MAX)
  end
  postpone(self, link, found, wait, ip, #packet.authorities > 0)
end

-- Conflicts ---------------------------------------------------------------------------------------------------

local function is_own_address(self, record)
  for _, link in ipairs(self.engine.network.links) do
    for _, addresses in ipairs { link.ip4, link.ip6 } do
      for _, ip in ipairs(addresses) do
        if message.pack_address(ip) == record.rdata then
          return true
        end
      end
    end
  end
  return false
end

-- Which of a service's names a record of somebody else takes. Each service has a host's name of its own, so an SRV record tells all.
-- What we said ourselves under a name that we have given up may still come back.
local function takes(self, service, record)
  local key = message.key(record.name)
  if key == service.key and record.type == TYPE.SRV then
    local host = message.key(record.target)
    return record.rdata ~= service.unique[1].rdata and not self.former[host] and not self.former_before[host] and "name" or nil
  elseif key == service.host_key and (record.type == TYPE.A or record.type == TYPE.AAAA) then
    return not is_own_address(self, record) and "host" or nil
  end
end

--- An answer came: does it say that a name of ours is somebody else's?
---@package
function Responder:heard_response(packet)
  if next(self.services) == nil then
    return
  end
  local hit = {}
  for _, list in ipairs { packet.answers, packet.additionals } do
    for _, record in ipairs(list) do
      for service in pairs(record.ttl > 0 and record.class == 1 and self.services or {}) do
        hit[service] = hit[service] or (service.asked and takes(self, service, record) or nil)
      end
    end
  end
  for service, what in pairs(hit) do
    conflict(self, service, what)
  end
end

return M
