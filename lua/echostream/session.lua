--- Sessions: the native protocol's view of one connection. Both sides have the same methods.

local batch = require "echostream.session.batch"
local clock = require "echostream.clock"
local context = require "echostream.context"
local diagnose = require "echostream.diagnose"
local errors = require "echostream.errors"
local event = require "echostream.handlers.event"
local heartbeat = require "echostream.heartbeat"
local introspect = require "echostream.introspect"
local options = require "echostream.options"
local outgoing = require "echostream.session.out"
local path = require "echostream.path"
local services = require "echostream.handlers.services"
local session_with = require "echostream.session.with"
local subscription = require "echostream.session.subscription"
local task = require "echostream.task"
local tls = require "echostream.tls"
local view = require "echostream.view"

local M = {}

local block = task.block
local request, send_request, emit = outgoing.request_now, outgoing.send_request, outgoing.emit
local try_emit, create_stream, open_call = outgoing.try_emit, outgoing.create_stream, outgoing.open_call
local with = session_with.with

---@class echostream.session
---@field id integer               unique in this process
---@field peer_addr string         "192.0.2.7:40123"
---@field peer_cert echostream.certificate?  what the peer's certificate says; nil when it showed none
---@field created_at number        seconds since 1970
---@field incoming boolean         the peer dialled
---@field door string              how it came: "native", or the same over "tcp", "webtransport" of browsers, "h3" (HTTP: its peer cannot be called)
---@field path string?             of WebTransport: what was asked for, with its query
---@field origin string?           of WebTransport: of the page that asked, "https://example.org"; nil: no page did
---@field authority string?        of WebTransport: whom the client asked for, "example.org:5000"
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

-- The calls that sessions and clients share. `self._ud` is the core's session, `self._rec` the loop, `self._calls` nil or
-- the options that every call of this object has.
local shared = { ping = heartbeat.shared.ping, clock = clock.shared.clock, diagnose = diagnose.shared.diagnose }
M.shared = shared
shared.subscribe = subscription.methods.subscribe
for name, method in pairs(introspect.shared) do
  shared[name] = method
end

--- Calls a method of the other side. Values keep their kind: integers stay integers and floats floats, strings are bytes, nils
--- between arguments or results stay where they are, tables become lists or maps by their keys (`echo.array`, `echo.map` where
--- that is ambiguous). A function as the last argument is the callback: it gets the results in a task, and
--- the call returns that task at once.
---@param name string
---@param ... any
---@return any ...  the handler's results (true when it returned none), or nil, err
function shared:request(name, ...)
  local out = (self._chains or options.colon "request").rpc
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
  return try_emit(self, name, ...)
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

--- Figures of the connection.
---@return echostream.stats|nil stats, echostream.error? err
function shared:stats()
  local stats, err = self._ud:stats()
  if not stats then
    return nil, err
  end
  local peer = not self.server_ctx and self.session or self
  stats.dropped = peer._dropped or 0
  stats.carrier = peer.door == "tcp" and "tcp" or "quic"
  stats.fallback = self.fallback -- of a client
  return view.of(stats)
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

-- How it came.
local function read_door(self)
  local _, asked, origin, authority = self._ud:door()
  self.path, self.authority = asked, authority
  self.origin = origin ~= "" and origin or nil
end

-- What the peer's certificate says, and what was looked at when it came.
local function certificate_of(ud, host, came)
  local certificate = came or tls.describe((ud:peer_cert()))
  if certificate then
    certificate.checked = tls.checked_by(host._trust, host._options)
  end
  return certificate
end

--- Makes the object for a session of the core. Called in the `open` hook: it must not wait.
---@param ud echostream.core.session
---@param host echostream.host
---@param incoming boolean
---@param credentials? table<string, string>
---@return echostream.session
function M.new(ud, host, incoming, credentials)
  local id, peer_addr, created_at, _, door = ud:info() -- nothing yet while we dial: M.refresh comes later
  local came = door == "h3" and host._door and credentials and host._door:certificate(credentials) -- over the connection of HTTP
  local self = setmetatable({
    _ud = ud,
    _rec = host._rec,
    _chains = host._chains,
    _timeout = host._timeout,
    id = id or 0,
    peer_addr = id and peer_addr or "",
    created_at = id and created_at or host._rec.core:wall(),
    incoming = incoming,
    door = door or "native",
    metadata = credentials or {},
    server_ctx = host.context,
    context = context.new(),
    peer_cert = incoming and certificate_of(ud, host, came) or nil,
    draining = false,
    closed_by = nil,
    _close_waiters = nil,
  }, Session)
  if self.door ~= "native" and self.door ~= "tcp" then
    read_door(self)
  end
  return self
end

--- Reads again what the core knows about the session.
---@param session echostream.session
---@param host echostream.host
function M.refresh(session, host)
  local id, peer_addr, created_at, _, door = session._ud:info()
  if id then
    session.id, session.peer_addr, session.created_at = id, peer_addr, created_at
    session.door = door
    session.peer_cert = certificate_of(session._ud, host)
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

--- Bytes that only the two ends of this session can know: the TLS exporter (RFC 8446, section 7.5; RFC 5705). Both get the same for the
--- same label, length and context; every session gets others. Who proves a password with them, by an HMAC, proves it on this
--- connection only: the proof is of no use to somebody in between.
---@param label string     which protocol asks, by convention beginning with "EXPORTER-"; at most 249 bytes
---@param length integer   bytes, 1 to 1024
---@param bytes? string  the context: any bytes; none is the same as an empty one
---@return string|nil key
---@return echostream.error? err  `failed_precondition`: it shares its connection with other sessions (WebTransport, HTTP), or the
--- handshake is not over; `connection_closed`
function Session:export_key(label, length, bytes)
  options.argument("session:export_key", "label", label, "string")
  options.argument("session:export_key", "length", length, "integer")
  if bytes ~= nil then
    options.argument("session:export_key", "context", bytes, "string")
  end
  if #label > 249 or label:find "%z" or length < 1 or length > 1024 then
    error(("session:export_key: the label has at most 249 bytes and the length is 1 to 1024, got %d and %d"):format(#label, length), 2)
  end
  return self._ud:export_key(label, length, bytes)
end

--- Lets the connection hold so many bytes from now on, instead of what the `hold_cap` of the `transport` options says: received and not
--- taken by who reads, sent and not acknowledged. For plugins whose many streams may all wait for slow readers: with a whole window of 256 KiB
--- on each, 32 of them use up the 8 MiB that suit calls, and the others wait for them.
---@param bytes integer  1,024 at least
---@return boolean done  false: the session is closed
function Session:set_hold_cap(bytes)
  options.argument("session:set_hold_cap", "bytes", bytes, "integer")
  if bytes < 1024 then
    error(("session:set_hold_cap: bytes is 1024 at least, got %d"):format(bytes), 2)
  end
  return self._ud:set_hold_cap(bytes)
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
