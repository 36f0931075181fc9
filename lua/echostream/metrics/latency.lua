--- How long something takes, lately: percentiles of observed times, in a few hundred bytes. Times are counted in buckets that grow
--- by an eighth of an octave (9 %), and old ones count less and less: when `window` were counted, all counts are halved.

local M = {}

-- From 16 µs up; 24 octaves are more than four minutes.
local SMALLEST <const>, STEPS <const>, BUCKETS <const> = 1 / 65536, 8, 24 * 8

---@class echostream.latency
---@field count number  observations, older ones weighing less
local Latency = { __name = "echostream.metrics.latency" }
Latency.__index = Latency

---@package
--- Makes one that has seen nothing.
---@param window? integer  observations (default 1,024)
---@return echostream.latency
function M.new(window)
  return setmetatable({ count = 0, _window = window or 1024, _buckets = {} }, Latency)
end

local function halve(self)
  local total = 0
  for i, n in pairs(self._buckets) do
    n = n // 2
    self._buckets[i] = n > 0 and n or nil
    total = total + n
  end
  self.count = total
end

---@package
--- Something took so long.
---@param seconds number
function Latency:add(seconds)
  local i = 0
  if seconds > SMALLEST then
    i = math.min(math.ceil(math.log(seconds / SMALLEST, 2) * STEPS), BUCKETS)
  end
  self._buckets[i] = (self._buckets[i] or 0) + 1
  self.count = self.count + 1
  if self.count >= self._window then
    halve(self)
  end
end

---@package
--- The time that `percent` of the observations do not exceed, rounded up by 9 % at most; nil when there are none.
---@param percent number  0 to 100
---@return number? seconds
function Latency:percentile(percent)
  if self.count == 0 then
    return nil
  end
  local wanted, seen = self.count * percent / 100, 0
  for i = 0, BUCKETS do
    local n = self._buckets[i]
    if n then
      seen = seen + n
      if seen >= wanted then
        return SMALLEST * 2 ^ (i / STEPS)
      end
    end
  end
end

return M
