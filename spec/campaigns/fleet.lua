-- Fleets and clients that reconnect, on simulated networks by seed: three servers that stop and start again at random, paths that are gone
-- for a while, blackouts, 5 % loss. Every call is idempotent and the servers deduplicate: none may fail, and none may run twice in one life of a
-- server.
--
--   SEEDS=300 lua5.4 spec/campaigns/fleet.lua      (make campaign-fleet)

local echo = require "echostream"
local loop = require "echostream.loop"
local scratch = require "spec.support.scratch"

local M = {}

local state_dir = scratch.path ".state"
local WORKERS, CALLS = 10, 150

local function address(i)
  return ("10.0.0.%d:5000"):format(i)
end

local function start(world, i)
  world.lives[i] = (world.lives[i] or 0) + 1
  local life = i .. "-" .. world.lives[i] .. "/"
  local server = echo.server { bind = address(i), quiet = true, state_dir = state_dir, dedupe = true }
  server:add_rpc("pay", function(id)
    world.runs[life .. id] = (world.runs[life .. id] or 0) + 1
    echo.sleep(0.01)
    return id
  end, { session = false, idempotent = true })
  world.servers[i] = assert(server:start())
end

local function torment(world, i)
  local ip = ("10.0.0.%d"):format(i)
  while not world.over do
    echo.sleep(loop.random() * 6)
    local what = loop.random()
    if what < 0.4 then
      world.servers[i]:stop { grace = what < 0.2 and 0 or 1 }
      echo.sleep(loop.random() * 2)
      start(world, i)
    elseif what < 0.7 then
      world.net:path({ loss = 1 }, ip)
      echo.sleep(loop.random() * 3)
      world.net:path({ loss = 0.05 }, ip)
    else
      world.net:blackout(0, loop.random() * 2)
    end
  end
end

local function run(seed, tally)
  echo.sim.run({ seed = seed, loss = 0.05, limit = 3600 }, function(net)
    local world = { net = net, runs = {}, lives = {}, servers = {}, over = false }
    local pins = {}
    for i = 1, 3 do
      start(world, i)
      pins[i] = world.servers[i].pin
    end
    local transport = { idle_timeout = 5 }
    local fleet = echo.fleet.new { targets = { a = address(1), b = address(2), c = address(3) },
      client = { pin = pins, transport = transport }, failover = 100, attempt_timeout = 0.5, outlier = { base = 0.5, cap = 2 },
      pool = { max = 2, connect_timeout = 2 } }
    local alone = assert(echo.connect(address(1), { pin = pins, reconnect = true, transport = transport,
      retry = { attempts = 60, budget = false, attempt_timeout = 1 } }))
    for i = 1, 3 do echo.spawn(torment, world, i) end
    local next_id, tasks = 0, {}
    for worker = 1, WORKERS do
      tasks[worker] = echo.spawn(function()
        local calls = worker <= 7 and fleet or alone
        for _ = 1, CALLS do
          next_id = next_id + 1
          local id, began = next_id, echo.now()
          local got, err = calls:with({ idempotent = true, timeout = 120 }):request("pay", id)
          tally.calls, tally.longest = tally.calls + 1, math.max(tally.longest, echo.now() - began)
          if got ~= id then
            tally.failed = tally.failed + 1
            tally.last = ("seed %d, call %d: %s"):format(seed, id, tostring(err or got))
          end
          echo.sleep(0.05)
        end
        return true
      end)
    end
    for _, task in ipairs(tasks) do assert(task:wait()) end
    world.over = true
    for _, n in pairs(world.runs) do
      tally.twice = tally.twice + (n > 1 and 1 or 0)
    end
    fleet:close()
    alone:close()
  end)
end

--- Runs the seeds from `from` to `to`.
---@return { calls: integer, failed: integer, twice: integer, longest: number, last: string? }
function M.run(from, to)
  local tally = { calls = 0, failed = 0, twice = 0, longest = 0, last = nil }
  for seed = from, to do run(seed, tally) end
  return tally
end

if arg and arg[0] and arg[0]:find "campaigns/fleet%.lua$" then
  local seeds, began = tonumber(os.getenv "SEEDS") or 300, os.clock()
  local tally = M.run(1, seeds)
  print(("%d seeds, %d calls in %.0f s of CPU: %d failed, %d ran twice in one life of a server; the longest took %.1f s of virtual time"):format(
    seeds, tally.calls, os.clock() - began, tally.failed, tally.twice, tally.longest))
  if tally.last then print(tally.last) end
  os.exit(tally.failed == 0 and tally.twice == 0)
end

return M
