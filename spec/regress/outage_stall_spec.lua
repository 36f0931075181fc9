-- After an outage each side sends again when its own probe is due, which may be as long after as the outage took. Who had been
-- heard meanwhile, without having been sent anything, was taken for a peer that acknowledges nothing, and cut.

local echo = require "echostream"

describe("a session that survives an outage", function()
  it("is not cut while the probes of one side are still to come and the other talks", function()
    for outage = 36, 50, 2 do -- which decides how far away the next probe is
      echo.sim.run({ seed = 1, delay = 0.05, limit = 1000 }, function(net)
        local transport = { idle_timeout = 900, stall_timeout = 5 }
        local got, notes = 0, 0
        local server = echo.server { bind = "10.0.0.1:5000", quiet = true, transport = transport }
        server:add_event("note", function() notes = notes + 1 end)
        assert(server:start())
        local client = echo.client { pin = server.pin, transport = transport }
        client:add_event("tick", function() got = got + 1 end)
        assert(client:connect "10.0.0.1:5000")
        echo.sleep(1)
        local session = server.context:sessions()[1]
        net:blackout(0, outage)
        session:emit("tick", ("x"):rep(3000))
        echo.sleep(outage)
        client:emit("note", ("y"):rep(12000)) -- a flight of packets before the server has said anything again
        echo.sleep(150)
        assert.equal("connected", client.state, outage)
        assert.equal(1, notes)
        assert.equal(1, got)
      end)
    end
  end)
end)
