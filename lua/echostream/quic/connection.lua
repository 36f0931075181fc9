--- Raw QUIC connections and their streams: what `echo.quic.connect` and a listener's `accept` give.

local errors = require "echostream.errors"
local loop = require "echostream.loop"
local options = require "echostream.options"
local path = require "echostream.path"
local task = require "echostream.task"
local tls = require "echostream.tls"
local view = require "echostream.view"

local M = {}

-- Waiting -----------------------------------------------------------------------------------------------------

-- Tasks that wait for the next notification of a kind.
local Waiters = {}
Waiters.__index = Waiters

local function waiters()
  return setmetatable({}, Waiters)
end

function Waiters:wait(kind, timeout)
  return task.await(function(resume)
    local list = self[kind]
    if not list then
      list = {}
      self[kind] = list
    end
    list[resume] = true
    return function()
      list[resume] = nil
    end
  end, timeout)
end

function Waiters:wake(kind)
  local list = self[kind]
  if list then
    self[kind] = nil
    for resume in pairs(list) do
      resume(true)
    end
  end
end

function Waiters:wake_all()
  for kind in pairs(self) do
    self:wake(kind)
  end
end

M.waiters = waiters

-- Repeats `try` until it gives something else than nil, "again", waiting for `kind` between.
local function repeat_until(list, kind, timeout, now, try, ...)
  local deadline = timeout and now() + timeout
  local late = false
  while true do
    local result, err = try(...)
    if result ~= nil or err ~= "again" then
      return result, err
    end
    local left = deadline and deadline - now()
    if late or left and left <= 0 then
      return nil, errors.new("timeout", ("nothing came of it within %g s"):format(timeout))
    end
    local ok, problem = list:wait(kind, left)
    if not ok and problem.code ~= "timeout" then
      return nil, problem
    end
    late = not ok -- the clock decides, not what is left of a subtraction of floats
  end
end

M.repeat_until = repeat_until

-- The end of every call that waits: fn(timeout, ...), blocking or with a callback, which may stand in the timeout's place.
local function either(where, timeout, callback, fn, ...)
  if type(timeout) == "function" then
    timeout, callback = nil, timeout
  end
  if timeout ~= nil then
    options.argument(where, "timeout", timeout, "seconds", 3)
  end
  return task.wait_or_call_back(where, callback, fn, timeout, ...)
end

M.either = either

local function check_code(where, code)
  if code ~= nil and (math.type(code) ~= "integer" or code < 0 or code >= 1 << 62) then
    error(("%s: code wants an integer from 0 to 2^62 - 1, got %s"):format(where, errors.show(code)), 3)
  end
end

-- Streams -----------------------------------------------------------------------------------------------------

--- One stream. Two-way unless it was opened as a one-way stream: then one side can only write, the other only read, and the
--- wrong one raises. A stream that nobody holds any more is given up: what was not finished is reset.
---@class echostream.quic.stream
---@field id integer  the QUIC stream id
---@field connection echostream.quic.connection
local Stream = {}
Stream.__index = Stream
Stream.__name = "echostream.quic.stream"

Stream.__tostring = function(self)
  return ("echostream.quic.stream %d"):format(self.id)
end

local function new_stream(connection, q)
  local list = waiters()
  q:notify(function(what)
    if what == "closed" then
      list:wake_all()
    else
      list:wake(what)
    end
  end)
  return setmetatable({ _q = q, _waiters = list, _finished = false, connection = connection, id = q:id() }, Stream)
end

local function write(timeout, self, data)
  return repeat_until(self._waiters, "writable", timeout, self.connection._now, self._q.write, self._q, data)
end

--- Queues bytes. Waits while more than 256 KiB of this stream wait to be sent.
---@param data string
---@param timeout? number seconds
---@param callback? fun(ok: true|nil, err: echostream.error?)
---@return true|nil ok
---@return echostream.error? err  `cancelled` when the peer wants no more (`err.details.stop` is its code, where known)
function Stream:write(data, timeout, callback)
  options.argument("stream:write", "data", data, "string")
  return either("stream:write", timeout, callback, write, self, data)
end

--- No more from us: the peer reads to the end of what was written. Returns at once. Harmless twice.
---@return true|nil ok, echostream.error? err
function Stream:finish()
  if self._finished then
    return true
  end
  local ok, err = self._q:write("", true)
  self._finished = ok or false
  return ok, err
end

local function read(timeout, self, max)
  return repeat_until(self._waiters, "readable", timeout, self.connection._now, self._q.read, self._q, max)
end

--- The next bytes, as they arrived: at most `max` (default 65,536), at least one. Waits for them. Reading is what gives the
--- peer credit to send more.
---@param max? integer
---@param timeout? number seconds
---@param callback? fun(data: string?, err: echostream.error?)
---@return string? data  nil without an error: the end
---@return echostream.error? err  `cancelled` when the peer reset the stream (`err.details.reset` is its code)
function Stream:read(max, timeout, callback)
  if type(max) == "function" then
    max, callback = nil, max
  end
  if max ~= nil and (math.type(max) ~= "integer" or max < 1) then
    error(("stream:read: max wants a number of bytes above 0, got %s"):format(errors.show(max)), 2)
  end
  return either("stream:read", timeout, callback, read, self, max or 65536)
end

local function read_to_end(timeout, self, max)
  local deadline = timeout and self.connection._now() + timeout
  local parts, size = {}, 0
  while true do
    local left = deadline and math.max(deadline - self.connection._now(), 0)
    local data, err = read(left, self, math.min(max - size + 1, 1 << 20))
    if err then
      return nil, err
    elseif not data then
      return table.concat(parts)
    end
    size = size + #data
    if size > max then
      self._q:stop(0)
      return nil, errors.new("resource_exhausted", ("the stream is longer than %d bytes"):format(max))
    end
    parts[#parts + 1] = data
  end
end

--- Everything up to the end. More than `max` bytes (default 4 MiB) is `resource_exhausted`, and the peer is told to stop.
---@param max? integer
---@param timeout? number seconds for all of it
---@param callback? fun(data: string?, err: echostream.error?)
---@return string? data, echostream.error? err
function Stream:read_to_end(max, timeout, callback)
  if type(max) == "function" then
    max, callback = nil, max
  end
  if max ~= nil and (math.type(max) ~= "integer" or max < 0) then
    error(("stream:read_to_end: max wants a number of bytes, got %s"):format(errors.show(max)), 2)
  end
  return either("stream:read_to_end", timeout, callback, read_to_end, self, max or 4 << 20)
end

--- Gives up sending: RESET_STREAM. What the peer has not got yet is lost.
---@param code? integer the protocol's own code, default 0
---@return true|nil ok, echostream.error? err
function Stream:reset(code)
  check_code("stream:reset", code)
  return self._q:reset(code)
end

--- Gives up reading: STOP_SENDING. What arrives is thrown away.
---@param code? integer the protocol's own code, default 0
---@return true|nil ok, echostream.error? err
function Stream:stop(code)
  check_code("stream:stop", code)
  return self._q:stop(code)
end

--- Gives up both directions as far as they are open; what was finished still arrives. Harmless twice.
function Stream:close()
  self._q:close()
end

Stream.__close = Stream.close

-- Connections -------------------------------------------------------------------------------------------------

---@class echostream.quic.connection
---@field alpn string        the protocol both sides speak
---@field incoming boolean   the peer opened it
local Connection = {}
Connection.__index = Connection
Connection.__name = "echostream.quic.connection"

Connection.__tostring = function(self)
  return ("echostream.quic.connection %s (%s)"):format(self._address or "-", (self._conn:status()))
end

--- Wraps a connection of the core. Not for users.
---@package
function M.new(conn, alpn, incoming, now, on_closed)
  local list = waiters()
  local self = setmetatable({
    _conn = conn, _waiters = list, _now = now, _address = conn:peer_addr(), alpn = alpn, incoming = incoming,
  }, Connection)
  conn:notify(function(what)
    if what == "closed" then
      list:wake_all()
      if on_closed then
        on_closed()
      end
    else
      list:wake(what)
    end
  end)
  return self
end

-- Why the connection is closed, or nil.
local function closed_error(conn)
  local status, _, err = conn:status()
  return status == "closed" and err or nil
end

local function open_stream(timeout, self, dir)
  local q, err = repeat_until(self._waiters, "credit", timeout, self._now, self._conn.open, self._conn, dir)
  if not q then
    return nil, err
  end
  return new_stream(self, q)
end

local function try_accept(conn, dir)
  local q = conn:accept(dir)
  if q then
    return q
  end
  return nil, closed_error(conn) or "again"
end

local function accept_stream(timeout, self, dir)
  local q, err = repeat_until(self._waiters, dir, timeout, self._now, try_accept, self._conn, dir)
  if not q then
    return nil, err
  end
  return new_stream(self, q)
end

--- Opens a two-way stream. The peer hears of it with the first bytes. Waits while its allowance of streams is used up.
---@param timeout? number seconds
---@param callback? fun(stream: echostream.quic.stream?, err: echostream.error?)
---@return echostream.quic.stream? stream, echostream.error? err
function Connection:open_bi_stream(timeout, callback)
  return either("connection:open_bi_stream", timeout, callback, open_stream, self, "bidi")
end

--- Opens a one-way stream, which only we write.
---@param timeout? number seconds
---@param callback? fun(stream: echostream.quic.stream?, err: echostream.error?)
---@return echostream.quic.stream? stream, echostream.error? err
function Connection:open_uni_stream(timeout, callback)
  return either("connection:open_uni_stream", timeout, callback, open_stream, self, "uni")
end

--- The next two-way stream that the peer opens. Up to 1,024 wait for it; more are refused.
---@param timeout? number seconds
---@param callback? fun(stream: echostream.quic.stream?, err: echostream.error?)
---@return echostream.quic.stream? stream, echostream.error? err  why the connection was closed
function Connection:accept_bi_stream(timeout, callback)
  return either("connection:accept_bi_stream", timeout, callback, accept_stream, self, "bidi")
end

--- The next one-way stream that the peer opens, which we only read.
---@param timeout? number seconds
---@param callback? fun(stream: echostream.quic.stream?, err: echostream.error?)
---@return echostream.quic.stream? stream, echostream.error? err
function Connection:accept_uni_stream(timeout, callback)
  return either("connection:accept_uni_stream", timeout, callback, accept_stream, self, "uni")
end

--- Sends one unreliable datagram (RFC 9221). Returns at once.
---@param data string
---@return true|nil ok
---@return echostream.error? err  `resource_exhausted` when it is too big for the path (the message names the maximum) or 256 wait
--- already, `failed_precondition` when the peer takes none
function Connection:send_datagram(data)
  options.argument("connection:send_datagram", "data", data, "string")
  return self._conn:send_datagram(data)
end

local function try_datagram(conn)
  local data = conn:recv_datagram()
  if data then
    return data
  end
  return nil, closed_error(conn) or "again"
end

local function recv_datagram(timeout, self)
  return repeat_until(self._waiters, "datagram", timeout, self._now, try_datagram, self._conn)
end

--- The next datagram. 256 are kept; when more come the oldest are lost.
---@param timeout? number seconds
---@param callback? fun(data: string?, err: echostream.error?)
---@return string? data, echostream.error? err
function Connection:recv_datagram(timeout, callback)
  return either("connection:recv_datagram", timeout, callback, recv_datagram, self)
end

--- The peer's address, "127.0.0.1:5000": it may change while the connection lives. After the end: the last one known.
---@return string
function Connection:peer_addr()
  self._address = self._conn:peer_addr() or self._address
  return self._address
end

--- Closes the connection at once, with a code of the protocol's own: what was not acknowledged may be lost. Harmless twice.
---@param code? integer default 0
---@param reason? string
---@return true
function Connection:close(code, reason)
  check_code("connection:close", code)
  if reason ~= nil then
    options.argument("connection:close", "reason", reason, "string")
  end
  return self._conn:close(code, reason)
end

Connection.__close = function(self)
  self:close()
end

local function try_closed(conn)
  local err = closed_error(conn)
  if err then
    return err
  end
  return nil, "again"
end

local function wait_closed(timeout, self)
  return repeat_until(self._waiters, "closed", timeout, self._now, try_closed, self._conn)
end

--- Waits until the connection is closed and says why.
---@param timeout? number seconds
---@param callback? fun(reason: echostream.error?, err: echostream.error?)
---@return echostream.error? reason  `details` has `cause` ("local", "peer", "idle", "reset", "handshake", "error"), `app` and `code`
---@return echostream.error? err     `timeout`
function Connection:wait_closed(timeout, callback)
  return either("connection:wait_closed", timeout, callback, wait_closed, self)
end

local function try_moved(conn)
  local from, _, ok, err = conn:moved(false)
  if from then
    return ok or false, err
  end
  err = closed_error(conn)
  if err then
    return false, err
  end
  return nil, "again"
end

local function migrate(timeout, self, bind)
  local ok, err = self._conn:migrate(bind)
  if ok then
    ok, err = repeat_until(self._waiters, "moved", timeout, self._now, try_moved, self._conn)
  end
  return ok or nil, err
end

--- Moves to another local address or port; see `session:migrate`.
---@param opts? { bind?: string, timeout?: number }  the local address, "192.0.2.7:0" (default any address, another port), and seconds (10)
---@param callback? fun(ok: true|nil, err: echostream.error?)
---@return true|nil ok, echostream.error? err
function Connection:migrate(opts, callback)
  if type(opts) == "function" then
    opts, callback = nil, opts
  end
  local bind, timeout = path.check("connection:migrate", opts, loop.current(), self:peer_addr(), 3)
  return either("connection:migrate", timeout, callback, migrate, self, bind)
end

local function try_peer_moved(conn)
  local from, to = conn:moved(true)
  if from then
    return { from = from, to = to }
  end
  return nil, closed_error(conn) or "again"
end

local function wait_migrated(timeout, self)
  local move, err = repeat_until(self._waiters, "moved", timeout, self._now, try_peer_moved, self._conn)
  if not move then
    return nil, err
  end
  return move.to, move.from
end

--- Waits until the peer's address has changed (and was validated) since the last such call. Of several changes the last is told.
---@param timeout? number seconds
---@param callback? fun(new: string?, old: string|echostream.error)
---@return string? new, string|echostream.error old  the addresses; nil and an error: `timeout`, or why the connection was closed
function Connection:wait_migrated(timeout, callback)
  return either("connection:wait_migrated", timeout, callback, wait_migrated, self)
end

--- Changes the packet keys now. They change by themselves too: see `key_update_packets` in the transport options.
---@return true|nil ok, echostream.error? err  `failed_precondition`: the handshake, or the change before, is too recent
function Connection:update_key()
  return self._conn:update_key()
end

--- Bytes that only the two ends of this connection can know: the TLS exporter (RFC 8446, section 7.5), as `session:export_key` gives them.
---@param label string     by convention beginning with "EXPORTER-"; at most 249 bytes
---@param length integer   bytes, 1 to 1024
---@param context? string  any bytes; none is the same as an empty one
---@return string|nil key, echostream.error? err  `failed_precondition`: the handshake is not over; why it was closed
function Connection:export_key(label, length, context)
  options.argument("connection:export_key", "label", label, "string")
  options.argument("connection:export_key", "length", length, "integer")
  if context ~= nil then
    options.argument("connection:export_key", "context", context, "string")
  end
  return self._conn:export_key(label, length, context)
end

--- What the peer's certificate says; nil when it showed none.
---@return echostream.certificate? certificate, echostream.error? err
function Connection:peer_cert()
  local raw, err = self._conn:peer_cert()
  return tls.describe(raw), err
end

--- Figures of the connection.
---@return echostream.stats? stats, echostream.error? err
function Connection:stats()
  local stats, err = self._conn:stats()
  return stats and view.of(stats), err
end

return M
