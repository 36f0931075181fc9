--- The server side of the benches: plain Lua handlers, default options.
--- usage: lua5.4 bench/server.lua [ADDRESS] [middleware]     what else instead of middleware: bench/extras.lua; prints "ready ADDRESS PIN"
local echo = require "echostream"
local blocks = require "blocks"

local extras = require "extras"

local opts = arg[2] and extras[arg[2] .. "_options"] or {}
opts.bind = arg[1] or "127.0.0.1:0"
local server = echo.server(opts)

if arg[2] then extras[arg[2]](server) end

server:add_rpc("bench.echo", function(_, payload) return payload end)

server:add_rpc("bench.memory", function()
  collectgarbage()
  collectgarbage()
  local file = assert(io.open("/proc/self/statm"))
  local pages = math.tointeger(tonumber(file:read("a"):match("%d+ (%d+)")))
  file:close()
  local have, heap = pcall(require, "bench_heap")
  return have and heap.in_use() or 0, pages * 4096, math.floor(collectgarbage("count") * 1024)
end)

--- The client sends blocks and finishes; the answer is how many were right.
server:add_stream("bench.up", function(_, stream)
  local n = 0
  for frame in stream:frames() do
    if not blocks.check(n, frame.data) then break end
    n = n + 1
  end
  stream:send(tostring(n))
  stream:finish()
end)

--- The client's first message says how many blocks it wants.
server:add_stream("bench.down", function(_, stream)
  local want = tonumber(stream:recv().data)
  for i = 0, want - 1 do
    if not stream:send(blocks.make(i)) then return end
  end
  stream:finish()
end)

assert(server:start())
io.stdout:write(("ready %s %s\n"):format(server.address, server.pin))
io.stdout:flush()
echo.run()
