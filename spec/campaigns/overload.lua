-- RELIABILITY O4: three times as many calls as can be served, sent whether earlier ones were answered or not, to a handler that needs
-- 100 us of the processor. Accepted calls keep their deadline, and as many are served as when there are just enough of them.
--
--   SECONDS=10 lua5.4 spec/campaigns/overload.lua      (make campaign-overload; CPU_US for another handler)
--
-- The server is a process of its own with max_total_calls. What is served at most (the peak) is measured by callers that wait, of a
-- second one without that limit, in turns with the floods: a machine that does other things too gives both the same of itself.

local child = require "spec.support.child"
local echo = require "echostream"

local M = {}

M.DEADLINE = 0.25  -- seconds
M.QUEUE = tonumber(os.getenv "QUEUE") or 0.02 -- seconds of work that may be under way: max_total_calls is as many calls as that takes
local CALLERS = 24 -- that measure the peak
local ROUNDS = 8
local CPU = (tonumber(os.getenv "CPU_US") or 100) / 1e6 -- seconds that the handler needs

local function serve(limit)
  local server = echo.server { bind = "127.0.0.1:0", quiet = true, max_total_calls = limit, watchdog = false }
  local clock = os.clock
  server:add_rpc("work", function()
    local ends = clock() + CPU
    while clock() < ends do end
    return true
  end)
  child.serve(server)
end

-- Calls a second that are served when every caller waits for its answer. The processor may be another's for long: no deadline.
local function peak(client, seconds)
  local done, began = 0, echo.now()
  local ends = began + seconds
  local tasks = {}
  for i = 1, CALLERS do
    tasks[i] = echo.spawn(function()
      while echo.now() < ends do
        assert(client:request "work")
        done = done + 1
      end
    end)
  end
  echo.all(tasks)
  return done / (echo.now() - began)
end

-- Sends `rate` calls a second, whatever comes of them.
local function flood(client, rate, seconds, tally)
  local calls, sent, over = client:with { timeout = M.DEADLINE }, 0, 0
  local began = echo.now()
  while echo.now() - began < seconds do
    local due = math.floor((echo.now() - began) * rate)
    for _ = 1, math.min(due - sent, 50) do -- and the loop gets its turn
      sent = sent + 1
      local at = echo.now()
      calls:request("work", function(ok, err)
        over = over + 1
        if ok then
          tally.ok = tally.ok + 1
          tally.times[#tally.times + 1] = echo.now() - at
        elseif err.code == "resource_exhausted" then
          tally.refused = tally.refused + 1
        elseif err.code == "timeout" then
          tally.late = tally.late + 1
        else
          tally.other = tally.other + 1
          tally.what = tostring(err)
        end
      end)
    end
    echo.sleep(due - sent > 0 and 0 or 0.001)
  end
  tally.seconds = tally.seconds + echo.now() - began
  tally.sent = tally.sent + sent
  local ends = echo.now() + 5
  while over < sent and echo.now() < ends do echo.sleep(0.01) end
end

--- Runs it.
---@param seconds number  of each part
---@return { peak: number, goodput: number, rate: number, sent: integer, ok: integer, refused: integer, late: integer, other: integer, p99: number }
function M.run(seconds)
  local function start(limit)
    local server = child.start("lua5.4", { "spec/campaigns/overload.lua", "serve", tostring(limit) })
    local address, pin = server:expect "^ready (%S+) (%S+)"
    local client = assert(echo.connect(address, { pin = pin, max_pending = 1 << 20 }))
    peak(client, 0.5)
    return server, client
  end
  local each = seconds / ROUNDS
  local free_server, free = start(0)
  local server, client = start(math.max(4, math.floor(peak(free, 1) * M.QUEUE)))
  local tally = { sent = 0, ok = 0, refused = 0, late = 0, other = 0, seconds = 0, peak = 0, times = {} }
  for _ = 1, ROUNDS do
    local most = peak(free, each)
    tally.peak = tally.peak + most / ROUNDS
    flood(client, 3 * most, each, tally)
  end
  tally.goodput, tally.rate = tally.ok / tally.seconds, tally.sent / tally.seconds
  table.sort(tally.times)
  tally.p99 = tally.times[math.max(1, math.ceil(#tally.times * 0.99))] or 0
  for _, c in ipairs { free, client } do c:close() end
  for _, s in ipairs { free_server, server } do s:kill() end
  return tally
end

if arg and arg[0] and arg[0]:find "overload%.lua$" then
  if arg[1] == "serve" then
    serve(math.tointeger(arg[2]))
  else
    local failed = false
    echo.spawn(function()
      local r = M.run(tonumber(os.getenv "SECONDS") or 10)
      print(("peak %.0f calls/s; %.0f calls/s sent (%.1f times as many): %.0f/s served (%.0f %% of the peak), p99 %.1f ms; "
        .. "%d refused, %d late, %d else")
        :format(r.peak, r.rate, r.rate / r.peak, r.goodput, 100 * r.goodput / r.peak, r.p99 * 1e3, r.refused, r.late, r.other))
      if r.goodput < 0.8 * r.peak or r.late > 0 or r.other > 0 then
        print("O4 does not hold " .. (r.what or ""))
        failed = true
      end
    end):wait()
    if failed then os.exit(1) end
  end
end

return M
