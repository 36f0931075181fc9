-- How right clocks are in the simulator, over paths whose delays vary by 20 ms about 50 ms each way: a server and a client whose clocks are
-- wrong and drift apart, asked each second. No answer may be further off than it says it may be, and none further off than the promise.
--
--   SEEDS=2000 SECONDS=200 lua5.4 spec/campaigns/clock.lua [FIRST]      (make campaign-clock)

local echo = require "echostream"
local estimate = require "echostream.clock.estimate"

local M = {}

local DELAY <const>, JITTER <const> = 0.03, 0.04 -- 30 ms, and up to 40 ms more
local PROMISE <const> = 0.010

local function fail(...)
  error(string.format(...), 0)
end

-- Drifts of clocks from one seed to the next: 0 to 100 millionths either way, spread evenly.
local function drift_of(seed)
  return (seed * 0.6180339887498949 % 1 * 2 - 1) * 100e-6
end

-- One pair of clocks for so many seconds: how far off each second's answer was, and how often that was more than what it took for likely.
local function one(seed, net, seconds)
  local server = assert(echo.server { bind = "10.0.0.1:5000", quiet = true }:start())
  local client = assert(echo.connect(server.address, { pin = server.pin }))
  local drift = drift_of(seed)
  net:skew(server, 12.5, drift / 2)
  net:skew(client, -3.25, -drift / 2)
  local began = net:now()
  local clock = assert(client:clock())
  local errors, surprises = {}, 0
  for second = 1, seconds do
    local since = echo.now() - clock.at
    local off = math.abs(clock.offset + clock.drift * since - (15.75 + drift * (net:now() - began)))
    -- What was certain when the last probe was answered, and what two clocks can have drifted apart since.
    if off > clock.error + (estimate.TOLERANCE + math.abs(clock.drift)) * since then
      fail("seed %d, second %d: off by %.3f ms: %s", seed, second, off * 1e3, tostring(clock))
    end
    errors[second] = off
    if off > clock.jitter then
      surprises = surprises + 1
    end
    echo.sleep(1)
  end
  if clock.steps > 0 then
    fail("seed %d: it found %d steps where nobody set a clock", seed, clock.steps)
  end
  client:close()
  server:stop { grace = 0 }
  return errors, surprises
end

-- The value that a share of them does not exceed.
local function share(sorted, part)
  return sorted[math.max(math.ceil(#sorted * part), 1)]
end

---@class campaign.clock
---@field answers integer
---@field crossings integer  answers further off than promised
---@field median number      seconds off
---@field p99 number
---@field worst number
---@field worst_late number  after a minute
---@field first_p95 number   of the first answers
---@field first_worst number
---@field likely number      share of the answers that were not further off than was called likely

--- Runs the seeds from `first` on. Raises where an answer is further off than it says is certain.
---@param first integer
---@param count integer
---@param seconds integer  virtual ones of each
---@param say? fun(text: string)
---@return campaign.clock
function M.run(first, count, seconds, say)
  local all, firsts, late, crossings, surprises = {}, {}, 0, 0, 0
  for seed = first, first + count - 1 do
    local path = { seed = seed, limit = seconds + 100, delay = DELAY, jitter = JITTER }
    local errors, surprised = echo.sim.run(path, function(net) return one(seed, net, seconds) end)
    surprises = surprises + surprised
    for second, off in ipairs(errors) do
      all[#all + 1] = off
      crossings = crossings + (off > PROMISE and 1 or 0)
      late = second > 60 and math.max(late, off) or late
    end
    firsts[#firsts + 1] = errors[1]
    if say and (seed - first + 1) % 500 == 0 then
      say(("%d seeds"):format(seed - first + 1))
    end
  end
  table.sort(all)
  table.sort(firsts)
  return {
    answers = #all, crossings = crossings, median = share(all, 0.5), p99 = share(all, 0.99), worst = all[#all], worst_late = late,
    first_p95 = share(firsts, 0.95), first_worst = firsts[#firsts], likely = 1 - surprises / #all,
  }
end

if arg and arg[0] and arg[0]:find "campaigns/clock%.lua$" then
  echo.set_log(function() end)
  local seeds, seconds = tonumber(os.getenv "SEEDS") or 2000, tonumber(os.getenv "SECONDS") or 200
  local began = os.clock()
  local got = M.run(tonumber(arg[1]) or 1, seeds, seconds, print)
  print(("%d seeds of %d virtual seconds in %.0f s of CPU: %d answers, none further off than it said, %d further than %.0f ms")
    :format(seeds, seconds, os.clock() - began, got.answers, got.crossings, PROMISE * 1e3))
  print(("half are within %.2f ms, 99 %% within %.2f, all within %.2f (after a minute: %.2f)")
    :format(got.median * 1e3, got.p99 * 1e3, got.worst * 1e3, got.worst_late * 1e3))
  print(("of the first ones 95 %% are within %.2f ms, all within %.2f; of all %.0f %% are as near as called likely")
    :format(got.first_p95 * 1e3, got.first_worst * 1e3, got.likely * 100))
  os.exit(got.crossings == 0)
end

return M
