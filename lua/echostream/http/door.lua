--- The door through which calls over HTTP reach the handlers of a server: for each connection, and each set of credentials that it shows,
--- there is a session, whose other end is here and makes the peer's calls. So they meet the same admission (`auth`, `on_connect`), the
--- same middleware, limits, deadlines, deduplication and counters as calls that came by the native protocol.
---
--- It ends with its connection, or when nothing was asked for a while.

local core = require "echostream.core"
local context = require "echostream.context"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local outgoing = require "echostream.session.out"
local session = require "echostream.session"
local task = require "echostream.task"

local M = {}

--- Seconds that a session stays open without calls, how often they are looked at, and how many there may be.
M.idle, M.look, M.max_sessions = 30, 5, 1024

-- Of credentials: so many instances are remembered, by which retries are known again, and so many bytes of them together, for whoever
-- calls says what they are.
local MAX_INSTANCES <const>, MAX_BYTES <const> = 4096, 4 << 20

---@class echostream.http.door
local Door = { __name = "echostream.http.door" }
Door.__index = Door

-- What session.new wants to know of the host of the calling end.
local function caller_of(server)
  return { _rec = server._rec, _chains = {}, _timeout = server._timeout, context = context.new(), _options = {} }
end

--- Makes the door of a server.
---@param server echostream.server
---@return echostream.http.door
function M.new(server)
  local self = setmetatable({
    _server = server,
    _peers = {},     -- by key
    _count = 0,
    _instances = {}, -- by credentials
    _queue = {},     -- of the keys of _instances, oldest first,
    _first = 1, _last = 0, -- from here to there
    _bytes = 0,
    _certificates = {}, -- by mark, until their sessions have them
    _last_mark = 0,
    _timer = nil,
    _closed = false,
    _host = nil,
    _made = nil, -- by the hook, for whoever opens
  }, Door)
  local caller = caller_of(server)
  local weak = setmetatable({ self }, { __mode = "v" }) -- the core keeps hooks as long as the host lives
  self._host = core.host(server._rec.core, {
    max_message = math.max(server._options.max_message or 0, 4 << 20),
    request_timeout = server._timeout,
    agent = "echostream http",
    hooks = {
      open = function(ud)
        local near = session.new(ud, caller, false)
        if weak[1] then
          weak[1]._made = near
        end
        return near
      end,
      closed = function(near, err)
        near.closed_by = err
        if weak[1] then
          weak[1]:_forget(near)
        end
        session.closed(near)
      end,
      goaway = function(near)
        near.draining = true
      end,
    },
  })
  return self
end

-- Peers -------------------------------------------------------------------------------------------------------

local function text_of(credentials)
  local names = {}
  for name in pairs(credentials) do
    names[#names + 1] = name
  end
  table.sort(names)
  for i, name in ipairs(names) do
    names[i] = ("%s\0%d\0%s"):format(name, #credentials[name], credentials[name])
  end
  return table.concat(names, "\0")
end

-- The same for whoever shows the same credentials, over other connections too.
local function instance_of(self, credentials)
  local instance = self._instances[credentials]
  if not instance then
    instance = core.random(16)
    self._last, self._bytes = self._last + 1, self._bytes + #credentials
    self._queue[self._last], self._instances[credentials] = credentials, instance
    while self._last - self._first >= MAX_INSTANCES or self._bytes > MAX_BYTES do
      local old = self._queue[self._first]
      self._queue[self._first], self._instances[old] = nil, nil
      self._first, self._bytes = self._first + 1, self._bytes - #old
    end
  end
  return instance
end

local function close(peer, why)
  peer.near._ud:close(nil, why or "nothing was asked for a while")
end

-- Of a session that ended before its other end had it: nobody comes for it any more.
---@private
function Door:_drop_certificate(mark)
  if mark then
    self._certificates[mark] = nil
  end
end

---@private
function Door:_forget(near)
  for key, peer in pairs(self._peers) do
    if peer.near == near then
      self:_drop_certificate(peer.mark)
      self._peers[key] = nil
      self._count = self._count - 1
      break
    end
  end
  if self._count == 0 and self._timer then
    self._timer:stop()
    self._timer = nil
  end
end

-- Closes those that have been idle; while there are any, looks again.
local function sweep(self)
  local weak = setmetatable({ self }, { __mode = "v" })
  self._timer = self._server._rec.core:timer(M.look, function()
    local door = weak[1]
    if not door then
      return
    end
    door._timer = nil
    local limit = loop.now() - M.idle
    for _, peer in pairs(door._peers) do
      if not peer.alive() then
        close(peer, "the connection is over")
      elseif peer.running == 0 and peer.last <= limit then
        close(peer)
      end
    end
    if door._count > 0 then
      sweep(door)
    end
  end)
end

-- There are as many as there may be: the one that has been idle for the longest time makes room.
local function make_room(self)
  local oldest
  for _, peer in pairs(self._peers) do
    if peer.running == 0 and (not oldest or peer.last < oldest.last) then
      oldest = peer
    end
  end
  if not oldest then
    return nil, errors.new("unavailable", "too many peers call over HTTP")
  end
  self:_forget(oldest.near)
  close(oldest)
  return true
end

-- Among credentials: the number under which the session's certificate waits for it.
local MARK <const> = "echostream-door"

-- What the other end of a session gets as credentials. Where the server asks for certificates, the connection's is put aside for it.
local function with_certificate(self, who)
  local opts = self._server._options
  local certificate = (opts.ca or opts.client_pins or opts.require_client_cert) and who.request.peer_cert
  if not certificate then
    return who.credentials
  end
  self._last_mark = self._last_mark + 1
  local mark = tostring(self._last_mark)
  self._certificates[mark] = certificate
  local credentials = { [MARK] = mark }
  for name, value in pairs(who.credentials) do
    credentials[name] = name ~= MARK and value or credentials[name]
  end
  return credentials, mark
end

---@package
--- The certificate of the connection over which a session's peer calls. In the `open` hook of the server's end.
---@param credentials table<string, string>  loses what is not the peer's
---@return echostream.certificate?
function Door:certificate(credentials)
  local mark = credentials[MARK]
  credentials[MARK] = nil
  local certificate = mark and self._certificates[mark]
  if certificate then
    self._certificates[mark] = nil
    return certificate
  end
end

local function nobody()
end

local function open(self, key, who, known_by)
  if self._count >= M.max_sessions then
    local ok, err = make_room(self)
    if not ok then
      return nil, err
    end
  end
  local credentials, mark = with_certificate(self, who)
  local ud, err = core.door(self._server._rec.core, {
    host = self._host,
    server = self._server._host,
    peer_addr = who.request.peer_addr,
    local_addr = self._server.address,
    credentials = credentials,
    instance = instance_of(self, known_by),
    done = nobody,
  })
  if not ud then
    self:_drop_certificate(mark)
    err.http_status = err.code == "resource_exhausted" and 431 or nil -- more than credentials may be
    return nil, err
  end
  local peer = { near = self._made, running = 0, last = loop.now(), alive = who.request:watch_connection(), mark = mark }
  self._made = nil
  self._peers[key] = peer
  self._count = self._count + 1
  if not self._timer then
    sweep(self)
  end
  return peer
end

-- The one that a request belongs to. Count it in `running` while it is used.
local function peer_of(self, who)
  if self._closed then
    return nil, errors.new("unavailable", "the server is stopping")
  end
  local known_by = text_of(who.credentials)
  local key = who.request.connection .. "\0" .. known_by
  local peer = self._peers[key]
  if peer and peer.near._ud:is_open() then
    return peer
  elseif peer then
    self:_forget(peer.near)
  end
  return open(self, key, who, known_by)
end

local function done(peer, ...)
  peer.running = peer.running - 1
  peer.last = loop.now()
  return ...
end

-- Calls -------------------------------------------------------------------------------------------------------

---@class echostream.http.door.who
---@field request echostream.http.request
---@field credentials table<string, string>

---@package
--- Calls a method for a peer. In a task.
---@param who echostream.http.door.who
---@param name string
---@param opts table  of the call: timeout, metadata, idempotent, and by position what retry.lua says
---@param args table  with `n`
---@return table results  with `n`; nil, err inside when it failed
---@return table<string, string>? trailers
function Door:request(who, name, opts, args)
  local peer, err = peer_of(self, who)
  if not peer then
    return { n = 2, nil, err }
  end
  peer.running = peer.running + 1
  local _ <close> = setmetatable({}, { __close = function()
    done(peer)
  end })
  local results = table.pack(outgoing.request_now(peer.near._ud, name, opts, table.unpack(args, 1, args.n)))
  return results, core.take_trailers()
end

---@package
--- Calls a streaming method for a peer. In a task. The stream is to be closed with what comes second.
---@param who echostream.http.door.who
---@param name string
---@param opts table
---@param args table  with `n`
---@return echostream.stream? stream
---@return fun()|echostream.error close
function Door:stream(who, name, opts, args)
  local peer, err = peer_of(self, who)
  if not peer then
    return nil, err
  end
  local stream
  stream, err = outgoing.open_call(peer.near, opts, name, table.unpack(args, 1, args.n))
  if not stream then
    return nil, err
  end
  peer.running = peer.running + 1
  return stream, function()
    if stream then
      stream:close()
      stream = nil
      done(peer)
    end
  end
end

---@package
--- Emits an event for a peer. Waits while its queue is full, as long as a call would. In a task.
---@param who echostream.http.door.who
---@param name string
---@param opts table
---@param args table  with `n`
---@return true|nil ok, echostream.error? err
function Door:emit(who, name, opts, args)
  local peer, err = peer_of(self, who)
  if not peer then
    return nil, err
  end
  local ok, again = peer.near._ud:emit(name, opts, table.unpack(args, 1, args.n))
  if again ~= "again" then
    return ok, again
  end
  local timeout = opts.timeout or self._server._timeout
  local waiting = task.spawn(outgoing.emit, peer.near, opts, name, table.unpack(args, 1, args.n))
  ok, err = waiting:wait(timeout)
  if waiting:result() == nil then
    waiting:cancel()
    return nil, errors.new("resource_exhausted", ("the queue of events had no room within %g s"):format(timeout))
  end
  return ok, err
end

---@package
--- Closes every session; no more are made.
function Door:close()
  self._closed = true
  if self._timer then
    self._timer:stop()
    self._timer = nil
  end
  for _, peer in pairs(self._peers) do
    peer.near._ud:close(nil, "the server stopped")
  end
end

return M
