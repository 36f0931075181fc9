--- The blocking face of a raw socket, for tasks: one at a time reads, one writes.

local errors = require "echostream.errors"
local loop = require "echostream.loop"
local waiter = require "echostream.tunnel.waiter"

local M = {}

---@class echostream.tunnel.blocking_socket
---@field core echostream.tunnel.socket
local Socket = {}
Socket.__index = Socket
Socket.__name = "echostream.tunnel.blocking_socket"

local function notify(self, what)
  if what == "closed" then
    self._closed = true
  end
  if what ~= "room" then
    self._reading:wake()
  end
  if what == "room" or what == "closed" then
    self._writing:wake()
  end
end

local function fail(self)
  return nil, self.core:failure() or errors.new("connection_closed", "the socket is closed")
end

--- The face of a socket of the C module's.
---@param core echostream.tunnel.socket
---@return echostream.tunnel.blocking_socket
function M.new(core)
  local self = setmetatable({ core = core, _reading = waiter.new(), _writing = waiter.new(), _closed = false }, Socket)
  core:notify(function(_, what)
    notify(self, what)
  end)
  return self
end

--- Connects.
---@param engine echostream.tunnel.loop_engine
---@param options { ip?: string, port?: integer, path?: string, timeout?: number, tls?: echostream.tunnel.tls_client, name?: string }
---@return echostream.tunnel.blocking_socket? socket, echostream.error? err
function M.connect(engine, options)
  local opened = waiter.new()
  local is_open, problem = false, nil
  local core, err = engine:dial {
    ip = options.ip, port = options.port, path = options.path, timeout = options.timeout, tls = options.tls, name = options.name,
    codec = "raw",
    on_open = function()
      is_open = true
      opened:wake()
    end,
    on_closed = function(_, why)
      problem = why or errors.new("connection_closed", "the connection was closed")
      opened:wake()
    end,
  }
  if not core then
    return nil, err
  end
  local self = M.new(core)
  while not is_open and not problem do
    local ok, stopped = opened:wait()
    if not ok then
      core:close(false)
      return nil, stopped
    end
  end
  if not is_open then
    return nil, problem
  end
  return self
end

--- Waits for bytes.
---@param max? integer      65536
---@param timeout? number   seconds
---@return string? bytes    nil without an error: the other side ended its direction
---@return echostream.error? err
function Socket:read(max, timeout)
  local deadline = timeout and loop.now() + timeout
  while true do
    local bytes, eof = self.core:read(max)
    if bytes then
      return bytes
    elseif self._closed and self.core:failure() then
      return fail(self)
    elseif eof then
      return nil
    end
    local ok, err = self._reading:wait(deadline and math.max(deadline - loop.now(), 0))
    if not ok then
      return nil, err
    end
  end
end

--- Sends; returns when there is room for more.
---@param bytes string
---@return true|nil ok, echostream.error? err
function Socket:write(bytes)
  local room, err = self.core:write(bytes)
  if room == nil then
    return nil, err
  end
  while not room do
    local ok, stopped = self._writing:wait()
    if not ok then
      return nil, stopped
    elseif self._closed then
      return fail(self)
    end
    room = self.core:room()
  end
  return true
end

--- Ends our direction, after what was written.
function Socket:finish()
  self.core:finish()
end

--- Ends both directions: with `graceful` what was written is sent first.
---@param graceful? boolean
function Socket:close(graceful)
  self.core:close(graceful or false)
end

--- Whose it is: as of the C module's socket.
---@return table
function Socket:info()
  return self.core:info()
end

return M
