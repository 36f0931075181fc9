--- What each plugin costs a call, as the table of docs/PLUGINS.md: CPU time of both sides together, which live in this process, 64 calls in
--- flight, every call with arguments of its own. All rows take turns; the first round is thrown away, and the median of the others is shown,
--- with the least and the most. bench/instructions.lua counts instructions instead: its third argument is a name of bench/extras.lua.
--- usage: LUA_PATH="bench/?.lua;lua/?.lua;lua/?/init.lua;;" LUA_CPATH="lua/?.so;;" lua5.4 bench/plugins.lua [CALLS] [ROUNDS]
local echo = require "echostream"
local extras = require "extras"

local calls, rounds = tonumber(arg[1]) or 20000, tonumber(arg[2]) or 9
local IN_FLIGHT <const> = 64

local rows = {
  { "nothing" }, { "server", "middleware" }, { "server", "auth" }, { "server", "rate_limit" }, { "server", "access_log" },
  { "server", "access_log, other names" }, { "server", "tracing" }, { "server", "tracing, not sampled" }, { "server", "presence" },
  { "server", "metrics_endpoint" }, { "client", "middleware" }, { "client", "rate_limit of our own calls" }, { "client", "tracing" },
  { "client", "reconnect" }, { "client", "cache" }, { "client", "cache", hit = true },
}

local n = 0 -- of all calls, so that no two have the same arguments

-- µs of CPU for one call.
local function turn(row)
  local server = echo.server { bind = "127.0.0.1:0", quiet = true }
  server:add_rpc("bench.echo", function(_, payload) return payload end)
  if row[1] == "server" then extras[row[2]](server) end
  assert(server:start())
  local client = echo.client { pin = server.pin }
  if row[1] == "client" then extras[row[2]](client) end
  assert(client:connect(server.address))
  local function run(count)
    local left, tasks = count, {}
    for i = 1, IN_FLIGHT do
      tasks[i] = echo.spawn(function()
        while left > 0 do
          left, n = left - 1, n + 1
          assert(client:request("bench.echo", row.hit and "the same" or ("payload %020d"):format(n)))
        end
      end)
    end
    for i = 1, IN_FLIGHT do tasks[i]:wait() end
  end
  run(calls // 10)
  collectgarbage()
  local since = os.clock()
  run(calls)
  local each = (os.clock() - since) / calls * 1e6
  client:close()
  server:stop { grace = 0 }
  return each
end

echo.spawn(function()
  for round = 0, rounds do
    for _, row in ipairs(rows) do
      row.times = round > 0 and row.times or {}
      local each = turn(row)
      if round > 0 then table.insert(row.times, each) end
    end
  end
  print "| on the | with | µs a call | more | least to most |\n|---|---|---|---|---|"
  for _, row in ipairs(rows) do
    table.sort(row.times)
    row.median = row.times[(#row.times + 1) // 2]
    print(("| %s | %s | %.1f | %.1f | %.1f to %.1f |"):format(row[2] and row[1] or "", row[2] and row[2] .. (row.hit and ", answered from it" or "")
      or row[1], row.median, row.median - rows[1].median, row.times[1], row.times[#row.times]))
  end
end):wait()
