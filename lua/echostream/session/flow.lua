--- Send queues: their marks, and what a full one means for who sends. The core counts and says when there is no room; what is
--- done then is decided here.

local broadcast = require "echostream.broadcast"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local options = require "echostream.options"
local outbox = require "echostream.session.outbox"

local M = {}

--- Schema entry for the marks of a queue: bytes, or `{ high = bytes, low = bytes }`.
M.queue_option = { type = { "integer", "table" }, min = 1, max = 1 << 40, fields = {
  high = { type = "integer", min = 1, max = 1 << 40, required = true },
  low = { type = "integer", min = 0, max = 1 << 40 },
} }

--- What to do when a queue is full, for streams and events.
M.policy_option = { type = "string", one_of = { "wait", "drop_oldest", "drop_newest", "error" } }
M.idle_option = { type = "seconds", max = 1e9 }
M.outbox_option = { type = "integer", min = 1, max = 1 << 20 }

--- Reads the marks of a checked option.
---@param where string  for the message
---@param name string   the option
---@param value integer|{ high: integer, low: integer? }|nil
---@param level integer as for error()
---@return integer[]?   { high, low }
function M.marks(where, name, value, level)
  if type(value) == "table" then
    if value.low and value.low > value.high then
      error(('%s: option "%s" wants a low mark up to the high one, %d, got %d'):format(where, name, value.high, value.low),
        options.users_level(level + 1))
    end
    return { value.high, value.low or value.high // 2 }
  end
  return value and { value, value // 2 }
end

--- What streams take beside the options of calls.
---@type table<string, echostream.options.field>
M.stream_schema = {
  queue = M.queue_option,
  when_full = M.policy_option,
  outbox = M.outbox_option,
  idle_timeout = M.idle_option,
  numbered = { type = "boolean" },
}

-- Streams -------------------------------------------------------------------------------------------------------

--- Gives a stream its own marks, policy and idle time-out.
---@param stream table
---@param opts table?  checked
function M.configure(stream, opts)
  if not opts then
    return
  end
  local channel = stream._channel
  if opts.queue then
    local marks = M.marks("stream", "queue", opts.queue, 4)
    channel:queue(marks[1], marks[2])
  end
  if opts.idle_timeout and opts.idle_timeout > 0 then
    channel:idle_timeout(opts.idle_timeout)
  end
  stream._numbered = opts.numbered
  if opts.when_full and opts.when_full ~= "wait" then
    stream._when_full, stream._room = opts.when_full, opts.outbox or broadcast.OUTBOX
    stream._dropped, stream._drained = 0, {}
  end
end

local function outbox_of(stream)
  if not stream._outbox then
    local channel = stream._channel
    stream._outbox = outbox.new(function(item)
      return channel:send(item[1], item[2], item[3])
    end, function(fn)
      channel:on_writable(fn)
    end, function()
      stream._outbox = nil
      if stream._finish_due then
        channel:finish()
      end
      for resume in pairs(stream._drained) do
        resume(true)
      end
      if not stream._rec.stepping then
        loop.touch(stream._rec)
      end
    end)
  end
  return stream._outbox
end

--- A message for a full queue of a stream with a policy.
---@param stream table
---@param bytes string
---@param seq integer?
---@param wall_time number?
---@return true|nil ok, echostream.error? err
function M.full(stream, bytes, seq, wall_time)
  local policy = stream._when_full
  if policy == "error" then
    return nil, errors.new("resource_exhausted", "the send queue is full")
  elseif stream._finish_due then
    return nil, errors.new("failed_precondition", "this side of the stream is finished")
  end
  local dropped = 1
  if policy == "drop_oldest" then
    local most = stream._channel:stats()
    dropped = outbox.push(outbox_of(stream), { bytes, seq, wall_time }, #bytes, stream._room, most and most.high)
  end
  stream._dropped = stream._dropped + dropped
  return true
end

-- Events --------------------------------------------------------------------------------------------------------

--- Sends an event with a policy.
--- While a client is away there is no queue, so nothing is kept and nothing dropped: it fails with `unavailable`, whatever the policy.
---@param peer echostream.session|echostream.client
---@param opts table  checked; has `when_full`
---@param name string
---@param ... any
---@return true|nil ok, echostream.error? err
function M.emit(peer, opts, name, ...)
  peer = not peer.server_ctx and peer.session or peer -- a client's
  if not peer._ud:is_open() then
    local _, err = peer._ud:emit(name, opts, ...) -- which says why
    if err == "again" then
      err = errors.new("unavailable", "not connected")
      err.processed = "no"
    end
    return nil, err
  end
  if opts.when_full == "drop_oldest" then
    return broadcast.drop_oldest(peer, name, opts, ...)
  end
  local ok, err = peer._ud:emit(name, opts, ...)
  if err == "again" then
    if opts.when_full == "error" then
      return nil, errors.new("resource_exhausted", "the send queue is full")
    end
    peer._dropped = (peer._dropped or 0) + 1
    broadcast.skip(peer, opts, 1)
    return true
  end
  if not peer._rec.stepping then
    loop.touch(peer._rec)
  end
  if ok then
    return true
  end
  return nil, err
end

return M
