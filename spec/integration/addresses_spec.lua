-- Servers that are said to be at several addresses: what connects, in which order, and how long that takes.

local echo = require "echostream"
local net = require "spec.support.net"
local process = require "spec.support.process"

net.only("sim", function(env)
  describe("connecting to one of several addresses", function()
    env.it("tries the next when the first does not answer for a quarter of a second", function()
      local server = env.server()
      local began = echo.now()
      local client = env.client(server)
      assert(client:connect { "10.9.9.9:1", server.address, "10.9.9.8:1" })
      assert.near(0.25, echo.now() - began, 0.1)
      assert.equal(server.address, client.session.peer_addr)
      env.eventually(function() return #server:sessions() == 1 end)
    end)

    env.it("prefers the first that answers, and gives up the others", function()
      local first, second = env.server(), env.server { bind = "127.0.0.2:0" }
      local client = env.client(nil, { pin = { first.pin, second.pin } })
      assert(client:connect { first.address, second.address })
      echo.sleep(1)
      assert.same({ 1, 0 }, { #first:sessions(), #second:sessions() })
    end)

    env.it("fails as the first did when none answers, within its time", function()
      local began = echo.now()
      local client, err = env.client(nil, { skip_verification = true, connect_timeout = 0.6 })
        :connect { "10.9.9.9:1", "10.9.9.9:2", "10.9.9.9:3", "10.9.9.9:4", "10.9.9.9:5" }
      assert.is_nil(client)
      assert.equal("timeout", err.code)
      assert.near(0.6, echo.now() - began, 0.05)
    end)

    env.it("comes back to whichever is there", function()
      local first, other = env.server(), env.server()
      local client = env.client(nil, { reconnect = true, pin = { first.pin, other.pin } })
      assert(client:connect { first.address, other.address })
      assert.equal(first.address, client.session.peer_addr)
      first:stop { grace = 0 }
      env.eventually(function() return client.state == "reconnecting" end)
      assert(client:ready(60))
      env.eventually(function() return #other:sessions() == 1 end)
    end)
  end)

  describe("a fleet that is fed", function()
    env.it("trusts the pin that was found with each server, where it was told nothing else", function()
      local servers, list = {}, { { name = "liar", address = "127.0.0.1:1", properties = { pin = "sha256:no" } } }
      for i = 1, 2 do
        servers[i] = env.server(nil, function(server) server:add_rpc("who", function() return i end) end)
        list[i + 1] = { name = "s" .. i, address = servers[i].address, properties = { pin = servers[i].pin } }
      end
      local fleet <close> = echo.fleet.new {}
      local fed = assert(echo.discovery.feed(fleet, echo.discovery.static(list)))
      env.eventually(function() return #fleet:targets() == 3 end)
      for i = 1, 2 do
        local who, err = fleet:with({ target = "s" .. i }):request("who")
        assert.equal(i, who, tostring(err))
      end
      fed:close()
      local strict <close> = echo.fleet.new { client = { pin = servers[1].pin } }
      local other = assert(echo.discovery.feed(strict, echo.discovery.static(list)))
      env.eventually(function() return #strict:targets() == 3 end)
      assert.equal(1, (strict:with({ target = "s1" }):request("who")))
      assert.is_nil((strict:with({ target = "s2", timeout = 2 }):request("who")))
      other:close()
      assert.has_error(function() fleet:add("x", "127.0.0.1:1", { pin = "nothing" }) end)
    end)
  end)
end)

net.only("quic", function(env)
  describe("what discovery found", function()
    env.it("is reached at whichever of its addresses somebody listens", function()
      local server = env.server(nil, function(server) server:add_rpc("one", function() return 1 end) end)
      local closed = "127.0.0.1:" .. process.free_port()
      local client = assert(echo.connect { name = "x", address = closed, addresses = { closed, server.address },
        properties = { pin = server.pin } })
      assert.equal(1, client:request "one")
      client:close()
      local nobody, err = echo.connect { name = "x", address = closed, addresses = { closed }, properties = { pin = server.pin } }
      assert.is_nil(nobody)
      assert.matches("connection refused by", err.message, 1, true)
    end)
  end)
end)
