--- Servers.

local core = require "echostream.core"
local admission = require "echostream.tls.admission"
local alerts = require "echostream.metrics.alerts"
local address = require "echostream.address"
local calls = require "echostream.http.calls"
local dedupe = require "echostream.retry.dedupe"
local face = require "echostream.http.face"
local host = require "echostream.host"
local introspect = require "echostream.introspect"
local loop = require "echostream.loop"
local middleware = require "echostream.middleware"
local newcomers = require "echostream.tls.newcomers"
local options = require "echostream.options"
local renewal = require "echostream.tls.renewal"
local task = require "echostream.task"
local tls = require "echostream.tls"
local topic = require "echostream.topic"
local view = require "echostream.view"
local webtransport = require "echostream.http.webtransport"

local M = {}

---@class echostream.server: echostream.host
---@field address string    "127.0.0.1:5000": what it listens on, with the real port once started
---@field tcp_address string?  where it listens on TCP, with the option `tcp`
---@field pin string        "sha256:<hex>" of its public key: what clients give as `pin`
---@field cert_hash string  "sha256:<hex>" of the whole certificate: what browsers take
---@field state "new"|"starting"|"running"|"stopping"|"stopped"
local Server = {}
for _, methods in ipairs { host.methods, admission.methods, face.methods, calls.methods, renewal.methods } do
  for name, method in pairs(methods) do
    Server[name] = method
  end
end

local schema = {
  bind = { type = { "string", "integer" }, default = "127.0.0.1:0" },
  names = { type = "strings" },
  state_dir = { type = "string" },
  quiet = { type = "boolean" },
  renew_after = { type = "seconds" },
  grace = { type = "seconds", default = 10 },
  dedupe = dedupe.option,
  http = { type = "table" },
  webtransport = { type = { "boolean", "table" } },
  tcp = { type = { "boolean", "string" } },
}
for _, fields in ipairs { host.schema, tls.server_schema, newcomers.schema, tls.shared_schema } do
  for name, field in pairs(fields) do
    schema[name] = field
  end
end

-- pin and cert_hash are made when somebody first asks, so that they can be printed before the server runs.
local meta = { __name = "echostream.server", __methods = Server } -- for the prompt's completion

function meta.__index(self, key)
  if key == "pin" or key == "cert_hash" then
    local ok = self:_identify()
    return ok and rawget(self, key) or nil
  end
  return Server[key]
end

function meta.__tostring(self)
  return ("echostream.server %s (%s)"):format(self.address, self.state)
end

function meta.__close(self)
  if self.state == "running" then
    self:stop()
  end
end

local make

local intercepted = setmetatable({}, { __mode = "k" })

--- For reload.lua: `fn(make, opts)` makes servers for a coroutine instead of `make(opts)`, while it loads a file; nil: no longer.
---@param co thread
---@param fn fun(make: function, opts: table?): echostream.server|nil
---@package
function M.intercept(co, fn)
  intercepted[co] = fn
end

--- Makes a server. It listens after `start` or `run`. Raises when an option is wrong, and says what it wants.
---@param opts? echostream.options.server
---@return echostream.server
function M.new(opts)
  local instead = next(intercepted) and intercepted[coroutine.running()]
  if instead then
    return (instead(make, opts))
  end
  return make(opts)
end

function make(opts)
  local checked = options.check("echo.server", opts, schema)
  newcomers.check("echo.server", checked)
  local transport, named, extra = host.split_transport("echo.server", checked.transport)
  if named.skip_verification ~= nil then
    error('echo.server: transport option "skip_verification" is for clients', 2)
  end
  checked.cert = checked.cert or named.cert
  checked.key = checked.key or named.key
  if named.self_signed_cert then
    if checked.cert then
      error('echo.server: "self_signed_cert" and a certificate exclude each other', 2)
    elseif type(named.self_signed_cert) == "table" then
      checked.names = checked.names or named.self_signed_cert
    end
  end
  if checked.cert and not checked.key then
    error('echo.server: option "cert" needs "key"', 2)
  end
  tls.check_server("echo.server", checked)
  checked.http = face.check("echo.server", checked.http)
  checked.webtransport = webtransport.check_server("echo.server", checked.webtransport)
  if type(checked.tcp) == "string" then
    local fine, host_part, tcp_port = pcall(address.parse, "echo.server", checked.tcp, "0.0.0.0")
    if not fine or not address.literal(host_part) then
      error(fine and ('echo.server: option "tcp" wants true or a numeric address such as "0.0.0.0:5000", got %q'):format(checked.tcp)
        or host_part, 2)
    end
    checked.tcp = address.join(host_part, tcp_port)
  end
  local ok, bind_host, port = pcall(address.parse, "echo.server", checked.bind, "0.0.0.0")
  if not ok then
    error(bind_host, 2)
  end
  local self = setmetatable({
    state = "new",
    address = address.join(bind_host, port),
    _options = checked,
    _transport = transport,
    _extra = extra,
    _bind_host = bind_host,
    _port = port,
    _key = nil,
    _tls = nil,
    _endpoint = nil,
    _renewal = nil,
    _next_tls = nil, -- shown soon: tls/renewal.lua
    _next_made = nil,
    _waiting = {}, -- resume functions of those who wait for the stop
  }, meta)
  host.init(self, checked, true)
  if checked.dedupe then
    self._dedupe = dedupe.new(checked.dedupe)
    self._host:fingerprints(true)
    middleware.set_innermost(self, self._dedupe.middleware)
  end
  return self
end

-- Identity ----------------------------------------------------------------------------------------------------

local function names_of(self)
  local names = {}
  for _, name in ipairs(self._options.names or {}) do
    names[#names + 1] = tostring(name)
  end
  if #names == 0 then
    names[1] = "localhost"
    local literal = address.literal(self._bind_host)
    if literal and self._bind_host ~= "0.0.0.0" and self._bind_host ~= "::" then
      names[2] = self._bind_host
    elseif not literal and self._bind_host ~= "localhost" then
      names[2] = self._bind_host
    end
  end
  return names
end

local function make_tls(self, opts)
  return tls.identity("echo.server", self, opts, names_of(self))
end

function Server:_identify()
  if self._tls then
    return true
  end
  local context, err = make_tls(self, self._options)
  if not context then
    return nil, err
  end
  tls.show(self, context)
  return true
end

--- Replaces certificates while the server runs: new connections get the new ones, those under way keep theirs. What is not
--- given stays as it is; without options the files are read again. A certificate for the same key leaves the pin as it was.
---@param opts? { cert?: string, key?: string, certs?: table<string, table> }  as the options of `echo.server`
---@return true|nil ok, echostream.error? err  then everything stays as it was
function Server:set_certificate(opts)
  local ok, err = tls.replace("server:set_certificate", self, opts, make_tls)
  return ok, err
end

local PORT_TRIES = 20

-- Start -------------------------------------------------------------------------------------------------------

local function resolve(name)
  return task.await(function(resume)
    loop.resolve(name, resume)
  end, 30)
end

local function listen(self)
  local ok, err = self:_identify()
  if not ok then
    return nil, err
  end
  local ip = self._bind_host
  if not address.literal(ip) then
    local addresses, problem = resolve(ip)
    if not addresses then
      return nil, problem
    end
    ip = addresses[1]
  end
  local apps = { { alpn = "echostream/1", host = self._host } }
  self._http_host = face.host(self)
  if self._http_host then -- nothing registered: not even offered
    apps[2] = { alpn = "h3", h3 = self._http_host.core }
  end
  local config = newcomers.configure({
    bind = address.join(ip, self._port),
    tls = self._tls,
    apps = apps,
    transport = webtransport.transport(self._transport, self._options.webtransport),
    qlog = self._extra.qlog,
    preferred = self._extra.preferred,
    tcp = self._options.tcp or nil,
  }, self._options, ip, self._port, self._rec.sim)
  local endpoint, problem
  for _ = 1, self._port == 0 and PORT_TRIES or 1 do -- the port that UDP got may be somebody else's on TCP
    endpoint, problem = loop.endpoint(config)
    if endpoint or problem.code ~= "already_exists" then
      break
    end
  end
  if not endpoint then
    return nil, problem
  end
  self._endpoint = endpoint
  self.address = endpoint:address()
  self.tcp_address = endpoint:tcp_address()
  return true
end

local function start(self)
  local ok, err = listen(self)
  if not ok then
    self.state = "new"
    return nil, err
  end
  self.state = "running"
  self._rec.anchors[self] = true
  admission.open_early(self)
  ok, err = host.run_hooks(self, "start", self.context)
  if not ok then
    self:_finish_stop()
    return nil, err
  end
  renewal.start(self, make_tls)
  if not self._options.quiet then
    io.stderr:write(("echostream: listening on %s, %s\n"):format(self.address,
      self._options.cert and "with its own certificate" or "pin " .. self.pin))
  end
  return self
end

--- Listens. After it `address` has the real port.
---@param callback? fun(server: echostream.server?, err: echostream.error?)
---@return echostream.server|nil server, echostream.error? err
function Server:start(callback)
  if type(self) ~= "table" then
    options.colon "start"
  end
  if self.state ~= "new" then
    error(("server:start: this server is %s already; make another one with echo.server"):format(self.state), 2)
  end
  self.state = "starting"
  return task.wait_or_call_back("server:start", callback, start, self)
end

-- Sessions ----------------------------------------------------------------------------------------------------

-- In a task, for every session whose handshake is over; its calls wait until it is accepted.
function Server:_session_offered(peer)
  if self.state ~= "running" and self.state ~= "stopping" then
    return
  end
  local ok, err = self.state == "running", nil
  if ok then
    ok, err = admission.check(self, peer)
  end
  if self.state ~= "running" then -- those who are here are being waited for; whoever comes now would be cut off in the middle
    peer._ud:close(0x11, "unavailable: the server is stopping")
  elseif not ok then
    peer._ud:close(0x11, tostring(err))
  elseif peer._ud:is_open() then
    self._sessions[peer] = true
    peer._ud:accept()
  end
end

function Server:_session_closed(peer, err)
  host.forget(self, peer, err)
  if self._on_gone then
    self._on_gone(peer)
  end
end

--- Counters since it was made: `sessions` (open now) and `sessions_total`; `calls_in`, `calls_in_running`, `calls_in_refused`,
--- `calls_out`, `calls_out_running`, `calls_timed_out`, `calls_cancelled`; `events_in`, `events_out`, `events_unhandled`;
--- `streams_in`, `streams_out`; `bad_frames`, `checksum_errors`, `compressed_in`, `compressed_out`, `compression_saved` (bytes).
--- `endpoint` has the socket's, and what became of newcomers: `accepted`, `refused`, `half_open`, `retries`, `retrying`,
--- `tokens_accepted`, `tokens_rejected`, `version_negotiations`, `resets_sent`, `forgotten`; with the option `tcp`, `endpoint.tcp` has
--- `connections`, `accepted`, `refused`, `half_open`, `bytes_in`, `bytes_out` of TCP. `dedupe`, with that option, has `entries`,
--- `bytes`, `recorded`, `replayed`, `joined`, `kept`, `abandoned`, `evicted`: see [deduplication](#deduplication).
---@return table
function Server:stats()
  local stats = self._host:stats()
  stats.endpoint = self._endpoint and self._endpoint:stats() or nil
  stats.dedupe = self._dedupe and self._dedupe:stats() or nil
  return view.of(stats)
end

-- Code that changes -------------------------------------------------------------------------------------------

--- Runs a Lua file that registers handlers, middleware, hooks and plugins on this server, which is its first argument, and remembers
--- what it registered, for `reload`. A file that fails registers nothing. Modules that it requires may lie beside it.
---@param path string
---@param ... any  further arguments of the file
---@return true|nil ok, echostream.error? err  `failed_precondition`: the message says where and why
function Server:load(path, ...)
  options.argument("server:load", "path", path, "string")
  if self._unit then
    error(("server:load: %s was loaded already; server:reload() loads it again"):format(self._unit.path), 2)
  end
  local server, err = require("echostream.reload").open(path, { server = self, arguments = table.pack(...) })
  if not server then
    return nil, err
  end
  return true
end

--- Runs the file again that was given to `load`, or to `echostream serve`, and the modules of its directory that it requires. When that
--- went well, what it registers now takes the place of what it registered before, in one step: calls to come get the new code, calls
--- under way and open streams go on with theirs, what it does not register any more is gone, plugins are installed anew, `on_unload`
--- hooks run. Otherwise everything stays as it is, and the log says why. Contexts keep their values, topics their subscribers.
---@return { version: integer, changed: integer, new: integer, gone: integer, restart: string[]? }|nil summary  of handlers; `restart`: options
--- of `echo.server`, and `on_start`, that are others than before: they count when the server is started anew
---@return echostream.error? err  `failed_precondition`; `aborted`: it is being loaded at this moment
function Server:reload()
  if not self._unit then
    error("server:reload: nothing was loaded; load a file with server:load or echostream serve", 2)
  end
  return self._unit:reload()
end

-- Stop --------------------------------------------------------------------------------------------------------

-- Waits until every session of `waiting` was reported to `mark`, at most `seconds`.
local function wait_for(waiting, seconds, arrange)
  if next(waiting) == nil then
    return
  end
  task.await(function(resume)
    arrange(function(peer)
      waiting[peer] = nil
      if next(waiting) == nil then
        resume(true)
      end
    end)
    if next(waiting) == nil then
      resume(true)
    end
  end, seconds)
end

-- Peers may have sent calls before our GOAWAY reached them. Those are refused as they come, which lets their callers send them again
-- elsewhere, so nobody is cut before nothing has come for this long: some round trips, and a little for a peer that is busy.
local QUIET, QUIET_TRIPS = 0.01, 3

local function calls_heard(self)
  local stats = self._host:stats()
  return stats.calls_in + stats.calls_in_refused + stats.streams_in
end

local function is_settled(peers)
  for peer in pairs(peers) do
    if peer._ud:is_open() and not peer._ud:flushed() then
      return false
    end
  end
  return true
end

local function wait_until_quiet(self, peers, deadline)
  if next(peers) == nil then
    return
  end
  local rec = self._rec
  local quiet = math.max(QUIET, QUIET_TRIPS * self._host:figures().quic.rtt:quantile(1) / 1e9)
  repeat
    local left, before = deadline - rec.core:now(), calls_heard(self)
    if left > 0 then
      task.sleep(math.min(quiet, left))
    end
  until left <= 0 or before == calls_heard(self) and is_settled(peers)
end

-- Sessions that share a connection are not told why by its end: each is closed by itself first.
local function close_shared(self, deadline)
  local shared = {}
  for peer in pairs(self._sessions) do
    if peer.door == "webtransport" then
      shared[peer] = true
    end
  end
  wait_for(shared, math.min(math.max(deadline - self._rec.core:now(), 0), 1), function(mark)
    self._on_gone = mark
    for peer in pairs(shared) do
      peer._ud:close(nil, "the server stopped")
    end
  end)
  self._on_gone = nil
end

local function drain(self, grace)
  local rec = self._rec
  local deadline = rec.core:now() + grace
  self._endpoint:accepting(false)
  if self._http_host and grace > 0 then
    self._http_host:warn()
  end
  local busy = {}
  for peer in pairs(self._sessions) do
    if peer._ud:is_open() then
      busy[peer] = true
    end
  end
  local all = {}
  for peer in pairs(busy) do
    all[peer] = true
  end
  if grace > 0 then
    wait_for(busy, grace, function(mark)
      self._on_idle = mark
      for peer in pairs(all) do
        if not peer._ud:goaway(grace, 0, "the server is stopping") then
          busy[peer] = nil
        end
      end
      topic.close_all(self)
      introspect.drain(self)
    end)
    self._on_idle = nil
    -- The last answers are queued now; they still have to arrive.
    local limit = math.min(deadline, rec.core:now() + 2)
    local flushing = {}
    for peer in pairs(all) do
      flushing[peer] = true
    end
    wait_for(flushing, math.max(limit - rec.core:now(), 0), function(mark)
      for peer in pairs(all) do
        peer._ud:on_flushed(function()
          mark(peer)
        end)
      end
    end)
    wait_until_quiet(self, all, limit)
  end
  close_shared(self, deadline)
  if self._http_host then
    self._http_host:drain(math.max(deadline - rec.core:now(), 0))
  end
end

function Server:_finish_stop()
  renewal.stop(self)
  for peer in pairs(self._sessions) do
    peer._ud:close(nil, "the server stopped")
  end
  if self._door then
    self._door:close()
  end
  if self._endpoint then
    loop.close_endpoint(self._rec, self._endpoint)
    self._endpoint = nil
  end
  if self._dedupe then
    self._dedupe:close()
  end
  self.state = "stopped"
  alerts.stop(self)
  self._rec.anchors[self] = nil
  local waiting = self._waiting
  self._waiting = {}
  for _, resume in ipairs(waiting) do
    resume(true)
  end
end

local function wait_until_stopped(self)
  if self.state == "stopped" then
    return true
  end
  return task.await(function(resume)
    table.insert(self._waiting, resume)
  end)
end

-- Hooks that do not wait have a moment even when there is no time. Returns what is left of it.
local function run_stopping(self, grace)
  local began = self._rec.core:now()
  local running = task.spawn(host.run_hooks, self, "stopping", self.context, grace)
  running:wait(math.max(grace, 0.1))
  running:cancel()
  return math.max(grace - (self._rec.core:now() - began), 0)
end

local function stop(self, grace)
  if self.state ~= "running" then
    return wait_until_stopped(self)
  end
  self.state = "stopping"
  if #self._hooks.stopping > 0 then
    grace = run_stopping(self, grace)
  end
  drain(self, grace)
  local ok, err = host.run_hooks(self, "stop", self.context)
  self:_finish_stop()
  return ok, err
end

--- Stops: takes no new connections, tells the peers, waits until what is under way has ended (at most `grace` seconds), then
--- closes. Subscriptions to its topics end at once: they would not end by themselves; other streams are waited for. Called
--- inside a handler it goes on in the background, because it would wait for that very handler. Harmless twice.
---@param opts? { grace?: number }  seconds; default the server's `grace`, 10; 0: at once
---@param callback? fun(ok: true?, err: echostream.error?)
---@return true|nil ok, echostream.error? err  what an `on_stop` hook failed with
function Server:stop(opts, callback)
  if type(self) ~= "table" then
    options.colon "stop"
  end
  if type(opts) == "function" then
    opts, callback = nil, opts
  end
  local grace = options.check("server:stop", opts, { grace = { type = "seconds" } }).grace or self._options.grace
  if self.state == "new" then
    self.state = "stopped"
    return true
  elseif self.state == "stopped" then
    return true
  end
  if callback then
    return task.call_back(callback, stop, self, grace)
  elseif core.call_cancelled() ~= nil or core.h3_serving() or not task.can_wait() then
    task.spawn(stop, self, grace)
    return true
  end
  return task.block(stop, self, grace)
end

--- Starts and serves until `stop`, SIGINT or SIGTERM (both stop it gracefully; a second one ends the process at once).
--- In a task it waits there.
---@return true|nil ok, echostream.error? err
function Server:run()
  if self.state == "new" then
    local ok, err = self:start()
    if not ok then
      return nil, err
    end
  end
  if task.current() or self._rec.sim then
    return task.block(wait_until_stopped, self)
  end
  return loop.pump(function()
    return self.state == "stopped"
  end, function()
    task.spawn(function()
      for server in pairs(self._rec.anchors) do
        if server.stop and server ~= self then
          task.spawn(server.stop, server)
        end
      end
      self:stop()
    end)
  end)
end

return M
