--- Jitter buffers: messages with a time come out in order and at an even pace, however unevenly they came in. For streams of
--- `send_timestamped` messages (`stream:buffered`) and for unreliable events that carry a number and a time.
---
---     local buffer = stream:buffered { delay = 0.1 }
---     for frame in buffer:frames() do play(frame.data) end
---
--- A frame comes out `delay` after the time that it carries; how the sender's clock stands to ours is seen from the frames that came
--- fastest, or from `session:clock()`. An adaptive delay is as long as nearly all frames need: longer at once, shorter little by little.

local errors = require "echostream.errors"
local latency = require "echostream.metrics.latency"
local loop = require "echostream.loop"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

---@class echostream.options.jitter  of `stream:buffered` and `echo.jitter.new`
---@field delay? number|"adaptive"  seconds from the time that a frame carries, as the fastest ones have it, to its coming out (default: "adaptive")
---@field min? number  seconds: an adaptive delay is no shorter (default: 0.01)
---@field max? number  seconds: and no longer (default: 0.5)
---@field percentile? number  of the frames that an adaptive delay lets come in time (default: 98)
---@field limit? integer  frames that wait at most: a stream is read no further then, `push` drops the oldest (default: 1024)
---@field clock? echostream.clock|boolean  the sender's, from `session:clock()`; then the delay is that from the sender to here, which several
--- buffers can have in common. `stream:buffered`: true, that of its session (default: what the fastest frames say)

---@package
---@type table<string, echostream.options.field>
M.schema = {
  delay = { type = { "seconds", "string" }, default = "adaptive" },
  min = { type = "seconds", default = 0.01 },
  max = { type = "seconds", default = 0.5 },
  percentile = { type = "number", min = 1, max = 100, default = 98 },
  limit = { type = "integer", min = 1, max = 1 << 20, default = 1024 },
  clock = { type = { "table", "boolean" } },
}

-- An adaptive delay begins so long, is looked at after so many frames, and comes so much nearer to what is needed each time when it is
-- longer than that.
local BEGINNING <const>, LOOK <const>, SHRINK <const> = 0.1, 8, 0.1
-- The fastest frame counts for one to two of these, in seconds: clocks drift.
local FASTEST <const> = 10
-- Seconds: no time is that far away.
local MOST <const> = 1e12
-- Numbers that are remembered as lost, and a step back of the numbers that is a new beginning of the sender.
local REMEMBERED <const>, ANEW <const> = 1024, 1000

---@class echostream.jitter_buffer
---@field delay number  seconds: now
---@field error echostream.error?  why `frames()` ended, when it was not the end of the stream
local JitterBuffer = { __name = "echostream.jitter_buffer" }
JitterBuffer.__index = JitterBuffer

---@class echostream.jitter_stats  what `buffer:stats()` returns
---@field received integer  frames that came
---@field played integer    frames that came out
---@field waiting integer   frames that are here
---@field lost integer      numbers that were passed over, because their frames had not come when later ones were due
---@field late integer      frames that came when later ones were out: thrown away
---@field overdue integer   frames that came after their time, but before later ones were out: these came out at once
---@field duplicates integer  frames that had come before: thrown away
---@field reordered integer  frames that came behind later ones, but in time
---@field dropped integer   frames that there was no room for
---@field delay number      seconds: now
---@field jitter number     seconds: how unevenly frames come, on average (RFC 3550, section 6.4.1)

--- Makes one for frames that `push` brings.
---@param opts? echostream.options.jitter
---@return echostream.jitter_buffer
function M.new(opts)
  opts = options.check("jitter.new", opts, M.schema)
  if type(opts.delay) == "string" and opts.delay ~= "adaptive" then
    error(('jitter.new: option "delay" wants a number of seconds or "adaptive", got %s'):format(errors.show(opts.delay)), 2)
  elseif opts.min > opts.max then
    error(('jitter.new: option "min" wants at most "max", %g, got %g'):format(opts.max, opts.min), 2)
  elseif opts.clock == true then
    error('jitter.new: option "clock" wants a clock; only stream:buffered knows which session it is of', 2)
  end
  local adaptive = opts.delay == "adaptive"
  return setmetatable({
    delay = adaptive and math.min(math.max(BEGINNING, opts.min), opts.max) or opts.delay,
    error = nil,
    _opts = opts, _adaptive = adaptive and latency.new(256) or nil, _clock = opts.clock or nil,
    _frames = {},                          -- that wait, in order: { key, origin, frame }
    _next = nil, _last_time = nil,         -- the number that is due next (or the last time, without numbers), and the last time that was out
    _missing = {}, _missing_order = {},    -- numbers that were passed over
    _fastest = nil, _before = nil, _turn = 0, -- the least of arrival minus time, of this span and the one before
    _transit = nil, _jitter = 0, _seen = 0,
    _waiting = {}, _over = false, _pump = nil, _stream = nil, _room = nil,
    _counts = { received = 0, played = 0, lost = 0, late = 0, overdue = 0, duplicates = 0, reordered = 0, dropped = 0 },
  }, JitterBuffer)
end

local function count(self, what, n)
  self._counts[what] = self._counts[what] + (n or 1)
end

local function wake(self)
  local waiting = self._waiting
  self._waiting = {}
  for resume in pairs(waiting) do
    resume(true)
  end
end

-- Times -------------------------------------------------------------------------------------------------------

-- Arrival minus time, of the fastest frame lately. Both clocks have their own beginning, so the number itself says nothing.
local function fastest_of(self, transit, now)
  if now - self._turn >= FASTEST then
    self._before, self._fastest, self._turn = now - self._turn < 2 * FASTEST and self._fastest or nil, nil, now
  end
  if not self._fastest or transit < self._fastest then
    self._fastest = transit
  end
  return math.min(self._fastest, self._before or math.huge)
end

local function base(self)
  return math.min(self._fastest, self._before or math.huge)
end

-- When a frame would come out without a delay, on the loop's clock. Without a sender's clock that goes by what is known now.
local function origin_of(self, entry)
  return entry.origin or entry.frame.wall_time + base(self)
end

-- Looks at how long a frame took. Returns its origin where that is known for good.
local function observe(self, frame, now)
  local origin, excess, transit
  if self._clock then
    local wall = self._clock:wall()
    local here = self._clock:to_local(frame.wall_time)
    origin = here and now + (here - wall) or now
    transit, excess = now - origin, now - origin
  else
    transit = now - frame.wall_time
    excess = transit - fastest_of(self, transit, now)
  end
  if self._transit then
    self._jitter = self._jitter + (math.abs(transit - self._transit) - self._jitter) / 16
  end
  self._transit = transit
  local seen = self._adaptive
  if seen then
    seen:add(math.max(excess, 0))
    self._seen = self._seen + 1
    if self._seen % LOOK == 0 then
      local needed = math.min(math.max(seen:percentile(self._opts.percentile), self._opts.min), self._opts.max)
      self.delay = needed > self.delay and needed or self.delay + SHRINK * (needed - self.delay)
    end
  end
  return origin
end

-- In ---------------------------------------------------------------------------------------------------------

local function place(self, entry)
  local frames = self._frames
  local at = #frames + 1
  while at > 1 and frames[at - 1].key > entry.key do
    at = at - 1
  end
  if at > 1 and frames[at - 1].key == entry.key and entry.frame.seq then
    return nil
  end
  table.insert(frames, at, entry)
  return at
end

-- A frame whose turn is over: lost so far and late now, or here before.
local function passed(self, key)
  if self._missing[key] then
    self._missing[key] = nil
    count(self, "lost", -1)
    count(self, "late")
    return false, "late"
  end
  count(self, "duplicates")
  return false, "duplicate"
end

--- Puts a frame in: of unreliable events, say. Those of a stream come by themselves.
---@param frame { wall_time: number, seq?: integer, data: any }  the sender's time, in seconds since 1970. Without numbers nothing counts as lost
---@return boolean taken
---@return "late"|"duplicate"|nil why  it was thrown away; nil: the buffer is closed
function JitterBuffer:push(frame)
  options.argument("buffer:push", "frame", frame, "table")
  options.argument("buffer:push", "frame.wall_time", frame.wall_time, "number")
  local possible = math.abs(frame.wall_time) < MOST -- NaN is not
  if not possible then
    error(("buffer:push: frame.wall_time wants seconds since 1970, got %s"):format(errors.show(frame.wall_time)), 2)
  end
  if frame.seq ~= nil then
    options.argument("buffer:push", "frame.seq", frame.seq, "integer")
    if frame.seq < 0 or frame.seq >= 1 << 62 then
      error(("buffer:push: frame.seq wants a number from 0 to 2^62 - 1, got %d"):format(frame.seq), 2)
    end
  end
  if self._over then
    return false
  end
  local now, key = loop.now(), frame.seq or frame.wall_time
  count(self, "received")
  local entry = { key = key, frame = frame, origin = observe(self, frame, now) }
  if self._next and key < self._next then
    if not frame.seq then
      count(self, "late")
      return false, "late"
    elseif self._next - key <= ANEW or frame.wall_time <= self._last_time then
      return passed(self, key)
    end
    self._next, self._missing, self._missing_order = nil, {}, {} -- the sender began anew
  end
  local at = place(self, entry)
  if not at then
    count(self, "duplicates")
    return false, "duplicate"
  elseif at < #self._frames then
    count(self, "reordered")
  end
  if now > origin_of(self, entry) + self.delay then
    count(self, "overdue")
  end
  if #self._frames > self._opts.limit then
    local oldest = table.remove(self._frames, 1)
    self._next = oldest.frame.seq and oldest.key + 1 or oldest.key
    self._last_time = oldest.frame.wall_time
    count(self, "dropped")
  end
  if at == 1 then
    wake(self)
  end
  return true
end

--- No more frames come; those that are here still come out at their time.
---@param err? echostream.error  why, if that is not the end of what was sent: `pop` returns it when all are out
function JitterBuffer:finish(err)
  if err ~= nil and not errors.is_error(err) then
    error("buffer:finish: wants an error object or nothing, got " .. errors.show(err), 2)
  end
  self._over, self.error = true, self.error or err
  wake(self)
end

-- Out --------------------------------------------------------------------------------------------------------

-- Numbers between the last frame and this one did not come.
local function pass_over(self, key)
  local n = key - self._next
  if n <= 0 then
    return
  end
  count(self, "lost", n)
  local missing, order = self._missing, self._missing_order
  for number = math.max(self._next, key - REMEMBERED), key - 1 do
    missing[number] = true
    order[#order + 1] = number
  end
  if #order > 2 * REMEMBERED then
    for i = 1, #order - REMEMBERED do
      missing[order[i]] = nil
    end
    self._missing_order = table.move(order, #order - REMEMBERED + 1, #order, 1, {})
  end
end

local function take(self)
  local entry = table.remove(self._frames, 1)
  local frame = entry.frame
  if frame.seq then
    if self._next then
      pass_over(self, entry.key)
    end
    self._next = entry.key + 1
  else
    self._next = entry.key
  end
  self._last_time = frame.wall_time
  count(self, "played")
  if self._room then
    self._room(true)
    self._room = nil
  end
  return frame
end

local function pop(self, timeout)
  local ends = timeout and loop.now() + timeout
  while true do
    local head, now = self._frames[1], loop.now()
    local due = head and origin_of(self, head) + self.delay
    if due and due <= now then
      return take(self)
    elseif not head and self._over then
      return nil, self.error
    elseif ends and now >= ends then
      return nil, errors.new("timeout", ("no frame was due within %g s"):format(timeout))
    end
    local until_then = math.min(due or math.huge, ends or math.huge)
    local ok, err = task.await(function(resume)
      self._waiting[resume] = true
      return function()
        self._waiting[resume] = nil
      end
    end, until_then < math.huge and math.max(until_then - now, 0) or nil)
    if not ok and err.code ~= "timeout" then
      return nil, err
    end
  end
end

--- The next frame, at its time. Waits for it.
---@param timeout? number  seconds; default: as long as it takes
---@param callback? fun(frame: table?, err: echostream.error?)  instead of waiting
---@return table? frame  as it was sent or pushed; nil without an error: all are out, and no more come
---@return echostream.error? err
function JitterBuffer:pop(timeout, callback)
  if type(timeout) == "function" then
    timeout, callback = nil, timeout
  end
  if timeout ~= nil then
    options.argument("buffer:pop", "timeout", timeout, "seconds")
  end
  return task.wait_or_call_back("buffer:pop", callback, pop, self, timeout)
end

local function next_frame(self)
  return (task.block(pop, self))
end

--- Iterates over the frames, each at its time, until no more come (`buffer.error` says why, if it was not the end).
---@return fun(buffer: echostream.jitter_buffer): table?
---@return echostream.jitter_buffer
function JitterBuffer:frames()
  return next_frame, self
end

--- What became of the frames so far.
---@return echostream.jitter_stats
function JitterBuffer:stats()
  local stats = { waiting = #self._frames, delay = self.delay, jitter = self._jitter }
  for name, value in pairs(self._counts) do
    stats[name] = value
  end
  return stats
end

--- Throws away what waits, and ends it. A stream that it read from goes on.
---@return true
function JitterBuffer:close()
  self._frames = {}
  if self._pump then
    self._pump:cancel()
    self._pump = nil
  end
  self:finish()
  return true
end

JitterBuffer.__close = function(self)
  self:close()
end

-- Streams ----------------------------------------------------------------------------------------------------

local function pump(self, stream, wanted)
  if wanted then
    local clock, err = (stream.session.session or stream.session):clock()
    if not clock then
      return self:finish(err)
    end
    self._clock = clock
  end
  for frame in stream:frames() do
    if not frame.wall_time then
      return self:finish(errors.new("failed_precondition", "a message came without a time: the sender has to use send_timestamped"))
    end
    while #self._frames >= self._opts.limit do
      local ok = task.await(function(resume)
        self._room = resume
      end)
      if not ok then
        return
      end
    end
    self:push(frame)
  end
  self:finish(stream.error)
end

---@package
--- The body of `stream:buffered`.
---@param stream echostream.stream
---@param opts? echostream.options.jitter
---@return echostream.jitter_buffer
function M.of(stream, opts)
  local given = {}
  for name, value in pairs(options.check("stream:buffered", opts, M.schema)) do
    given[name] = value
  end
  local wanted = given.clock == true
  given.clock = type(given.clock) == "table" and given.clock or nil
  local self = M.new(given)
  self._pump = task.spawn(pump, self, stream, wanted)
  return self
end

return M
