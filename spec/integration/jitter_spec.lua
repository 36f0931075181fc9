-- Jitter buffers, over paths that lose, delay and reorder, in virtual time.

local echo = require "echostream"
local net = require "spec.support.net"

-- A server that sends `n` numbered frames, 20 ms apart, when it is asked to; as unreliable events, and as a stream.
local STEP = 0.02
local function sender(env, options)
  return env.server(nil, function(server)
    server:add_rpc("start", function(session, n)
      for i = 1, n do
        session:with({ unreliable = true }):emit("frame", i, session._ud:wall(), "frame " .. i)
        echo.sleep(STEP)
      end
    end)
    server:add_stream("frames", function(_, stream)
      local n = tonumber(stream:recv().data)
      for i = 1, n do
        stream:send_timestamped { data = "frame " .. i, seq = i }
        echo.sleep(STEP)
      end
      for _ = 1, options and options.bare or 0 do stream:send "no time" end
    end)
  end)
end

-- What comes out of a buffer: the numbers, and how uneven the pace is at most, once two seconds have told how fast frames may come.
local function watch(buffer)
  local seen, uneven, last = {}, 0, nil
  for frame in buffer:frames() do
    local now = echo.now()
    if last and #seen > 100 then
      local steps = frame.seq - seen[#seen]
      uneven = math.max(uneven, math.abs(now - last - steps * STEP))
    end
    seen[#seen + 1], last = frame.seq, now
    assert.equal("frame " .. frame.seq, frame.data)
  end
  return seen, uneven
end

local function ascending(list)
  for i = 2, #list do
    if list[i] <= list[i - 1] then return false end
  end
  return true
end

net.only("sim", function(env)
  describe("a jitter buffer", function()
    local bad = { delay = 0.05, jitter = 0.06, loss = 0.05, duplicate = 0.05 }

    env.it("of a fixed delay evens out what comes unevenly, in order, and counts what does not come", function(network)
      local server = sender(env)
      local client = env.client(server)
      local buffer = echo.jitter.new { delay = 0.12 }
      local came = 0
      client:add_event("frame", function(_, seq, wall_time, data)
        came = came + 1
        assert(buffer:push { seq = seq, wall_time = wall_time, data = data })
      end)
      assert(client:connect(server.address))
      network:path(bad, "127.0.0.1", nil)
      local out = echo.spawn(watch, buffer)
      assert(client:with({ timeout = 100 }):request("start", 500))
      echo.sleep(1)
      buffer:finish()
      local seen, uneven = out:wait(10)
      local stats = buffer:stats()
      assert.is_true(ascending(seen))
      assert.is_true(uneven < 0.003, ("uneven by %.1f ms"):format(uneven * 1e3))
      assert.equal(came, stats.received)
      assert.equal(#seen, stats.played)
      assert.equal(seen[#seen] - seen[1] + 1, stats.played + stats.lost)
      assert.is_true(stats.lost >= 5 and stats.lost < 60)
      assert.equal(0, stats.late + stats.overdue + stats.waiting + stats.dropped)
      assert.is_true(stats.reordered > 10)
      assert.is_true(stats.jitter > 0.005 and stats.jitter < 0.06)
      assert.near(0.12, stats.delay, 1e-9)
    end, { seed = 1, limit = 200 })

    env.it("that adapts is as long as nearly all frames need, and shorter again", function(network)
      local server = sender(env)
      local client = env.client(server)
      local buffer = echo.jitter.new { max = 0.4 }
      client:add_event("frame", function(_, seq, wall_time, data)
        buffer:push { seq = seq, wall_time = wall_time, data = data }
      end)
      assert(client:connect(server.address))
      local out = echo.spawn(watch, buffer)
      network:path({ delay = 0.05, jitter = 0.2 }, "127.0.0.1", nil)
      assert(client:with({ timeout = 100 }):request("start", 500))
      local bad_delay = buffer:stats().delay
      assert.is_true(bad_delay > 0.15 and bad_delay < 0.25, tostring(bad_delay))
      network:path({ delay = 0.05, jitter = 0.01 }, "127.0.0.1", nil)
      assert(client:with({ timeout = 100 }):request("start", 1)) -- a number from before: thrown away
      echo.sleep(0.5)
      local before = buffer:stats()
      assert.is_true(before.duplicates >= 1)
      for i = 501, 2500 do
        echo.sleep(STEP)
        buffer:push { seq = i, wall_time = client.session._ud:wall(), data = "frame " .. i }
      end
      assert.is_true(buffer:stats().delay < 0.03, tostring(buffer:stats().delay))
      buffer:finish()
      local seen = out:wait(10)
      assert.is_true(ascending(seen))
      local stats = buffer:stats()
      assert.is_true(stats.late + stats.overdue <= 0.1 * 500)
      assert.equal(seen[#seen] - seen[1] + 1, stats.played + stats.lost + stats.late)
    end, { seed = 3, limit = 300 })

    env.it("reads a stream, and ends with it", function()
      local server = sender(env)
      local client = env.connect(server)
      local stream = assert(client:create_stream "frames")
      stream:send "100"
      local buffer = stream:buffered { delay = 0.3 }
      local seen, uneven = watch(buffer)
      assert.equal(100, #seen)
      assert.is_nil(buffer.error)
      assert.is_true(uneven < 0.08, tostring(uneven)) -- a lost packet holds up those behind it
      assert.equal(0, buffer:stats().lost)
      assert.is_nil((buffer:pop()))
      assert.is_nil(select(2, buffer:pop()))
    end, { seed = 2, delay = 0.05, jitter = 0.03, loss = 0.02, limit = 60 })

    env.it("plays by the sender's clock where that is known, so many seconds after it was sent", function(network)
      local server = sender(env)
      local client = env.connect(server)
      network:skew(server, -1000, 20e-6)
      assert(client:clock()) -- or it would be asked for with the first frames
      local stream = assert(client:create_stream "frames")
      stream:send "200"
      local buffer <close> = stream:buffered { delay = 0.2, clock = true }
      local worst = 0
      for frame in buffer:frames() do
        local age = client.session._ud:wall() - (frame.wall_time + 1000) -- the drift is nothing yet
        worst = math.max(worst, math.abs(age - 0.2))
      end
      assert.is_nil(buffer.error)
      assert.is_true(worst < 0.012, ("off by %.1f ms"):format(worst * 1e3))
    end, { seed = 4, delay = 0.05, jitter = 0.02, limit = 60 })

    env.it("counts what comes too late, and what comes after its time but in order", function()
      local buffer = echo.jitter.new { delay = 0.1 }
      local wall, began = 1e9, echo.now()
      local function push(seq, at) -- the nth frame, sent STEP after the one before, comes `at` seconds after the first
        echo.sleep(math.max(began + at - echo.now(), 0))
        return buffer:push { seq = seq, wall_time = wall + (seq - 1) * STEP, data = seq }
      end
      assert.is_true(push(1, 0))
      assert.is_true(push(2, STEP))
      assert.is_true(push(5, 4 * STEP))
      assert.is_true(push(4, 4 * STEP + 0.001)) -- behind, in time
      assert.equal(1, buffer:pop().seq)
      assert.near(0.1, echo.now() - began, 1e-6)
      assert.equal(2, buffer:pop().seq)
      assert.equal(4, buffer:pop().seq) -- 3 is lost so far
      assert.near(0.1 + 3 * STEP, echo.now() - began, 1e-6)
      assert.equal(1, buffer:stats().lost)
      assert.same({ false, "late" }, { push(3, 0.2) })
      assert.same({ false, "duplicate" }, { push(3, 0.2) })
      assert.same({ false, "duplicate" }, { push(4, 0.2) })
      assert.same({ false, "duplicate" }, { push(2, 0.2) })
      assert.equal(5, buffer:pop().seq)
      assert.is_true(push(6, 1))
      assert.equal(6, buffer:pop().seq)
      assert.near(1, echo.now() - began, 1e-6)
      local nothing, err = buffer:pop(0.5)
      assert.is_nil(nothing)
      assert.equal("timeout", err.code)
      assert.same({ received = 9, played = 5, waiting = 0, lost = 0, late = 1, overdue = 1, duplicates = 3, reordered = 1, dropped = 0 },
        (function() local s = buffer:stats() s.delay, s.jitter = nil, nil return s end)())
      -- A sender that begins anew, far below.
      assert.is_true(buffer:push { seq = 5000, wall_time = wall + 2, data = "" })
      assert.truthy(buffer:pop())
      assert.is_true(buffer:push { seq = 1, wall_time = wall + 3, data = "again" })
      assert.equal("again", buffer:pop().data)
    end, { seed = 1, limit = 60 })

    env.it("is bounded, takes frames without numbers, wakes who waits when it is closed, and says what is wrong", function()
      local buffer = echo.jitter.new { delay = 10, limit = 5 }
      for i = 1, 8 do buffer:push { wall_time = i, data = i } end
      assert.equal(3, buffer:stats().dropped)
      assert.equal(5, buffer:stats().waiting)
      assert.same({ false, "late" }, { buffer:push { wall_time = 2, data = 2 } })
      local called
      local waiting = buffer:pop(function(frame, err) called = { frame, err } end)
      echo.sleep(0)
      buffer:close()
      waiting:wait(1)
      assert.same({}, called)
      assert.is_false((buffer:push { wall_time = 9, data = 9 }))
      local server = sender(env, { bare = 1 })
      local stream = assert(env.connect(server):create_stream "frames")
      stream:send "2"
      local of_stream = stream:buffered()
      local n = 0
      for _ in of_stream:frames() do n = n + 1 end
      assert.equal(2, n)
      assert.equal("failed_precondition", of_stream.error.code)
      for _, opts in ipairs { { delay = "long" }, { min = 2, max = 1 }, { percentile = 0 }, { clock = true }, { size = 3 } } do
        assert.has_error(function() echo.jitter.new(opts) end)
      end
      assert.has_error(function() stream:buffered { delay = "long" } end)
      assert.has_error(function() buffer:push { data = 1 } end)
      assert.has_error(function() buffer:pop "soon" end)
    end, { seed = 1, limit = 60 })
  end)
end)
