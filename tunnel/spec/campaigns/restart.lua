-- A server with many agents is killed (kill -9) and comes back on its port: all agents are back soon, and they do not come all at once.
--
--   AGENTS=200 DOWN=0.5 lua5.4 tunnel/spec/campaigns/restart.lua      (make campaign-tunnel-restart)
--
-- It fails when an agent is not back within 30 s after the server is, or when more than 20 handshakes ended in any 100 ms.

local child = require "spec.support.child"
local echo = require "echostream"
local scratch = require "spec.support.scratch"
local runs = require "echostream.tunnel.agent.run"

local AGENTS, DOWN = tonumber(os.getenv "AGENTS") or 200, tonumber(os.getenv "DOWN") or 0.5
local STAGGER = tonumber(os.getenv "STAGGER") or 0
local LIMIT, MOST, WINDOW = 30, 20, 0.1

echo.set_log(function() end) -- each agent says that it was lost

local function start(address, directory)
  local running = child.start("lua5.4", { "tunnel/spec/support/agents_server.lua", address, directory })
  local at, pin = running:expect "^ready (%S+) (%S+)$"
  return running, at, pin
end

-- Reads lines until so many agents have registered: their ids by time, and the times of sessions.
local function gather(running, n)
  local ids, count, sessions, last = {}, 0, {}, nil
  while count < n do
    local kind, at, id = running:expect "^(%a+) ([%d.]+) ?(%S*)$"
    if kind == "session" then
      sessions[#sessions + 1] = tonumber(at)
    elseif not ids[id] then
      ids[id], count, last = true, count + 1, tonumber(at)
    end
  end
  return sessions, last
end

-- The most of them in any window.
local function densest(times)
  table.sort(times)
  local most, from = 0, 1
  for to = 1, #times do
    while times[to] - times[from] > WINDOW do from = from + 1 end
    most = math.max(most, to - from + 1)
  end
  return most
end

local function campaign()
  local directory = scratch.path ".agents"
  local running, address, pin = start("127.0.0.1:0", directory)
  running:kill() -- with a port of its own it keeps its secret, and tells former clients that it is another one now
  running = start(address, directory)
  local agents = {}
  for i = 1, AGENTS do
    agents[i] = runs.run { client_id = "a" .. i, backend = "http://127.0.0.1:9", servers = { address }, client = { pin = pin } }
    if STAGGER > 0 then echo.sleep(STAGGER) end
  end
  gather(running, AGENTS)
  running:kill()
  echo.sleep(DOWN)
  running = start(address, directory)
  local began = echo.now() -- one clock for all processes
  local sessions, last = gather(running, AGENTS)
  local most, took = densest(sessions), last - began
  print(("%d agents were back after %.1f s; at most %d handshakes in %g ms (%d in all)"):format(AGENTS, took, most, WINDOW * 1000, #sessions))
  local stopping = {}
  for i, agent in ipairs(agents) do stopping[i] = echo.spawn(agent.stop, agent, { grace = 0 }) end
  for _, one in ipairs(stopping) do one:wait() end
  running:kill()
  return took <= LIMIT and most <= MOST
end

local over, good
echo.spawn(function()
  good = campaign()
  over = true
end)
repeat until over or not echo.run(0.5)
os.exit(good == true, true)
