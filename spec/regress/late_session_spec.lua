-- A client whose handshake was under way when the server began to stop was let in, and its calls were cut off in the middle when the
-- others were done: 19 of a million in a hundred rolling restarts. It is refused now, so its calls have certainly not run.

local busted = require "busted"
local echo = require "echostream"

busted.describe("a server that is stopping", function()
  busted.it("refuses a session whose handshake ends meanwhile, and says that nothing ran", function()
    echo.sim.run({ seed = 11, limit = 60, delay = 0.02 }, function()
      local ran = 0
      local server = assert(echo.server({ bind = "10.0.0.1:1", quiet = true }):start())
      server:add_rpc("hold", function() echo.sleep(2) return "held" end)
      server:add_rpc("run", function() ran = ran + 1 echo.sleep(5) return true end)
      local first = assert(echo.connect(server.address, { pin = server.pin }))
      local held = echo.spawn(first.request, first, "hold")
      echo.sleep(0.5)
      local late = echo.spawn(function()
        local client, err = echo.connect(server.address, { pin = server.pin })
        if not client then return nil, err end
        return client:request "run"
      end)
      echo.sleep(0.045) -- the client's greeting has come, the end of the handshake has not
      local since = echo.now()
      assert.is_true(server:stop { grace = 10 })
      assert.is_true(echo.now() - since < 3)
      assert.equal("held", (held:wait()))
      local result, err = late:wait()
      assert.is_nil(result)
      assert.equal("unavailable", err.code)
      assert.equal("no", err.processed)
      assert.equal(0, ran)
      first:close()
    end)
  end)
end)
