--- By how much the peer's clock differs from ours: an estimate from probes (PING and PONG), with a bound of its error and the drift.
---
--- How it is done. A probe says how far the peer's clock was ahead when it came there, plus the way there; and when it left, minus the way
--- back. Neither way took less than no time, so every probe bounds the difference from above and from below, and the fastest ones bound it most,
--- whether they were fast there or back. (NTP's clock filter goes by the fastest round trip; this needs fewer probes where delays vary.) The ways
--- being equal when both are fastest, the difference is in the middle. It grows by the drift, which ten minutes of probes tell. Whatever the
--- drift, what the probes allow bounds the error; when they allow nothing, somebody set a clock, and it begins anew.

local errors = require "echostream.errors"
local heartbeat = require "echostream.heartbeat"
local loop = require "echostream.loop"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

-- How long a probe counts, how many are kept, and how many count however old they are.
local WINDOW <const>, MOST <const>, LEAST <const> = 600, 96, 8
-- Clocks of computers go wrong by 100 millionths at most, so two of them drift apart by no more than this. A drift is most likely within
-- 50 millionths, none is believed above 500 (which RFC 5905 takes for broken), and it changes by five, as rooms get warmer.
local TOLERANCE <const>, LIKELY <const>, BROKEN <const>, WANDER <const> = 200e-6, 50e-6, 500e-6, 5e-6
-- Seconds: what clocks are read to.
local FLOOR <const> = 10e-6
-- Lines that the mean is taken of, and how much less likely than the best one (as a logarithm) one is that does not count.
local LINES <const>, UNLIKELY <const> = 16, 5
-- Probes when it begins, the seconds between them, and how many are under way at once: half of what a session may have, for heartbeats.
-- Seconds between the first of those that follow.
local HASTE <const> = 1
local FIRST <const>, SPACING <const>, AT_ONCE <const> = 16, 0.02, 8

---@class echostream.options.clock  of `session:clock`; the first one who asks for it decides
---@field interval? number  seconds between probes, 1 or more (default: 10)
---@field timeout? number  seconds that asking for the first time waits at most (default: 5)

---@package
---@type table<string, echostream.options.field>
M.schema = {
  interval = { type = "seconds", min = 1, max = 1e5, default = 10 },
  timeout = { type = "seconds", min = 0.001, max = 1e5, default = 5 },
}

---@class echostream.clock  goes on being right as long as its session lives
---@field offset number  seconds that the peer's clock is ahead of ours
---@field error number   seconds: the offset is certainly not further off, as long as the peer is honest and both clocks are sane
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

-- The estimate ------------------------------------------------------------------------------------------------

-- Probes are { at, offset, rtt }, oldest first.

local function forget_old(probes, now)
  while #probes > LEAST and now - probes[1][1] > WINDOW do
    table.remove(probes, 1)
  end
  if #probes <= MOST then
    return probes
  end
  -- Of two neighbours of the older half the one with the shorter round trip stays.
  local kept, half = {}, MOST // 2
  for i = 1, half, 2 do
    local a, b = probes[i], probes[i + 1]
    kept[#kept + 1] = a[3] <= b[3] and a or b
  end
  return table.move(probes, half + 1, #probes, #kept + 1, kept)
end

-- What all of them allow the offset to be now, when it grew by `drift` since, which may be wrong by `tolerance`. They contradict each
-- other where the lower end is above the upper. The upper end is what the fastest way there says, the lower end what the fastest way back says.
local function bounds(probes, now, drift, tolerance)
  local low, high = -math.huge, math.huge
  for _, probe in ipairs(probes) do
    local age = now - probe[1]
    local offset, slack = probe[2] + drift * age, probe[3] / 2 + FLOOR + tolerance * age
    low, high = math.max(low, offset - slack), math.min(high, offset + slack)
  end
  return low, high
end

-- The drift at which a concave function of it is greatest.
local function best_drift(worth)
  local left, right = -BROKEN, BROKEN
  for _ = 1, 24 do
    local third = (right - left) / 3
    if worth(left + third) < worth(right - third) then
      left = left + third
    else
      right = right - third
    end
  end
  return (left + right) / 2
end

-- Where, from there on to `outside`, that function is less by so much that what lies beyond does not matter.
local function edge(worth, inside, outside, least)
  for _ = 1, 14 do
    local middle = (inside + outside) / 2
    if worth(middle) > least then
      inside = middle
    else
      outside = middle
    end
  end
  return inside
end

-- The line that is to be expected: the offset now, the drift, and how far off the offset is likely to be. Delays are taken for a least one, the
-- same there and back, and something on top that varies. So a line is the more likely the more room it leaves for the least one, the more so the
-- more probes there are and the less the delays vary; and the less likely the more drift it needs.
local function solve(probes, now)
  local n, sum = #probes, 0
  for _, probe in ipairs(probes) do
    sum = sum + probe[3]
  end
  local mode, varying, low, high = 0, nil, nil, nil
  local function worth(drift)
    low, high = bounds(probes, now, drift, WANDER)
    return 0.5 * n * (high - low) / varying - 0.5 * (drift / LIKELY) ^ 2
  end
  for _ = 1, 2 do
    low, high = bounds(probes, now, mode, WANDER)
    varying = math.max(sum / n / 2 - (high - low) / 2, FLOOR)
    mode = best_drift(worth)
  end
  local most = worth(mode)
  local from, to = edge(worth, mode, -BROKEN, most - UNLIKELY), edge(worth, mode, BROKEN, most - UNLIKELY)
  local all, offset, drift = 0, 0, 0
  for i = 0, LINES do
    local slope = from + (to - from) * i / LINES
    local weight = math.exp(worth(slope) - most)
    all, offset, drift = all + weight, offset + weight * (low + high) / 2, drift + weight * slope
  end
  return offset / all, drift / all, varying / math.sqrt(n) + FLOOR
end

---@package
--- A probe was answered.
---@param rtt number     seconds
---@param offset number  seconds that the peer's clock seemed to be ahead
function Clock:_observe(rtt, offset)
  local now = loop.now()
  local probes = self._probes
  probes[#probes + 1] = { now, offset, rtt }
  probes = forget_old(probes, now)
  local low, high = bounds(probes, now, 0, TOLERANCE)
  if low > high then
    probes, self.steps = { probes[#probes] }, self.steps + 1
    low, high = bounds(probes, now, 0, TOLERANCE)
  end
  local shortest = math.huge
  for _, probe in ipairs(probes) do
    shortest = math.min(shortest, probe[3])
  end
  local estimate, drift, likely = solve(probes, now)
  self._probes = probes
  self.offset, self.drift, self.at = math.min(math.max(estimate, low), high), drift, now
  self.error, self.jitter = math.max(high - self.offset, self.offset - low), likely
  self.rtt, self.samples = shortest, #probes
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

-- Some probes after one another, not waiting for each. Returns the error of the last when none was answered.
local function burst(peer, clock, timeout)
  local ends, pending, failed = loop.now() + timeout, 0, nil
  local tasks = {}
  for i = 1, FIRST do
    while pending >= AT_ONCE do
      task.sleep(SPACING)
    end
    if failed and failed.code ~= "timeout" or loop.now() >= ends then
      break
    end
    pending = pending + 1
    tasks[i] = task.spawn(function()
      local answer, err = heartbeat.ping(peer, math.max(ends - loop.now(), 0.001))
      pending, failed = pending - 1, not answer and err or failed
    end)
    if not task.sleep(SPACING) then
      break
    end
  end
  for _, one in ipairs(tasks) do
    one:wait()
  end
  if clock.samples == 0 then
    return nil, failed or errors.new("timeout", ("the peer did not answer within %g s"):format(timeout))
  end
  return true
end

-- More often in the beginning, while the drift is not known.
local function keep(peer, clock, interval)
  local began = loop.now()
  while task.sleep(math.min(interval, HASTE + (loop.now() - began) / 20)) and peer._ud:is_open() do
    if loop.now() - clock.at > HASTE / 2 then -- else a heartbeat told us
      heartbeat.ping(peer, interval)
    end
  end
end

local function begin(peer, opts)
  local clock = setmetatable({ offset = 0, error = math.huge, jitter = math.huge, drift = 0, rtt = 0, samples = 0, steps = 0, at = 0,
    _peer = peer, _probes = {}, _first = nil, _keeper = nil }, Clock)
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

--- By how much the peer's clock differs from ours. The first time it asks the peer some times and waits for the answers (a third of a second and
--- a round trip); from then on it is kept up to date, by a probe every `interval`, and returned at once. Frames that come with a time have
--- it on our clock too then: `frame.local_time`.
---@param opts? echostream.options.clock
---@param callback? fun(clock: echostream.clock?, err: echostream.error?)  instead of waiting
---@return echostream.clock|nil clock
---@return echostream.error? err  `timeout`; `failed_precondition`: the peer does not know how; `unavailable`, `connection_closed`
function shared:clock(opts, callback)
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
