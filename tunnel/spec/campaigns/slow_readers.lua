-- Visitors who read slowly delay nobody: many take 50 KB/s of endless downloads through one agent, and the requests of one fast visitor take
-- what they take alone.
--
--   READERS=50 lua5.4 tunnel/spec/campaigns/slow_readers.lua      (make campaign-tunnel-slow)
--
-- Server, agent, backend and visitors are a process each. It fails when p99 beside the readers is twice what it is alone, or more, in the best of
-- several rounds: other work of the machine is no slow reader.

local child = require "spec.support.child"
local echo = require "echostream"
local exchanges = require "echostream.tunnel.exchange"
local percentile = require("spec.support.statistics").percentile
local world = require "tunnel.spec.support.world"

local READERS, REQUESTS, ROUNDS = tonumber(os.getenv "READERS") or 50, 400, 3

local env = { opened = {} }

local state = { over = false, taken = 0 }

-- 50 KB a second.
local function read_slowly(address, i)
  local connection = assert(world.dial(env, address, i % 2 == 0 and "h2" or "http/1.1"))
  local x = assert(exchanges.request(connection, world.head("GET", "/big"), true))
  assert(x:head())
  while not state.over do
    state.taken = state.taken + #assert(x:read(5000))
    echo.sleep(0.1)
  end
  connection:close()
end

local function measure(connection)
  local times = {}
  for i = 1, REQUESTS do
    local began = echo.now()
    local x = assert(exchanges.request(connection, world.head("GET", "/small"), true))
    assert(assert(world.response(x)).body == "hello")
    times[i] = echo.now() - began
    if i % 20 == 0 then echo.sleep(0.005) end
  end
  table.sort(times)
  return percentile(times, 0.99) * 1000, percentile(times, 0.5) * 1000
end

local function campaign()
  local function start(...) return child.start("lua5.4", { "tunnel/spec/support/tunnel_process.lua", ... }) end
  local backend, server = start "backend", start "server"
  local place = backend:expect "^ready (%S+)$"
  local at, pin, address = server:expect "^ready (%S+) (%S+) (%S+)$"
  local agent = start("agent", at, pin, place)
  agent:expect "^ready$"
  local connection = assert(world.dial(env, address, "h2"))
  local best = math.huge
  for round = 1, ROUNDS do
    local alone, alone_half = measure(connection)
    state.over = false
    local readers = {}
    for i = 1, READERS do readers[i] = echo.spawn(read_slowly, address, i) end
    echo.sleep(6) -- what fits into the queues of the kernel, which grow, and into windows has gone
    local began, taken = echo.now(), state.taken
    local beside, beside_half = measure(connection)
    local rate = (state.taken - taken) / (echo.now() - began) / READERS / 1000
    state.over = true
    for _, each in ipairs(readers) do assert(each:wait()) end
    echo.sleep(0.3)
    print(("round %d: p50 %.2f ms alone, %.2f beside %d readers of %.0f KB/s; p99 %.2f ms alone, %.2f beside: %.2f times"):format(round, alone_half,
      beside_half, READERS, rate, alone, beside, beside / alone))
    best = math.min(best, beside / alone)
  end
  for _, each in ipairs { agent, server, backend } do each:kill() end
  print(("the best round: %.2f times (less than 2 is wanted)"):format(best))
  return best < 2
end

local over, good
echo.spawn(function()
  good = campaign()
  over = true
end)
repeat until over or not echo.run(0.5)
os.exit(good == true, true)
