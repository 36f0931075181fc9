-- More calls than can be served: limits refuse at once, accepted calls keep their deadlines; and what is urgent does not wait
-- behind what is much.

local echo = require "echostream"
local net = require "spec.support.net"

local function quantile(times, q)
  table.sort(times)
  return times[math.max(1, math.ceil(#times * q))]
end

net.each(function(env)
  describe("max_total_calls", function()
    env.it("refuses what is over it, without running it", function()
      local ran, go = 0, false
      local server, one = env.pair(function(s)
        s:add_rpc("hold", function()
          ran = ran + 1
          while not go do assert(echo.sleep(0.01)) end
          return "held"
        end)
      end, { max_total_calls = 10 })
      local refused, held = 0, 0
      for _ = 1, 16 do
        one:request("hold", function(result, err)
          if result then
            held = held + 1
          else
            assert.equal("resource_exhausted", err.code)
            assert.equal("no", err.processed)
            refused = refused + 1
          end
        end)
      end
      env.eventually(function() return refused == 6 and ran == 10 end, "ten run, six are refused")
      assert.equal(6, server:stats().calls_in_refused)
      go = true
      env.eventually(function() return held == 10 end, "ten are answered")
      assert.equal("held", one:request "hold")
      assert.equal(11, ran)
    end)

    env.it("leaves every session its share", function()
      local ran, go = {}, false
      local server = env.server({ max_total_calls = 8 }, function(s)
        s:add_rpc("hold", function(session)
          ran[session.id] = (ran[session.id] or 0) + 1
          while not go do assert(echo.sleep(0.01)) end
          return "held"
        end)
      end)
      local greedy, modest = env.connect(server), env.connect(server)
      env.eventually(function() return #server:sessions() == 2 end, "both sessions")
      local refused, held = 0, 0
      for _ = 1, 20 do
        greedy:request("hold", function(result) if result then held = held + 1 else refused = refused + 1 end end)
      end
      env.eventually(function() return refused == 12 end, "the greedy one has all places")
      for _ = 1, 6 do
        modest:request("hold", function(result) if result then held = held + 1 else refused = refused + 1 end end)
      end
      env.eventually(function() return refused == 14 end, "the modest one has its four")
      go = true
      env.eventually(function() return held == 12 end, "all are answered")
    end)
  end)
end)

net.only("sim", function(env)
  describe("an urgent call", function()
    -- 10 Mbit/s, 30 ms there and back, 25 packets wait at most; 16 streams with as much as goes, in each direction in turn.
    local function measure(simulated, direction)
      local server, client = env.pair(function(s)
        s:add_rpc("ping", function() return "pong" end, { priority = 0 })
        s:add_stream("down", function(_, stream)
          local chunk = ("x"):rep(16384)
          while stream:send(chunk) do end
        end, { priority = 7 })
        s:add_stream("up", function(_, stream)
          for _ in stream:frames() do end
        end)
      end)
      local urgent = client:with { priority = 0 }
      local function sample(n)
        local times = {}
        for i = 1, n do
          local began = simulated:now()
          assert(urgent:request "ping")
          times[i] = simulated:now() - began
          echo.sleep(0.01 + i % 7 * 0.003)
        end
        return times
      end
      local idle = quantile(sample(100), 0.99)
      local moved = 0
      for _ = 1, 16 do
        local stream = assert(client:create_stream(direction, { priority = 7 }))
        echo.spawn(function()
          if direction == "down" then
            for frame in stream:frames() do moved = moved + #frame.data end
          else
            local chunk = ("x"):rep(16384)
            while stream:send(chunk) do moved = moved + #chunk end
          end
        end)
      end
      echo.sleep(2)
      moved = 0
      local began = simulated:now()
      local busy = quantile(sample(500), 0.99)
      local rate = moved * 8 / (simulated:now() - began)
      server:stop { grace = 0 }
      return idle, busy, rate
    end

    for _, direction in ipairs { "down", "up" } do
      env.it("waits for no more than the queue of the path, whatever goes " .. direction, function(simulated)
        local idle, busy, rate = measure(simulated, direction)
        local drain = (25 + 1) * (1452 + 28) * 8 / 10e6 -- a full queue and the packet that is being sent
        assert.is_true(busy <= idle + drain, ("%.1f ms, idle %.1f ms, a queue %.1f ms"):format(busy * 1e3, idle * 1e3, drain * 1e3))
        assert.is_true(rate > 8.5e6, ("%.1f Mbit/s"):format(rate / 1e6))
      end, { seed = 1, delay = 0.015, rate = 10e6, queue = 25, limit = 200 })
    end
  end)

  describe("streams of one class", function()
    env.it("share the path evenly", function(simulated)
      local server, client = env.pair(function(s)
        s:add_stream("down", function(_, stream)
          local chunk = ("x"):rep(4096)
          while stream:send(chunk) do end
        end)
      end)
      local got = {}
      for i = 1, 8 do
        local stream = assert(client:create_stream "down")
        got[i] = 0
        echo.spawn(function()
          for frame in stream:frames() do got[i] = got[i] + #frame.data end
        end)
      end
      local ends = simulated:now() + 10
      while simulated:now() < ends do echo.sleep(0.1) end
      assert.is_true(math.min(table.unpack(got)) > 0.8 * math.max(table.unpack(got)))
      server:stop { grace = 0 }
    end, { seed = 2, delay = 0.015, rate = 10e6, queue = 25, limit = 200 })
  end)
end)
