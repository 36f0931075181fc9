-- Agents with clients of their own. The sockets are real, the tunnel servers only as much as is asked for here.

local echo = require "echostream"
local fake_engine = require "tunnel.spec.support.fake_engine"
local net = require "spec.support.net"
local process = require "spec.support.process"
local run = require "echostream.tunnel.agent.run"

net.only("quic", function(env)
  local function server(given)
    local seen = { registrations = 0, unregistered = 0 }
    seen.server = env.server(given or {}, function(one)
      one:add_rpc("tunnel.register", function()
        seen.registrations = seen.registrations + 1
        if seen.refuse then return nil, seen.refuse end
        return { accepted = true, server_id = "s", heartbeat = 10 }
      end)
      one:add_rpc("tunnel.drain", function() return true end)
      one:add_rpc("tunnel.unregister", function()
        seen.unregistered = seen.unregistered + 1
        return true
      end)
    end)
    return seen
  end

  describe("an agent that runs", function()
    env.it("has a session with each server, and takes leave of all", function()
      local a, b = server(), server()
      local running = run.run({
        servers = { { address = a.server.address, client = { pin = a.server.pin } },
          { address = { b.server.address }, client = { pin = b.server.pin } } },
        backend = "http://127.0.0.1:1",
      }, fake_engine.new())
      assert.is_true(running:ready(15, 2))
      assert.equal(2, #running.agent:links())
      assert.same({}, running:absent())
      assert.equal("timeout", select(2, running:wait(0.01)).code)
      local waiting = echo.spawn(function() return running:wait() end)
      assert.is_true(running:stop { grace = 5 })
      assert.is_true(waiting:wait(10))
      assert.equal(1, a.unregistered)
      assert.equal(1, b.unregistered)
      assert.equal("closed", running.clients[1].state)
      assert.truthy(env.logged("registered with the server at " .. b.server.address))
      assert.is_nil(env.logged "is over") -- nobody is told of what was asked for
    end)

    env.it("dials until a server answers", function()
      local port = process.free_port()
      local running = run.run({ servers = { "127.0.0.1:" .. port }, client = { skip_verification = true, connect_timeout = 0.3,
        reconnect = { first = 0.05 } }, backend = "http://127.0.0.1:1" }, fake_engine.new())
      while not env.logged "no session with" do echo.sleep(0.01) end
      assert.same({ { address = "127.0.0.1:" .. port, state = "dialling" } }, running:absent())
      local seen = server { bind = "127.0.0.1:" .. port }
      assert.is_true(running:ready(15))
      assert.equal(1, seen.registrations)
      running:stop { grace = 0 }
    end)

    env.it("gives up when every server refuses it for good", function()
      local seen = server()
      seen.refuse = echo.error("unauthenticated", "not this token", { permanent = true })
      local running = run.run({ servers = seen.server.address, client = { pin = seen.server.pin }, backend = "http://127.0.0.1:1" },
        fake_engine.new())
      local ok, err = running:ready(15)
      assert.is_nil(ok)
      assert.equal("not this token", err.message)
      assert.equal(err, running:error())
      assert.equal(err, select(2, running:wait(15)))
      assert.same({ "given up", err.message }, { running:absent()[1].state, running:absent()[1].why })
      running:stop()
    end)

    env.it("says why it gave up, when it is refused as it comes back", function()
      local seen = server()
      local running = run.run({ servers = seen.server.address, client = { pin = seen.server.pin, reconnect = { first = 0.05 } },
        backend = "http://127.0.0.1:1" }, fake_engine.new())
      assert(running:ready(15))
      seen.refuse = echo.error("permission_denied", "no longer", { permanent = true })
      seen.server:sessions()[1]:close()
      local ok, err = running:wait(15)
      assert.is_nil(ok)
      assert.equal("no longer", err.message)
      running:stop()
    end)

    env.it("wants servers", function()
      assert.matches("servers is empty", select(2, pcall(run.run, { servers = {} })))
      assert.matches("servers wants a table", select(2, pcall(run.run, { backend = "x" })))
      assert.matches("servers%[1%]", select(2, pcall(run.run, { servers = { { adress = "x" } }, backend = "http://x" })))
    end)
  end)
end)
