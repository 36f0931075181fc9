--- What each plugin costs a call, as the table of docs/PLUGINS.md: instructions more on the side that has it, counted by callgrind, which
--- repeats to a percent where clocks are 10 % apart. And what an answer from the cache takes, by the clock.
--- usage: LUA_PATH="bench/?.lua;lua/?.lua;lua/?/init.lua;;" LUA_CPATH="lua/?.so;;" lua5.4 bench/plugins.lua [IN_FLIGHT]
local echo = require "echostream"
local proc = require "proc"

local in_flight = tonumber(arg[1]) or 128
local rows = {
  server = { "middleware", "auth", "rate_limit", "access_log", "access_log, other names", "tracing", "tracing, not sampled", "presence",
    "metrics_endpoint" },
  client = { "middleware", "cache", "rate_limit of our own calls", "tracing", "reconnect" },
}

local function count(side, name)
  local command = ("lua5.4 bench/instructions.lua %d 0 %s %s"):format(in_flight, proc.quote(name), side)
  local pipe <close> = assert(io.popen(command .. " 2>/dev/null"))
  return tonumber(pipe:read("a"):match "== %a+: (%d+)" or error(command .. ": failed"))
end

for _, side in ipairs { "server", "client" } do
  local plain = count(side, "")
  print(("\n| on the %s | instructions of a call | more |\n|---|---|---|\n| nothing | %d | |"):format(side, plain))
  for _, name in ipairs(rows[side]) do
    local with = count(side, name)
    print(("| %s | %d | %d |"):format(name, with, with - plain))
  end
end

--- Seconds of one call, the least and the most of five turns after the first.
local function time(client, n)
  local least, most = math.huge, 0
  for turn = 0, 5 do
    local since = echo.now()
    for _ = 1, n do assert(client:request("answer", 7) == 42) end
    local each = (echo.now() - since) / n
    if turn > 0 then least, most = math.min(least, each), math.max(most, each) end
  end
  return least * 1e6, most * 1e6
end

echo.spawn(function()
  local server = echo.server { bind = "127.0.0.1:0", quiet = true }
  server:add_rpc("answer", function() return 42 end)
  assert(server:start())
  local client = assert(echo.connect(server.address, { pin = server.pin }))
  print(("\nanswered by the server, one after another: %.2f to %.2f µs"):format(time(client, 2000)))
  client:plugin(echo.plugins.cache { methods = { "answer" } })
  print(("answered from the cache: %.2f to %.2f µs"):format(time(client, 100000)))
  client:close()
  server:stop()
end):wait()
