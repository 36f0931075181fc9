-- RELIABILITY L3: lua_close finalises in reverse order of creation, and a cycle of the collector in any order that the program's
-- garbage gives. So the finalisers of everything that hangs together are run here in every order, twice, in the middle of work,
-- and methods are called on what is left. Nothing may crash (that is for the sanitizers), nothing may raise.

local echo = require "echostream"
local core = require "echostream.core"
local loop = require "echostream.loop"

-- Calls fn with every order of list; the list is changed in place.
local function permutations(list, fn, n)
  n = n or #list
  if n <= 1 then return fn(list) end
  for i = 1, n do
    list[i], list[n] = list[n], list[i]
    permutations(list, fn, n - 1)
    list[i], list[n] = list[n], list[i]
  end
end

local function finalise(thing)
  local gc = assert(debug.getmetatable(thing).__gc)
  gc(thing)
  return gc
end

-- Runs prepare(keep) as a task of a new simulation until it returns; the simulation is then left in the middle of what it did,
-- outside any step. keep(name, userdata) names what is to be finalised.
local function interrupted(prepare)
  local things = {}
  local function keep(name, userdata)
    assert(type(userdata) == "userdata", name)
    things[name] = userdata
  end
  local rec = loop.simulated(core.sim { seed = 1 })
  loop.with(rec, function()
    local over, ok, err = false, nil, nil
    core.spawn(rec.core, function() ok, err = xpcall(prepare, debug.traceback, keep) over = true end)
    assert(loop.pump(function() return over end))
    assert(ok, err)
  end)
  keep("loop", rec.core)
  return things
end

local function session_at_work(keep)
  local server = echo.server { bind = "10.0.0.1:1", quiet = true }
  server:add_rpc("never", function() echo.sleep(1000) end)
  server:add_rpc("fast", function() return 1 end)
  server:add_event("slow", function() echo.sleep(1000) end)
  server:add_stream("s", function(_, stream) stream:send(("x"):rep(100000)) stream:recv() end)
  assert(server:start())
  local client = echo.client { pin = server.pin }
  assert(client:connect "10.0.0.1:1")
  assert(client:request "fast" == 1)
  local stream = assert(client:create_stream "s")
  assert(stream:recv())
  stream:send(("y"):rep(100000)) -- not acknowledged yet
  client:emit("slow", ("z"):rep(10000))
  client:emit("slow", ("z"):rep(10000))
  client:request("never", function() end)
  client:request("fast", ("big"):rep(10000), function() end)
  keep("client session", client.session._ud)
  keep("stream", stream._channel)
  keep("client endpoint", client._endpoint)
  keep("server host", server._host)
  keep("server endpoint", server._endpoint)
end

local function quic_at_work(keep)
  local listener = assert(echo.quic.listen("10.0.0.1:1", { alpn = { "x" } }))
  local task = echo.spawn(function() return listener:accept() end)
  local conn = assert(echo.quic.connect("10.0.0.1:1", { alpn = { "x" }, pin = listener.pin }))
  local accepted = assert(task:wait())
  local stream = assert(conn:open_bi_stream())
  stream:write(("x"):rep(100000))
  echo.spawn(function() return stream:read() end)
  conn:send_datagram "d"
  local incoming = assert(accepted:accept_bi_stream(5))
  assert(incoming:read())
  incoming:write(("y"):rep(100000))
  keep("connection", conn._conn)
  keep("stream", stream._q)
  keep("accepted connection", accepted._conn)
  keep("accepted stream", incoming._q)
  keep("endpoint", listener._endpoint)
end

local function every_order(prepare, expected)
  local names = {}
  for name in pairs(interrupted(prepare)) do names[#names + 1] = name end
  table.sort(names)
  local orders = 0
  permutations(names, function(order)
    orders = orders + 1
    local things = interrupted(prepare)
    for i, name in ipairs(order) do
      finalise(things[name])
      if orders % 7 == 0 then finalise(things[name]) end -- twice
      if orders % 5 == i % 5 then collectgarbage "step" end
      for other, thing in pairs(things) do -- what is left, and what is gone, still answers
        for _, method in ipairs { "stats", "close", "info" } do
          if orders % 11 == 0 and other ~= "loop" then
            local fn = thing[method]
            if type(fn) == "function" then pcall(fn, thing) end
          end
        end
      end
    end
    things = nil -- luacheck: ignore
    if orders % 20 == 0 then collectgarbage() end
  end)
  collectgarbage()
  collectgarbage()
  assert.equal(expected, orders)
end

describe("finalisers, in every order", function()
  it("of a server, a client, their endpoints, session and stream", function()
    every_order(session_at_work, 720)
  end)

  it("of a raw QUIC connection, its stream and endpoint", function()
    every_order(quic_at_work, 720)
  end)
end)
