-- A client of a port where nobody listened waited for its whole 30 seconds, though the machine there had said so at once.

local echo = require "echostream"
local net = require "spec.support.net"
local process = require "spec.support.process"

net.only("quic", function(env)
  describe("a port where nobody listens", function()
    env.it("is told as such, by name, long before the time for connecting is over", function()
      local address = "127.0.0.1:" .. process.free_port()
      local opts = { skip_verification = true }
      local began = echo.now()
      local client, err = env.client(nil, opts):connect(address)
      assert.is_nil(client)
      assert.equal("unavailable", err.code)
      assert.matches("connection refused by " .. address .. ": nobody listens there", err.message, 1, true)
      client, err = echo.quic.connect(address, { alpn = { "x" }, skip_verification = true })
      assert.is_nil(client)
      assert.equal("unavailable", err.code)
      assert.is_true(echo.now() - began < 15) -- it was 60
    end)

    env.it("is tried until somebody does, where that is asked for", function()
      local address = "127.0.0.1:" .. process.free_port()
      local client = env.client(nil, { skip_verification = true, transport = { wait_for_ready = true } })
      local connecting = client:connect(address, function() end)
      echo.sleep(0.6) -- refused twice and more
      assert.equal("connecting", client.state)
      env.server { bind = address }
      assert(connecting:wait())
      assert.equal("connected", client.state)
    end)

    env.it("does not disturb who is connected, nor who connects next", function()
      local server, client = env.pair(function(server)
        server:add_rpc("echo", function(_, ...) return ... end)
      end)
      local _, err = env.client(nil, { skip_verification = true }):connect("127.0.0.1:" .. process.free_port())
      assert.equal("unavailable", err.code)
      assert.equal(1, client:request("echo", 1))
      assert.equal(2, env.connect(server):request("echo", 2))
    end)
  end)
end)
