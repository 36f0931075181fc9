-- TCP connections of an agent to a real server (tunnel/spec/support/tcp_server.py).

local world = require "tunnel.spec.support.agent_world"
local backends = require "tunnel.spec.support.backends"
local codec = require "echostream.codec"
local echo = require "echostream"
local net = require "spec.support.net"
local scratch = require "spec.support.scratch"

local function open(w, name)
  local stream = assert(w.session:create_stream "tunnel.tcp")
  assert(stream:send(codec.msgpack.pack { service = name, peer = "192.0.2.1:5", local_port = 1 }))
  local answer = codec.msgpack.unpack(stream:recv().data)
  assert.is_true(answer.ok)
  return stream
end

local function rest(stream)
  local n, last = 0, nil
  for frame in stream:frames() do n, last = n + #frame.data, frame.data end
  return n, last, stream.error
end

net.only("quic", function(env)
  local function settled(w)
    while w.agent.stats.in_flight > 0 do echo.sleep(0.01) end
  end

  describe("a TCP connection of an agent", function()
    env.it("is a byte stream both ways, whose directions end by themselves", function()
      local server, path = backends.tcp(), scratch.path ".sock"
      local unix = backends.tcp(path)
      local w = world.new(env, { real = true, agent = { services = {
        tcp = { kind = "tcp", backends = "127.0.0.1:" .. server.port }, unix = { kind = "tcp", backends = "unix:" .. path },
      } } })
      for _, name in ipairs { "tcp", "unix" } do
        local stream = open(w, name)
        assert(stream:send "sum\n")
        for _ = 1, 50 do assert(stream:send(("x"):rep(60000))) end
        stream:finish() -- and only now does it answer
        local n, last, err = rest(stream)
        assert.is_nil(err)
        assert.equal(7, n)
        assert.equal("3000000", last)
      end
      local stream = open(w, "tcp")
      assert(stream:send "source 5000000\n")
      assert.equal(5000000, (rest(stream)))
      assert.equal(1, w.agent.stats.in_flight) -- the other direction is still open
      stream:finish()
      settled(w)
      server.kill()
      unix.kill()
    end)

    env.it("that is broken is reset", function()
      local server = backends.tcp()
      local w = world.new(env, { real = true, agent = { services = { tcp = { kind = "tcp", backends = "127.0.0.1:" .. server.port } } } })
      local stream = open(w)
      assert(stream:send "break\n")
      assert.equal("x", stream:recv().data)
      assert(stream:send "now")
      local frame, err = stream:recv()
      assert.is_nil(frame)
      assert.equal(4, err.details.reset)
      settled(w)
      server.kill()
    end)

    env.it("waits for a backend that does not read, and lets go when the visitor does", function()
      local server = backends.tcp()
      local w = world.new(env, { real = true, agent = { services = { tcp = { kind = "tcp", backends = "127.0.0.1:" .. server.port } } } })
      local stream = open(w)
      assert(stream:send "deaf\n")
      local sent = 0
      local sender = echo.spawn(function()
        for _ = 1, 1000 do
          if not stream:send(("x"):rep(60000)) then return end
          sent = sent + 60000
        end
      end)
      repeat -- until nothing moves any more
        local before = sent
        echo.sleep(0.3)
      until sent == before
      assert.is_true(sent < 20000000, sent)
      assert.equal("suspended", sender:status())
      stream:reset(1)
      settled(w)
      server.kill()
    end)
  end)
end)
