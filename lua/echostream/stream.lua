--- Streams: ordered, flow-controlled, two-way channels of messages. A named stream is opened with `create_stream` and handled
--- with `add_stream`; the stream of a call is opened with `stream` and belongs to a method with `add_rpc(…, { stream = … })`.

local codec_module = require "echostream.codec"
local core = require "echostream.core"
local errors = require "echostream.errors"
local flow = require "echostream.session.flow"
local loop = require "echostream.loop"
local options = require "echostream.options"
local outbox = require "echostream.session.outbox"
local task = require "echostream.task"
local view = require "echostream.view"

local M = {}

---@class echostream.frame
---@field data any          the message: a string, or a value when both ends named a codec
---@field seq? integer      what `send_timestamped` gave
---@field wall_time? number seconds since 1970, what `send_timestamped` gave
---@field local_time? number  that time on our own clock, once `session:clock()` was asked for
---@field gap? integer      of numbered messages: how many are missing before this one
---@field duplicate? boolean  of numbered messages: this number, or a later one, came before

---@class echostream.stream
---@field name string
---@field session echostream.session
---@field id integer
---@field error echostream.error?  why `frames()` or `values()` ended, when it was not the end of the stream
local Stream = {}
Stream.__index = Stream
Stream.__name = "echostream.stream"

Stream.__tostring = function(self)
  return ("echostream.stream %s (%d)"):format(self.name, self.id)
end

-- By the number that messages carry; 0, raw: the bytes are the message.
local codecs = codec_module.numbers

--- Schema entry for the `codec` option of `add_stream` and `create_stream`.
M.codec_option = { type = "string", one_of = codec_module.names }

--- Wraps a channel of the core.
---@param channel echostream.core.channel
---@param session echostream.session
---@param name string
---@param codec? string "msgpack" or "json": messages are values, not bytes; default "raw"
---@param opts? table   checked: fields of flow.stream_schema
---@return echostream.stream
function M.new(channel, session, name, codec, opts)
  codec = channel:codec(codec or "raw")
  local self = setmetatable({
    _channel = channel,
    _codec = codec ~= "raw" and core.codec[codec] or nil,
    _call = channel:is_call(),
    _seq = 0,
    _paused = false,
    _resumers = {},
    _rec = session._rec,
    id = channel:id(),
    name = name,
    session = session,
    error = nil,
    _numbered = nil, _expected = nil, _missing = 0, _duplicates = 0,
    _when_full = nil, _outbox = nil, _finish_due = nil,
  }, Stream)
  flow.configure(self, opts)
  local peer = session.session or session
  local all = peer._streams
  if not all then
    all = setmetatable({}, { __mode = "k" }) -- for those who look into the session
    peer._streams = all
  end
  all[self] = true
  return self
end

--- Makes the core's handler of a streaming method out of the user's.
---@param name string
---@param fn fun(session: echostream.session, stream: echostream.stream, ...): any ...
---@return function
---@param opts table  of add_rpc, checked
function M.method(name, fn, opts)
  return function(peer, channel, ...)
    local self = M.new(channel, peer, name, channel:codec(), opts)
    if self._when_full then
      return M.drained(self, fn(peer, self, ...))
    end
    return fn(peer, self, ...)
  end
end

--- Waits until what its policy kept back is sent, at most for `timeout` seconds.
---@param self echostream.stream
---@param timeout? number
function M.wait_drained(self, timeout)
  if self._outbox then
    task.await(function(resume)
      self._drained[resume] = true
      return function()
        self._drained[resume] = nil
      end
    end, timeout)
  end
end

--- The same at a handler's end. Returns the rest of its arguments.
---@param self echostream.stream
---@param ... any
---@return any ...
function M.drained(self, ...)
  M.wait_drained(self)
  return ...
end

-- Waits for one of the channel's "on_…" for at most `left` seconds.
local function wait_for(channel, what, left)
  return task.await(function(resume)
    channel[what](channel, function()
      resume(true)
    end)
  end, left)
end

local function wake_readers(self)
  for resume in pairs(self._resumers) do
    resume(true)
  end
end

-- Until resume(), or until the stream has failed, which nobody needs to be spared.
local function wait_resumed(self, left)
  return task.await(function(resume)
    self._resumers[resume] = true
    return function()
      self._resumers[resume] = nil
    end
  end, left)
end

-- What the sender's numbers say.
local function count(self, frame, seq)
  local expected = self._expected or (self._numbered and 0 or seq)
  if seq > expected then
    frame.gap = seq - expected
    self._missing = self._missing + frame.gap
  elseif seq < expected then
    frame.duplicate = true
    self._duplicates = self._duplicates + 1
    return
  end
  self._expected = seq + 1
end

local function frame_of(self, raw, data, seq, wall_time, codec)
  if not raw and self._codec and codecs[codec] then
    local value, problem = codecs[codec].unpack(data)
    if value == nil and errors.is_error(problem) then
      return nil, problem
    end
    data = value
  end
  local frame = { data = data, seq = seq, wall_time = wall_time }
  if wall_time then
    local clock = (self.session.session or self.session)._clock
    frame.local_time = clock and clock:to_local(wall_time)
  end
  if seq then
    count(self, frame, seq)
  end
  return frame
end

local function is_held(self)
  return self._paused and not self._channel:error()
end

-- raw: messages as they came.
local function receive(self, timeout, raw)
  timeout = timeout or self._read_timeout
  local channel = self._channel
  local deadline = timeout and loop.now() + timeout
  local waited, why = true, nil
  while true do
    local held = is_held(self)
    if not held then
      local data, seq, wall_time, codec = channel:recv()
      if data then
        return frame_of(self, raw, data, seq, wall_time, codec)
      elseif seq ~= "again" then
        return nil, seq -- how the stream failed says more than that the handler was cancelled
      end
    end
    if not waited then
      return nil, why
    end
    local left = deadline and deadline - loop.now()
    if left and left <= 0 then
      return nil, errors.new("timeout", ("no message came within %g s"):format(timeout))
    elseif held then
      waited, why = wait_resumed(self, left)
    else
      waited, why = wait_for(channel, "on_readable", left)
    end
    if not waited and why.code == "timeout" then
      waited = true -- the clock is looked at above, after one more look at the stream
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

local function next_value(self)
  local frame = next_frame(self)
  if not frame then
    return nil
  elseif frame.data == nil then
    return core.null -- nil would end the loop
  end
  return frame.data
end

--- Iterates over the messages until the peer finishes or the stream fails (`stream.error` says how then).
---@return fun(stream: echostream.stream): echostream.frame?
---@return echostream.stream
function Stream:frames()
  return next_frame, self
end

--- The same without the frames around the messages. A nil among them comes as `echo.null`.
---@return fun(stream: echostream.stream): any
---@return echostream.stream
function Stream:values()
  return next_value, self
end

--- Takes no more messages until `resume`: `recv`, `frames` and `values` wait. No credit goes back, so the sender is slowed down
--- once the window and its queue are full. A stream that fails meanwhile says so at once.
---@return echostream.stream self
function Stream:pause()
  if not self._paused then
    self._paused = true
    local weak = setmetatable({ self }, { __mode = "v" })
    self._channel:on_closed(function()
      if weak[1] then
        wake_readers(weak[1])
      end
    end)
  end
  return self
end

--- Takes messages again.
---@return echostream.stream self
function Stream:resume()
  self._paused = false
  wake_readers(self)
  return self
end

--- Messages with a time come out of what this returns in order, and as evenly as they were sent: a jitter buffer, which reads the stream from
--- now on. For what the other side sends with `send_timestamped`.
---@param opts? echostream.options.jitter
---@return echostream.jitter_buffer
function Stream:buffered(opts)
  if getmetatable(self) ~= Stream then
    error("stream:buffered: wants a stream, got " .. errors.show(self), 2)
  end
  return require("echostream.jitter").of(self, opts)
end

local function result(self, timeout)
  local channel = self._channel
  local deadline = timeout and loop.now() + timeout
  while true do
    local results = table.pack(channel:result())
    if results[1] ~= nil or results[2] ~= "again" then
      return table.unpack(results, 1, results.n)
    end
    local left = deadline and deadline - loop.now()
    if left and left <= 0 then
      return nil, errors.new("timeout", ("no result came within %g s"):format(timeout))
    end
    local ok, err = wait_for(channel, "on_closed", left)
    if not ok and err.code ~= "timeout" then
      return nil, err
    end
  end
end

--- What the handler of a streaming call returned. Waits for it. The answer comes behind the messages, so read them before, or
--- in another task: many unread ones hold it back.
---@param timeout? number  seconds; default: as long as the stream lives
---@param callback? fun(...)  instead of waiting
---@return any ...  the handler's results (true when it returned none), or nil, err
function Stream:result(timeout, callback)
  if type(timeout) == "function" then
    timeout, callback = nil, timeout
  end
  if timeout ~= nil then
    options.argument("stream:result", "timeout", timeout, "seconds")
  end
  if not self._call then
    error(("stream:result: %s is a named stream; only streaming calls have results"):format(self.name), 2)
  end
  if callback then
    return task.call_back(callback, result, self, timeout)
  end
  return task.block(result, self, timeout)
end

local function send_waiting(self, bytes, seq, wall_time)
  local patience = self._write_timeout
  local deadline = patience and loop.now() + patience
  while true do
    local ok, err = self._channel:send(bytes, seq, wall_time)
    if err ~= "again" then
      return ok, err
    end
    ok, err = wait_for(self._channel, "on_writable", deadline and math.max(deadline - loop.now(), 0))
    if not ok then
      if err.code == "timeout" and deadline and loop.now() >= deadline then
        return nil, errors.new("timeout", ("the queue had no room for the message within %g s"):format(patience))
      end
      return nil, err
    end
  end
end

local function results(...)
  return ...
end

-- Never waits.
local function send_by_policy(self, bytes, seq, wall_time, callback)
  local ok, err = nil, "again"
  if not self._outbox then -- else behind those that wait
    ok, err = self._channel:send(bytes, seq, wall_time)
  end
  if err == "again" then
    ok, err = flow.full(self, bytes, seq, wall_time)
  elseif not self._rec.stepping then
    loop.touch(self._rec)
  end
  if callback then
    return task.call_back(callback, results, ok, err)
  end
  return ok, err
end

-- A message that is in the stream's codec already.
local function send_bytes(self, bytes, seq, wall_time, callback)
  if not seq and self._numbered then
    seq = self._seq
    self._seq = seq + 1
  end
  if self._when_full then
    return send_by_policy(self, bytes, seq, wall_time, callback)
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

M.send_bytes = send_bytes

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
  return send_bytes(self, bytes, seq, wall_time, callback)
end

--- Sends one message. Waits while the send queue is full, unless the stream's `when_full` says otherwise.
---@param data string|any  bytes; any value when the stream has a codec
---@param callback? fun(ok: true?, err: echostream.error?)
---@return true|nil ok, echostream.error? err
function Stream:send(data, callback)
  return send(self, "stream:send", data, nil, nil, callback)
end

--- Time-outs of this end: how long `recv`, `frames` and `values` wait for a message where they are told nothing else, and how long `send`
--- waits for room in the queue. Both fail with `timeout`, and the stream stays as it is: a message that was not sent was not sent.
---@param timeouts { read?: number|false, write?: number|false }  seconds; false: any time (which is what both are at first)
---@return echostream.stream self
function Stream:set_timeouts(timeouts)
  local fields = { read = { type = "seconds" }, write = { type = "seconds" } }
  for name in pairs(fields) do
    if type(timeouts) == "table" and rawget(timeouts, name) == false then
      fields[name] = { type = "boolean" }
    end
  end
  for name, seconds in pairs(options.check("stream:set_timeouts", timeouts, fields)) do
    self[name == "read" and "_read_timeout" or "_write_timeout"] = seconds or nil
  end
  return self
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
  return send(self, "stream:send_timestamped", frame.data, seq, frame.wall_time or self.session._ud:wall() or self._rec.core:wall(), callback)
end

local function pipe(self, other)
  local raw, n = self._codec == other._codec, 0
  while true do
    local frame, err = receive(self, nil, raw)
    if not frame then
      if err then
        other:reset(err.details and err.details.reset)
        return nil, err
      end
      other:finish()
      return n
    end
    local seq = not other._numbered and frame.seq or nil
    local ok
    if raw then
      ok, err = send_bytes(other, frame.data, seq, frame.wall_time)
    else
      ok, err = send(other, "stream:pipe", frame.data, seq, frame.wall_time)
    end
    if not ok then
      self:close()
      return nil, err
    end
    n = n + 1
  end
end

--- Hands every message on to another stream, with its number and time, until this one ends; then finishes that one. Waits for
--- it. As fast as the slower of the two, and no faster: nothing is read while the other's send queue is full, so the sender is
--- slowed down in turn. When this stream fails the other is reset (with the same code, where there was one); when the other
--- takes no more this one is closed. For both directions run two of them, one in `echo.spawn`.
---@param other echostream.stream
---@param callback? fun(messages: integer?, err: echostream.error?)  instead of waiting
---@return integer|nil messages  how many were handed on
---@return echostream.error? err
function Stream:pipe(other, callback)
  if getmetatable(other) ~= Stream then
    error("stream:pipe: wants a stream, got " .. errors.show(other), 2)
  end
  if callback then
    return task.call_back(callback, pipe, self, other)
  end
  return task.block(pipe, self, other)
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
  if self._outbox then
    self._finish_due = true
    return true
  end
  return touch(self, self._channel:finish())
end

--- Ends the stream: finishes if that was not done, and reads no more. The caller of a streaming call that has no result yet
--- cancels it so; its handler can still return results. What waits because of `when_full` is dropped: `finish` first. Harmless
--- twice.
---@return true
function Stream:close()
  if self._outbox then
    self._dropped = self._dropped + outbox.clear(self._outbox)
  end
  self._channel:close()
  return touch(self, true)
end

--- Abandons both directions at once. The other side's calls fail with `cancelled` and `err.details.reset` is the code there; a
--- handler is cancelled (`echo.call():cancelled()`, its waits return).
---@param code? integer  a number of the application's own, 0 or more
---@return true
function Stream:reset(code)
  if code ~= nil then
    options.argument("stream:reset", "code", code, "integer")
  end
  self._channel:reset(code)
  return touch(self, true)
end

--- Where the stream stands: "open", "half_closed_local" (this side finished), "half_closed_remote" (the other one did), "closed",
--- or "failed" (`recv` and `send` say how).
---@return "open"|"half_closed_local"|"half_closed_remote"|"closed"|"failed" state
---@return boolean paused
function Stream:state()
  local stats = self:stats()
  return stats and stats.state or "closed", self._paused
end

local function state_of(stats)
  if stats.failed then
    return "failed"
  elseif stats.finished then
    return stats.peer_finished and "closed" or "half_closed_local"
  end
  return stats.peer_finished and "half_closed_remote" or "open"
end

--- Figures of the stream.
---@return echostream.stream_stats|nil stats, echostream.error? err  `connection_closed` after close
function Stream:stats()
  local stats, err = self._channel:stats()
  if not stats then
    return nil, err
  end
  stats.state, stats.failed = state_of(stats), nil
  stats.paused = self._paused
  stats.waiting, stats.dropped = self._outbox and outbox.count(self._outbox) or 0, self._dropped or 0
  stats.missing, stats.duplicates = self._missing, self._duplicates
  return view.of(stats)
end

--- The metadata its opener gave.
---@return table<string, string>
function Stream:metadata()
  return self._channel:metadata()
end

--- What the handler of a call, or of a named stream, sent along with its end (`call:set_trailers`): empty before the end, and on
--- the handler's own side.
---@return table<string, string>|nil trailers, echostream.error? err  `connection_closed` after close
function Stream:trailers()
  return self._channel:trailers()
end

Stream.__close = function(self)
  self:close()
end

return M
