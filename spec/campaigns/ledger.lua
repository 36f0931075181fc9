-- RELIABILITY R1 in the simulator: clients that come back and retry, a network that loses, repeats, reorders and gives them other
-- addresses, and a server that vanishes without a word and is replaced, again and again. Each run of a handler is noted under the
-- process that ran it before it answers. Then
--   an answer means that it ran: exactly once, but for an idempotent call that met several processes, once in each at most;
--   "certainly not processed" means that it did not; every other error that it ran once or not at all;
--   nothing runs twice in one process, and what is not idempotent never runs twice.
--
--   SEEDS=1000 lua5.4 spec/campaigns/ledger.lua      (make campaign-retries RETRY_SEEDS=1000)

local echo = require "echostream"

local M = {}

local ADDRESS, SECRET = "10.0.0.1:5000", ("secret of the spec"):rep(3)

local function generator(seed)
  local x = seed * 0x9E3779B97F4A7C15 | 1
  return function(from, to)
    x = x ~ x << 13
    x = x ~ x >> 7
    x = x ~ x << 17
    return from + (to - from) * ((x >> 11) / (1 << 53))
  end
end

local function start_server(state)
  state.process = state.process + 1
  local process = state.process
  local server = echo.server { bind = ADDRESS, quiet = true, secret = SECRET, max_calls = 1000, dedupe = { patience = 2 },
    transport = { idle_timeout = 3 } }
  local function note(_, id, seconds)
    local runs = state.runs[id]
    runs[process] = (runs[process] or 0) + 1
    if seconds > 0 then
      local ok, err = echo.sleep(seconds)
      if not ok then
        return nil, err
      end
    end
    return id
  end
  server:add_rpc("run", note)
  server:add_rpc("once", note, { idempotent = true })
  return assert(server:start())
end

local function work(state, client)
  local random = state.random
  local once = client:with { idempotent = true, timeout = 5 }
  local hasty = once:with { retry = { attempt_timeout = 0.05 } }
  local plain = client:with { timeout = 5 }
  while not state.over do
    local id = #state.outcome + 1
    local idempotent = random(0, 1) < 0.5
    local seconds = random(0, 1) < 0.3 and random(0, 0.2) or 0
    state.outcome[id], state.runs[id], state.idempotent[id] = "?", {}, idempotent
    local calls = idempotent and (random(0, 1) < 0.3 and hasty or once) or plain
    local got, err = calls:request(idempotent and "once" or "run", id, seconds)
    if got ~= nil and got ~= id then
      error(("call %d got the answer of %s"):format(id, tostring(got)), 0)
    end
    state.outcome[id] = got and "ok" or err.processed or "maybe"
    echo.sleep(random(0.001, 0.05))
  end
end

local function judge(state)
  local tally = { calls = #state.outcome, ok = 0, no = 0, maybe = 0, yes = 0, twice = 0, processes = state.process }
  for id, outcome in ipairs(state.outcome) do
    local total, most, processes = 0, 0, 0
    for _, n in pairs(state.runs[id]) do
      total, most, processes = total + n, math.max(most, n), processes + 1
    end
    local function broken(what)
      error(("call %d (%s): %s: it ran %d times in %d processes"):format(id, state.idempotent[id] and "idempotent" or "plain", what,
        total, processes), 0)
    end
    if outcome == "ok" and total == 0 then
      broken "answered without a run"
    elseif outcome == "no" and total > 0 then
      broken "said not to be processed"
    elseif most > 1 or total > 1 and not state.idempotent[id] then
      broken(outcome)
    end
    tally[outcome] = tally[outcome] + 1
    tally.twice = tally.twice + (processes > 1 and 1 or 0)
  end
  return tally
end

--- One network. Raises what is wrong.
---@param seed integer
---@param seconds? number  virtual ones
---@return table tally
function M.run(seed, seconds)
  local random = generator(seed)
  local state = { random = random, process = 0, runs = {}, outcome = {}, idempotent = {}, over = false }
  local path = { loss = random(0, 0.1), duplicate = random(0, 0.1), reorder = random(0, 0.1), delay = random(0.001, 0.02) }
  return echo.sim.run({ seed = seed, limit = 1000, delay = path.delay }, function(net)
    local server = start_server(state)
    local clients, tasks = {}, {}
    for i = 1, 4 do
      clients[i] = echo.client { skip_verification = true, transport = { idle_timeout = 3 },
        reconnect = { first = 0.05, cap = 0.5 }, retry = { attempts = 12, backoff = 0.05, cap = 0.5, budget = false } }
      assert(clients[i]:connect(server.address))
      for _ = 1, 4 do
        tasks[#tasks + 1] = echo.spawn(work, state, clients[i])
      end
    end
    net:path(path) -- everybody has connected
    local ends = echo.now() + (seconds or 20)
    while echo.now() < ends do
      echo.sleep(random(0.5, 4))
      if random(0, 1) < 0.5 then
        for _, client in ipairs(clients) do
          net:rebind(client) -- one that is not connected has nothing to rebind
        end
      else
        net:path { loss = 1 } -- nobody hears it go
        server:stop { grace = 0 }
        echo.sleep(random(0, 1))
        net:path(path)
        server = start_server(state)
      end
    end
    state.over = true
    for _, task in ipairs(tasks) do
      local ok, err = task:wait(30)
      if not ok then
        error(err, 0)
      end
    end
    for _, client in ipairs(clients) do
      client:close()
    end
    server:stop { grace = 0 }
    return judge(state)
  end)
end

if arg and arg[0] and arg[0]:find "campaigns/ledger%.lua$" then
  echo.set_log(function() end) -- of clients that trust anybody
  local seeds, sum = math.tointeger(tonumber(os.getenv "SEEDS")) or 1000, {}
  for seed = 1, seeds do
    local ok, tally = pcall(M.run, seed)
    if not ok then
      print(("seed %d: %s"):format(seed, tostring(tally)))
      os.exit(1, false)
    end
    for name, n in pairs(tally) do
      sum[name] = (sum[name] or 0) + n
    end
  end
  print(("%d seeds, %d servers: %d calls, %d answered, %d certainly not processed, %d perhaps, %d failed; %d idempotent ones met several servers")
    :format(seeds, sum.processes, sum.calls, sum.ok, sum.no, sum.maybe, sum.yes, sum.twice))
  print "everything holds"
end

return M
