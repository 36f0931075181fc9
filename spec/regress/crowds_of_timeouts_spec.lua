-- A caller whose calls ran into their deadlines by the hundred at once was cut as one that resets too many streams: QUIC puts resets
-- in front of the CANCELs that take them off the account.

local echo = require "echostream"
local net = require "spec.support.net"

net.only("sim", function(env)
  env.it("crowds of calls that run into their deadlines leave the connection alone", function()
    local server, client = env.pair(function(s)
      s:add_rpc("never", function() echo.sleep(60) end)
      s:add_rpc("late", function() echo.sleep(0.05) end)
      s:add_rpc("ping", function() return "pong" end)
    end, { max_calls = 100000, transport = { glitch_budget = 0 } }, { transport = { glitch_budget = 0 } })
    local late = 0
    for round = 1, 12 do
      local calls, method = client:with { timeout = 0.06 }, round % 3 == 0 and "late" or "never"
      for _ = 1, 900 do
        calls:request(method, function(_, err)
          if err and err.code == "timeout" then late = late + 1 end
        end)
      end
      echo.sleep(0.2)
    end
    assert.equal(12 * 900, late)
    assert.equal("pong", client:request "ping")
    assert.equal(1, #server:sessions())
  end, { seed = 1, delay = 0.02 })

  -- Those that were not sent at all have no CANCEL in front of them either, and never cost a handler's start.
  env.it("so do crowds that are cancelled while they wait for the path", function()
    local server, client = env.pair(function(s)
      s:add_rpc("slow", function() echo.sleep(0.05) end)
      s:add_rpc("ping", function() return "pong" end)
    end, { transport = { glitch_budget = 0 } }, { transport = { glitch_budget = 0 } })
    local calls = {}
    for i = 1, 1000 do calls[i] = { "slow", i } end
    for _, after in ipairs { 0.001, 0.01, 0.03 } do
      local batch = echo.spawn(client.batch, client, calls)
      echo.sleep(after)
      batch:cancel()
      echo.sleep(1)
      assert.equal("pong", client:request "ping")
    end
    assert.equal(1, #server:sessions())
  end)
end)
