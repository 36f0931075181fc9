-- A subscription does not end by itself, so a server that was asked to stop waited for its subscribers until the grace was over, and
-- they, who had heard that it was going away, heard nothing new for as long.

local busted = require "busted"
local echo = require "echostream"
local net = require "spec.support.net"

busted.describe("a server with subscribers", function()
  busted.it("stops as soon as the calls are done, and they are back at the next one", function()
    echo.sim.run({ seed = 3, limit = 120, delay = 0.01 }, function()
      local dir = net.state_dir()
      local function serve()
        local server = echo.server { bind = "10.0.0.1:1", quiet = true, state_dir = dir }
        server:add_rpc("work", function() echo.sleep(2) return "done" end)
        local topic = server:topic "news"
        assert(server:start())
        return server, topic
      end
      local server, topic = serve()
      local client = assert(echo.connect(server.address, { pin = server.pin, reconnect = true }))
      local reader = assert(echo.connect(server.address, { pin = server.pin }))
      local heard = {}
      client:plugin(echo.resubscribe.new():each(function(session)
        session:subscribe("news", function(n) heard[#heard + 1] = n end)
      end))
      local sub = reader:subscribe "news"
      repeat echo.sleep(0.01) until topic:subscribers() == 2
      topic:publish(1)
      local work = echo.spawn(reader.request, reader, "work")
      echo.sleep(0.1)

      local since = echo.now()
      assert.is_true(server:stop { grace = 60 })
      local took = echo.now() - since
      assert.is_true(took > 1.5 and took < 4, took)
      assert.equal("done", (work:wait()))
      assert.equal(1, sub:next())
      assert.is_nil((sub:next()))
      assert.is_nil(sub.error)

      local _, again = serve()
      repeat echo.sleep(0.01) until again:subscribers() == 1
      again:publish(2)
      repeat echo.sleep(0.01) until #heard == 2
      assert.same({ 1, 2 }, heard)
    end)
  end)
end)
