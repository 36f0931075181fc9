--- Multicast DNS (RFC 6762): what joins a network (multicast.lua) with the half that answers (responder.lua) and the half that asks
--- (querier.lua). Time is the loop's, chance is `loop.random`: specs run two of these over a network in memory, on a virtual clock.

local log = require "echostream.log"
local loop = require "echostream.loop"
local message = require "echostream.discovery.message"
local multicast = require "echostream.discovery.multicast"
local querier = require "echostream.discovery.querier"
local responder = require "echostream.discovery.responder"
local errors = require "echostream.errors"

local M = {}

--- The port of multicast DNS.
M.PORT = 5353

-- Seconds between looks at the interfaces; bytes of a datagram that needs no fragments, and of the largest that there is (RFC 6762,
-- section 17); datagrams of the first size (larger ones count for several) a second that are looked at, those of one moment at most,
-- and the same for answers to one asker alone (which somebody else may have to take).
local RESCAN, MAX_PACKET, LARGEST, RATE, UNICAST_RATE = 5, 1400, 9000, 500, 50

---@class echostream.discovery.engine
---@field responder table
---@field querier table
---@field network table  `links`, `send(link, bytes, ip, port)`, `rescan()`, `close()`
local Engine = {}
Engine.__index = Engine

-- A bucket of tokens: bounded work, whatever comes.
local function allow(bucket, now, cost)
  bucket.tokens = math.min(bucket.rate, bucket.tokens + (now - bucket.at) * bucket.rate)
  bucket.at = now
  if bucket.tokens < cost then
    return false
  end
  bucket.tokens = bucket.tokens - cost
  return true
end

local function bucket_of(rate)
  return { rate = rate, tokens = rate, at = loop.now() }
end

--- A timer on the loop that the engine belongs to.
---@param seconds number
---@param fn fun()
---@package
function Engine:after(seconds, fn)
  local timer = self.rec.core:timer(math.max(seconds, 0), function()
    if not self.closed then
      loop.guard("discovery", fn)()
    end
  end)
  loop.note(self.rec)
  return timer
end

--- Sends a message: to everybody on the link, or to one.
---@package
function Engine:send(link, packet, ip, port)
  self.network:send(link, message.encode(packet), ip, port)
end

--- Sends records as answers, in as many datagrams as they need; `more(answers)` gives additional records for those that fit.
---@param link echostream.discovery.link
---@param answers echostream.dns.record[]
---@param more? fun(answers: echostream.dns.record[]): echostream.dns.record[]
---@package
function Engine:answer(link, answers, more)
  if #answers == 0 then
    return
  end
  local bytes = message.encode { response = true, authoritative = true, answers = answers, additionals = more and more(answers) }
  if #bytes > MAX_PACKET and more then
    bytes = message.encode { response = true, authoritative = true, answers = answers }
  end
  if #bytes > MAX_PACKET and #answers > 1 then
    local half = #answers // 2
    self:answer(link, table.move(answers, 1, half, 1, {}), more)
    return self:answer(link, table.move(answers, half + 1, #answers, 1, {}), more)
  end
  self.network:send(link, bytes)
end

--- Asks on a link, and says what is known already; what does not fit follows in further datagrams (section 7.2).
---@param link echostream.discovery.link
---@param questions echostream.dns.question[]
---@param known echostream.dns.record[]
---@package
function Engine:ask(link, questions, known)
  local from = 1
  repeat
    local room, to = MAX_PACKET - 12 - (from == 1 and 300 or 0), from - 1
    while to < #known do
      room = room - #known[to + 1].rdata - #known[to + 1].name - 12 -- at most: compression makes it less
      if room < 0 and to >= from then
        break
      end
      to = to + 1
    end
    self:send(link, {
      truncated = to < #known, questions = from == 1 and questions or nil, answers = table.move(known, from, to, 1, {}),
    })
    from = to + 1
  until from > #known
end

--- Takes a datagram.
---@param bytes string
---@param ip string     of its sender
---@param port integer
---@param link echostream.discovery.link  that it came in by
---@package
function Engine:receive(bytes, ip, port, link)
  local now = loop.now()
  if self.closed or #bytes > LARGEST or not allow(self.incoming, now, 1 + #bytes // (MAX_PACKET + 100)) then
    self.dropped = self.dropped + 1
    return
  end
  local packet = message.decode(bytes)
  if not packet or packet.opcode ~= 0 or packet.rcode ~= 0 then
    self.dropped = self.dropped + 1
  elseif packet.response then
    if port == M.PORT then -- section 6: anything else was not sent by a responder
      self.responder:heard_response(packet, link)
      self.querier:heard_response(packet, link)
    end
  else
    self.responder:heard_query(packet, link, ip, port)
  end
end

--- Whether one more answer may go to one asker alone.
---@return boolean
---@package
function Engine:may_unicast()
  return allow(self.outgoing, loop.now(), 1)
end

function Engine:_rescan()
  self.scan = self:after(RESCAN, function()
    self.responder:age()
    if self.network:rescan() then
      self.querier:links_changed()
      self.responder:links_changed()
    end
    self:_rescan()
    self:release()
  end)
end

--- Closes a shared one when nobody uses it any more.
---@package
function Engine:release()
  if self.forget and not self.closed and self.responder:is_idle() and self.querier:is_idle() then
    self:close()
  end
end

--- Closes: services are withdrawn.
---@package
function Engine:close()
  if self.closed then
    return
  end
  self.responder:close()
  self.querier:close()
  self.closed = true
  self.scan:stop()
  self.network:close()
  if self.forget then
    self.forget()
  end
end

--- Makes an engine on a network that is there. `open(receive)` gives the network.
---@param open fun(receive: fun(bytes: string, ip: string, port: integer, link: table)): table?, string?
---@return echostream.discovery.engine? engine, string? err
function M.new(open)
  local self = setmetatable({
    rec = loop.current(), closed = false, dropped = 0, incoming = bucket_of(RATE), outgoing = bucket_of(UNICAST_RATE),
  }, Engine)
  local err
  self.network, err = open(function(...)
    return self:receive(...)
  end)
  if not self.network then
    return nil, err
  end
  self.responder, self.querier = responder.new(self), querier.new(self)
  self.network.on_end = function()
    self.responder:withdraw_all()
    self.closed = true
  end
  self:_rescan()
  return self
end

-- One engine for each choice of interfaces: sockets are opened with the first use and closed with the last.
local engines = setmetatable({}, { __mode = "k" })

--- The engine of the current loop for these interfaces (nil: all). In a simulation there is no multicast.
---@param interfaces string[]?
---@return echostream.discovery.engine? engine, echostream.error? err
function M.shared(interfaces)
  local rec = loop.current()
  if rec.sim then
    return nil, errors.new("unavailable", "the simulation has no multicast")
  end
  local names = interfaces and table.move(interfaces, 1, #interfaces, 1, {}) or {}
  table.sort(names)
  local key = interfaces and table.concat(names, " ") or "*"
  engines[rec] = engines[rec] or {}
  local engine = engines[rec][key]
  if not engine then
    local err
    engine, err = M.new(function(receive)
      return multicast.open(interfaces, receive)
    end)
    if not engine then
      log.write("debug", "no multicast DNS: " .. tostring(err))
      return nil, errors.new("unavailable", "multicast DNS cannot be used here: " .. tostring(err))
    end
    engines[rec][key] = engine
    engine.forget = function()
      engines[rec][key] = nil
    end
  end
  return engine
end

return M
