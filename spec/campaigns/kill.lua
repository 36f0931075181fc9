-- RELIABILITY O1: a server that is killed (kill -9) again and again under load, and clients with `reconnect` that come back by
-- themselves. Each run of a handler is noted in a file before it answers:
--   an answer means exactly one run, "certainly not processed" means none, every other error none or one; never two, but for calls
--   marked idempotent, which run at most once in each server process.
--
--   KILLS=1000 lua5.4 spec/campaigns/kill.lua      (make campaign-kill)
--
-- RELIABILITY R1, with a network that loses, repeats and reorders datagrams and changes the clients' addresses (the names are impair.lua's):
--   KILLS=100 NETWORK='loss=0.03 duplicate=0.03 rebind=5' lua5.4 spec/campaigns/kill.lua      (part of make campaign-ledger)

local child = require "spec.support.child"
local echo = require "echostream"
local impair = require "spec.support.impair"
local percentile = require("spec.support.statistics").percentile
local process = require "spec.support.process"

local M = {}

local SERVER = "spec/support/ledger_server.lua"

-- One worker of one client: a call after the other, each under an id of its own.
local function work(state, client, number)
  while not state.over do
    state.next_id = state.next_id + 1
    local id = state.next_id
    local twice = id % 5 == 0
    local calls = twice and client:with { idempotent = true, timeout = 10 } or client:with { timeout = 10 }
    local result, err = calls:request(twice and "once" or "run", ("%d"):format(id))
    state.outcome[id] = result and "ok" or err.processed or "maybe"
    state.codes[result and "ok" or err.code] = (state.codes[result and "ok" or err.code] or 0) + 1
    if result == state.name and not state.back[number] then
      state.back[number] = echo.now() -- an answer of the server that runs now
    elseif not result then
      echo.sleep(0.005)
    end
  end
end

local function judge(state, path)
  local runs, doubled = {}, 0 -- id -> name of the process -> runs
  for line in io.lines(path) do
    local id, name = line:match "^(%d+) (%S+)$"
    if id then -- the last line of a process that was killed may be cut
      id = tonumber(id)
      runs[id] = runs[id] or {}
      runs[id][name] = (runs[id][name] or 0) + 1
    end
  end
  local tally = { calls = state.next_id, ok = 0, lost = 0, ran_although_refused = 0, twice = 0, codes = state.codes }
  for id = 1, state.next_id do
    local n, processes = 0, 0
    for _, count in pairs(runs[id] or {}) do
      n, processes = n + count, processes + 1
      if count > 1 then doubled = doubled + 1 end
    end
    local outcome, again = state.outcome[id], id % 5 == 0
    if outcome == "ok" then
      tally.ok = tally.ok + 1
      if n == 0 then tally.lost = tally.lost + 1 end
    elseif outcome == "no" and n > 0 then
      tally.ran_although_refused = tally.ran_although_refused + 1
    end
    if n > 1 and not again then tally.twice = tally.twice + 1 end
  end
  tally.twice = tally.twice + doubled
  return tally
end

--- Runs the campaign in a task.
---@param options { kills: integer, clients?: integer, workers?: integer, network?: table, say?: fun(text: string) }
---@return table tally  counts, and `back`: seconds from listening again to each client's first answer
function M.run(options)
  local dir = process.directory()
  local path = dir .. "/ledger"
  local address, pin = "127.0.0.1:" .. process.free_port(), nil
  local state = { next_id = 0, outcome = {}, codes = {}, back = {}, over = false, name = nil }
  local function up(generation)
    local name = "process" .. generation
    local server = child.start("lua5.4", { SERVER, address, dir, path, name })
    local _, said = server:expect "^listening (%S+) (%S+)"
    pin = said
    state.name, state.back = name, {}
    return server, echo.now()
  end
  local server = up(0)
  local proxy
  if options.network then
    local network = { to = address }
    for name, value in pairs(options.network) do network[name] = value end
    proxy = impair.new(network)
  end
  local clients, tasks, back = {}, {}, {}
  for i = 1, options.clients or 8 do
    clients[i] = assert(echo.connect(proxy and proxy.address or address, { pin = pin, reconnect = true,
      retry = { attempts = 20, budget = false } }))
    for _ = 1, options.workers or 4 do
      tasks[#tasks + 1] = echo.spawn(work, state, clients[i], i)
    end
  end
  local since
  local ok, problem = pcall(function()
    for generation = 1, options.kills do
      for i = 1, #clients do -- each has been served by this one
        while not state.back[i] do
          echo.sleep(0.002)
        end
        back[#back + 1] = since and state.back[i] - since or nil
      end
      echo.sleep(math.random() * 0.2)
      server:kill()
      echo.sleep(math.random() * 0.3)
      server, since = up(generation)
      if options.say and generation % 50 == 0 then
        options.say(("%d kills, %d calls, clients back after p50 %.3f p99 %.3f max %.3f s"):format(generation, state.next_id,
          percentile(back, 0.5), percentile(back, 0.99), back[#back] or 0))
      end
    end
    for i = 1, #clients do
      while not state.back[i] do
        echo.sleep(0.002)
      end
      back[#back + 1] = state.back[i] - since
    end
  end)
  state.over = true
  for _, task in ipairs(tasks) do task:wait(30) end
  for _, client in ipairs(clients) do client:close() end
  server:kill()
  if proxy then
    state.datagrams_lost = proxy:stats().up.lost + proxy:stats().down.lost
    proxy:close()
  end
  if not ok then
    process.remove(dir)
    error(problem, 0)
  end
  local tally = judge(state, path)
  process.remove(dir)
  tally.back, tally.reconnects, tally.datagrams_lost = back, 0, state.datagrams_lost
  for _, client in ipairs(clients) do tally.reconnects = tally.reconnects + client.reconnects end
  tally.p50, tally.p99, tally.longest = percentile(back, 0.5), percentile(back, 0.99), back[#back]
  return tally
end

if arg and arg[0] and arg[0]:find "campaigns/kill%.lua$" then
  local good = false
  echo.spawn(function()
    local kills = tonumber(os.getenv "KILLS") or 1000
    local network
    for name, value in (os.getenv "NETWORK" or ""):gmatch "([%w_.]+)=(%S+)" do
      network = network or {}
      network[name] = tonumber(value) or value
    end
    local tally = M.run { kills = kills, network = network, say = print }
    local words = {}
    for code, n in pairs(tally.codes) do words[#words + 1] = code .. " " .. n end
    table.sort(words)
    print(("%d kills: %d calls: %s"):format(kills, tally.calls, table.concat(words, ", ")))
    print(("%d answered without a run, %d ran although refused, %d ran twice"):format(tally.lost, tally.ran_although_refused,
      tally.twice))
    print(("clients came back %d times: p50 %.3f s, p99 %.3f s, longest %.3f s after it listened again"):format(tally.reconnects,
      tally.p50, tally.p99, tally.longest))
    if network then
      print(("%d datagrams were lost on the way"):format(tally.datagrams_lost))
    end
    good = tally.lost == 0 and tally.ran_although_refused == 0 and tally.twice == 0 and (network ~= nil or tally.p99 <= 1)
    print(good and "everything holds" or "IT DOES NOT HOLD")
  end):wait()
  os.exit(good, false)
end

return M
