-- The difference of two clocks, over paths that are bad for telling it. In the simulator each side has a wall clock that is wrong.

local echo = require "echostream"
local net = require "spec.support.net"

-- A server and a client whose clocks are wrong, and what the difference really is.
local function skewed(env, network, drift)
  local server, client = env.pair(function(server)
    server:add_stream("times", function(_, stream)
      for frame in stream:frames() do
        stream:send_timestamped { data = frame.data }
      end
    end)
  end)
  network:skew(server, 12.5, drift and drift / 2)
  network:skew(client, -3.25, drift and -drift / 2)
  local began = network:now()
  return server, client, function()
    return 15.75 + (drift or 0) * (network:now() - began)
  end
end

local function off_by(clock, truth)
  return math.abs(clock.offset + clock.drift * (echo.now() - clock.at) - truth())
end

net.each(function(env)
  describe("a clock", function()
    env.it("is within a millisecond on loopback, and never further off than it says", function()
      local server, client = env.pair()
      env.eventually(function() return #server:sessions() == 1 end)
      for _, side in ipairs { client, server:sessions()[1] } do
        local clock = assert(side:clock())
        -- A machine that stands still for a while makes a round trip long; the next one is short again.
        local ends = echo.now() + 10
        while clock.error > 0.001 and clock.rtt > 0.0018 and echo.now() < ends and env.kind == "quic" do
          side:ping()
        end
        assert.is_true(math.abs(clock.offset) <= clock.error, tostring(clock))
        if clock.rtt < 0.002 then
          assert.is_true(math.abs(clock.offset) < 0.001, tostring(clock))
        end
        assert.is_true(clock.samples >= 1 and clock.rtt > 0)
        assert.equal(clock, side:clock()) -- at once, the same
        assert.matches("probes, round trip", tostring(clock))
        local now = (side.session or side)._ud:wall()
        assert.is_true(math.abs(clock:to_local(now) - now) <= 2 * clock.error + 0.01)
      end
      local given
      client:clock(function(clock) given = clock end):wait(5)
      assert.equal(given, client:clock())
    end)

    env.it("is none without a peer, and ends with its session", function()
      local server, client = env.pair()
      assert.equal("unavailable", select(2, env.client(server):clock()).code)
      local clock = assert(client:clock { interval = 1 })
      client:close()
      assert.equal("connection_closed", select(2, client:clock()).code)
      assert.is_number(clock:to_local(1e9)) -- what it knew it knows
      for _, opts in ipairs { { interval = 0 }, { timeout = -1 }, { precision = 1 } } do
        assert.has_error(function() client:clock(opts) end)
      end
      assert.has_error(function() clock:to_local "now" end)
      assert.has_error(function() clock:to_peer() end)
    end)
  end)
end)

net.only("sim", function(env)
  describe("a clock of a skewed machine", function()
    for seed = 1, 4 do
      env.it("is within 10 ms under 50 ms and 20 ms of jitter, at once and later, and knows its error (seed " .. seed .. ")", function(network)
        local drift = 30e-6
        local _, client, truth = skewed(env, network, drift)
        local clock = assert(client:clock())
        for _ = 1, 20 do
          assert.is_true(off_by(clock, truth) < 0.010, ("off by %.1f ms: %s"):format(off_by(clock, truth) * 1e3, tostring(clock)))
          assert.is_true(off_by(clock, truth) <= clock.error + 1e-3)
          echo.sleep(7)
        end
      end, { seed = seed, delay = 0.03, jitter = 0.04, limit = 300 })
    end

    env.it("tells the drift when it had some minutes, and times that are not now", function(network)
      local drift = -60e-6
      local _, client, truth = skewed(env, network, drift)
      local clock = assert(client:clock { interval = 5 })
      echo.sleep(600)
      assert.near(drift, clock.drift, 5e-6)
      assert.is_true(off_by(clock, truth) < 0.002, tostring(clock))
      assert.is_true(clock.jitter < 0.005)
      -- A time of ten minutes ago was another difference ago.
      local wall = client.session._ud:wall()
      assert.near(15.75, clock:to_peer(wall - 600) - (wall - 600), 0.004)
      assert.near(wall - 600, clock:to_local(clock:to_peer(wall - 600)), 1e-5)
      assert.near(wall, clock:to_local(clock:to_peer(wall)), 1e-5)
    end, { seed = 5, delay = 0.05, jitter = 0.005, limit = 700 })

    env.it("gives frames with a time that time on our clock", function(network)
      local _, client = skewed(env, network)
      local stream = assert(client:create_stream "times")
      stream:send "before"
      local frame = stream:recv()
      assert.is_number(frame.wall_time)
      assert.is_nil(frame.local_time) -- nobody asked for the clock
      assert(client:clock())
      local sent = client.session._ud:wall()
      stream:send "after"
      frame = stream:recv()
      assert.near(sent + 0.05, frame.local_time, 0.002) -- stamped half a round trip after
      assert.near(15.75, frame.wall_time - frame.local_time, 0.002)
    end, { seed = 1, delay = 0.05, limit = 60 })

    env.it("begins anew when somebody sets one of the clocks", function(network)
      local server, client = skewed(env, network)
      local clock = assert(client:clock { interval = 1 })
      assert.near(15.75, clock.offset, 0.002)
      network:skew(server, 100)
      echo.sleep(5)
      assert.near(103.25, clock.offset, 0.002)
      assert.is_true(clock.steps >= 1)
    end, { seed = 1, delay = 0.02, limit = 60 })

    env.it("learns from heartbeats, bears losses, and gives up on a peer that is gone", function(network)
      local server = env.server()
      local client = env.connect(server, { heartbeat = { interval = 0.5, misses = 0 } })
      network:path { delay = 0.02, loss = 0.2 }
      local clock = assert(client:clock { interval = 1000 })
      echo.sleep(60)
      assert.is_true(clock.samples >= 60)
      assert.is_true(math.abs(clock.offset) < 0.003, tostring(clock))
      local other = env.connect(server)
      assert(other:ping())
      network:blackout(0, 3)
      local nothing, err = other:clock { timeout = 1 }
      assert.is_nil(nothing)
      assert.equal("timeout", err.code)
      echo.sleep(10)
      assert(other:clock()) -- asked again
    end, { seed = 1, limit = 300 })
  end)
end)
