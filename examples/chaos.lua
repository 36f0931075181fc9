-- Three servers that are killed and paused at random, a network that loses 5 %, and one client that does not care: a fleet sends a call
-- again where that is safe, and the servers' dedupe lets none of them run a call twice.
--
--   lua5.4 examples/chaos.lua [SECONDS]        120 seconds, from the top of the checkout; prints a ledger at the end
--
-- Every call is a payment with an id of its own. A server notes each run, then writes the payment into the bank's book, where an id
-- can stand only once. Lost is a payment that was not answered, or was and is not in the book; duplicated is one that ran twice in
-- one server process, or stands in the book twice. (A server that is killed after a run and before its answer cannot tell: then another one
-- runs the call, and finds the payment in the book. That is what a payment's id is for.)

local echo = require "echostream"
local uv = require "luv"

-- A server -----------------------------------------------------------------------------------------------------

local function serve(address, dir, name)
  local runs = assert(io.open(dir .. "/runs", "a"))
  runs:setvbuf "no"
  runs:write "\n" -- whoever was killed before may have left a line without an end
  local server = echo.server { bind = address, state_dir = dir, quiet = true, dedupe = { entries = 100000, seconds = 120 },
    transport = { idle_timeout = 10 } }
  server:add_rpc("pay", function(id)
    runs:write(("%d %s\n"):format(id, name))
    echo.sleep(0.002)
    local entry = uv.fs_open(("%s/book/%d"):format(dir, id), "wx", 384) -- fails when it is there
    if entry then uv.fs_close(entry) end
    return id
  end, { session = false, idempotent = true })
  assert(server:start())
  local input = uv.new_pipe(false)
  input:open(0)
  input:read_start(function(err, data)
    if err or not data then os.exit(0, false) end -- whoever began us is gone
  end)
  io.stdout:write("listening ", server.address, " ", server.pin, "\n")
  io.stdout:flush()
  echo.run()
end

if arg[1] == "serve" then
  return serve(arg[2], arg[3], arg[4])
end

-- What goes wrong ----------------------------------------------------------------------------------------------

local child = require "spec.support.child"
local impair = require "spec.support.impair"
local process = require "spec.support.process"

local seconds = tonumber(arg[1] or 120)
local seed = tonumber(os.getenv "SEED") or os.time()
math.randomseed(seed)
local dir = process.directory()
assert(uv.fs_mkdir(dir .. "/book", 448))

local done = { kills = 0, pauses = 0 }
local over = false

local function start(place)
  place.generation = place.generation + 1
  place.process = child.start("lua5.4", { "examples/chaos.lua", "serve", place.address, dir,
    ("server%d-%d"):format(place.number, place.generation) })
  local _, pin = place.process:expect "^listening (%S+) (%S+)"
  place.pin = pin
end

-- Kills or pauses one server again and again.
local function torment(place)
  while not over do
    echo.sleep(math.random() * math.min(8, seconds / 3))
    if over then break end
    if math.random() < 0.5 then
      done.kills = done.kills + 1
      place.process:kill()
      echo.sleep(math.random() * 1.5)
      start(place)
    else
      done.pauses = done.pauses + 1
      place.process:signal "SIGSTOP"
      echo.sleep(0.2 + math.random() * 3)
      place.process:signal "SIGCONT"
    end
  end
end

-- The client ---------------------------------------------------------------------------------------------------

local function percentile(list, p)
  return list[math.max(1, math.ceil(#list * p))] or 0
end

local function pay(fleet, ledger)
  while not over do
    ledger.calls = ledger.calls + 1
    local id, began = ledger.calls, echo.now()
    local answer, err = fleet:with({ idempotent = true, timeout = 60 }):request("pay", id)
    ledger.times[#ledger.times + 1] = echo.now() - began
    if answer == id then
      ledger.answered[id] = true
    else
      ledger.errors[#ledger.errors + 1] = ("payment %d: %s"):format(id, tostring(err or answer))
    end
    echo.sleep(0.01)
  end
end

local function judge(ledger)
  local lost, duplicated, moved, runs = 0, 0, 0, {}
  for line in io.lines(dir .. "/runs") do
    local id, name = line:match "^(%d+) (%S+)$"
    if id then
      id = tonumber(id)
      runs[id] = runs[id] or {}
      runs[id][name] = (runs[id][name] or 0) + 1
    end
  end
  for id = 1, ledger.calls do
    local here = 0
    for _, n in pairs(runs[id] or {}) do
      here = here + 1
      if n > 1 then duplicated = duplicated + 1 end
    end
    moved = moved + (here > 1 and 1 or 0)
    if not ledger.answered[id] or not uv.fs_stat(("%s/book/%d"):format(dir, id)) then
      lost = lost + 1
    end
  end
  return lost, duplicated, moved
end

local good = false

local function main()
  local places, proxies, targets, pins = {}, {}, {}, {}
  for i = 1, 3 do
    places[i] = { number = i, address = "127.0.0.1:" .. process.free_port(), generation = 0 }
    start(places[i])
    proxies[i] = impair.new { to = places[i].address, loss = 0.05, delay = 0.002, seed = seed + i }
    targets["server" .. i], pins[i] = proxies[i].address, places[i].pin
  end
  local fleet = echo.fleet.new { targets = targets, client = { pin = pins, transport = { idle_timeout = 5 } }, failover = 100,
    attempt_timeout = 0.5, pool = { connect_timeout = 2, max = 2 }, outlier = { base = 0.5, cap = 2 } }
  local ledger = { calls = 0, answered = {}, times = {}, errors = {} }
  local tormentors, payers = {}, {}
  for i = 1, 3 do tormentors[i] = echo.spawn(torment, places[i]) end
  for i = 1, 16 do payers[i] = echo.spawn(pay, fleet, ledger) end
  echo.sleep(seconds)
  over = true
  for _, task in ipairs(tormentors) do task:wait() end -- every server is there again
  for _, task in ipairs(payers) do task:wait() end     -- every payment has ended
  fleet:close()
  local packets = 0
  for i = 1, 3 do
    places[i].process:kill()
    local stats = proxies[i]:stats()
    packets = packets + stats.up.lost + stats.down.lost
    proxies[i]:close()
  end
  local lost, duplicated, moved = judge(ledger)
  table.sort(ledger.times)
  print(("%g s, seed %d: %d times kill -9, %d pauses, %d datagrams lost"):format(seconds, seed, done.kills, done.pauses, packets))
  print(("%d payments: %d lost, %d duplicated; %d went on to another server after a run whose answer was lost"):format(ledger.calls, lost,
    duplicated, moved))
  print(("answered after p50 %.0f ms, p99 %.0f ms, longest %.0f ms"):format(percentile(ledger.times, 0.5) * 1000,
    percentile(ledger.times, 0.99) * 1000, percentile(ledger.times, 1) * 1000))
  for i = 1, math.min(#ledger.errors, 5) do print(ledger.errors[i]) end
  good = lost == 0 and duplicated == 0
end

local task = echo.spawn(main)
task:wait()
local ran, problem = task:result()
process.remove(dir)
if not ran then print(problem) end
os.exit(good, false)
