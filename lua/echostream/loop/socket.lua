--- Byte-stream sockets on the loop, TCP and unix ones, listening and connecting: what the small endpoints beside QUIC use
--- (metrics, the prompt of a running server). Everything is by callback and nothing here waits.
---
---     local listener = assert(socket.listen({ ip = "127.0.0.1", port = 0 }, function(connection)
---       return function(data)                       -- nil: the end, or it broke
---         if data then connection:send(data) else connection:close() end
---       end
---     end))

local log = require "echostream.log"
local loop = require "echostream.loop"
local signal = require "echostream.loop.signal"

local M = {}

---@class echostream.socket.place
---@field ip? string      numeric, with `port`
---@field port? integer
---@field path? string    of a unix socket, instead: only this user may connect (mode 600)

---@class echostream.socket  one connection
---@field peer_addr string?  "ip:port" for TCP
local Socket = {}
Socket.__index = Socket
Socket.__name = "echostream.socket"

--- Sends bytes. `done` is called once, also when that failed.
---@param data string
---@param done? fun(err: string?)
function Socket:send(data, done)
  local ok, err = self._handle:write(data, done and loop.guard("what followed a send", done))
  if not ok and done then
    done(err)
  end
end

--- Bytes that the kernel has not taken yet.
---@return integer
function Socket:queued()
  return self._handle:is_closing() and 0 or self._handle:get_write_queue_size()
end

--- No more from us; what was sent before still goes out.
function Socket:finish()
  if not self._handle:is_closing() then
    self._handle:shutdown()
  end
end

--- Stops reading until `resume`: the peer is slowed down by the kernel's buffers.
function Socket:pause()
  if not self._handle:is_closing() then
    self._handle:read_stop()
  end
end

--- Reads on.
function Socket:resume()
  if self._take and not self._handle:is_closing() then
    self._handle:read_start(self._take)
  end
end

--- One timer for each connection: starting it again moves it. It does not keep the process alive.
---@param seconds number
---@param fn fun()
function Socket:after(seconds, fn)
  if not self._timer then
    self._timer = loop.luv().new_timer()
    self._timer:unref()
  end
  self._timer:start(math.ceil(seconds * 1000), 0, loop.guard("a connection's timer", fn))
end

--- Closes at once; harmless twice.
function Socket:close()
  loop.close_handle(self._handle)
  if self._timer then
    loop.close_handle(self._timer)
  end
end

local function name_of(handle, place)
  local peer = not place.path and handle:getpeername()
  if peer then
    return (peer.ip:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(peer.ip, peer.port)
  end
end

-- Starts reading into what `accept` gives; what it raises closes the connection. Gives the connection back.
local function begin(handle, place, accept)
  local connection = setmetatable({ _handle = handle, peer_addr = name_of(handle, place) }, Socket)
  local ok, take = pcall(accept, connection)
  if not ok then
    log.write("error", "a connection failed: " .. tostring(take))
    connection:close()
    return connection
  end
  connection._take = function(problem, data)
    local went, why = pcall(take, not problem and data or nil)
    if not went then
      log.write("error", "a connection failed: " .. tostring(why))
      connection:close()
    end
  end
  handle:read_start(connection._take)
  return connection
end

-- Bytes of a unix socket's path; luv cuts longer ones off and uses what is left.
local MAX_PATH <const> = 107
local TOO_LONG <const> = "ENAMETOOLONG: the path of a socket has at most 107 bytes"

local function is_too_long(place)
  return place.path and #place.path > MAX_PATH
end

local function new_handle(place)
  signal.survive_broken_pipes()
  local uv = loop.luv()
  if place.path then
    return uv.new_pipe(false)
  end
  return uv.new_tcp()
end

--- Accepts connections on a place of the real loop. Neither it nor its connections keep the process alive.
---@param place echostream.socket.place
---@param accept fun(connection: echostream.socket): fun(data: string?)  takes what comes; nil: the end, or it broke
---@return { port: integer?, path: string?, close: fun() }|nil listener, string? err, string? name  as luv says it ("EADDRINUSE")
function M.listen(place, accept)
  if loop.current().sim then
    return nil, "the simulation has no sockets of this kind", "ENOTSUP"
  elseif is_too_long(place) then
    return nil, TOO_LONG, "ENAMETOOLONG"
  end
  local handle = new_handle(place)
  local ok, err, name
  if place.path then
    ok, err, name = handle:bind(place.path)
    if ok then -- before it listens: nobody can have connected
      ok, err, name = loop.luv().fs_chmod(place.path, 384) -- 0600
    end
  else
    ok, err, name = handle:bind(place.ip, place.port)
  end
  if ok then
    ok, err, name = handle:listen(64, function(problem)
      local peer = new_handle(place)
      peer:unref()
      if problem or not handle:accept(peer) then
        return loop.close_handle(peer)
      end
      begin(peer, place, accept)
    end)
  end
  if not ok then
    loop.close_handle(handle)
    return nil, err, name
  end
  handle:unref()
  return {
    port = not place.path and handle:getsockname().port or nil,
    path = place.path,
    close = function()
      loop.close_handle(handle) -- removes the path of a unix socket too
    end,
  }
end

--- Connects. `done` is called once: with the connection, and gives back who takes what comes; or with nil, what is wrong and
--- luv's name of it ("ECONNREFUSED"). A connection that was made this way keeps the process alive until it is closed.
---@param place echostream.socket.place
---@param done fun(connection: echostream.socket?, err: string?, name: string?): fun(data: string?)?
---@return fun() cancel  gives up, so that `done` is not called any more, or closes the connection that was made
function M.connect(place, done)
  local handle = new_handle(place)
  local over, made = false, nil
  local function fail(err)
    if not over then
      over = true
      loop.close_handle(handle)
      loop.guard("what followed a connect", done)(nil, err, (tostring(err):match "^(E%u+)"))
    end
  end
  local function connected(err)
    if err then
      return fail(err)
    elseif not over then
      over = true
      made = begin(handle, place, done)
    end
  end
  local ok, err
  if loop.current().sim then
    ok, err = nil, "ENOTSUP: the simulation has no sockets of this kind"
  elseif is_too_long(place) then
    ok, err = nil, TOO_LONG
  elseif place.path then
    ok, err = handle:connect(place.path, connected)
  else
    ok, err = handle:connect(place.ip, place.port, connected)
  end
  if not ok then
    fail(err)
  end
  return function()
    over = true
    if made then
      made:close()
    else
      loop.close_handle(handle)
    end
  end
end

return M
