--- Named streams: ordered, flow-controlled, two-way channels of messages.

local core = require "echostream.core"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

---@class echostream.frame
---@field data any          the message: a string, or a value when both ends named a codec
---@field seq? integer      what `send_timestamped` gave
---@field wall_time? number seconds since 1970, what `send_timestamped` gave

---@class echostream.stream
---@field name string
---@field session echostream.session
---@field id integer
---@field error echostream.error?  why `frames()` ended, when it was not the end of the stream
local Stream = {}
Stream.__index = Stream
Stream.__name = "echostream.stream"

Stream.__tostring = function(self)
  return ("echostream.stream %s (%d)"):format(self.name, self.id)
end

local codecs = { msgpack = true, json = true, raw = true }

--- Schema entry for the `codec` option of `add_stream` and `create_stream`.
M.codec_option = { type = "string", one_of = { "raw", "msgpack", "json" } }

--- Wraps a channel of the core.
---@param channel echostream.core.channel
---@param session echostream.session
---@param name string
---@param codec? string "msgpack" or "json": messages are values, not bytes
---@return echostream.stream
function M.new(channel, session, name, codec)
  assert(codec == nil or codecs[codec])
  return setmetatable({
    _channel = channel,
    _codec = codec and codec ~= "raw" and core.codec[codec] or nil,
    _seq = 0,
    _rec = session._rec,
    id = channel:id(),
    name = name,
    session = session,
    error = nil,
  }, Stream)
end

local function wait_readable(channel)
  return task.await(function(resume)
    channel:on_readable(function()
      resume(true)
    end)
  end)
end

local function wait_writable(channel)
  return task.await(function(resume)
    channel:on_writable(function()
      resume(true)
    end)
  end)
end

local function receive(self, timeout)
  local deadline = timeout and loop.now() + timeout
  while true do
    local data, seq, wall_time = self._channel:recv()
    if data then
      if self._codec then
        local value, problem = self._codec.unpack(data)
        if value == nil and errors.is_error(problem) then
          return nil, problem
        end
        data = value
      end
      return { data = data, seq = seq, wall_time = wall_time }
    elseif seq ~= "again" then
      return nil, seq
    end
    local ok, err
    if deadline then
      local left = deadline - loop.now()
      if left <= 0 then
        return nil, errors.new("timeout", ("no message came within %g s"):format(timeout))
      end
      local channel = self._channel
      ok, err = task.await(function(resume)
        channel:on_readable(function()
          resume(true)
        end)
      end, left)
    else
      ok, err = wait_readable(self._channel)
    end
    if not ok then
      return nil, err
    end
  end
end

--- The next message. Waits for it.
---@param timeout? number  seconds; default: as long as the stream lives
---@param callback? fun(frame: echostream.frame?, err: echostream.error?)  instead of waiting
---@return echostream.frame? frame  nil without an error: the peer finished
---@return echostream.error? err
function Stream:recv(timeout, callback)
  if type(timeout) == "function" then
    timeout, callback = nil, timeout
  end
  if timeout ~= nil then
    options.argument("stream:recv", "timeout", timeout, "seconds")
  end
  if callback then
    return task.call_back(callback, receive, self, timeout)
  end
  return task.block(receive, self, timeout)
end

local function next_frame(self)
  local frame, err = task.block(receive, self)
  if not frame then
    self.error = err
  end
  return frame
end

--- Iterates over the messages until the peer finishes or the stream fails (`stream.error` says how then).
---@return fun(stream: echostream.stream): echostream.frame?
---@return echostream.stream
function Stream:frames()
  return next_frame, self
end

local function send_waiting(self, bytes, seq, wall_time)
  while true do
    local ok, err = self._channel:send(bytes, seq, wall_time)
    if err ~= "again" then
      return ok, err
    end
    ok, err = wait_writable(self._channel)
    if not ok then
      return nil, err
    end
  end
end

local function send(self, where, data, seq, wall_time, callback)
  local bytes = data
  if self._codec then
    local problem
    bytes, problem = self._codec.pack(data)
    if not bytes then
      return nil, problem
    end
  elseif type(data) ~= "string" then
    error(("%s: a stream carries bytes unless both ends name a codec; wants a string, got %s")
      :format(where, errors.show(data)), 3)
  end
  if callback then
    return task.call_back(callback, send_waiting, self, bytes, seq, wall_time)
  end
  local ok, err = self._channel:send(bytes, seq, wall_time)
  if err == "again" then
    return task.block(send_waiting, self, bytes, seq, wall_time)
  end
  if not self._rec.stepping then
    loop.touch(self._rec)
  end
  return ok, err
end

--- Sends one message. Waits while the send queue is full.
---@param data string|any  bytes; any value when the stream has a codec
---@param callback? fun(ok: true?, err: echostream.error?)
---@return true|nil ok, echostream.error? err
function Stream:send(data, callback)
  return send(self, "stream:send", data, nil, nil, callback)
end

local timestamped = {
  data = {},
  seq = { type = "integer", min = 0 },
  wall_time = { type = "number", min = 0 },
}

--- Sends one message with a time and a number on the wire.
---@param frame { data: any, wall_time?: number, seq?: integer }  default: now, and one more than the last
---@param callback? fun(ok: true?, err: echostream.error?)
---@return true|nil ok, echostream.error? err
function Stream:send_timestamped(frame, callback)
  frame = options.check("stream:send_timestamped", frame, timestamped)
  local seq = frame.seq or self._seq
  self._seq = seq + 1
  return send(self, "stream:send_timestamped", frame.data, seq, frame.wall_time or self._rec.core:wall(), callback)
end

local function touch(self, ...)
  if not self._rec.stepping then
    loop.touch(self._rec)
  end
  return ...
end

--- No more messages from this side; what is queued is delivered, and the peer's `recv` gives nil after it.
---@return true|nil ok, echostream.error? err
function Stream:finish()
  return touch(self, self._channel:finish())
end

--- Ends the stream: finishes if that was not done, and reads no more. Harmless twice.
---@return true
function Stream:close()
  self._channel:close()
  return touch(self, true)
end

--- Abandons both directions at once; the peer's calls fail with `cancelled`.
---@param code? integer  a number of the application's own, 0 or more
---@return true
function Stream:reset(code)
  if code ~= nil then
    options.argument("stream:reset", "code", code, "integer")
  end
  self._channel:reset(code)
  return touch(self, true)
end

--- { messages_in, messages_out, bytes_in, bytes_out, queued, finished, peer_finished, open }
---@return table
function Stream:stats()
  return self._channel:stats()
end

--- The metadata its opener gave.
---@return table<string, string>
function Stream:metadata()
  return self._channel:metadata()
end

Stream.__close = function(self)
  self:close()
end

return M
