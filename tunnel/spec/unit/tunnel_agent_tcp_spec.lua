-- TCP connections through an agent: simulated sessions, and sockets that do what the spec says.

local world = require "tunnel.spec.support.agent_world"
local codec = require "echostream.codec"
local core = require "echostream.tunnel.core"
local echo = require "echostream"
local net = require "spec.support.net"

local function open(w, given)
  local stream = assert(w.session:create_stream "tunnel.tcp")
  assert(stream:send(codec.msgpack.pack(given or { peer = "10.0.0.1:5", local_port = 1 })))
  return stream
end

net.only("sim", function(env)
  local function opened(outcome)
    local w = world.new(env, { agent = { services = { db = { kind = "tcp", backends = "tcp://10.9.9.9:5432" } } } })
    w.engine.on_dial = outcome or function(dial)
      echo.spawn(function() dial:open "raw" end)
    end
    return w
  end

  local function connected(w)
    local stream = open(w)
    assert.same({ ok = true, backend = "db 10.9.9.9:5432" }, codec.msgpack.unpack(stream:recv().data))
    return stream, w.engine.dials[#w.engine.dials].connection
  end

  local function settled(w)
    while w.agent.stats.in_flight > 0 do echo.sleep(0.01) end
    assert.equal(0, w.agent.backends.services.db.backends[1].in_flight)
    assert.equal(0, w.agent.stats.tunnels)
  end

  describe("a TCP connection through an agent", function()
    env.it("carries bytes both ways, and each direction ends by itself", function()
      local w = opened()
      local stream, socket = connected(w)
      assert(stream:send "hello")
      stream:finish()
      while not socket.finished do echo.sleep(0.001) end
      assert.equal("hello", table.concat(socket.sent))
      assert.is_nil(socket.closed)
      socket:push "world"
      assert.equal("world", stream:recv().data)
      socket:half_close()
      assert.same({}, { stream:recv() })
      settled(w)
      assert.equal("graceful", socket.closed)
      assert.equal(5, w.agent.stats.bytes_in)
    end)

    env.it("that the visitor gives up is closed at once", function()
      local w = opened()
      local stream, socket = connected(w)
      stream:reset(1)
      while not socket.closed do echo.sleep(0.001) end
      assert.equal("at once", socket.closed)
      settled(w)
    end)

    env.it("that the backend breaks is reset", function()
      local w = opened()
      local stream, socket = connected(w)
      socket:gone(echo.error("io", "connection reset by peer"))
      local frame, err = stream:recv()
      assert.is_nil(frame)
      assert.equal(4, err.details.reset)
      settled(w)
    end)

    env.it("that cannot be had is refused with the reason", function()
      local w = opened(function(dial)
        echo.spawn(function() dial:fail("unavailable", "connection refused") end)
      end)
      local parts = world.collect(open(w))
      assert.same({ "reset", { "refused", "10.9.9.9:5432: connection refused" } }, parts[1])
      parts = world.collect(open(w, { service = "web" }))
      assert.same({ "refused", 'this agent has no service "web"' }, parts[1][2])
      settled(w)
    end)

    env.it("that begins with something else is reset", function()
      local w = opened()
      local stream = assert(w.session:create_stream "tunnel.tcp")
      assert(stream:send(core.part("end")))
      local _, err = stream:recv()
      assert.equal(3, err.details.reset)
    end)
  end)
end)
