-- RELIABILITY R6: a server that is restarted again and again under load, as one rolls out a new version: it is told to end (SIGTERM),
-- says GOAWAY, finishes what is under way and closes; another process takes its place. Clients with `reconnect` and `retry` see
-- nothing of it: every call is answered, and rightly, although none is idempotent.
--
--   RESTARTS=100 CALLS=1000000 lua5.4 spec/campaigns/rolling.lua      (make campaign-rolling)

local child = require "spec.support.child"
local echo = require "echostream"
local percentile = require("spec.support.statistics").percentile
local process = require "spec.support.process"

local M = {}

local SERVER = "spec/support/rolling_server.lua"

-- One call after the other. One in eight takes a while, so that there is always something to drain.
local function work(state, client)
  while not state.over do
    state.begun = state.begun + 1
    local n = state.begun
    local result, err
    if n % 8 == 0 then
      result, err = client:request("soon", n, 0.02 * math.random())
    else
      result, err = client:request("now", n)
    end
    if result == n + 1 then
      state.answered = state.answered + 1
    else
      state.failed = state.failed + 1
      local code = result and "wrong answer" or err.code
      state.codes[code] = (state.codes[code] or 0) + 1
      state.example = state.example or tostring(err)
      echo.sleep(0.01)
    end
  end
end

--- Runs the campaign in a task.
---@param options { restarts: integer, calls: integer, grace?: number, clients?: integer, workers?: integer, say?: fun(text: string) }
---@return table tally
function M.run(options)
  local dir = process.directory()
  local grace = options.grace or 5
  local address, pin = "127.0.0.1:" .. process.free_port(), nil
  local state = { begun = 0, answered = 0, failed = 0, codes = {}, over = false, example = nil }
  local function up()
    local server = child.start("lua5.4", { SERVER, address, dir, tostring(grace) })
    local _, said = server:expect "^listening (%S+) (%S+)"
    pin = said
    return server
  end
  local server, stops = up(), {}
  local clients, tasks = {}, {}
  for i = 1, options.clients or 8 do
    clients[i] = assert(echo.connect(address, { pin = pin, reconnect = { first = 0.02, cap = 0.2 }, timeout = 60,
      retry = { attempts = 20, budget = false } }))
    for _ = 1, options.workers or 16 do
      tasks[#tasks + 1] = echo.spawn(work, state, clients[i])
    end
  end
  local ok, problem = pcall(function()
    for generation = 1, options.restarts do
      while state.answered < options.calls * generation / (options.restarts + 1) do
        assert(state.failed == 0 or state.failed < 100, "too many calls fail: " .. tostring(state.example))
        echo.sleep(0.005)
      end
      local since = echo.now()
      server:signal "SIGTERM"
      server:gone()
      stops[#stops + 1] = echo.now() - since
      server = up()
      if options.say and generation % 10 == 0 then
        options.say(("%d restarts, %d calls answered, %d failed; a stop took p50 %.3f, max %.3f s"):format(generation, state.answered,
          state.failed, percentile(stops, 0.5), stops[#stops]))
      end
    end
    while state.answered < options.calls do echo.sleep(0.005) end
  end)
  state.over = true
  for _, task in ipairs(tasks) do task:wait(60) end
  local reconnects = 0
  for _, client in ipairs(clients) do
    reconnects = reconnects + client.reconnects
    client:close()
  end
  server:kill()
  process.remove(dir)
  if not ok then error(problem, 0) end
  return { calls = state.answered + state.failed, failed = state.failed, codes = state.codes, example = state.example, grace = grace,
    reconnects = reconnects, stop_p50 = percentile(stops, 0.5), stop_max = stops[#stops], restarts = #stops }
end

if arg and arg[0] and arg[0]:find "campaigns/rolling%.lua$" then
  local good = false
  echo.spawn(function()
    local restarts, calls = tonumber(os.getenv "RESTARTS") or 100, tonumber(os.getenv "CALLS") or 1000000
    local tally = M.run { restarts = restarts, calls = calls, say = print }
    for code, n in pairs(tally.codes) do print(code, n, tally.example) end
    print(("%d restarts under load: %d calls, %d failed; clients reconnected %d times"):format(tally.restarts, tally.calls, tally.failed,
      tally.reconnects))
    print(("from SIGTERM to the end of the process: p50 %.3f s, longest %.3f s; grace %g s"):format(tally.stop_p50, tally.stop_max,
      tally.grace))
    good = tally.failed == 0 and tally.stop_max <= tally.grace
    print(good and "everything holds" or "IT DOES NOT HOLD")
  end):wait()
  os.exit(good, false)
end

return M
