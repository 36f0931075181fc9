-- Small messages share packets: by themselves in one turn of the loop, and with batch_delay for longer.

local echo = require "echostream"
local net = require "spec.support.net"

net.only("sim", function(env)
  local worlds = 0

  local function world(transport)
    local got = {}
    worlds = worlds + 1
    local server = env.server({ bind = ("10.0.0.%d:5000"):format(worlds) }, function(s)
      s:add_event("tick", function(_, i) got[#got + 1] = i end)
      s:add_rpc("ping", function() return "pong" end)
    end)
    return env.connect(server, { transport = transport }), got, server
  end

  -- Packets that n events took, one each millisecond.
  local function ticks(transport, n)
    local client, got = world(transport)
    client:request "ping"
    echo.sleep(0.5)
    local before = client:stats().packets_sent
    for i = 1, n do
      client:emit("tick", i)
      echo.sleep(0.001)
    end
    local packets = client:stats().packets_sent - before
    echo.sleep(0.5)
    assert.equal(n, #got)
    for i = 1, n do assert.equal(i, got[i]) end
    return packets, client
  end

  describe("small messages", function()
    env.it("of one turn of the loop share packets without any option", function()
      local client, got = world()
      echo.sleep(0.5)
      local before = client:stats().packets_sent
      for i = 1, 100 do client:emit("tick", i) end
      echo.sleep(0.5)
      assert.equal(100, #got)
      assert.is_true(client:stats().packets_sent - before < 10)
    end)

    env.it("share packets within batch_delay, and all arrive in order", function()
      local alone, together = ticks(nil, 100), ticks({ batch_delay = 0.01 }, 100)
      assert.is_true(alone >= 100, tostring(alone))
      assert.is_true(together <= 25, tostring(together))
    end)

    env.it("do not wait once there are batch_bytes of them", function()
      local client, got = world { batch_delay = 1, batch_bytes = 500 }
      echo.sleep(2)
      client:emit("tick", 0)
      for i = 1, 10 do client:emit("tick", i, ("x"):rep(100)) end
      echo.sleep(0.1)
      assert.is_true(#got >= 5)
      echo.sleep(1)
      assert.equal(11, #got)
    end)

    env.it("wait for nothing when the connection was idle", function(simulated)
      local function round_trip(transport)
        local client = world(transport)
        client:request "ping"
        echo.sleep(1)
        local began = simulated:now()
        assert.equal("pong", client:request "ping")
        return simulated:now() - began
      end
      local with = round_trip { batch_delay = 0.05 }
      assert.is_true(with < 0.0105, tostring(with)) -- 5 ms each way
    end)

    env.it("are all sent before the connection is closed", function()
      local client, got = world { batch_delay = 0.2 }
      echo.sleep(1)
      for i = 1, 3 do
        client:emit("tick", i)
        echo.sleep(0.001)
      end
      client:close()
      assert.equal(3, #got)
    end)

    env.it("that are control frames do not wait", function()
      local cancelled
      local server = env.server({ bind = "10.0.0.200:5000" }, function(s)
        s:add_rpc("wait", function()
          echo.call():on_cancel(function() cancelled = echo.now() end)
          echo.sleep(10)
        end)
      end)
      local client = env.connect(server, { transport = { batch_delay = 1 } })
      echo.sleep(2)
      local task = echo.spawn(function() client:request "wait" end)
      echo.sleep(0.1)
      local at = echo.now()
      task:cancel()
      env.eventually(function() return cancelled end, "the cancellation")
      assert.is_true(cancelled - at < 0.02)
    end)
  end)
end)
