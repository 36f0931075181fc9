-- A session whose peer's control stream was over kept its place in that stream and wrote there once more when it ended, into memory
-- that was given back or another stream's by then. Over WebTransport every session ends like that. The sanitizer sees it; without it
-- something else breaks sooner or later.

local net = require "spec.support.net"

net.only("sim", function(env)
  env.it("a session lets go of a control stream that is over", function()
    local server = env.server({}, function(server)
      server:add_rpc("echo", function(_, x) return x end)
    end)
    for i = 1, 20 do
      local client = env.connect(server)
      assert.equal(i, client:request("echo", i))
      if i % 2 == 0 then
        client:close()
      else
        server.context:sessions()[1]:close()
        env.eventually(function() return client.state == "closed" end, "the client hears of it")
      end
      env.eventually(function() return #server.context:sessions() == 0 end, "the server hears of it")
    end
    collectgarbage()
    assert.equal(20, server:stats().sessions_total)
  end)
end, "webtransport")
