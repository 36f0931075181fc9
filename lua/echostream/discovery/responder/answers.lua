--- Answering questions about the services that are up (RFC 6762, section 6): at once where they are ours alone, a little later where others
--- may answer too, not again what was just said or what the asker knows.

local loop = require "echostream.loop"
local message = require "echostream.discovery.message"
local records = require "echostream.discovery.responder.records"

local M = {}

local TYPE = message.TYPE
local SHARED_MIN, SHARED_MAX = 0.02, 0.12         -- answers that others may give too wait a little
local TRUNCATED_MIN, TRUNCATED_MAX = 0.4, 0.5     -- more known answers follow
local AGAIN, DEFEND_AGAIN = 1, 0.25               -- a record is not multicast again before
local MAX_PENDING = 1024                          -- answers that wait, on a link
local LEGACY_TTL = 10
local ANY_CLASS = 255

---@class echostream.discovery.answers
local Answers = {}
Answers.__index = Answers

---@package
---@param engine echostream.discovery.engine
---@param services table<echostream.discovery.service, boolean>  the responder's
---@return echostream.discovery.answers
function M.new(engine, services)
  return setmetatable({ engine = engine, services = services, pending = setmetatable({}, { __mode = "k" }),
    sent = setmetatable({}, { __mode = "k" }) }, Answers)
end

local function wait_between(from, to)
  return from + loop.random() * (to - from)
end

--- Remembers when records were multicast on a link.
---@package
function Answers:note_sent(link, list)
  local sent, now = self.sent[link] or { n = 0 }, loop.now()
  if sent.n > 4096 then
    sent = { n = 0 }
  end
  self.sent[link] = sent
  for _, record in ipairs(list) do
    local key = records.key(record)
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
      local shared, unique = records.on(service, link)
      for i, record in ipairs(records.concat(shared, unique)) do
        if is_asked_for(packet.questions, record) and not knows(packet.answers, record) then
          found[records.key(record)] = { record = record, service = service, shared = i <= #shared }
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
    have[records.key(record)] = true
  end
  for service in pairs(self.services) do
    local _, unique = records.on(service, link)
    for _, answer in ipairs(answers) do
      local key = answer.target and message.key(answer.target)
      for _, record in ipairs(is_up(service) and unique or {}) do
        local of_host = record.type == TYPE.A or record.type == TYPE.AAAA
        if (key == service.key or of_host and key == service.host_key) and not have[records.key(record)] then
          have[records.key(record)] = true
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
    id = packet.id, response = true, authoritative = true, questions = packet.questions, answers = records.copies(answers, plain),
    additionals = records.copies(additionals_for(self, link, answers), plain),
  }, ip, port)
end

--- A question came: answers it, now or soon.
---@package
function Answers:heard_query(packet, link, ip, port)
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
    wait = wait_between(TRUNCATED_MIN, TRUNCATED_MAX)
  elseif shared then
    wait = wait_between(SHARED_MIN, SHARED_MAX)
  end
  postpone(self, link, found, wait, ip, #packet.authorities > 0)
end

return M
