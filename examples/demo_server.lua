-- `make demo`, the server's process. Alone: lua5.4 examples/demo_server.lua [ADDR], then demo_client.lua in another terminal.
local echo = require "echostream"

local server = echo.server { bind = arg[1] or "127.0.0.1:5000", quiet = true }

-- RPC: the client calls math.add; report makes the server call the client back while it is still serving the call.
server:add_rpc("math.add", function(_, a, b)
  return a + b
end, { idempotent = true })

server:add_rpc("report", function(session)
  local name, version = session:request("client.name")
  print(("called the client back: it is %s, version %d"):format(name, version))
  session:emit("news", "the server says hello to " .. name)
  return "told " .. name
end)

-- Events from the client.
server:add_event("log", function(_, message)
  print("event log: " .. message)
end)

-- A two-way stream: every line comes back in capitals while more lines arrive.
server:add_stream("upper", function(_, stream)
  local lines = 0
  for frame in stream:frames() do
    lines = lines + 1
    stream:send(frame.data:upper())
  end
  print(("stream upper: %d lines turned into capitals"):format(lines))
end)

server:on_connect(function()
  print "a client connected"
end)
server:on_disconnect(function(_, err)
  print("the client left: " .. err.message)
end)

assert(server:start())
io.stdout:setvbuf "line"
print("listening on " .. server.address)
print("pin " .. server.pin)
server:run()
