-- Two sides whose send queues were both over the cap of held bytes withheld each other's connection credit until the deadlines.

local echo = require "echostream"
local net = require "spec.support.net"

net.each(function(env)
  describe("large calls in both directions at once", function()
    env.it("do not block each other", function()
      local big = ("0123456789abcdef"):rep(96 * 1024)
      local server, client = env.pair(function(server)
        server:add_rpc("echo", function(_, text) return text end)
      end)
      client:add_rpc("echo", function(_, text) return text end)
      assert.is_true(client:with { timeout = 5 }:request("echo", true))
      local session = server:sessions()[1]
      local tasks = {}
      for _ = 1, 12 do
        for _, side in ipairs { client, session } do
          tasks[#tasks + 1] = echo.spawn(function()
            local answer, err = side:request("echo", big)
            if answer ~= big then error(err or "other bytes", 0) end
          end)
        end
      end
      assert(echo.all(tasks))
    end, { seed = 1, delay = 0.001 })
  end)
end)
