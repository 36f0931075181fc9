--- How calls, events and streams leave a session or a client: straight into the core, or through the outgoing middleware first. The bodies that
--- `session.lua` and `session/with.lua` share. `self` is whoever they are made on: `self._ud` is the core's session, `self._rec` the loop.

local core = require "echostream.core"
local codecs = require "echostream.codec"
local errors = require "echostream.errors"
local flow = require "echostream.session.flow"
local loop = require "echostream.loop"
local middleware = require "echostream.middleware"
local options = require "echostream.options"
local retry = require "echostream.retry"
local stream = require "echostream.stream"
local task = require "echostream.task"

local M = {}

local block = task.block
local current, take_trailers = core.current, core.take_trailers

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

-- Sending -----------------------------------------------------------------------------------------------------

local function request_in_task(ud, name, opts, ...)
  return ud:request(name, opts, ...)
end

-- For everybody who is not in a task, and for callbacks: the core's session:request hands these over.
-- It learns too where our files are, so that it can blame the user's line for misuse.
core.set_elsewhere(function(ud, name, opts, ...)
  return task.either(request_in_task, ud, name, opts, ...)
end, debug.getinfo(1, "S").source:match("^(.*)session/out%.lua$") or "@echostream/")

-- The shared body of session:request, client:request and client:with{}:request.
local request = request_in_task
M.request_now = request

-- Calls a method of the core until it says something else than "again", waiting in between.
local function waiting(method, ud, name, opts, ...)
  while true do
    local done, err = ud[method](ud, name, opts, ...)
    if err ~= "again" then
      return done, err
    end
    done, err = task.await(function(resume)
      ud:on_writable(function(failure) -- which only the stand-in of a client that reconnects has
        if failure then
          resume(nil, failure)
        else
          resume(true)
        end
      end)
    end)
    if not done then
      return nil, err
    end
  end
end

local function emit_waiting(ud, name, opts, ...)
  return waiting("emit", ud, name, opts, ...)
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
      local away = errors.new("unavailable", "not connected")
      away.processed = "no"
      return nil, away
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

local function open_stream(self, name, opts, codec)
  local channel, err = self._ud:open_channel(name, opts)
  if err == "again" then -- the peer's HELLO says which codecs it has
    channel, err = block(waiting, "open_channel", self._ud, name, opts)
  end
  if not channel then
    return nil, err
  end
  if not self._rec.stepping then
    loop.touch(self._rec)
  end
  return stream.new(channel, self, name, codec, opts)
end

---@package
--- The body of every `create_stream`. `defaults`: of `with`.
function M.create_stream(self, where, name, opts, defaults)
  options.argument(where, "name", name, "string", 3)
  local codec
  if opts ~= nil then
    opts = options.check(where, opts, M.call_options, 3)
    flow.marks(where, "queue", opts.queue, 3)
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

---@package
--- A request at the end of its way through the middleware.
function M.send_request(call, ...)
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
    return out(owner, "rpc", M.send_request, name, opts, ...)
  end
  return request(owner._ud, name, opts, ...)
end

local function send_event(call, ...)
  return emit_now(middleware.owner_of(call), middleware.options_of(call), call.name, ...)
end

local function try_event(call, ...)
  return try_emit_now(middleware.owner_of(call), middleware.options_of(call), call.name, ...)
end

---@package
--- The body of `try_emit`.
function M.try_emit(self, name, ...)
  local out = (self._chains or options.colon "try_emit").out
  if out then
    return out(self, "event", try_event, name, nil, ...)
  end
  return try_emit_now(self, nil, name, ...)
end

local function send_call(call, ...)
  return open_call_now(middleware.owner_of(call), middleware.options_of(call), call.name, ...)
end

---@package
--- The body of every `emit`.
function M.emit(self, opts, name, ...)
  local out = (self._chains or options.colon "emit").out
  if out then
    return out(self, "event", send_event, name, opts, ...)
  end
  return emit_now(self, opts, name, ...)
end

---@package
--- The body of every `stream`.
function M.open_call(self, opts, name, ...)
  options.argument("stream", "name", name, "string", 3)
  local out = self._chains.out
  if out then
    return out(self, "stream", send_call, name, opts, ...)
  end
  return open_call_now(self, opts, name, ...)
end

return M
