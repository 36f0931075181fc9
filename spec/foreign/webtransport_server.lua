-- What WebTransport clients of other stacks talk to: `lua5.4 spec/foreign/webtransport_server.lua DIR` prints "ready ADDRESS". DIR holds
-- cert.pem and key.pem. Methods math.add, and bye, which closes the session; events log and position come back, position in a
-- datagram; GET /ended says how sessions ended.

local echo = require "echostream"

local dir = arg[1]
local server = echo.server {
  bind = "127.0.0.1:0", cert = dir .. "/cert.pem", key = dir .. "/key.pem", quiet = true,
  webtransport = { path = "/live", origins = { "https://pages.example" } },
}

local ended = {}

server:add_rpc("math.add", function(_, a, b) return a + b end, { idempotent = true })
server:add_rpc("bye", function(session)
  echo.spawn(function() session:close("enough") end)
end)
server:add_event("log", function(session, text) session:emit("log", text .. " too") end)
server:add_event("position", function(session, text) session:with({ unreliable = true }):emit("position", text .. " too") end)
server:add_stream("shout", function(_, stream)
  for frame in stream:frames() do stream:send(frame.data:upper()) end
end)
server:on_disconnect(function(session, err)
  table.insert(ended, ("%s %s %s"):format(session.door, session.origin, err.message))
end)
server:route("GET", "/ended", function() return table.concat(ended, "\n") end)

assert(server:start())
io.stdout:write(("ready %s\n"):format(server.address))
io.stdout:flush()
server:run()
