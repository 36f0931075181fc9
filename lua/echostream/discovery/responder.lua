--- The answering half of multicast DNS: services are probed for (RFC 6762, section 8.1), announced (8.3), defended (9), and withdrawn
--- (10.1). A name that is taken is changed: "name (2)".
---
---     probing --3 probes, nobody minds--> announcing --2 announcements--> up --close--> withdrawn
---        ^ somebody has the name: "name (2)"; a simultaneous probe wins: 1 s later once more        ^ (also at once, from anywhere)

local answering = require "echostream.discovery.responder.answers"
local dns_sd = require "echostream.discovery.dns_sd"
local log = require "echostream.log"
local loop = require "echostream.loop"
local message = require "echostream.discovery.message"
local records = require "echostream.discovery.responder.records"

local M = {}

local TYPE = message.TYPE

local PROBES, PROBE_EVERY = 3, 0.25
local ANNOUNCEMENTS, ANNOUNCE_EVERY = 2, 1
local LOST_WAIT = 1                               -- after a simultaneous probe that won
local CONFLICTS, CONFLICT_TIME, CONFLICT_WAIT = 15, 10, 5 -- so many conflicts within so many seconds: slowly from now on

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

local function new_host()
  return ("es-%06x%06x.local"):format(math.floor(loop.random() * 0x1000000), math.floor(loop.random() * 0x1000000))
end

--- The half of an engine.
---@param engine echostream.discovery.engine
function M.new(engine)
  local services = {}
  return setmetatable({ engine = engine, services = services, answers = answering.new(engine, services), former = {}, former_before = {} },
    Responder)
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
    local shared, unique = records.on(service, link)
    local all = records.concat(shared, unique)
    self.answers:note_sent(link, all)
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
    local _, unique = records.on(service, link)
    if #unique > 0 then
      self.engine:send(link, {
        questions = { { name = service.instance, type = TYPE.ANY }, { name = service.host, type = TYPE.ANY } },
        authorities = records.copies(unique, function(record) record.flush = false end),
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
    records.name(service)
  elseif service.state == "probing" then
    local before = service.name
    service.name = dns_sd.next_name(before)
    records.name(service)
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
  records.name(service)
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
    if #records.addresses({ ip = fields.ip, host = "x" }, link) > 0 then
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
    local shared, unique = records.on(service, link)
    local all = {}
    for _, record in ipairs(records.concat(shared, unique)) do
      if not record.meta then -- others may have services of this type
        all[#all + 1] = record
      end
    end
    self.engine:answer(link, records.copies(all, function(record) record.ttl = 0 end))
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

local function heard_probe(self, packet)
  for service in pairs(self.services) do
    if service.state == "probing" then
      local theirs = records.sorted_set(packet.authorities, service.key)
      if #theirs > 0 and records.compare_sets(records.sorted_set(service.unique, service.key), theirs) < 0 then
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
  self.answers:heard_query(packet, link, ip, port)
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
