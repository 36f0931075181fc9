-- Downloads that visitors abort, in the middle or before the head: memory, streams and what is in flight are back where they were.
--
--   ABORTS=10000 lua5.4 tunnel/spec/campaigns/aborted.lua      (make campaign-tunnel-aborted)
--
-- One process is the server, the agent and the backend. After a first round the memory in use is noted; it fails when after all of them more than
-- 3 MiB are in use beyond that, when anything is still in flight, or when an abort did not reach the backend.

local core = require "echostream.tunnel.core"
local echo = require "echostream"
local engine = require "echostream.tunnel.engine"
local exchanges = require "echostream.tunnel.exchange"
local world = require "tunnel.spec.support.world"

local ABORTS, AT_ONCE, SPARE = tonumber(os.getenv "ABORTS") or 10000, 20, 3 * 1024
local CHUNK = ("x"):rep(32768)

local env = { opened = {} }
function env.server(_, prepare)
  local server = echo.server { bind = "127.0.0.1:0", quiet = true, state_dir = require("spec.support.scratch").path ".state" }
  prepare(server)
  return assert(server:start())
end
function env.client(server, opts)
  opts.pin = server.pin
  return echo.client(opts)
end

local function resident()
  for line in io.lines "/proc/self/status" do
    local kib = line:match "^RssAnon:%s*(%d+)"
    if kib then return tonumber(kib) end
  end
end

local heard, begun = 0, 0

local function backend(x, head)
  begun = begun + 1
  local over = false
  x:on_abort(function()
    heard, over = heard + 1, true
  end)
  if head.path == "/silent" then return end
  if not x:send_head(assert(core.head("response", { status = 200 }))) then return end
  while not over and x:write(CHUNK) do end
end

local function one(w, i)
  local connection = assert(world.dial(env, w.address, i % 2 == 0 and "h2" or "http/1.1"))
  local before = begun
  local x = assert(exchanges.request(connection, world.head("GET", i % 4 == 0 and "/silent" or "/big"), true))
  if i % 4 == 0 then
    while begun == before do echo.sleep(0.001) end
  else
    assert(x:head())
    for _ = 1, i % 7 do assert(x:read()) end
  end
  x:reset "cancel"
  connection:close()
  env.opened = {}
end

local function round(w, n)
  local tasks = {}
  for t = 1, AT_ONCE do
    tasks[t] = echo.spawn(function()
      for i = t, n, AT_ONCE do one(w, i) end
    end)
  end
  for _, each in ipairs(tasks) do assert(each:wait()) end
end

local function settle(w)
  local ends = echo.now() + 20
  while (heard < begun or w.plugin:stats().in_flight > 0) and echo.now() < ends do echo.sleep(0.05) end
  collectgarbage()
  echo.sleep(0.2)
  collectgarbage()
  return resident()
end

local function campaign()
  local w = world.new(env, { backend = backend })
  w.records = setmetatable({}, { __newindex = function() end }) -- they are not kept
  local first = math.min(ABORTS, 1000)
  round(w, first)
  local before = settle(w)
  local began = echo.now()
  round(w, ABORTS)
  local took = echo.now() - began
  local memory = settle(w)
  local flight, stats = w.plugin:stats().in_flight, engine.current():stats()
  print(("%d aborts in %.1f s: %d heard of %d begun, %d in flight, memory %d KiB, then %d")
    :format(ABORTS, took, heard, begun, flight, before, memory))
  for name, value in pairs(stats) do io.write(name, " ", value, "  ") end
  print()
  local member = w.plugin:agents()[1]
  print(("streams of the agent: %d"):format(member.in_flight))
  return heard == begun and flight == 0 and member.in_flight == 0 and memory - before < SPARE
end

local over, good
echo.spawn(function()
  good = campaign()
  over = true
end)
repeat until over or not echo.run(0.5)
os.exit(good == true, true)
