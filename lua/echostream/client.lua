--- Clients: one session to a server.

local core = require "echostream.core"
local address = require "echostream.address"
local alerts = require "echostream.metrics.alerts"
local backoff = require "echostream.backoff"
local errors = require "echostream.errors"
local fallback = require "echostream.fallback"
local host = require "echostream.host"
local identity = require "echostream.tls.identity"
local loop = require "echostream.loop"
local middleware = require "echostream.middleware"
local options = require "echostream.options"
local retry = require "echostream.retry"
local reconnect = require "echostream.reconnect"
local session = require "echostream.session"
local task = require "echostream.task"
local tls = require "echostream.tls"
local webtransport = require "echostream.http.webtransport"

local M = {}

---@class echostream.client: echostream.host
---@field session echostream.session?  while connected
---@field address string?              what it was connected to
---@field state "new"|"connecting"|"connected"|"reconnecting"|"closed"
---@field pin string?                  "sha256:…" of its own certificate's key, when it has one and has connected
---@field reconnects integer           times that it came back by itself
---@field fallback echostream.fallback?  while it goes over TCP because QUIC did not get there
---@field request fun(self, name: string, ...): any ...
---@field emit fun(self, name: string, ...): true|nil, echostream.error?
---@field create_stream fun(self, name: string, opts?: table): echostream.stream?, echostream.error?
---@field stream fun(self, name: string, ...): echostream.stream?, echostream.error?
---@field batch fun(self, calls: table|function, callback?: function): echostream.batch.results?, echostream.error?
---@field with fun(self, opts: table): echostream.calls
---@field service fun(self, name: string): table<string, function>
---@field stats fun(self): table|nil, echostream.error?
---@field migrate fun(self, opts?: table, callback?: function): true|nil, echostream.error?
---@field is_open fun(self): boolean
local Client = {}
Client.__index = Client
Client.__name = "echostream.client"
for name, method in pairs(host.methods) do
  Client[name] = method
end
for name, method in pairs(session.shared) do
  Client[name] = method
end

Client.__tostring = function(self)
  return ("echostream.client %s (%s)"):format(self.address or "-", self.state)
end

local schema = {
  metadata = { type = "table" },
  connect_timeout = { type = "seconds" },
  bind = { type = "string" },
  webtransport = { type = { "boolean", "table" } },
  retry = retry.option,
  reconnect = { type = { "boolean", "table" }, fields = reconnect.fields },
  on_carrier = { type = "function" },
}
for _, fields in ipairs { host.schema, tls.client_schema, tls.shared_schema } do
  for name, field in pairs(fields) do
    schema[name] = field
  end
end
schema.transport = { type = { "table", "string" } }

--- Makes a client that is not connected yet. Handlers, middleware, plugins and hooks are registered before `connect` (and may be
--- later). Whom it trusts one of the options `pin`, `ca` and `skip_verification` says; without any, `connect` refuses.
---@param opts? echostream.options.client
---@return echostream.client
function M.new(opts)
  local checked = options.check("echo.client", opts, schema)
  local transport, named, extra = host.split_transport("echo.client", checked.transport, true)
  if extra.preferred then
    error('echo.client: transport option "preferred_address" is for servers', 2)
  end
  if named.self_signed_cert ~= nil then
    error('echo.client: transport option "self_signed_cert" is for servers', 2)
  end
  checked.cert, checked.key = checked.cert or named.cert, checked.key or named.key
  if checked.skip_verification == nil then
    checked.skip_verification = named.skip_verification
  end
  if (checked.cert == nil) ~= (checked.key == nil) then
    error('echo.client: options "cert" and "key" belong together', 2)
  end
  checked.webtransport = webtransport.check_client("echo.client", checked.webtransport)
  local self = setmetatable({
    state = "new",
    session = nil,
    address = nil,
    _options = checked,
    _transport = transport,
    _qlog = extra.qlog,
    _way = fallback.check("echo.client", extra, checked),
    fallback = nil,
    _way_back = nil,
    _trust = tls.trust("echo.client", checked),
    _ud = session.nobody,
    _endpoint = nil,
    _dialled = nil,
    _instance = core.random(16),
    reconnects = 0,
    _reconnect = reconnect.check("echo.client", checked.reconnect),
    _redial = nil,
    _absent = nil,
    _pauses = nil,
    _connected_at = nil,
    _places = nil, -- where the server is said to be: { name, port }, best first
    _last_rtt = nil,
    _max_waiting = checked.max_pending or 16384,
  }, Client)
  self._pauses = self._reconnect and backoff.of(self._reconnect) or nil
  host.init(self, checked, false)
  local policy = retry.of("echo.client", checked.retry)
  if policy then
    middleware.set_retry(self, policy)
  end
  return self
end

-- Connecting --------------------------------------------------------------------------------------------------

local function local_address(self, remote)
  if self._options.bind then
    local name, port = address.parse("echo.client", self._options.bind, "0.0.0.0")
    return address.join(name, port)
  elseif self._rec.sim then
    return loop.simulated_address(self._rec)
  end
  return remote:sub(1, 1) == "[" and "[::]:0" or "0.0.0.0:0"
end

-- One attempt at one address: the core's session, its endpoint and our session; or nil, err.
local function dial(self, remote, security, timeout, tcp)
  local endpoint, problem = loop.endpoint { bind = local_address(self, remote), qlog = self._qlog }
  if not endpoint then
    return nil, problem
  end
  local transport = {}
  for key, value in pairs(self._transport) do
    transport[key] = value
  end
  transport.handshake_timeout = transport.handshake_timeout or timeout
  -- A ticket is used once, so the first attempt has it.
  local ticket = security.ticket
  if tcp then
    ticket = nil
    transport.enable_0rtt = transport.enable_0rtt and self._way.carrier == "tcp" or nil -- asked for both: the core says why not
    remote = self._way.tcp_port and remote:gsub("%d+$", tostring(self._way.tcp_port)) or remote
  else
    security.ticket = nil
  end
  local ud, peer
  local ok, err = task.await(function(resume)
    local dial_err
    ud, dial_err = core.dial(endpoint, {
      remote = remote,
      tls = security.context,
      ticket = ticket,
      on_ticket = not tcp and security.keep or nil,
      host = self._host,
      credentials = self._options.metadata,
      instance = self._instance,
      transport = transport,
      webtransport = webtransport.dial(self._options.webtransport, self._name, self._port),
      tcp = tcp,
      done = resume,
    })
    peer, self._dialled = self._dialled, nil -- made by the `open` hook
    if not ud then
      resume(nil, dial_err)
    end
  end, timeout)
  if not ok then
    loop.close_endpoint(self._rec, endpoint)
    return nil, err
  end
  return ud, endpoint, peer
end

-- Seconds after which the next address is tried beside the one that has not answered (RFC 8305, section 5); after one that failed it is at once.
local STAGGER = 0.25

-- Tries addresses a little after one another; the first that answers wins, the others are given up.
local function dial_any(self, remotes, security, timeout, tcp)
  if #remotes == 1 then
    return dial(self, remotes[1], security, timeout, tcp)
  end
  local ends, attempts, started, failed, first_err, over = loop.now() + timeout, {}, 0, 0, nil, false
  local ud, endpoint, peer = task.await(function(resume)
    local function begin()
      local remote = not over and loop.now() < ends and remotes[started + 1]
      if not remote then
        return false
      end
      started = started + 1
      attempts[#attempts + 1] = task.spawn(function()
        local a, b, c = dial(self, remote, security, math.max(ends - loop.now(), 0.001), tcp)
        if a and (over or not resume(a, b, c)) then
          loop.close_endpoint(self._rec, b)
        elseif a then
          over = true
        else
          failed, first_err = failed + 1, first_err or b
          if not begin() and failed == started then
            resume(nil, first_err)
          end
        end
      end)
      return true
    end
    attempts[1] = task.spawn(function()
      while begin() and task.sleep(STAGGER) do end
    end)
  end)
  over = true
  for _, attempt in ipairs(attempts) do
    attempt:cancel()
  end
  return ud, endpoint, peer
end

local function resolve(name, timeout)
  if address.literal(name) then
    return { name }
  end
  return task.await(function(resume)
    loop.resolve(name, resume)
  end, timeout)
end

-- The addresses of all the places that the server is said to be at, in order; or nil and what stands in the way of the first.
local function resolve_all(places, timeout)
  local ends, remotes, problem = loop.now() + timeout, {}, nil
  for _, place in ipairs(places) do
    local found, err = resolve(place[1], math.max(ends - loop.now(), 0.001))
    problem = problem or err
    for _, ip in ipairs(found or {}) do
      remotes[#remotes + 1] = address.join(ip, place[2])
    end
  end
  if not remotes[1] then
    return nil, problem
  end
  return remotes
end

-- Every session has an endpoint of its own, which ends with it.
local function drop_endpoint(self, peer)
  local endpoint = peer._endpoint
  if endpoint then
    peer._endpoint = nil
    loop.close_endpoint(self._rec, endpoint)
    if self._endpoint == endpoint then
      self._endpoint = nil
    end
  end
end

-- The TLS context for a server, and the ticket that we have for it.
local function secure(self, name, port)
  local opts = self._options
  local context, err = tls.client(opts, self._trust, name)
  if not context then
    return nil, err
  end
  local own = context:pin()
  self.pin = own and identity.pin_text(own) or nil
  local ticket, keep = tls.tickets(opts, self._transport, self._trust, context, name, port,
    opts.webtransport and "h3" or "echostream/1")
  return { context = context, ticket = ticket, keep = keep }
end

-- The new session takes the place of the client's, which lives on: calls go through it from now on.
local function adopt(self, ud, endpoint, peer)
  peer._endpoint = endpoint
  session.refresh(peer, self)
  local old = self.session
  self._sessions[peer] = true
  local ok, err = host.run_hooks(self, "connect", peer)
  if not ok or self.session ~= old or self.state ~= "connected" or not ud:is_open() then
    self._sessions[peer] = nil
    ud:close(0x11, tostring(err or "too late"))
    drop_endpoint(self, peer)
    return false
  end
  self._ud, self.session, self._endpoint = ud, peer, endpoint
  if self._reconnect then
    reconnect.unwatch(self)
    self._connected_at, self._last_rtt = loop.now(), (ud:stats() or {}).rtt_min
    reconnect.watch(self, peer)
  end
  return true
end

-- Looks for the server anew, and dials it: over QUIC, or TCP.
local function go(self, carrier, timeout)
  local ends = loop.now() + timeout
  local security, err = secure(self, self._name, self._port)
  local remotes
  if security then
    remotes, err = resolve_all(self._places, timeout)
  end
  if not remotes then
    return nil, err
  end
  return dial_any(self, remotes, security, math.max(ends - loop.now(), 0.001), carrier == "tcp")
end

-- Dials, shakes hands and runs `on_connect`: the new session is the client's then. Nil, err: nothing is left of it.
function Client:_establish(timeout)
  local ud, endpoint, peer = fallback.dial(self, function(carrier, time)
    return go(self, carrier, time)
  end, timeout)
  if not ud then
    return nil, endpoint
  end
  local err
  peer._endpoint, self._endpoint = endpoint, endpoint
  session.refresh(peer, self)
  local again = self.state == "reconnecting"
  self._ud, self.session = ud, peer
  self._sessions[peer] = true
  self._rec.anchors[self] = true
  if self._reconnect then
    self._connected_at = loop.now()
    self._last_rtt = (ud:stats() or {}).rtt_min
    reconnect.watch(self, peer)
  end
  if not again then
    self.state = "connected"
  end
  local ok
  ok, err = host.run_hooks(self, "connect", peer)
  if ok and again and self.session ~= peer then
    ok, err = nil, peer.closed_by or errors.new("connection_closed", "the connection was lost at once")
  end
  if ok then
    fallback.watch(self, peer, function(carrier, time)
      return go(self, carrier, time)
    end, function(...)
      return adopt(self, ...)
    end)
    return peer
  end
  if again and rawequal(self._ud, ud) then
    self._ud = self._absent
  end
  if self.session == peer then
    self.session = nil
  end
  self._sessions[peer] = nil
  ud:close(0x11, tostring(err))
  drop_endpoint(self, peer)
  return nil, err
end

local function over(self)
  self.state = "closed"
  alerts.stop(self)
  fallback.stop(self)
  reconnect.unwatch(self)
  self._rec.anchors[self] = nil
end

local function connect(self, places)
  self._places, self._name, self._port = places, places[1][1], places[1][2]
  local peer, err = self:_establish(self._options.connect_timeout or self._options.timeout or 30)
  if not peer then
    over(self)
    return nil, err
  end
  local ok
  ok, err = host.run_hooks(self, "start", self.context)
  if not ok then
    over(self)
    reconnect.stop(self)
    if self.session then
      self.session._ud:close(0x11, tostring(err))
      drop_endpoint(self, self.session)
    end
    return nil, err
  end
  return self
end

local function places_of(addr)
  local places = {}
  for i, one in ipairs(type(addr) == "table" and addr[1] ~= nil and addr or { addr }) do
    local name, port = address.parse("client:connect", one, "127.0.0.1")
    if port == 0 then
      error("client:connect: port 0 is no port to connect to", 0)
    end
    places[i] = { name, port }
  end
  if not places[1] then
    address.parse("client:connect", addr, "127.0.0.1") -- which says what it wants
  end
  return places
end

--- Connects: resolves the name, shakes hands, runs `on_connect`. Waits at most `connect_timeout` (default `timeout`, 30 s).
---@param addr string|integer|string[]  "127.0.0.1:5000", "example.org:5000", "[::1]:5000"; ":5000" and 5000 mean this machine. A list: addresses
--- of the same server, best first; the next is tried when one failed, or beside it when it did not answer for a quarter of a second
---@param callback? fun(client: echostream.client?, err: echostream.error?)
---@return echostream.client|nil client, echostream.error? err  `timeout`, `unauthenticated` (wrong or unknown server), …
function Client:connect(addr, callback)
  local ok, places = pcall(places_of, addr)
  if not ok then
    error(places, 2)
  elseif self.session then
    error(("client:connect: this client is %s already"):format(self.state == "closed" and "closing" or self.state), 2)
  elseif self.state == "connecting" or self.state == "reconnecting" then
    error(("client:connect: this client is %s already"):format(self.state), 2)
  end
  self.state = "connecting"
  self.address = address.join(places[1][1], places[1][2])
  return task.wait_or_call_back("client:connect", callback, connect, self, places)
end

--- Says, at any time, whether and how it comes back by itself: what the option `reconnect` says in the beginning. False while it is
--- reconnecting: it gives up, and calls that wait fail, `unavailable`; while it is connected: the loss of this connection is the end.
---@param policy boolean|echostream.options.reconnect
---@return echostream.options.reconnect|false before  what was; good for another `set_reconnect`
function Client:set_reconnect(policy)
  options.argument("client:set_reconnect", "policy", policy, { "boolean", "table" })
  if type(policy) == "table" then
    policy = options.check("client:set_reconnect", policy, reconnect.fields)
  end
  return reconnect.set(self, reconnect.check("client:set_reconnect", policy))
end

-- Life --------------------------------------------------------------------------------------------------------

function Client:_session_closed(peer, err)
  drop_endpoint(self, peer)
  if self.session ~= peer then
    host.forget(self, peer, err) -- one that was replaced while its server went away
    return
  end
  self.session = nil
  fallback.stop(self)
  if self.state == "connected" and self._reconnect and not reconnect.is_final(err) then
    reconnect.begin(self, err)
    host.forget(self, peer, err)
  elseif self.state == "reconnecting" then -- lost while its on_connect hooks run: the attempt has failed
    host.forget(self, peer, err)
  else
    over(self)
    host.forget(self, peer, err)
    host.run_hooks(self, "stop", self.context)
  end
end

-- The server is about to stop: whoever reconnects does so now, while what is under way there comes to its end.
function Client:_session_draining(peer)
  if self.session == peer and self.state == "connected" and self._reconnect then
    self.session = nil
    fallback.stop(self)
    reconnect.begin(self, errors.new("unavailable", "the server is going away"))
  end
end

-- There will be no connection any more.
function Client:_give_up(absent, err)
  over(self)
  reconnect.release(absent, err)
  host.run_hooks(self, "stop", self.context)
end

local function close(self)
  local state, absent = self.state, self._absent
  self.state = "closed"
  fallback.stop(self)
  reconnect.stop(self)
  local all = {}
  for peer in pairs(self._sessions) do
    if peer ~= self.session then
      all[#all + 1] = task.spawn(session.close_in_task, peer)
    end
  end
  if self.session then
    session.close_in_task(self.session)
  end
  for _, other in ipairs(all) do
    other:wait()
  end
  if state == "reconnecting" then
    local err = errors.new("connection_closed", "the client was closed")
    err.processed = "no"
    self:_give_up(absent, err)
  end
  return true
end

--- Closes the connection. Waits up to 2 s until the server has acknowledged what was queued, so that `emit` then `close`
--- delivers. Where the caller cannot wait, that happens in the background. Harmless twice.
---@param callback? fun(ok: true)
---@return true|nil ok, echostream.error? err
function Client:close(callback)
  if type(self) ~= "table" then
    options.colon "close"
  end
  if callback ~= nil then
    options.argument("client:close", "callback", callback, "function")
    return task.call_back(callback, close, self)
  elseif self.state == "new" then
    self.state = "closed"
    return true
  elseif self.state == "closed" and next(self._sessions) == nil then
    return true
  elseif task.can_wait() then
    return task.block(close, self)
  end
  task.spawn(close, self)
  return true
end

--- Waits until the client is connected (again): for clients with `reconnect`.
---@param timeout? number  seconds; default: until it comes back or gives up
---@param callback? fun(client: echostream.client?, err: echostream.error?)  instead of waiting
---@return echostream.client|nil client, echostream.error? err  `timeout`; `unavailable`: it is not even trying; why it gave up
function Client:ready(timeout, callback)
  if type(timeout) == "function" then
    timeout, callback = nil, timeout
  end
  if timeout ~= nil then
    options.argument("client:ready", "timeout", timeout, "seconds")
  end
  if callback ~= nil then
    options.argument("client:ready", "callback", callback, "function")
  end
  return reconnect.ready(self, timeout, callback)
end

Client.__close = function(self)
  self:close()
end

return M
