--- Raw QUIC for prototyping other protocols: any ALPN, streams and datagrams, no frames.
---
---     local listener = assert(echo.quic.listen("127.0.0.1:0", { alpn = { "hq-test" } }))
---     echo.spawn(function()
---       local connection = listener:accept()
---       local stream = connection:accept_bi_stream()
---       stream:write(stream:read_to_end():upper())
---       stream:finish()
---     end)
---     local connection = assert(echo.quic.connect(listener.address, { alpn = { "hq-test" }, pin = listener.pin }))
---     local stream = connection:open_bi_stream()
---     stream:write "hello"; stream:finish()
---     print(stream:read_to_end())                          --> HELLO

local core = require "echostream.core"
local address = require "echostream.address"
local connections = require "echostream.quic.connection"
local errors = require "echostream.errors"
local host = require "echostream.host"
local loop = require "echostream.loop"
local newcomers = require "echostream.tls.newcomers"
local options = require "echostream.options"
local task = require "echostream.task"
local tls = require "echostream.tls"

local M = {}

-- Connections that wait for accept(); more are refused.
local BACKLOG = 128

local function check_alpn(where, alpn)
  if type(alpn) ~= "table" or #alpn == 0 then
    error(('%s: option "alpn" wants a list of protocol names such as { "hq-test" }'):format(where), 3)
  end
  for _, name in ipairs(alpn) do
    if type(name) ~= "string" or #name == 0 or #name > 255 or name:find "\0" then
      error(('%s: option "alpn" wants names of 1 to 255 bytes, got %s'):format(where, errors.show(name)), 3)
    end
  end
  return alpn
end

-- Which of its bytes are harmless when they come twice only a protocol knows.
local function refuse_early(where, transport)
  if transport.enable_0rtt then
    error(('%s: transport option "enable_0rtt" is for servers and clients of echostream, not for raw QUIC'):format(where), 3)
  end
end

local function resolve(name)
  if address.literal(name) then
    return { name }
  end
  return task.await(function(resume)
    loop.resolve(name, resume)
  end, 30)
end

-- Listening ---------------------------------------------------------------------------------------------------

---@class echostream.quic.listener
---@field address string    "127.0.0.1:5000", with the real port
---@field pin string        "sha256:<hex>" of its public key
---@field cert_hash string  "sha256:<hex>" of the whole certificate
local Listener = {}
Listener.__index = Listener
Listener.__name = "echostream.quic.listener"

Listener.__tostring = function(self)
  return ("echostream.quic.listener %s"):format(self.address)
end

local listen_schema = {
  alpn = { type = "table", required = true },
  state_dir = { type = "string" },
  names = { type = "strings" },
  transport = { type = "table" },
}
for _, fields in ipairs { newcomers.schema, tls.server_schema, tls.shared_schema } do
  for name, field in pairs(fields) do
    listen_schema[name] = field
  end
end

local function server_tls(self, opts)
  local ip = self._ip
  local names = opts.names or (ip == "0.0.0.0" or ip == "::") and { "localhost" } or { "localhost", ip }
  return tls.identity("echo.quic.listen", self, opts, names)
end

-- In a task, for every connection whose handshake is over.
function Listener:_offer(conn, alpn)
  if self._closed or #self._queue >= BACKLOG then
    conn:close(0, "too many connections wait")
    return
  end
  local connection = connections.new(conn, alpn, true, loop.now)
  if self._keep_alive then
    conn:keep_alive(true)
  end
  self._queue[#self._queue + 1] = connection
  self._waiters:wake "connection"
end

local function listen(name, port, opts, transport, extra)
  local rec = loop.current()
  local addresses, err = resolve(name)
  if not addresses then
    return nil, err
  end
  local self = setmetatable({
    _options = opts, _ip = addresses[1], _key = nil,
    _queue = {}, _waiters = connections.waiters(), _rec = rec, _closed = false, _keep_alive = transport.keep_alive,
  }, Listener)
  local context
  context, err = server_tls(self, opts)
  if not context then
    return nil, err
  end
  -- The core keeps these functions as long as the endpoint: if they kept the listener, which has the endpoint, none of them
  -- could ever be collected. A listener nobody holds has nobody who accepts.
  local weak = setmetatable({ self }, { __mode = "v" })
  local apps = {}
  for i, alpn in ipairs(opts.alpn) do
    apps[i] = {
      alpn = alpn,
      raw = function(conn)
        if weak[1] then
          weak[1]:_offer(conn, alpn)
        else
          conn:close(0, "nobody accepts")
        end
      end,
    }
  end
  self._endpoint, err = loop.endpoint(newcomers.configure({
    bind = address.join(addresses[1], port),
    tls = context,
    apps = apps,
    transport = transport,
    qlog = extra.qlog,
    preferred = extra.preferred,
  }, opts, addresses[1], port, rec.sim))
  if not self._endpoint then
    return nil, err
  end
  self.address = self._endpoint:address()
  tls.show(self, context)
  return self
end

--- Replaces certificates while it listens: new connections get the new ones. What is not given stays as it is; without options
--- the files are read again. A certificate for the same key leaves the pin as it was.
---@param opts? { cert?: string, key?: string, certs?: table<string, table> }  as the options of `echo.quic.listen`
---@return true|nil ok, echostream.error? err  then everything stays as it was
function Listener:set_certificate(opts)
  local ok, err = tls.replace("listener:set_certificate", self, opts, server_tls)
  return ok, err
end

--- Listens for connections of other protocols.
---@param addr string|integer  "127.0.0.1:5000"; port 0: any; ":5000" and 5000 mean every IPv4 address
---@param opts echostream.options.listen
---@param callback? fun(listener: echostream.quic.listener?, err: echostream.error?)
---@return echostream.quic.listener? listener, echostream.error? err  `io`, `not_found`, …
function M.listen(addr, opts, callback)
  local checked = options.check("echo.quic.listen", opts, listen_schema)
  check_alpn("echo.quic.listen", checked.alpn)
  newcomers.check("echo.quic.listen", checked)
  local transport, named, extra = host.split_transport("echo.quic.listen", checked.transport)
  refuse_early("echo.quic.listen", transport)
  checked.cert, checked.key = checked.cert or named.cert, checked.key or named.key
  if checked.cert and not checked.key then
    error('echo.quic.listen: option "cert" needs "key"', 2)
  end
  tls.check_server("echo.quic.listen", checked)
  local ok, name, port = pcall(address.parse, "echo.quic.listen", addr, "0.0.0.0")
  if not ok then
    error(name, 2)
  end
  return task.wait_or_call_back("echo.quic.listen", callback, listen, name, port, checked, transport, extra)
end

local function try_accept(self)
  local connection = table.remove(self._queue, 1)
  if connection then
    return connection
  elseif self._closed then
    return nil, errors.new("connection_closed", "the listener is closed")
  end
  return nil, "again"
end

local function accept(timeout, self)
  return connections.repeat_until(self._waiters, "connection", timeout, loop.now, try_accept, self)
end

--- The next connection. Waits for it. 128 connections wait for `accept`; more are refused.
---@param timeout? number seconds
---@param callback? fun(connection: echostream.quic.connection?, err: echostream.error?)
---@return echostream.quic.connection? connection, echostream.error? err  `connection_closed` once the listener is closed
function Listener:accept(timeout, callback)
  return connections.either("listener:accept", timeout, callback, accept, self)
end

--- Figures of the socket and of all its connections.
---@return echostream.endpoint_stats? stats, echostream.error? err  once it is closed
function Listener:stats()
  return self._endpoint:stats()
end

--- Stops listening and closes every connection it accepted. Harmless twice.
---@return true
function Listener:close()
  if not self._closed then
    self._closed = true
    loop.close_endpoint(self._rec, self._endpoint)
    self._waiters:wake_all()
  end
  return true
end

Listener.__close = Listener.close

-- Connecting --------------------------------------------------------------------------------------------------

local connect_schema = {
  alpn = { type = "table", required = true },
  timeout = { type = "seconds", default = 30 },
  bind = { type = "string" },
  transport = { type = "table" },
}
for _, fields in ipairs { tls.client_schema, tls.shared_schema } do
  for name, field in pairs(fields) do
    connect_schema[name] = field
  end
end

local function local_address(rec, opts, remote)
  if opts.bind then
    return address.join(address.parse("echo.quic.connect", opts.bind, "0.0.0.0"))
  elseif rec.sim then
    return loop.simulated_address(rec)
  end
  return remote:sub(1, 1) == "[" and "[::]:0" or "0.0.0.0:0"
end

-- One attempt at one address.
local function dial(rec, remote, security, opts, transport, timeout)
  local endpoint, err = loop.endpoint { bind = local_address(rec, opts, remote), qlog = opts.qlog }
  if not endpoint then
    return nil, err
  end
  local config = {}
  for key, value in pairs(transport) do
    config[key] = value
  end
  config.handshake_timeout = config.handshake_timeout or timeout
  local conn
  conn, err = core.quic_dial(endpoint, {
    remote = remote, tls = security[1], ticket = security[2], on_ticket = security[3], alpn = opts.alpn[1], transport = config,
  })
  if not conn then
    loop.close_endpoint(rec, endpoint)
    return nil, err
  end
  local over = connections.waiters()
  conn:notify(function(what)
    if what == "open" or what == "closed" then
      over:wake "over"
    end
  end)
  local ok
  ok, err = over:wait("over", timeout)
  local status, _, reason = conn:status()
  if not ok or status ~= "open" then
    conn:close(0, "given up")
    loop.close_endpoint(rec, endpoint)
    return nil, reason or err
  end
  return connections.new(conn, opts.alpn[1], false, loop.now, function()
    loop.close_endpoint(rec, endpoint)
  end)
end

local function connect(name, port, opts, transport, trust)
  local rec = loop.current()
  local deadline = loop.now() + opts.timeout
  local context, err = tls.client(opts, trust, name)
  if not context then
    return nil, err
  end
  local addresses
  addresses, err = resolve(name)
  if not addresses then
    return nil, err
  end
  local ticket, keep = tls.tickets(opts, transport, trust, context, name, port, opts.alpn[1])
  for i, ip in ipairs(addresses) do
    -- An address that does not answer must not eat the time of the others.
    local left = math.max(deadline - loop.now(), 0.001)
    local connection
    connection, err = dial(rec, address.join(ip, port), { context, i == 1 and ticket or nil, keep }, opts, transport, left / (#addresses - i + 1))
    if connection then
      return connection
    end
  end
  return nil, err
end

--- Connects to a server of another protocol and waits for the handshake.
---@param addr string|integer "127.0.0.1:5000", "example.org:5000", "[::1]:5000"
---@param opts echostream.options.dial
---@param callback? fun(connection: echostream.quic.connection?, err: echostream.error?)
---@return echostream.quic.connection? connection
---@return echostream.error? err  `timeout`, `unauthenticated` (no trust was given), `unavailable` (TLS), `not_found`, …
function M.connect(addr, opts, callback)
  local checked = options.check("echo.quic.connect", opts, connect_schema)
  check_alpn("echo.quic.connect", checked.alpn)
  if #checked.alpn > 1 then
    error('echo.quic.connect: option "alpn" wants one name: a client says which protocol it speaks', 2)
  end
  local transport, named, extra = host.split_transport("echo.quic.connect", checked.transport)
  refuse_early("echo.quic.connect", transport)
  if extra.preferred then
    error('echo.quic.connect: transport option "preferred_address" is for servers', 2)
  end
  checked.qlog = extra.qlog
  checked.cert, checked.key = checked.cert or named.cert, checked.key or named.key
  checked.skip_verification = checked.skip_verification or named.skip_verification
  if (checked.cert == nil) ~= (checked.key == nil) then
    error('echo.quic.connect: options "cert" and "key" belong together', 2)
  end
  local ok, name, port = pcall(address.parse, "echo.quic.connect", addr, "127.0.0.1")
  if not ok then
    error(name, 2)
  end
  local trust = tls.trust("echo.quic.connect", checked)
  return task.wait_or_call_back("echo.quic.connect", callback, connect, name, port, checked, transport, trust)
end

return M
