-- A caller whose calls ran into their deadlines by the hundred at once was cut as one that resets too many streams: QUIC puts resets
-- in front of the CANCELs that take them off the account. Then its budget of glitches was used up: one packet in eight was looked into
-- and charged eight times, and crowds stand in few packets; and what a call's end may take was allowed for only at that end.

local echo = require "echostream"
local net = require "spec.support.net"

net.only("sim", function(env)
  env.it("crowds of calls that run into their deadlines leave the connection alone", function()
    local server, client = env.pair(function(s)
      s:add_rpc("never", function() echo.sleep(60) end)
      s:add_rpc("late", function() echo.sleep(0.05) end)
      s:add_rpc("ping", function() return "pong" end)
    end, { max_calls = 100000 })
    local late = 0
    for round = 1, 12 do
      local calls, method = client:with { timeout = 0.06 }, round % 3 == 0 and "late" or "never"
      for _ = 1, 1000 do
        calls:request(method, function(_, err)
          if err and err.code == "timeout" then late = late + 1 end
        end)
      end
      echo.sleep(0.2)
    end
    assert.equal(12 * 1000, late)
    assert.equal("pong", client:request "ping")
    assert.equal(1, #server:sessions())
  end, { seed = 1, delay = 0.02 })

  -- On a path that is far, lossy and soon full most of a crowd is not sent before it is given up.
  for _, path in ipairs { { delay = 0.005, loss = 0.02 }, { delay = 0.1 }, { delay = 0.1, loss = 0.02 } } do
    env.it(("crowd after crowd does, %g s away with a loss of %g"):format(path.delay, path.loss or 0), function()
      local server, client = env.pair(function(s)
        s:add_rpc("never", function() echo.sleep(60) end)
        s:add_rpc("ping", function() return "pong" end)
      end, { max_calls = 100000 })
      local over = 0
      local calls = client:with { timeout = 0.06 }
      for _ = 1, 15 do
        for _ = 1, 1000 do
          calls:request("never", function(_, err)
            assert(err.code == "timeout", err)
            over = over + 1
          end)
        end
        echo.sleep(0.2)
      end
      assert.equal("pong", client:request "ping")
      assert.equal(15 * 1000, over)
      assert.equal(1, #server:sessions())
    end, { seed = 1, delay = path.delay, loss = path.loss })
  end

  -- Those that were not sent at all have no CANCEL in front of them either, and never cost a handler's start.
  env.it("so do crowds that are cancelled while they wait for the path", function()
    local server, client = env.pair(function(s)
      s:add_rpc("slow", function() echo.sleep(0.05) end)
      s:add_rpc("ping", function() return "pong" end)
    end)
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
