-- Subscriptions across reconnections; topic_spec.lua has the rest.

local echo = require "echostream"
local net = require "spec.support.net"

net.only("sim", function(env)
  describe("a subscription", function()
    env.it("begins again after a reconnection, with the plugin", function()
      local server = env.server { bind = "10.0.0.1:5000", secret = ("s"):rep(32), cert = nil }
      local topic = server:topic("again", { replay = 1 })
      topic:publish "one"
      local client, got = env.client(server, { reconnect = true, transport = { idle_timeout = 2 } }), {}
      local again = echo.resubscribe.new()
      again:each(function(session)
        assert(session:subscribe("again", function(text) got[#got + 1] = text end))
      end)
      client:plugin(again)
      assert(client:connect(server.address))
      env.eventually(function() return #got == 1 end, "the first")
      server:sessions()[1]:close()
      echo.sleep(5)
      env.eventually(function() return #got == 2 end, "the first again")
      topic:publish "two"
      env.eventually(function() return got[3] == "two" end, "the second")
    end)
  end)
end)
