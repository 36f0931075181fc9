--- Sessions: the native protocol's view of one connection. Both sides have the same methods.

local core = require "echostream.core"
local batch = require "echostream.batch"
local codecs = require "echostream.codec"
local context = require "echostream.context"
local errors = require "echostream.errors"
local event = require "echostream.event"
local heartbeat = require "echostream.heartbeat"
local flow = require "echostream.flow"
local loop = require "echostream.loop"
local middleware = require "echostream.middleware"
local options = require "echostream.options"
local path = require "echostream.path"
local retry = require "echostream.retry"
local services = require "echostream.services"
local stream = require "echostream.stream"
local subscription = require "echostream.subscription"
local task = require "echostream.task"
local tls = require "echostream.tls"

local M = {}

local block = task.block
local current, take_trailers = core.current, core.take_trailers

---@class echostream.session
---@field id integer               unique in this process
---@field peer_addr string         "192.0.2.7:40123"
---@field peer_cert echostream.certificate?  what the peer's certificate says; nil when it showed none
---@field created_at number        seconds since 1970
---@field incoming boolean         the peer dialled
---@field metadata table<string, string>  the credentials the peer's HELLO carried
---@field identity any             what `server:auth` returned for this peer
---@field server_ctx echostream.context   the context of the server (or client) it belongs to
---@field context echostream.context      its own store
---@field heartbeat echostream.heartbeat?  what heartbeats and pings found out
---@field draining boolean         the peer said that it is about to stop
---@field closed_by echostream.error?  once it is over: why
local Session = {}
Session.__index = Session
Session.__name = "echostream.session"

Session.__tostring = function(self)
  return ("echostream.session %d (%s)"):format(self.id, self.peer_addr)
end

--- Per-call options, of `with` and `create_stream`.
M.call_options = {
  timeout = { type = { "seconds", "boolean" } },
  priority = { type = "integer", min = 0, max = 7 },
  idempotent = { type = "boolean" },
  metadata = { type = "table" },
  codec = { type = "string", one_of = codecs.names },
  compress = { type = { "boolean", "table" }, fields = codecs.compress_fields },
  checksum = { type = "boolean" },
  unreliable = { type = "boolean" },
  lane = { type = "integer", min = 0, max = 7 },
  retry = retry.option,
  queue = flow.queue_option,
  when_full = flow.policy_option,
  outbox = flow.outbox_option,
  idle_timeout = flow.idle_option,
  numbered = { type = "boolean" },
  secret = { type = "boolean" },
}

-- Stands where the core's session would be before a client is connected, so that no call needs a test for it.
local function not_connected()
  local err = errors.new("unavailable", "not connected")
  err.processed = "no"
  return nil, err
end
M.nobody = setmetatable({}, {
  __index = function()
    return not_connected
  end,
})
M.nobody.request = function(_, _, _, ...) -- a callback learns it too
  return task.either(not_connected, ...)
end
M.nobody.is_open = function()
  return false
end
M.nobody.in_flight = function()
  return 0
end

-- Sending -----------------------------------------------------------------------------------------------------

local function request_in_task(ud, name, opts, ...)
  return ud:request(name, opts, ...)
end

-- For everybody who is not in a task, and for callbacks: the core's session:request hands these over.
core.set_elsewhere(function(ud, name, opts, ...)
  return task.either(request_in_task, ud, name, opts, ...)
end)

-- The shared body of session:request, client:request and client:with{}:request.
local request = request_in_task

local function emit_waiting(ud, name, opts, ...)
  while true do
    local ok, err = ud:emit(name, opts, ...)
    if err ~= "again" then
      return ok, err
    end
    ok, err = task.await(function(resume)
      ud:on_writable(function(failure) -- which only the stand-in of a client that reconnects has
        if failure then
          resume(nil, failure)
        else
          resume(true)
        end
      end)
    end)
    if not ok then
      return nil, err
    end
  end
end

local function emit_now(self, opts, name, ...)
  local n = select("#", ...)
  if n > 0 and type((select(n, ...))) == "function" then
    return task.either(emit_waiting, self._ud, name, opts, ...)
  end
  if opts and opts.when_full and opts.when_full ~= "wait" then
    return flow.emit(self, opts, name, ...)
  end
  local ok, err = self._ud:emit(name, opts, ...)
  if err == "again" then
    return block(emit_waiting, self._ud, name, opts, ...)
  end
  local rec = self._rec
  if not rec.stepping then
    loop.touch(rec)
  end
  if ok then
    return true -- alone, for the prompt
  end
  return nil, err
end

local function try_emit_now(self, opts, name, ...)
  local ok, err = self._ud:emit(name, opts, ...)
  if err == "again" then
    if not self._ud:is_open() then
      return nil, errors.new("unavailable", "not connected")
    end
    return nil, errors.new("resource_exhausted", "the send queue is full")
  end
  if not self._rec.stepping then
    loop.touch(self._rec)
  end
  if ok then
    return true
  end
  return nil, err
end

local function open_channel_waiting(ud, name, opts)
  while true do
    local channel, err = ud:open_channel(name, opts)
    if err ~= "again" then
      return channel, err
    end
    local ok
    ok, err = task.await(function(resume)
      ud:on_writable(function()
        resume(true)
      end)
    end)
    if not ok then
      return nil, err
    end
  end
end

local function open_stream(self, name, opts, codec)
  local channel, err = self._ud:open_channel(name, opts)
  if err == "again" then -- the peer's HELLO says which codecs it has
    channel, err = block(open_channel_waiting, self._ud, name, opts)
  end
  if not channel then
    return nil, err
  end
  if not self._rec.stepping then
    loop.touch(self._rec)
  end
  return stream.new(channel, self, name, codec, opts)
end

local function create_stream(self, where, name, opts, defaults)
  options.argument(where, "name", name, "string", 3)
  local codec
  if opts ~= nil then
    opts = options.check(where, opts, M.call_options, 3)
  end
  if defaults then
    opts = opts or {}
    for key, value in pairs(defaults) do
      if opts[key] == nil then
        opts[key] = value
      end
    end
  end
  if opts then
    codec, opts.unreliable, opts.lane, opts.retry = opts.codec, nil, nil, nil
  end
  local out = self._chains.out
  if out then
    return out(self, "stream", function(call)
      return open_stream(self, call.name, middleware.options_of(call), codec)
    end, name, opts)
  end
  return open_stream(self, name, opts, codec)
end

-- Arguments above 64 KiB wait for the peer's HELLO, which says how much it takes.
local function call_waiting(ud, name, opts, ...)
  while true do
    local channel, err = ud:open_call(name, opts, ...)
    if err ~= "again" then
      return channel, err
    end
    local ok
    ok, err = task.sleep(0.001)
    if not ok then
      return nil, err
    end
  end
end

local function open_call_now(self, opts, name, ...)
  local ud = self._ud
  local channel, err = ud:open_call(name, opts, ...)
  if err == "again" then
    channel, err = block(call_waiting, ud, name, opts, ...)
  end
  if not channel then
    return nil, err
  end
  if not self._rec.stepping then
    loop.touch(self._rec)
  end
  return stream.new(channel, self, name, channel:codec(), opts)
end

-- Through the middleware --------------------------------------------------------------------------------------

-- `_chains.out` is the host's outgoing middleware, nil without any.

-- What came with the answer is the task's until its next request. The core does all this by itself for calls in tasks that no
-- middleware touched.
local function answered(call, ...)
  middleware.keep_trailers(call, take_trailers())
  return ...
end

local function request_through(call, ...)
  return answered(call, request(middleware.owner_of(call)._ud, call.name, middleware.options_of(call), ...))
end

local function send_request(call, ...)
  if current() then
    return request_through(call, ...)
  end
  return block(request_through, call, ...)
end

---@package
--- A request of `owner` with options that were checked before, through its middleware: for what chooses the owner (fleet.lua).
---@param owner echostream.client|echostream.session
---@param name string
---@param opts table  may have the positions 1 to 3 that core.session:request knows
---@return any ...
function M.request(owner, name, opts, ...)
  local out = owner._chains.out
  if out then
    return out(owner, "rpc", send_request, name, opts, ...)
  end
  return request(owner._ud, name, opts, ...)
end

local function send_event(call, ...)
  return emit_now(middleware.owner_of(call), middleware.options_of(call), call.name, ...)
end

local function try_event(call, ...)
  return try_emit_now(middleware.owner_of(call), middleware.options_of(call), call.name, ...)
end

local function send_call(call, ...)
  return open_call_now(middleware.owner_of(call), middleware.options_of(call), call.name, ...)
end

local function emit(self, opts, name, ...)
  local out = self._chains.out
  if out then
    return out(self, "event", send_event, name, opts, ...)
  end
  return emit_now(self, opts, name, ...)
end

local function open_call(self, opts, name, ...)
  options.argument("stream", "name", name, "string", 3)
  local out = self._chains.out
  if out then
    return out(self, "stream", send_call, name, opts, ...)
  end
  return open_call_now(self, opts, name, ...)
end

-- Calls with options ------------------------------------------------------------------------------------------

---@class echostream.calls  what `with` returns: the same calls with other options
---@field request fun(self, name: string, ...): any ...
---@field emit fun(self, name: string, ...): true|nil, echostream.error?
---@field create_stream fun(self, name: string, opts?: table): echostream.stream?, echostream.error?
---@field stream fun(self, name: string, ...): echostream.stream?, echostream.error?
---@field batch fun(self, calls: table|function, callback?: function): echostream.batch.results?, echostream.error?
---@field service fun(self, name: string): table<string, function>
---@field with fun(self, opts: table): echostream.calls
local Calls = {}
Calls.__index = Calls
Calls.__name = "echostream.calls"

function Calls:request(name, ...)
  local out = self._owner._chains.rpc
  if out then
    return out(self._owner, "rpc", send_request, name, self._options, ...)
  end
  return request(self._owner._ud, name, self._options, ...)
end

function Calls:emit(name, ...)
  return emit(self._owner, self._options, name, ...)
end

function Calls:create_stream(name, opts)
  return create_stream(self._owner, "create_stream", name, opts, self._options)
end

function Calls:stream(name, ...)
  return open_call(self._owner, self._options, name, ...)
end

function Calls:batch(what, callback)
  return batch.run(self, self._owner, self._options.timeout, what, callback)
end

function Calls:service(name)
  return (services.proxy(self, name))
end

-- The same with an opinion of their own on retries, so that the others need no test for it. `_retry` nil: none.
local Retrying = setmetatable({}, { __index = Calls })
Retrying.__index = Retrying
Retrying.__name = "echostream.calls"

function Retrying:request(name, ...)
  local owner = self._owner
  local out = owner._chains.out
  if self._retry then
    return retry.request(self._retry, out, owner, send_request, name, self._options, ...)
  elseif out then
    return out(owner, "rpc", send_request, name, self._options, ...)
  end
  return request(owner._ud, name, self._options, ...)
end

local function with(owner, opts, base)
  local merged = {}
  for key, value in pairs(base and base._options or owner._calls or {}) do
    merged[key] = value
  end
  for key, value in pairs(options.check("with", opts, M.call_options, 3)) do
    merged[key] = value
  end
  if merged.timeout == true then
    merged.timeout = nil
  end
  local asked, policy = merged.retry, base and base._retry
  merged.retry = nil
  if asked == nil and getmetatable(base) ~= Retrying then
    return setmetatable({ _owner = owner, _options = merged }, Calls)
  elseif asked ~= nil then
    policy = retry.of("with", asked, policy or owner._chains.policy, 3)
  end
  return setmetatable({ _owner = owner, _options = merged, _retry = policy }, Retrying)
end

function Calls:with(opts)
  return with(self._owner, opts, self)
end

-- The calls that sessions and clients share. `self._ud` is the core's session, `self._rec` the loop, `self._calls` nil or
-- the options that every call of this object has.
local shared = { ping = heartbeat.shared.ping }
M.shared = shared
shared.subscribe = subscription.methods.subscribe

--- Calls a method of the other side. Values keep their kind: integers stay integers and floats floats, strings are bytes, nils
--- between arguments or results stay where they are, tables become lists or maps by their keys (`echo.array`, `echo.map` where
--- that is ambiguous). A function as the last argument is the callback: it gets the results in a task, and
--- the call returns that task at once.
---@param name string
---@param ... any
---@return any ...  the handler's results (true when it returned none), or nil, err
function shared:request(name, ...)
  local out = self._chains.rpc
  if out then
    return out(self, "rpc", send_request, name, self._calls, ...)
  end
  return request(self._ud, name, self._calls, ...)
end

--- Makes many calls at once, which travel in as few packets as they fit into:
---
---     local results = client:batch{ { "math.add", 1, 2 }, { "user.get", 7 } }
---     local results = client:batch(function(b) for id = 1, 100 do b:request("user.get", id) end end)
---
--- The nth result belongs to the nth call, whichever was answered first: `{ ok = true, n = 1, 3 }` or `{ ok = false, err = err }`. Each has
--- the deadline, and with `with{ … }` the options, of a single call; at most 1,000 are under way at once. When whoever waits for a batch is
--- cancelled, its calls are.
---@param what table|fun(batch: echostream.batch)  a list of { name, arguments … }, or a function that makes them
---@param callback? fun(results: echostream.batch.results?, err: echostream.error?)  instead of waiting
---@return echostream.batch.results|nil results
---@return echostream.error? err  `cancelled`; what the calls failed with is in their results
function shared:batch(what, callback)
  return batch.run(self, self, nil, what, callback)
end

--- Sends an event. Returns when it is queued; waits only while the queue is full.
---@param name string
---@param ... any
---@return true|nil ok, echostream.error? err
function shared:emit(name, ...)
  return emit(self, nil, name, ...)
end

--- As emit, but a full queue gives nil, err `resource_exhausted` instead of waiting.
---@param name string
---@param ... any
---@return true|nil ok, echostream.error? err
function shared:try_emit(name, ...)
  local out = self._chains.out
  if out then
    return out(self, "event", try_event, name, nil, ...)
  end
  return try_emit_now(self, nil, name, ...)
end

--- Waits for the next event of a name from the other side and returns its arguments (`true` when it has none). A handler of that
--- name runs as well; events that come while nobody waits go to it only. Not for use in the handler of an event on the same
--- lane: the next one comes when that has ended.
---@param name string
---@param timeout? number  seconds; default: as long as the session lives
---@param callback? fun(...)  instead of waiting
---@return any ...  or nil, err: `timeout`, or why the session was closed
function shared:wait_event(name, timeout, callback)
  local peer = self.session -- of a client
  if self.server_ctx then
    peer = self
  end
  return event.wait(peer, name, timeout, callback)
end

--- Opens a named stream. Returns at once; a refusal shows at the first `recv`.
---@param name string
---@param opts? echostream.options.call  `codec`: messages are values; the other end must say the same
---@return echostream.stream?, echostream.error?
function shared:create_stream(name, opts)
  return create_stream(self, "create_stream", name, opts)
end

--- Calls a streaming method of the other side (`add_rpc` with `stream`): a stream of values, and the handler's results from
--- `stream:result()`. Returns at once; a refusal shows at the first `recv` or `result`. The whole call has a deadline only when
--- `with{ timeout = … }` gives one; `close` and `reset` cancel it.
---@param name string
---@param ... any  the handler's arguments
---@return echostream.stream?, echostream.error?
function shared:stream(name, ...)
  return open_call(self, self._calls, name, ...)
end

--- The same calls with other options: `client:with{ timeout = 2 }:request("slow")`. What it returns has `request`, `batch`, `emit`,
--- `create_stream`, `stream`, `service` and `with`, and can be kept.
---@param opts echostream.options.call
---@return echostream.calls
function shared:with(opts)
  return with(self, opts)
end

--- A table whose fields are the methods of a service: `client:service("math").add(1, 2)` calls "math.add" and raises on
--- failure; a wrong name says what there is. Fields of fields are longer names (`client:service("user").admin.kick(7)`), and
--- `service:with{ timeout = 2 }` is the service with other options.
---@param name string
---@return table<string, function>
function shared:service(name)
  return (services.proxy(self, name))
end

--- What the other side offers: a list of `{ name, kind, doc, deprecated }`, or everything about one name. `tostring` makes text
--- of both. The other side may have turned it off (`introspection = false`).
---@param name? string
---@param callback? fun(description: table?, err: echostream.error?)  instead of waiting
---@return table|nil description, echostream.error? err  `not_found`, `method_not_found`
function shared:describe(name, callback)
  if type(name) == "function" then
    name, callback = nil, name
  end
  if name ~= nil then
    options.argument("describe", "name", name, "string")
  end
  if callback ~= nil then
    return task.call_back(callback, services.describe, self, name)
  end
  return services.describe(self, name)
end

--- Figures of the connection.
---@return echostream.stats|nil stats, echostream.error? err
function shared:stats()
  local stats, err = self._ud:stats()
  if not stats then
    return nil, err
  end
  stats.dropped = (not self.server_ctx and self.session or self)._dropped or 0
  return stats
end

--- Moves the connection to another local address or port, without a call being lost: what a phone does when its network
--- changes. The new path is tried first; when no answer comes over it, everything goes on over the old one and this fails.
--- Only the side that dialled can move.
---@param opts? { bind?: string, timeout?: number }  the local address, "192.0.2.7:0" (default any address, another port), and seconds (10)
---@param callback? fun(ok: true|nil, err: echostream.error?)
---@return true|nil ok
---@return echostream.error? err  `timeout` (no answer), `failed_precondition` (not our side to move, or the server forbids it), `io`
--- (the address cannot be had), `already_exists` (one is under way)
function shared:migrate(opts, callback)
  return path.migrate("migrate", self, self.peer_addr or self.session and self.session.peer_addr or "", opts, callback)
end

--- Whether calls can be made.
---@return boolean
function shared:is_open()
  return self._ud:is_open()
end

for name, method in pairs(shared) do
  Session[name] = method
end

-- Sessions ----------------------------------------------------------------------------------------------------

--- Makes the object for a session of the core. Called in the `open` hook: it must not wait.
---@param ud echostream.core.session
---@param host echostream.host
---@param incoming boolean
---@param credentials? table<string, string>
---@return echostream.session
function M.new(ud, host, incoming, credentials)
  local id, peer_addr, created_at = ud:info() -- nothing yet while we dial: M.refresh comes later
  return setmetatable({
    _ud = ud,
    _rec = host._rec,
    _chains = host._chains,
    _timeout = host._timeout,
    id = id or 0,
    peer_addr = id and peer_addr or "",
    created_at = id and created_at or host._rec.core:wall(),
    incoming = incoming,
    metadata = credentials or {},
    server_ctx = host.context,
    context = context.new(),
    peer_cert = incoming and tls.describe((ud:peer_cert())) or nil,
    draining = false,
    closed_by = nil,
    _close_waiters = nil,
  }, Session)
end

--- Reads again what the core knows about the session.
---@param session echostream.session
function M.refresh(session)
  local id, peer_addr, created_at = session._ud:info()
  if id then
    session.id, session.peer_addr, session.created_at = id, peer_addr, created_at
    session.peer_cert = tls.describe((session._ud:peer_cert()))
  end
end

--- Stores a value in this session's context.
---@param key any
---@param value any
---@return echostream.session self
function Session:set(key, value)
  self.context:set(key, value)
  return self
end

--- A value of this session's context.
---@param key any
---@return any
function Session:get(key)
  return self.context:get(key)
end

--- Removes a key of this session's context and returns what was there.
---@param key any
---@return any
function Session:remove(key)
  return self.context:remove(key)
end

--- Changes the packet keys now. They change by themselves too: see `key_update_packets` in the transport options.
---@return true|nil ok, echostream.error? err  `failed_precondition`: the handshake, or the change before, is too recent
function Session:update_key()
  return self._ud:update_key()
end

--- The SHA-256 of the peer's public key ("sha256:…"), nil when it showed no certificate.
---@return string?
function Session:peer_pin()
  local raw = self._ud:peer_pin()
  return raw and "sha256:" .. raw:gsub(".", function(c)
    return ("%02x"):format(c:byte())
  end) or nil
end

-- How long close() waits for the peer to acknowledge what is queued, and then for the hooks.
local FLUSH_TIME, HOOK_TIME = 2, 1

--- The body of every close: waits until what is queued was acknowledged, closes, waits until `on_disconnect` has run.
---@param peer echostream.session
---@param code? integer
---@param reason? string
---@return true
function M.close_in_task(peer, code, reason)
  local ud = peer._ud
  if ud:is_open() and not ud:flushed() then
    task.await(function(resume)
      ud:on_flushed(function()
        resume(true)
      end)
    end, FLUSH_TIME)
  end
  ud:close(code, reason)
  if not peer.closed_by then
    task.await(function(resume)
      local waiting = peer._close_waiters or {}
      peer._close_waiters = waiting
      waiting[#waiting + 1] = resume
    end, HOOK_TIME)
  end
  return true
end
local close_in_task = M.close_in_task

--- The session is over and its hooks have run: lets those go on who wait for that.
---@param peer echostream.session
function M.closed(peer)
  local waiting = peer._close_waiters or {}
  peer._close_waiters = nil
  for _, resume in ipairs(waiting) do
    resume(true)
  end
end

--- Closes the session. Waits up to 2 s until the peer has acknowledged what was queued, so that `emit` then `close`
--- delivers. Where the caller cannot wait, that happens in the background. Harmless twice.
---@param reason? string          at most 256 bytes; the peer finds it in its error
---@param callback? fun(ok: true)
---@return true|nil ok, echostream.error? err
function Session:close(reason, callback)
  if type(reason) == "function" then
    reason, callback = nil, reason
  end
  if reason ~= nil then
    options.argument("session:close", "reason", reason, "string")
  end
  if callback then
    return task.call_back(callback, close_in_task, self, nil, reason)
  elseif task.can_wait() then
    return block(close_in_task, self, nil, reason)
  end
  task.spawn(close_in_task, self, nil, reason)
  return true
end

Session.__close = function(self)
  self:close()
end

return M
