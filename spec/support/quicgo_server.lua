-- The server that spec/support/quicgo tries: `lua5.4 spec/support/quicgo_server.lua STATE_DIR` prints "ready ADDRESS PIN".
-- spec/support/quicgo/handlers.go offers the same methods, so that the checks can be tried without us.

local echo = require "echostream"

local server = echo.server { bind = "127.0.0.1:0", state_dir = arg[1], quiet = true }
local cancelled, logged = 0, {}

server:add_rpc("math.add", function(_, a, b) return a + b end, { idempotent = true })
server:add_rpc("values", function(_, ...) return ... end)
server:add_rpc("nothing", function() end)
server:add_rpc("fail.coded", function() return nil, echo.error("not_found", "no such user", { id = 7 }) end)
server:add_rpc("fail.raised", function() error "boom" end)

server:add_rpc("slow", function(_, seconds)
  echo.call():on_cancel(function() cancelled = cancelled + 1 end)
  echo.sleep(seconds)
  return "slept"
end)
server:add_rpc("slow.cancelled", function() return cancelled end)

server:add_event("log", function(_, text) table.insert(logged, text) end)
server:add_rpc("log.take", function()
  local taken = logged
  logged = {}
  return table.unpack(taken)
end)

server:add_stream("echo", function(_, stream)
  for frame in stream:frames() do
    assert(stream:send_timestamped { seq = frame.seq, wall_time = frame.wall_time, data = frame.data:upper() })
  end
end)

-- What the caller offers is called back on the same session.
server:add_rpc("call.back", function(session, method, ...)
  local results = table.pack(session:request(method, ...))
  if results[1] == nil and type(results[2]) == "table" then return nil, results[2].code end
  return table.unpack(results, 1, results.n)
end)
server:add_rpc("emit.back", function(session, name, ...) assert(session:emit(name, ...)) end)
server:add_rpc("stream.back", function(session, name)
  local stream = assert(session:create_stream(name))
  assert(stream:send "from the server")
  local answer = assert(stream:recv()).data
  stream:finish()
  return answer
end)

assert(server:start())
io.stdout:write(("ready %s %s\n"):format(server.address, server.pin))
io.stdout:flush()
echo.run()
