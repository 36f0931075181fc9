--- By how much the peer's clock differs from ours: an estimate from probes (PING and PONG), with a bound of its error and the drift.
--- What probes tell is found out in clock/estimate.lua; here they are sent.

local estimate = require "echostream.clock.estimate"
local errors = require "echostream.errors"
local heartbeat = require "echostream.heartbeat"
local loop = require "echostream.loop"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

-- Seconds that the offset is likely not further off than, when it is good enough.
local GOOD <const> = 0.5e-3
-- Probes when it begins, so many at least and at most, the seconds between them, and how many are under way at once: half of what a session may
-- have, for heartbeats.
local FEWEST <const>, FIRST <const>, SPACING <const>, AT_ONCE <const> = 8, 24, 0.02, 8
-- Seconds between the first of those that follow; how many of them one after the other, at most, where delays vary, and the seconds between these.
local HASTE <const>, ROUND <const>, APART <const> = 0.2, 4, 0.05

---@class echostream.options.clock  of `session:clock`; the first one who asks for it decides
---@field interval? number  seconds between probes, or between four of them in a row where delays vary; 1 or more (default: 10)
---@field timeout? number  seconds that asking for the first time waits at most (default: 5)

---@package
---@type table<string, echostream.options.field>
M.schema = {
  interval = { type = "seconds", min = 1, max = 1e5, default = 10 },
  timeout = { type = "seconds", min = 0.001, max = 1e5, default = 5 },
}

---@class echostream.clock  goes on being right as long as its session lives
---@field offset number  seconds that the peer's clock is ahead of ours
---@field error number   seconds: the offset was certainly not further off at the time `at`, if the peer is honest and both clocks are sane (wrong by
--- 100 millionths at most, so that they drift apart by 0.2 ms in a second)
---@field jitter number  seconds: how far off it is likely to be
---@field drift number   seconds that the peer's clock gains on ours in each second; near 0 until there were probes for a minute or more
---@field rtt number     seconds: the shortest round trip of the probes
---@field samples integer  probes that it goes by
---@field steps integer  times that somebody set one of the clocks
---@field at number      when it was last told more, on the loop's clock (`echo.now()`)
local Clock = { __name = "echostream.clock" }
Clock.__index = Clock

Clock.__tostring = function(self)
  if self.samples == 0 then
    return "the peer's clock is not known yet"
  end
  return ("the peer's clock is %.3f ms %s ours, give or take %.3f ms (certainly %.3f ms), and drifts %.1f ppm; %d probes, round trip %.3f ms"):format(
    math.abs(self.offset) * 1e3, self.offset < 0 and "behind" or "ahead of", self.jitter * 1e3, self.error * 1e3, self.drift * 1e6, self.samples,
    self.rtt * 1e3)
end

---@package
--- A probe was answered.
---@param rtt number     seconds
---@param offset number  seconds that the peer's clock seemed to be ahead
function Clock:_observe(rtt, offset)
  local now, known = loop.now(), self._estimate
  known:add(now, offset, rtt)
  self.offset, self.error, self.jitter, self.drift = known.offset, known.error, known.jitter, known.drift
  self.rtt, self.samples, self.steps, self.at = known.rtt, known.samples, known.steps, now
end

-- Times -------------------------------------------------------------------------------------------------------

-- What the peer's clock is ahead by at a time of ours.
local function ahead_at(self, local_time)
  local since = loop.now() - self.at + local_time - self:wall()
  return self.offset + self.drift * since
end

--- A time of the peer's clock, on ours.
---@param peer_time number  seconds since 1970, as in `frame.wall_time`
---@return number? local_time  seconds since 1970; nil: no probe was answered yet
function Clock:to_local(peer_time)
  options.argument("clock:to_local", "peer_time", peer_time, "number")
  if self.samples == 0 then
    return nil
  end
  return peer_time - ahead_at(self, peer_time - self.offset)
end

--- A time of our clock, on the peer's.
---@param local_time number  seconds since 1970
---@return number? peer_time  seconds since 1970; nil: no probe was answered yet
function Clock:to_peer(local_time)
  options.argument("clock:to_peer", "local_time", local_time, "number")
  if self.samples == 0 then
    return nil
  end
  return local_time + ahead_at(self, local_time)
end

---@package
--- What our side's clock says.
---@return number seconds since 1970
function Clock:wall()
  return self._peer._ud:wall() or self._peer._rec.core:wall()
end

-- Probing -----------------------------------------------------------------------------------------------------

-- Some probes after one another, not waiting for each: until the offset is good enough, `least` of them and `most` at most. Waits for the answers,
-- but not after it `ends`.
local function probe(peer, clock, least, most, spacing, ends)
  local before = peer.heartbeat and peer.heartbeat.answered or 0
  for i = 1, most do
    local id, err = heartbeat.ask(peer, ends)
    if not id then
      return nil, err
    elseif i == most or i >= least and clock.jitter <= GOOD then
      return heartbeat.await(peer, id, ends)
    end
    repeat
      if not task.sleep(spacing) then
        return nil, errors.new("cancelled", "the session is over")
      end
      local answered = (peer.heartbeat and peer.heartbeat.answered or 0) - before
    until i - answered < AT_ONCE or loop.now() >= ends
  end
end

-- The first ones. Returns the error when none was answered.
local function burst(peer, clock, timeout)
  local ok, err = probe(peer, clock, FEWEST, FIRST, SPACING, loop.now() + timeout)
  if clock.samples == 0 and not ok then
    return nil, err
  end
  return true
end

-- More often in the beginning, while the drift is not known; more at a time where delays vary.
local function keep(peer, clock, interval)
  local began = loop.now()
  while task.sleep(math.min(interval, HASTE + (loop.now() - began) / 20)) and peer._ud:is_open() do
    if clock.jitter > GOOD or loop.now() - clock.at > HASTE / 2 then -- else a heartbeat told us
      probe(peer, clock, 1, ROUND, APART, loop.now() + interval)
    end
  end
end

local function begin(peer, opts)
  local clock = setmetatable({ offset = 0, error = math.huge, jitter = math.huge, drift = 0, rtt = 0, samples = 0, steps = 0, at = 0,
    _peer = peer, _estimate = estimate.new(), _first = nil, _keeper = nil }, Clock)
  peer._clock = clock
  clock._first = task.spawn(burst, peer, clock, opts.timeout)
  return clock
end

local function ask(self, opts)
  local peer = self
  if not self.server_ctx then
    peer = self.session
  end
  if not peer or not peer._ud:is_open() then
    local _, err = self._ud:ping() -- which says why not
    return nil, err
  end
  local clock = peer._clock or begin(peer, opts)
  if clock.samples == 0 or clock._first:status() ~= "done" then
    local ok, err = clock._first:wait(opts.timeout)
    if not ok and clock.samples == 0 then
      if peer._clock == clock and clock._first:status() == "done" then
        peer._clock = nil -- the next one who asks tries again
      end
      return nil, err
    end
  end
  if not clock._keeper and peer._ud:is_open() then
    clock._keeper = task.spawn(keep, peer, clock, opts.interval)
  end
  return clock
end

local shared = {} -- of sessions and clients
M.shared = shared

--- By how much the peer's clock differs from ours. The first time it asks the peer 8 to 24 times and waits for the answers (a sixth to half of a
--- second, and a round trip); from then on it is kept up to date, by a probe or some every `interval`, and returned at once. Frames that come
--- with a time have it on our clock too then: `frame.local_time`.
---@param opts? echostream.options.clock
---@param callback? fun(clock: echostream.clock?, err: echostream.error?)  instead of waiting
---@return echostream.clock|nil clock
---@return echostream.error? err  `timeout`; `failed_precondition`: the peer does not know how; `unavailable`, `connection_closed`
function shared:clock(opts, callback)
  if type(self) ~= "table" then
    options.colon "clock"
  end
  if type(opts) == "function" then
    opts, callback = nil, opts
  end
  opts = options.check("clock", opts, M.schema)
  if callback ~= nil then
    options.argument("clock", "callback", callback, "function")
    return task.call_back(callback, ask, self, opts)
  end
  return task.block(ask, self, opts)
end

---@package
--- The session is over.
---@param peer echostream.session
function M.stop(peer)
  local clock = peer._clock
  if clock then
    clock._first:cancel()
    if clock._keeper then
      clock._keeper:cancel()
    end
  end
end

return M
