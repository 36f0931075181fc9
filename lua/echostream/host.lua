--- What servers and clients have in common: handlers, hooks, context and the sessions that are open.

local core = require "echostream.core"
local clock = require "echostream.clock"
local alerts = require "echostream.metrics.alerts"
local codec = require "echostream.codec"
local context = require "echostream.context"
local event = require "echostream.handlers.event"
local fallback = require "echostream.fallback"
local flow = require "echostream.session.flow"
local handlers = require "echostream.handlers"
local heartbeat = require "echostream.heartbeat"
local hooks = require "echostream.hooks"
local introspect = require "echostream.introspect"
local loop = require "echostream.loop"
local metrics = require "echostream.metrics"
local middleware = require "echostream.middleware"
local options = require "echostream.options"
local path = require "echostream.path"
local plugin = require "echostream.plugin"
local services = require "echostream.handlers.services"
local session = require "echostream.session"
local top_figures = require "echostream.introspect.figures"
local topic = require "echostream.topic"

local M = {}

---@class echostream.host
---@field context echostream.context  key/value store; `sessions()` and `broadcast()` on it
local methods = {}
M.methods = methods
for _, part in ipairs { alerts, event, handlers, hooks, introspect, middleware, plugin, services, topic } do
  for name, method in pairs(part.methods) do
    methods[name] = method
  end
end

--- Options that servers and clients share. Sizes in bytes, times in seconds.
---@type table<string, echostream.options.field>
M.schema = {
  transport = { type = "table" },
  timeout = { type = "seconds" },
  max_message = { type = "integer", min = 1 },
  max_metadata = { type = "integer", min = 0, max = 16384 },
  max_calls = { type = "integer", min = 1 },
  max_total_calls = { type = "integer", min = 0, max = 1 << 30 },
  stream_queue = flow.queue_option,
  event_queue = flow.queue_option,
  session_queue = flow.queue_option,
  total_queue = flow.queue_option,
  max_named_streams = { type = "integer", min = 0 },
  max_pending = { type = "integer", min = 0 },
  assembly_timeout = { type = "seconds" },
  compress = { type = { "boolean", "table" }, fields = codec.compress_fields },
  checksum = { type = "boolean" },
  agent = { type = "string" },
  introspection = { type = "boolean" },
  heartbeat = { type = { "seconds", "boolean", "table" } },
  watchdog = { type = { "seconds", "boolean" }, min = 0.001, max = 1e6 },
}

--- The transport's own options, the seed's names among them.
---@type table<string, echostream.options.field>
M.transport_schema = {
  idle_timeout = { type = "seconds" },
  keep_alive = { type = { "seconds", "boolean" } },
  handshake_timeout = { type = "seconds" },
  max_concurrent_streams = { type = "integer", min = 0 },
  max_streams_bidi = { type = "integer", min = 0 },
  max_streams_uni = { type = "integer", min = 0 },
  stream_window = { type = "integer", min = 1 },
  connection_window = { type = "integer", min = 1 },
  max_datagram = { type = "integer", min = 0 },
  glitch_budget = { type = "integer", min = 0 },
  memory_cap = { type = "integer", min = 1 },
  hold_cap = { type = "integer", min = 65536 },
  stall_timeout = { type = "seconds" },
  batch_bytes = { type = "integer", min = 1, max = 1 << 20 },
  batch_delay = { type = "seconds", max = 1 },
  congestion_control = { type = "string", one_of = { "cubic", "bbr", "newreno" } },
  version = { type = "integer", one_of = { 1, 2 } },
  self_signed_cert = { type = { "boolean", "strings" } },
  cert_chain = { type = "table" },
  skip_verification = { type = "boolean" },
  mtu_discovery = { type = "boolean" },
  preferred_address = { type = { "string", "table" } },
  follow_preferred_address = { type = "boolean" },
  qlog = { type = "string" },
  wait_for_ready = { type = "boolean" },
  enable_0rtt = { type = "boolean" },
  key_update_packets = { type = "integer", min = 16, max = 1 << 22 },
  carrier = { type = "string", one_of = { "quic", "tcp", "auto" }, default = "quic" },
  fallback_after = { type = "seconds", default = 2 },
  retry_quic = { type = "seconds", min = 0.01, default = 30 },
  tcp_port = { type = "integer", min = 1, max = 65535 },
}

--- Checks `transport = {…}` and splits it: what the core takes, and the TLS names of the seed.
---@param where string
---@param opts table?
---@param tcp? boolean  it may go over TCP (of clients); then `opts` may be the name of the carrier
---@return table transport, table tls, table extra  `tls` has self_signed_cert, cert, key, skip_verification; `extra` what
--- endpoints take beside `transport`: qlog, preferred; and `way`, of fallback.lua
function M.split_transport(where, opts, tcp)
  if tcp and type(opts) == "string" then
    opts = { carrier = opts }
  end
  local checked = options.check(where .. ".transport", opts, M.transport_schema, 3)
  local way = {}
  for _, name in ipairs(fallback.names) do
    if not tcp and opts and opts[name] ~= nil then
      error(('%s: transport option "%s" is for clients'):format(where, name), 3)
    end
    way[name], checked[name] = checked[name], nil
  end
  local tls = { self_signed_cert = checked.self_signed_cert, skip_verification = checked.skip_verification }
  if checked.cert_chain then
    tls.cert = checked.cert_chain.cert or checked.cert_chain[1]
    tls.key = checked.cert_chain.key or checked.cert_chain[2]
    if type(tls.cert) ~= "string" or type(tls.key) ~= "string" then
      error(('%s.transport: option "cert_chain" wants { cert = "cert.pem", key = "key.pem" }'):format(where), 3)
    end
  end
  checked.max_streams_bidi = checked.max_streams_bidi or checked.max_concurrent_streams
  if checked.keep_alive == true then
    checked.keep_alive = nil
  end
  local extra = { way = way, preferred = path.preferred(where .. ".transport", checked.preferred_address, 4) }
  if checked.qlog then
    extra.qlog = require("echostream.qlog").check(where .. ".transport", checked.qlog, 4)
  end
  if checked.mtu_discovery == false then
    checked.disable_mtu_discovery = true
  end
  if checked.follow_preferred_address == false then
    checked.ignore_preferred = true
  end
  checked.mtu_discovery, checked.follow_preferred_address = nil, nil
  checked.preferred_address, checked.qlog = nil, nil
  checked.self_signed_cert, checked.cert_chain, checked.skip_verification = nil, nil, nil
  checked.max_concurrent_streams = nil
  return checked, tls, extra
end

M.run_hooks = hooks.run

--- The sessions that are open now, oldest first.
---@return echostream.session[]
function methods:sessions()
  return self.context:sessions()
end

--- Emits an event to every open session, or to some: see `context:broadcast`.
---@param first string|echostream.broadcast.options  the event's name, or options; then the name comes next
---@param ... any
---@return integer reached, integer left_out
function methods:broadcast(first, ...)
  return self.context:broadcast(first, ...)
end

--- What it has counted, always and without being asked: calls and streams by method (how many, how they ended, p50, p95, p99), events,
--- queues, QUIC's figures of all its connections together, memory. Costs a look at every connection.
--- `session:stats()` has a single connection's; `echo.metrics.prometheus()` has the same as text.
---@return echostream.metrics.host
function methods:metrics()
  return require("echostream.metrics.host").table(self)
end

-- Life --------------------------------------------------------------------------------------------------------

-- The core keeps the hooks as long as the host lives: they must not keep the server or client alive, or neither would ever
-- be collected.
local function core_hooks(self, accepts)
  local weak = setmetatable({ self }, { __mode = "v" })
  local hooked = {}

  function hooked.open(ud, incoming, credentials)
    local host = weak[1] or error("the host is gone")
    local peer = session.new(ud, host, incoming, credentials)
    if not incoming then
      host._dialled = peer
    end
    if host._heartbeat then
      heartbeat.start(peer, host._heartbeat)
    end
    return peer
  end

  function hooked.closed(peer, err, opened)
    local host = weak[1]
    peer.closed_by = err
    heartbeat.stop(peer, err)
    clock.stop(peer)
    if host then
      event.closed(host, peer)
      host:_session_closed(peer, err, opened)
    end
    session.closed(peer)
  end

  function hooked.goaway(peer)
    local host = weak[1]
    peer.draining = true
    if host and host._session_draining then
      host:_session_draining(peer)
    end
  end

  hooked.pong = heartbeat.pong

  function hooked.moved(peer, from, to, of_the_peer)
    local host = weak[1]
    if of_the_peer then
      peer.peer_addr = to
    end
    if host then
      M.run_hooks(host, "migrate", peer, from, to, of_the_peer)
    end
  end

  function hooked.idle(peer)
    local host = weak[1]
    if host and host._on_idle then
      host._on_idle(peer)
    end
  end

  if accepts then
    function hooked.accept(peer)
      local host = weak[1]
      if host then
        host:_session_offered(peer)
      end
    end
  end
  return hooked
end

--- Fills in what a server or client has in common. `accepts`: sessions are offered to `on_connect` before the peer's calls
--- are let in.
---@param self table
---@param opts table  checked
---@param accepts boolean
function M.init(self, opts, accepts)
  local where = accepts and "echo.server" or "echo.client"
  self._rec = loop.current()
  self._hooks = { start = {}, stopping = {}, stop = {}, connect = {}, disconnect = {}, migrate = {}, unload = {} }
  self._listeners = {}
  self._watchers = {} -- of metrics/alerts.lua
  self._sessions = {}
  self._middleware = {}
  self._topics = {} -- by name
  self._plugins = {}
  self._chains = {} -- `out`: what outgoing calls pass through
  self._timeout = opts.timeout or 30
  self._heartbeat = heartbeat.check(accepts and "echo.server" or "echo.client", opts.heartbeat, 3)
  self._on_idle = nil
  self.context = context.new(self)
  self._host = core.host(self._rec.core, {
    max_message = opts.max_message,
    max_metadata = opts.max_metadata,
    max_calls = opts.max_calls,
    max_total_calls = opts.max_total_calls,
    stream_queue = flow.marks(where, "stream_queue", opts.stream_queue, 3),
    event_queue = flow.marks(where, "event_queue", opts.event_queue, 3),
    session_queue = flow.marks(where, "session_queue", opts.session_queue, 3),
    total_queue = flow.marks(where, "total_queue", opts.total_queue, 3),
    max_named_streams = opts.max_named_streams,
    max_pending = opts.max_pending,
    assembly_timeout = opts.assembly_timeout,
    compress = opts.compress,
    checksum = opts.checksum,
    request_timeout = opts.timeout,
    agent = opts.agent,
    hooks = core_hooks(self, accepts),
  })
  if opts.watchdog ~= nil and opts.watchdog ~= true then
    self._host:watchdog(opts.watchdog)
  end
  metrics.remember(self)
  event.init(self)
  handlers.init(self)
  local introspection = opts.introspection == nil and accepts or opts.introspection == true
  introspect.init(self, introspection, handlers.offer)
  top_figures.init(self, introspection, handlers.offer)
  services.init(self)
end

--- A session is over: forgets it and runs `on_disconnect`.
---@param self echostream.host
---@param peer echostream.session
---@param err echostream.error
function M.forget(self, peer, err)
  if self._sessions[peer] then
    self._sessions[peer] = nil
    M.run_hooks(self, "disconnect", peer, err)
  end
  if self._on_idle then
    self._on_idle(peer)
  end
end

return M
