--- The handler of the stream "tunnel.tcp": one TCP connection, from the server's stream to a backend and back. Each direction ends
--- by itself; a failure of one ends both.

local codec = require "echostream.codec"
local core = require "echostream.tunnel.core"
local dial = require "echostream.tunnel.agent.dial"
local errors = require "echostream.errors"
local log = require "echostream.log"
local loop = require "echostream.loop"
local proxy = require "echostream.tunnel.agent.proxy"
local waiter = require "echostream.tunnel.waiter"
local task = require "echostream.task"

local M = {}

-- Seconds for the first message.
local FIRST = 30

local function connect(backend, options)
  return task.await(function(resume)
    local pipe = {}
    dial.dial(backend.engine, backend.options.place, {
      timeout = options.connect_timeout,
      codec = "raw",
      on_open = function(socket)
        if not resume(socket, pipe) then
          socket:close()
        end
      end,
      on_failed = function(err)
        resume(nil, err)
      end,
      on_closed = function(_, err)
        pipe.closed = err or errors.new("connection_closed", "the backend closed the connection")
        if pipe.wake then
          pipe.wake()
        end
      end,
    })
  end)
end

local function open(service)
  local tried, problem = {}, nil
  while true do
    local backend, why = service:pick(tried)
    if not backend then
      return nil, problem or errors.new("unavailable", "no backend can be asked: " .. why)
    end
    local socket, pipe = connect(backend, service.options)
    if socket then
      backend:connected()
      return socket, pipe, backend
    elseif pipe.code == "cancelled" then
      return nil, pipe
    end
    backend:connect_failed(pipe)
    tried[backend], problem = true, pipe
  end
end

-- Stream to backend, in a task of its own.
local function upstream(state)
  local stream, socket = state.stream, state.socket
  while not state.over do
    local frame, err = stream:recv()
    if state.over then
      return
    elseif not frame then
      if err then
        state.failed = err
      else
        socket:finish()
      end
      state.up_over = true
      state.woken:wake()
      return
    end
    state.moved = loop.now()
    state.bytes_in = state.bytes_in + #frame.data
    local room, problem = socket:write(frame.data)
    while room == false and not state.over and not state.pipe.closed do
      if not state.up_woken:wait() then
        return
      end
      room = true
    end
    if room == nil then
      state.failed, state.up_over = problem, true
      state.woken:wake()
      return
    end
  end
end

-- Backend to stream. → true, or nil, err
local function downstream(state, timeout)
  local stream, socket = state.stream, state.socket
  local down_over = false
  while not (down_over and state.up_over) do
    if state.failed then
      return nil, state.failed
    end
    local bytes, eof
    if not down_over then
      bytes, eof = socket:read()
    end
    if bytes and bytes ~= "" then
      local ok, err = stream:send(bytes)
      if not ok then
        return nil, err
      end
      state.moved = loop.now()
      state.bytes_out = state.bytes_out + #bytes
    elseif eof and socket:failure() then
      return nil, socket:failure()
    elseif eof then
      down_over = true
      stream:finish()
    elseif state.pipe.closed then
      return nil, state.pipe.closed
    else
      local left = state.moved + timeout - loop.now()
      if left <= 0 then
        return nil, errors.new("timeout", ("nothing came or went for %g s"):format(timeout))
      end
      local ok, err = state.woken:wait(left)
      if not ok and err.code ~= "timeout" then
        return nil, err
      end
    end
  end
  return true
end

local settled = { __close = function(guard)
  local self, state = guard[1], guard[2]
  state.over = true
  if state.pump then
    state.pump:cancel()
  end
  if state.socket then
    state.socket:close(state.graceful)
  end
  if state.backend then
    state.backend.in_flight = state.backend.in_flight - 1
    state.backend.served = state.backend.served + 1
  end
  local stats = self.stats
  stats.in_flight = stats.in_flight - 1
  stats.served = stats.served + 1
  stats.bytes_in = stats.bytes_in + state.bytes_in
  stats.bytes_out = stats.bytes_out + state.bytes_out
  if stats.in_flight == 0 and self.on_idle then
    self.on_idle()
  end
end }

local function refuse(self, stream, why, err)
  self.stats.errors = self.stats.errors + 1
  stream:send(core.part("reset", { why, err.message }))
end

local function serve(self, state, opening)
  local stream = state.stream
  local service, why = self.backends:find(opening.service, "tcp")
  if not service then
    return refuse(self, stream, "refused", errors.new("not_found", why))
  end
  local socket, pipe, backend = open(service)
  if not socket then
    if pipe.code ~= "cancelled" then
      refuse(self, stream, pipe.code == "timeout" and "timeout" or "refused", pipe)
    end
    return
  end
  state.socket, state.pipe, state.backend = socket, pipe, backend
  backend.in_flight = backend.in_flight + 1
  local function wake()
    state.woken:wake()
    state.up_woken:wake()
  end
  pipe.wake = wake
  socket:notify(wake)
  if not stream:send(codec.msgpack.pack { ok = true, backend = backend.name }) then
    return
  end
  state.pump = task.spawn(upstream, state)
  self.stats.tunnels = self.stats.tunnels + 1
  local ok, err = downstream(state, service.options.websocket_timeout)
  self.stats.tunnels = self.stats.tunnels - 1
  if ok then
    state.graceful = true
  else
    self.stats.errors = self.stats.errors + 1
    stream:reset(proxy.resets[err.code == "timeout" and "timeout" or "truncated"])
  end
end

--- Makes the handler of "tunnel.tcp".
---@param self { backends: echostream.tunnel.agent.backends, stats: table, on_idle: function? }
---@return fun(session: echostream.session, stream: echostream.stream)
function M.handler(self)
  return function(_, stream)
    local frame, err = stream:recv(FIRST)
    local opening = frame and codec.msgpack.unpack(frame.data)
    if type(opening) ~= "table" then
      if frame or err then
        log.write("warn", "a TCP stream of the tunnel did not begin with a map")
        stream:reset(proxy.resets.protocol)
      end
      return
    end
    self.stats.in_flight = self.stats.in_flight + 1
    local state = { stream = stream, socket = nil, pipe = nil, backend = nil, pump = nil, over = false, up_over = false,
      failed = nil, graceful = false, moved = loop.now(), bytes_in = 0, bytes_out = 0, woken = waiter.new(), up_woken = waiter.new() }
    local _ <close> = setmetatable({ self, state }, settled)
    serve(self, state, opening)
  end
end

return M
