--- What probes tell about the difference of two clocks: how much, how much it grows, and how far off that can be. No I/O and no clock.
---
--- A probe says how far the peer's clock was ahead when it came there, plus the way there; and when it left, minus the way
--- back. Neither way took less than no time, so every probe bounds the difference from above and from below, and the fastest ones bound it most,
--- whether they were fast there or back. (NTP's clock filter goes by the fastest round trip; this needs fewer probes where delays vary.) The ways
--- being equal when both are fastest, the difference is in the middle. It grows by the drift, which minutes of probes tell. Whatever the
--- drift, what the probes allow bounds the error; when they allow nothing, somebody set a clock, and it begins anew.
---
--- Whatever the drift is, the least of the upper bounds is one on the convex hull of them all over time. So only the hulls are
--- kept, some dozen bounds for hundreds of probes, and nothing is lost by that. As a hull forgets what it hides, there are several, of a few minutes
--- each, and the oldest goes as a whole.

local M = {}

-- Seconds that a probe counts, at least; how many hulls that time is divided into; how many probes count however old they are.
local WINDOW <const>, HULLS <const>, LEAST <const> = 600, 4, 8
-- Clocks of computers go wrong by 100 millionths at most, so two of them drift apart by no more than this. A drift is most likely within
-- 50 millionths, and changes by five, as rooms get warmer.
local TOLERANCE <const>, LIKELY <const>, WANDER <const> = 200e-6, 50e-6, 5e-6
-- Seconds: what clocks are read to.
local FLOOR <const> = 10e-6
-- Lines that the mean is taken of, and how much less likely than the best one (as a logarithm) one is that does not count.
local LINES <const>, UNLIKELY <const> = 16, 5

M.TOLERANCE = TOLERANCE

---@class echostream.clock.estimate
---@field offset number  seconds that the peer's clock is ahead, at the last probe
---@field error number   seconds that it is certainly not further off
---@field jitter number  seconds that it is likely not further off
---@field drift number
---@field rtt number     seconds: the shortest
---@field samples integer
---@field steps integer
local Estimate = { __name = "echostream.clock.estimate" }
Estimate.__index = Estimate

---@return echostream.clock.estimate
function M.new()
  return setmetatable({ offset = 0, error = math.huge, jitter = math.huge, drift = 0, rtt = 0, samples = 0, steps = 0, _hulls = {} }, Estimate)
end

-- Hulls -------------------------------------------------------------------------------------------------------

-- Upper bounds as times and values one after the other, oldest first: `at1, value1, at2, value2, …`. Lower ones are kept with their signs changed.
-- One that is above a line between two others is never the least.
local function bound_by(bounds, at, value)
  local n = #bounds
  if n > 0 and bounds[n - 1] >= at then
    if bounds[n] <= value then
      return
    end
    bounds[n], bounds[n - 1], n = nil, nil, n - 2
  end
  while n >= 4 and (bounds[n] - bounds[n - 2]) * (at - bounds[n - 3]) >= (value - bounds[n - 2]) * (bounds[n - 1] - bounds[n - 3]) do
    bounds[n], bounds[n - 1], n = nil, nil, n - 2
  end
  bounds[n + 1], bounds[n + 2] = at, value
end

local function least(bounds, now, slope)
  local found = math.huge
  for i = 1, #bounds, 2 do
    local value = bounds[i + 1] + slope * (now - bounds[i])
    if value < found then
      found = value
    end
  end
  return found
end

-- What all probes allow the offset to be now, when it grew by `drift` since, which may be wrong by `tolerance`. They contradict each
-- other where the lower end is above the upper. The upper end is what the fastest way there says, the lower end what the fastest way back says.
local function allowed(hulls, now, drift, tolerance)
  local low, high = math.huge, math.huge
  for _, hull in ipairs(hulls) do
    high = math.min(high, least(hull.above, now, tolerance + drift))
    low = math.min(low, least(hull.below, now, tolerance - drift))
  end
  return -low - FLOOR, high + FLOOR
end

local function forget_old(hulls, now)
  local kept = 0
  for _, hull in ipairs(hulls) do
    kept = kept + hull.samples
  end
  while hulls[2] and now - hulls[2].from > WINDOW and kept - hulls[1].samples >= LEAST do
    kept = kept - hulls[1].samples
    table.remove(hulls, 1)
  end
end

local function note(hulls, at, offset, rtt)
  local hull = hulls[#hulls]
  if not hull or at - hull.from > WINDOW / HULLS then
    hull = { from = at, above = {}, below = {}, samples = 0, sum = 0, rtt = math.huge }
    hulls[#hulls + 1] = hull
    forget_old(hulls, at)
  end
  bound_by(hull.above, at, offset + rtt / 2)
  bound_by(hull.below, at, rtt / 2 - offset)
  hull.samples, hull.sum, hull.rtt = hull.samples + 1, hull.sum + rtt, math.min(hull.rtt, rtt)
end

-- The line ----------------------------------------------------------------------------------------------------

-- The drift at which a concave function of it is greatest.
local function best_drift(worth)
  local left, right = -TOLERANCE, TOLERANCE
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
local function edge(worth, inside, outside, enough)
  for _ = 1, 14 do
    local middle = (inside + outside) / 2
    if worth(middle) > enough then
      inside = middle
    else
      outside = middle
    end
  end
  return inside
end

-- The line that is to be expected: the offset now, the drift, and how far off the offset is likely to be. Delays are taken for a least one, the
-- same there and back, and something on top that varies. So a line is the more likely the more room it leaves for the least one, the more so the
-- more probes there are and the less the delays vary; and the less likely the more drift it needs. How much they vary the probes tell, and one more
-- that was as much slower than the fastest as that took: a few that happen to agree are no proof.
local function solve(hulls, now, samples, mean, shortest)
  local mode, varying, low, high = 0, nil, nil, nil
  local function worth(drift)
    low, high = allowed(hulls, now, drift, WANDER)
    return 0.5 * samples * (high - low) / varying - 0.5 * (drift / LIKELY) ^ 2
  end
  for _ = 1, 2 do
    low, high = allowed(hulls, now, mode, WANDER)
    varying = math.max(mean / 2 - (high - low) / 2, FLOOR) + shortest / 2 / samples
    mode = best_drift(worth)
  end
  local most = worth(mode)
  local from, to = edge(worth, mode, -TOLERANCE, most - UNLIKELY), edge(worth, mode, TOLERANCE, most - UNLIKELY)
  local all, offset, square, drift = 0, 0, 0, 0
  local about = (low + high) / 2 -- squares of what is left over this lose nothing
  for i = 0, LINES do
    local slope = from + (to - from) * i / LINES
    local weight = math.exp(worth(slope) - most)
    local middle = (low + high) / 2 - about
    all, drift = all + weight, drift + weight * slope
    offset, square = offset + weight * middle, square + weight * middle ^ 2
  end
  offset = offset / all
  local variance = square / all - offset ^ 2 + 2 / 3 * (varying / samples) ^ 2
  return about + offset, drift / all, 2 * math.sqrt(math.max(variance, 0)) + FLOOR
end

--- A probe was answered.
---@param at number      seconds, on any steady clock; never less than the time before
---@param offset number  seconds that the peer's clock seemed to be ahead
---@param rtt number     seconds
function Estimate:add(at, offset, rtt)
  local hulls = self._hulls
  note(hulls, at, offset, rtt)
  local low, high = allowed(hulls, at, 0, TOLERANCE)
  if low > high then
    hulls, self.steps = {}, self.steps + 1
    self._hulls = hulls
    note(hulls, at, offset, rtt)
    low, high = allowed(hulls, at, 0, TOLERANCE)
  end
  local samples, sum, shortest = 0, 0, math.huge
  for _, hull in ipairs(hulls) do
    samples, sum, shortest = samples + hull.samples, sum + hull.sum, math.min(shortest, hull.rtt)
  end
  local estimate, drift, likely = solve(hulls, at, samples, sum / samples, shortest)
  self.offset, self.drift = math.min(math.max(estimate, low), high), drift
  self.error, self.jitter = math.max(high - self.offset, self.offset - low), likely
  self.rtt, self.samples = shortest, samples
end

return M
