--- Protocols over streams: each has an id and versions, both sides offer what they speak, and a stream is opened in the best version
--- that both have. On top of the sessions that are there.
---
---     local service = echo.service.new(server)                      -- or a client: both sides are alike
---     service:offer("chat", "1.0-1.2", function(stream, peer) … stream.version … end)
---
---     local stream, err = echo.service.new(client):open_stream(client.session, "chat/1.1-2.0")
---     print(stream.version)                                          --> 1.2
---
--- On the wire a protocol is a named stream. Its opener asks with the metadata `es-accept`; the first message from the other side
--- is the version (docs/PROTOCOL.md, section 6).

local errors = require "echostream.errors"
local loop = require "echostream.loop"
local options = require "echostream.options"
local task = require "echostream.task"
local versions = require "echostream.versions"

local M = {}

---@class echostream.service
local Service = {}
Service.__index = Service
Service.__name = "echostream.service"

local ACCEPT = "es-accept"

-- Protocol ids are names of streams without a slash, which separates the version.
local function check_id(where, id, level)
  if type(id) ~= "string" or not id:find "^[%w._:-]+$" or #id > 256 then
    error(("%s: a protocol's id is 1 to 256 characters of A-Z a-z 0-9 . _ : -, got %s"):format(where, errors.show(id)), level + 1)
  end
end

--- Makes the service face of a server or client. One for each is enough: it registers its protocols as named streams there.
---@param host echostream.server|echostream.client
---@return echostream.service
function M.new(host)
  if type(host) ~= "table" or type(host.add_stream) ~= "function" or type(host.sessions) ~= "function" then
    error("service.new: wants a server or a client, got " .. errors.show(host), 2)
  end
  return setmetatable({ _host = host, _offers = {}, _open = {}, _counters = {} }, Service)
end

-- Figures -----------------------------------------------------------------------------------------------------

local totals = { "messages_out", "messages_in", "bytes_out", "bytes_in" }

local function counters_of(self, id)
  local counters = self._counters[id]
  if not counters then
    counters = { accepted = 0, opened = 0, refused = 0, failed = 0, open = 0, seconds = 0 }
    for _, name in ipairs(totals) do
      counters[name] = 0
    end
    self._counters[id] = counters
  end
  return counters
end

local function add(counters, stream)
  local stats = stream:stats() or {}
  for _, name in ipairs(totals) do
    counters[name] = counters[name] + (stats[name] or 0)
  end
end

local function began(self, stream, id, version, peer, incoming)
  stream.protocol, stream.version, stream.peer_id = id, version, peer:peer_pin()
  self._open[stream] = { since = loop.now(), incoming = incoming }
  local counters = counters_of(self, id)
  counters.open = counters.open + 1
end

local function ended(self, stream)
  local entry = self._open[stream]
  if entry then
    self._open[stream] = nil
    local counters = counters_of(self, stream.protocol)
    counters.open, counters.seconds = counters.open - 1, counters.seconds + loop.now() - entry.since
    add(counters, stream)
  end
end

--- Figures by protocol: streams `opened` here, `accepted`, `refused` (either way) and `failed`; `open` now; `seconds` that they were
--- open; `messages_out`, `messages_in`, `bytes_out`, `bytes_in`.
---@return table<string, table<string, number>>
function Service:stats()
  local all = {}
  for id, counters in pairs(self._counters) do
    all[id] = {}
    for name, value in pairs(counters) do
      all[id][name] = value
    end
  end
  local now = loop.now()
  for stream, entry in pairs(self._open) do
    add(all[stream.protocol], stream)
    all[stream.protocol].seconds = all[stream.protocol].seconds + now - entry.since
  end
  return all
end

--- The streams that are open now, with `protocol`, `version`, `peer_id` and `session`.
---@return echostream.stream[]
function Service:streams()
  local list = {}
  for stream in pairs(self._open) do
    list[#list + 1] = stream
  end
  table.sort(list, function(a, b)
    return a.id < b.id
  end)
  return list
end

-- Offering ----------------------------------------------------------------------------------------------------

local function offer_text(id, ranges)
  return id .. "/" .. versions.text(ranges)
end

-- Runs as the handler of the named stream.
local function accept(self, offer, peer, stream)
  local asked = stream:metadata()[ACCEPT]
  local wanted = asked and versions.parse(asked) or offer.ranges
  local version = wanted and versions.best(offer.ranges, wanted)
  local counters = counters_of(self, offer.id)
  if not version then
    counters.refused = counters.refused + 1
    return nil, errors.new("failed_precondition", ("no version in common: %s is offered, %s was asked for"):format(
      offer_text(offer.id, offer.ranges), asked), { offers = versions.text(offer.ranges) })
  end
  counters.accepted = counters.accepted + 1
  local ok, err = stream:send(version)
  if not ok then
    return nil, err
  end
  began(self, stream, offer.id, version, peer, true)
  local _ <close> = setmetatable({}, { __close = function() ended(self, stream) end })
  local done = table.pack(pcall(offer.fn, stream, peer))
  if not done[1] then
    counters.failed = counters.failed + 1
    error(done[2], 0)
  end
  return table.unpack(done, 2, done.n)
end

--- Speaks a protocol: `fn(stream, session)` handles the streams that peers open, and the stream ends when it returns. `stream.version`
--- is what both agreed upon, `stream.peer_id` who it is.
---@param id string  1 to 256 characters of A-Z a-z 0-9 . _ : -
---@param range string  versions that it speaks, "1.2", "1.0-1.4", "1.0-1.4,2.0-2.1"
---@param fn fun(stream: echostream.stream, session: echostream.session)
---@param opts? { codec?: string, doc?: string }  `codec`: messages are values; the opener says the same
---@return echostream.service self
function Service:offer(id, range, fn, opts)
  check_id("service:offer", id, 2)
  options.argument("service:offer", "versions", range, "string")
  options.argument("service:offer", "function", fn, "function")
  opts = options.check("service:offer", opts, { codec = { type = "string" }, doc = { type = "string" } })
  local ranges = versions.parse(range)
  if not ranges then
    error(('service:offer: versions are "1.2", "1.0-1.4" or a list with commas, got %s'):format(errors.show(range)), 2)
  end
  if self._offers[id] then
    error(("service:offer: %s is offered already, in %s"):format(errors.show(id), versions.text(self._offers[id].ranges)), 2)
  end
  local offer = { id = id, ranges = ranges, fn = fn, codec = opts.codec }
  self._host:add_stream(id, function(peer, stream)
    return accept(self, offer, peer, stream)
  end, { codec = opts.codec, doc = opts.doc, version = versions.text(ranges) })
  self._offers[id] = offer
  return self
end

--- Takes a protocol away; streams under way go on. False when there was none.
---@param id string
---@return boolean
function Service:withdraw(id)
  options.argument("service:withdraw", "id", id, "string")
  if not self._offers[id] then
    return false
  end
  self._offers[id] = nil
  return self._host:remove_stream(id)
end

-- Peers -------------------------------------------------------------------------------------------------------

--- Our own peer id, as the others see it: "sha256:…" of our public key. Nil before `start`, and for a client without a certificate.
---@return string?
function Service:peer_id()
  return self._host.pin
end

--- The peers that are connected now: sessions by peer id, the SHA-256 of the peer's public key ("sha256:…"). Who showed no certificate
--- has none, and is reached by its session only.
---@return table<string, echostream.session>
function Service:peers()
  local peers = {}
  for _, peer in ipairs(self._host:sessions()) do
    local id = peer._ud:is_open() and peer:peer_pin()
    if id then
      peers[id] = peer -- the newest, when one is connected twice
    end
  end
  return peers
end

-- Opening -----------------------------------------------------------------------------------------------------

local function find(self, peer)
  if peer == nil then
    peer = self._host.session
  elseif type(peer) == "string" then
    peer = self:peers()[peer]
  elseif type(peer) == "table" and peer.session ~= nil and peer.server_ctx == nil then
    peer = peer.session -- a client
  end
  if not peer then
    return nil, errors.new("not_found", "that peer is not connected")
  end
  return peer
end

local function open(self, peer, id, asked, opts)
  local session, err = find(self, peer)
  if not session then
    return nil, err
  end
  local counters = counters_of(self, id)
  local stream
  stream, err = session:create_stream(id, { codec = opts.codec, priority = opts.priority, metadata = { [ACCEPT] = versions.text(asked) } })
  if not stream then
    counters.failed = counters.failed + 1
    return nil, err
  end
  local frame
  frame, err = stream:recv(opts.timeout)
  local version = frame and frame.data
  if type(version) ~= "string" or not versions.best(versions.parse(version) or {}, asked) then
    stream:close()
    local refused = err and (err.code == "failed_precondition" or err.code == "method_not_found")
    counters[refused and "refused" or "failed"] = counters[refused and "refused" or "failed"] + 1
    return nil, err or errors.new("protocol", "the other side did not say which version it is")
  end
  counters.opened = counters.opened + 1
  began(self, stream, id, version, session, false)
  stream._channel:on_closed(function() -- however it ends: not everybody says close_stream
    ended(self, stream)
  end)
  return stream
end

local open_schema = {
  codec = { type = "string" },
  priority = { type = "integer", min = 0, max = 7 },
  timeout = { type = "seconds", default = 10 },
}

--- Opens a stream of a protocol, in the best version that both sides speak; waits until that is known. Close it with `close_stream`.
---@param peer echostream.session|echostream.client|string|nil  a peer id of `peers`; nil: of a client, its server
---@param protocol string  "chat/1.1", "chat/1.0-1.2", "chat/1.0-1.2,2.0"; the id alone takes any version
---@param opts? { codec?: string, priority?: integer, timeout?: number }  `timeout`: seconds to agree, 10
---@param callback? fun(stream: echostream.stream?, err: echostream.error?)  instead of waiting
---@return echostream.stream|nil stream  with `version`, `protocol` and `peer_id`
---@return echostream.error? err  `failed_precondition`: no version in common; its message, and `details.offers`, name what is offered.
--- `method_not_found`: not offered at all. `not_found`: the peer is not connected
function Service:open_stream(peer, protocol, opts, callback)
  if type(opts) == "function" then
    opts, callback = nil, opts
  end
  if peer ~= nil then
    options.argument("service:open_stream", "peer", peer, { "table", "string" })
    if type(peer) == "table" and type(peer.create_stream) ~= "function" then
      error("service:open_stream: the peer wants to be a session, a client or a peer id", 2)
    end
  end
  options.argument("service:open_stream", "protocol", protocol, "string")
  opts = options.check("service:open_stream", opts, open_schema)
  local id, range = protocol:match "^([^/]*)/?(.*)$"
  check_id("service:open_stream", id, 2)
  local asked = range == "" and versions.any or versions.parse(range)
  if not asked then
    error(('service:open_stream: a protocol is "id/1.0-1.2", got %s'):format(errors.show(protocol)), 2)
  end
  return task.wait_or_call_back("service:open_stream", callback, open, self, peer, id, asked, opts)
end

--- Closes a stream that `open_stream` gave, or that a handler has.
---@param stream echostream.stream
---@return true
function Service:close_stream(stream)
  if type(stream) ~= "table" or type(stream.close) ~= "function" then
    error("service:close_stream: wants a stream, got " .. errors.show(stream), 2)
  end
  ended(self, stream)
  stream:close()
  return true
end

return M
