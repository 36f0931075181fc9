-- The server that browsers are driven against:  lua5.4 spec/browser/server.lua ADDRESS STATE_DIR ORIGIN
-- Prints one line, "ready ADDRESS PIN CERT_HASH", when it listens. ORIGIN is that of the pages.

local echo = require "echostream"

local server = echo.server {
  bind = arg[1], state_dir = arg[2], quiet = true,
  webtransport = { path = "/echostream", origins = { arg[3] } },
}
local seen = {} -- events

-- HTTP/3
server:http(function(request, response)
  response.headers:set("access-control-allow-origin", "*")
  response.headers:set("timing-allow-origin", "*")
  response:send(("%s %s"):format(request.method, request.path))
end)
server:route("POST", "/length", function(request, response)
  response.headers:set("access-control-allow-origin", "*")
  return tostring(#assert(request:text()))
end, { max_body = 1 << 24 })
server:route("POST", "/limited", function(request, response)
  response.headers:set("access-control-allow-origin", "*")
  return tostring(#assert(request:text()))
end)

-- Who may come in, and who is here.
server:on_connect(function(session)
  if session.metadata.token == "wrong" then
    return nil, echo.error("unauthenticated", "that token is not known")
  end
end)
server:on_disconnect(function(_, err)
  table.insert(seen, ("closed %s %s"):format(err and err.details and err.details.code, err and err.message))
end)

-- Calls
server:add_rpc("math.add", function(_, a, b) return a + b end, { idempotent = true })
server:add_rpc("echo", function(_, ...) return ... end)
server:add_rpc("kinds", function(_, ...)
  local kinds = {}
  for i, value in ipairs { ... } do kinds[i] = math.type(value) or type(value) end
  return kinds
end)
server:add_rpc("fail", function() return nil, echo.error("no_money", "poor", { needed = 5 }) end)
server:add_rpc("session.door", function(session) return session.door, session.metadata.name end)
server:add_rpc("metadata", function()
  echo.call():set_trailers { cost = "7" }
  return echo.call().metadata.tenant
end)
server:add_rpc("slow", function()
  echo.call():on_cancel(function() table.insert(seen, "cancelled") end)
  echo.sleep(30)
end)
server:add_rpc("ask.page", function(session, ...) return session:request(...) end)
server:add_rpc("ask.pages", function(session, n)
  local sum = 0
  for i = 1, n do sum = sum + assert(session:request("page.double", i)) end
  return sum
end)
server:add_rpc("close.me", function(session, reason)
  echo.spawn(function()
    echo.sleep(0.1) -- see `again` in run.mjs
    session:close(reason)
  end)
end)

-- Events
server:add_event("note", function(_, text) table.insert(seen, text) end)
server:add_rpc("seen", function() return echo.array(table.move(seen, 1, #seen, 1, {})) end)
server:add_rpc("send.events", function(session, n)
  for i = 1, n do session:emit("numbered", i) end
end)
server:add_event("move", function(session, x)
  table.insert(seen, "move")
  session:with { unreliable = true }:emit("moved", x)
end)

-- Streams
server:add_stream("shout", function(_, stream)
  for frame in stream:frames() do stream:send(frame.data:upper()) end
end)
server:add_rpc("count", function(_, stream, from, to)
  for i = from, to do
    if not stream:send(i) then return end
  end
  return "done"
end, { stream = "out" })
server:add_rpc("sum", function(_, stream)
  local sum = 0
  for value in stream:values() do sum = sum + value end
  return sum
end, { stream = "in" })
server:add_rpc("flood", function(_, stream)
  local piece, sent = ("x"):rep(100000), 0
  while stream:send(piece) do
    sent = sent + 1
    seen.flood = sent
  end
end, { stream = "out" })
server:add_rpc("flooded", function() return seen.flood end)
server:add_rpc("ask.stream", function(session)
  local stream = session:stream("page.count", 3)
  local got = {}
  for value in stream:values() do got[#got + 1] = value end
  return got, (stream:result())
end)
local ticks = server:topic("ticks", { replay = 1 })
server:add_rpc("tick", function(_, value) ticks:publish(value) end)

assert(server:start())
print(("ready %s %s %s"):format(server.address, server.pin, server.cert_hash))
io.stdout:flush()
server:run()
