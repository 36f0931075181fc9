-- What servers and clients count by themselves: lua/echostream/metrics/host.lua, csrc/dispatch/meter.c, csrc/session/totals.c.

local busted = require "busted"
local echo = require "echostream"
local metrics = require "echostream.metrics"
local net = require "spec.support.net"
local prometheus = require "spec.support.prometheus"

local function near(want, got, share)
  return got >= want * (1 - share) and got <= want * (1 + share)
end

net.each(function(env)
  env.it("counts calls by method and by how they ended, on both sides", function()
    local server, client = env.pair(function(server)
      server:add_rpc("ok", function(_, ...) return ... end)
      server:add_rpc("fail", function() return nil, echo.error("not_found", "nothing here") end)
      server:add_rpc("own", function() return nil, echo.error("my_code", "mine") end)
    end)
    for _ = 1, 10 do
      assert.equal(1, client:request("ok", 1))
    end
    client:request "fail"
    client:request "own"
    client:request "nobody"
    local there, here = server:metrics(), client:metrics()
    assert.equal(10, there.calls.incoming.ok.count)
    assert.same({ ok = 10 }, there.calls.incoming.ok.codes)
    assert.same({ not_found = 1 }, there.calls.incoming.fail.codes)
    assert.same({ unknown = 1 }, there.calls.incoming.own.codes)
    assert.equal(1, there.calls.incoming.fail.errors)
    assert.equal(0, there.calls.incoming.ok.running)
    assert.equal(1, there.calls.refused)
    assert.is_nil(there.calls.incoming.nobody)
    assert.same({ ok = 10 }, here.calls.outgoing.ok.codes)
    assert.same({ not_found = 1 }, here.calls.outgoing.fail.codes)
    assert.same({ method_not_found = 1 }, here.calls.outgoing.nobody.codes)
    assert.equal(10, here.calls.outgoing.ok.time.count)
    assert.is_true(here.calls.outgoing.ok.time.p99 >= here.calls.outgoing.ok.time.p50)
    assert.same({}, there.calls.outgoing)
  end)

  env.it("tells deadlines, cancelled calls and full methods apart", function()
    local server, client = env.pair(function(server)
      server:add_rpc("slow", function() echo.sleep(60) end, { max_calls = 1 })
      server:add_rpc("short", function() echo.sleep(60) end, { timeout = 0.05 })
    end)
    local task = echo.spawn(function() return client:request "slow" end)
    env.eventually(function() return server:metrics().calls.incoming.slow.running == 1 end, "the call runs")
    local _, full = client:request "slow"
    assert.equal("resource_exhausted", full.code)
    task:cancel()
    env.eventually(function() return server:metrics().calls.incoming.slow.running == 0 end, "the call is over")
    local _, late = client:request "short"
    assert.equal("timeout", late.code)
    env.eventually(function() return server:metrics().calls.incoming.short.count == 1 end, "the handler ended")
    local slow = server:metrics().calls.incoming.slow
    assert.same({ cancelled = 1 }, slow.codes)
    assert.equal(1, slow.refused)
    assert.same({ timeout = 1 }, server:metrics().calls.incoming.short.codes)
    assert.same({ cancelled = 1, resource_exhausted = 1 }, client:metrics().calls.outgoing.slow.codes)
  end)

  env.it("counts streams and events", function()
    local seen = 0
    local server, client = env.pair(function(server)
      server:add_stream("echo", function(_, stream)
        for frame in stream:frames() do stream:send(frame.data) end
      end)
      server:add_rpc("sum", function(_, stream)
        local total = 0
        for frame in stream:frames() do total = total + frame.data end
        return total
      end, { stream = "in" })
      server:add_event("tick", function() seen = seen + 1 end)
    end)
    local stream = client:create_stream "echo"
    stream:send "x"
    assert.equal("x", stream:recv().data)
    assert.equal(1, server:metrics().streams.open_in)
    stream:finish()
    assert.is_nil(stream:recv())
    local sum = client:stream "sum"
    sum:send(1)
    sum:send(2)
    sum:finish()
    assert.equal(3, sum:result())
    client:emit "tick"
    client:emit "nobody"
    env.eventually(function() return seen == 1 and server:metrics().events.unhandled == 1 end, "the events came")
    env.eventually(function() return server:metrics().streams.open_in == 0 end, "the streams are over")
    local there, here = server:metrics(), client:metrics()
    assert.same({ ok = 1 }, there.streams.incoming.echo.codes)
    assert.same({ ok = 1 }, there.streams.incoming.sum.codes)
    assert.is_nil(there.calls.incoming.sum)
    assert.same({ ok = 1 }, here.streams.outgoing.echo.codes)
    assert.same({ ok = 1 }, here.streams.outgoing.sum.codes)
    assert.equal(1, there.events.incoming.tick)
    assert.equal(2, here.events.sent)
    assert.equal(0, here.queues.pending)
  end)

  env.it("says how much waits to be sent, and for how long senders waited", function()
    local reading = false
    local server, client = env.pair(function(server)
      server:add_stream("slow", function(_, stream)
        while not reading and echo.sleep(0.005) do end -- luacheck: ignore 542
        for _ in stream:frames() do end -- luacheck: ignore 542
      end)
    end)
    local stream = client:create_stream "slow"
    local sender = echo.spawn(function()
      for _ = 1, 64 do assert(stream:send(("x"):rep(65536))) end -- 4 MiB: more than windows and queues hold
      stream:finish()
      return true
    end)
    local before
    repeat
      before = client:metrics().queues
      echo.sleep(0.01)
    until before.queued > 0 and before.waits > 0
    reading = true
    assert.is_true(sender:wait())
    env.eventually(function() return client:metrics().queues.queued == 0 end, "the queue is empty")
    assert.is_true(client:metrics().queues.waited > 0)
    local families = prometheus.parse(metrics.prometheus(client))
    assert.is_true(prometheus.value(families, "echostream_send_waits_total") > 0)
    assert.equal(0, prometheus.value(families, "echostream_send_queue_bytes"))
    assert.equal(0, prometheus.value(prometheus.parse(metrics.prometheus(server)), "echostream_send_waits_total"))
  end)

  env.it("keeps what connections did that are over", function()
    local server = env.server()
    local sent = 0
    for _ = 1, 3 do
      local client = env.connect(server)
      assert.is_table(client:describe())
      sent = sent + client:stats().bytes_sent
      client:close()
    end
    env.eventually(function() return server:metrics().sessions.open == 0 end, "the sessions are over")
    local now = server:metrics()
    assert.equal(3, now.sessions.total)
    assert.is_true(now.quic.bytes_received >= sent * 0.9)
    assert.equal(3, now.quic.handshakes.count)
    assert.equal(0, now.quic.rtt.count)
    assert.is_true(now.memory.core > 0)
  end)

  env.it("names at most 128 methods that it calls", function()
    local _, client = env.pair()
    for i = 1, 150 do
      client:request("made.up." .. i)
    end
    local out = client:metrics().calls.outgoing
    local names = 0
    for _ in pairs(out) do names = names + 1 end
    assert.equal(129, names)
    assert.equal(22, out["(other)"].count)
  end)

  env.it("becomes text that Prometheus reads", function()
    local server, client = env.pair(function(server)
      server:add_rpc("x.y", function() end)
      server:add_event("tick", function() end)
    end)
    client:request "x.y"
    client:request "nobody"
    local families = prometheus.parse(metrics.prometheus(server, client))
    local function value(name, labels) return prometheus.value(families, name, labels) end
    local function label_of(host)
      local found = prometheus.parse(metrics.prometheus(host)).echostream_sessions.samples
      assert.equal(1, #found)
      return found[1].labels.host
    end
    local at_server, at_client = label_of(server), label_of(client)
    assert.equal(1, (at_server:find("server " .. server.address, 1, true)))
    assert.equal(1, (at_client:find("client " .. server.address, 1, true)))
    assert.equal(1, value("echostream_calls_total", { host = at_server, method = "x.y", code = "ok", direction = "in" }))
    assert.equal(1, value("echostream_calls_total", { host = at_client, method = "nobody", code = "method_not_found" }))
    assert.equal(1, value("echostream_call_seconds_count", { host = at_client, method = "x.y" }))
    assert.equal(1, value("echostream_sessions", { host = at_server }))
    assert.equal(1, value("echostream_quic_handshake_seconds_count", { host = at_client }))
    assert.is_true(value("echostream_quic_bytes_total", { host = at_client, direction = "out" }) > 1000)
    assert.is_true(value("echostream_quic_rtt_seconds", { host = at_client, stat = "p50" }) > 0)
    assert.is_true(value "echostream_memory_bytes" > 0)
    -- each keeps its label, whoever comes and goes
    local second = env.connect(server)
    families = prometheus.parse(metrics.prometheus(second, client))
    assert.equal(1, value("echostream_sessions", { host = at_client }))
    assert.equal(2, #families.echostream_sessions.samples)
    assert.not_equal(families.echostream_sessions.samples[1].labels.host, at_client)
    local kept = families.echostream_sessions.samples[1].labels.host
    second:close()
    families = prometheus.parse(metrics.prometheus(second))
    assert.equal(kept, families.echostream_sessions.samples[1].labels.host)
    -- without arguments it finds them by itself
    families = prometheus.parse(metrics.prometheus())
    assert.is_number(value("echostream_sessions", { host = at_server })) -- the second session may not be over there yet
    assert.error_matches(function() metrics.prometheus(5) end, "wants servers and clients") ---@diagnostic disable-line
  end)
end)

busted.describe("times", function()
  busted.it("are exact where time is virtual", function()
    echo.sim.run({ seed = 1, limit = 600, delay = 0.02 }, function()
      local server = assert(echo.server({ bind = "10.0.0.1:5000", quiet = true }):start())
      server:add_rpc("wait", function(_, s) echo.sleep(s) return true end)
      local client = assert(echo.connect(server.address, { pin = server.pin }))
      for i = 1, 100 do
        assert.is_true(client:request("wait", i / 100))
      end
      local inside, outside = server:metrics().calls.incoming.wait.time, client:metrics().calls.outgoing.wait.time
      assert.is_true(near(0.5, inside.p50, 1 / 8))
      assert.is_true(near(0.99, inside.p99, 1 / 8))
      assert.is_true(near(50.5, inside.sum, 0.001))
      assert.is_true(near(54.5, outside.sum, 0.01)) -- and 40 ms on the way
      local rtt = client:metrics().quic.rtt
      assert.is_true(near(0.04, rtt.p50, 1 / 8), rtt.p50)
      client:close()
      server:stop { grace = 0 }
    end)
  end)

  busted.it("include what a handler computes without waiting", function()
    local server = assert(echo.server({ quiet = true, state_dir = net.state_dir(), watchdog = false }):start())
    server:add_rpc("burn", function()
      local ends = os.clock() + 0.02
      while os.clock() < ends do end -- luacheck: ignore 542
      return true
    end)
    local client = assert(echo.connect(server.address, { pin = server.pin }))
    assert.is_true(client:request "burn")
    assert.is_true(server:metrics().calls.incoming.burn.time.sum >= 0.02)
    client:close()
    server:stop { grace = 0 }
  end)
end)
