-- Planted states, each of which the diagnosis names; and a healthy session, in which it finds nothing. In virtual time.

local echo = require "echostream"
local net = require "spec.support.net"
local rules = require "echostream.diagnose.rules"

local KIB <const> = 1024

-- The finding of that name, or nil.
local function find(diagnosis, name)
  for _, finding in ipairs(diagnosis) do
    if finding.name == name then return finding end
  end
end

-- Looks again and again until the rule has found something.
local function found(who, name)
  local finding, diagnosis
  local ends = echo.now() + 15
  repeat
    assert(echo.now() < ends, name .. " was not found")
    echo.sleep(0.01)
    diagnosis = who:diagnose()
    finding = find(diagnosis, name)
  until finding
  for _, field in ipairs { "what", "why", "fix", "source", "level" } do
    assert.is_string(finding[field])
  end
  assert.truthy(tostring(diagnosis):find(finding.why, 1, true))
  return finding
end

local function serve(server)
  server:add_rpc("echo", function(_, x) return x end)
  server:add_rpc("hold", function() echo.sleep(1000) end)
  server:add_stream("unread", function() echo.sleep(1000) end)
  server:add_stream("flood", function(_, stream)
    for _ = 1, 200 do
      if not stream:send(("x"):rep(4 * KIB)) then return end
    end
    echo.sleep(1000)
  end)
end

net.each(function(env)
  describe("a diagnosis", function()
    env.it("of a healthy session says so, on both sides, and what the figures are", function()
      local server, client = env.pair(serve)
      for i = 1, 50 do assert.equal(i, client:request("echo", i)) end
      env.eventually(function() return #server:sessions() == 1 end)
      for _, side in ipairs { client, client.session, server:sessions()[1] } do
        local diagnosis = side:diagnose()
        if env.kind == "sim" then -- a busy machine may have its queues and losses
          assert.same({}, { table.unpack(diagnosis) })
          assert.is_true(diagnosis.healthy)
          assert.matches("^healthy: round trip 10.0 ms, 0.0 %% of %d+ packets lost", tostring(diagnosis))
        end
        assert.matches("healthy: round trip", tostring(diagnosis))
      end
    end)

    env.it("of a session that is over, or never was, says that", function()
      local server, client = env.pair(serve)
      local session = client.session
      local fresh = env.client(server):diagnose()
      assert.equal("closed", fresh[1].name)
      assert.is_false(fresh.healthy)
      client:close()
      assert.matches("over", found(session, "closed").what)
      assert.equal("problem", client:diagnose()[1].level)
    end)

    env.it("names the stream that its reader holds up, on both sides, and goes quiet when it is read", function()
      local server, client = env.pair(serve)
      local stream = assert(client:create_stream "flood")
      local unread = found(client, "slow_reader")
      assert.matches("stream flood", unread.what)
      local session = server:sessions()[1]
      assert.matches("stream flood", found(session, "stream_credit").what)
      assert.is_nil(find(session:diagnose(), "credit"))
      stream:pause()
      assert.matches("paused", found(client, "slow_reader").why)
      stream:resume()
      for _ = 1, 200 do assert(stream:recv(10)) end
      local ends = echo.now() + 15
      while find(client:diagnose(), "slow_reader") or find(session:diagnose(), "stream_credit") do
        assert(echo.now() < ends, "there is still something to say")
        echo.sleep(0.01)
      end
    end)

    env.it("names a full queue, who waited, and what was dropped", function()
      local _, client = env.pair(serve, nil, { stream_queue = 16 * KIB })
      local stream = assert(client:create_stream "unread")
      local sent = echo.spawn(function() repeat until not stream:send(("x"):rep(8 * KIB)) end)
      assert.matches("stream unread .*send queue is full", found(client, "full_queue").what)
      stream:reset(0)
      sent:wait(5)
      local other = assert(client:create_stream("unread", { when_full = "drop_newest" }))
      for _ = 1, 100 do assert(other:send(("x"):rep(8 * KIB))) end
      assert.matches("%d+ of our messages were dropped", found(client, "dropped").what)
      other:reset(0)
    end)
  end)
end)

net.only("sim", function(env)
  describe("a diagnosis", function()
    env.it("names a lossy path and how bad that is, and not any more when it is good again", function(network)
      local _, client = env.pair(serve)
      for i = 1, 50 do client:request("echo", i) end
      network:path { loss = 0.2 }
      for i = 1, 200 do client:request("echo", i) end
      local finding = found(client, "loss")
      assert.equal("problem", finding.level)
      assert.matches("%% of our packets are lost", finding.what)
      assert.matches("qlog", finding.fix)
      network:path {}
      for _ = 1, 2 do
        echo.sleep(2)
        client:diagnose()
        for i = 1, 200 do client:request("echo", i) end
      end
      assert.is_nil(find(client:diagnose(), "loss"))
    end)

    env.it("names a full path, and the queue that stands in it", function(network)
      local _, client = env.pair(serve)
      network:path { rate = 1e6, queue = 60, delay = 0.02 }
      client.session:diagnose()
      local stream = assert(client:create_stream "flood")
      assert(stream)
      local up = assert(client:create_stream "unread")
      up:send(("x"):rep(200 * KIB))
      assert.matches("Mbit/s", found(client, "congestion").why)
      local finding
      for _ = 1, 100 do
        finding = finding or find(client:diagnose(), "queueing")
        echo.sleep(0.05)
      end
      assert.matches("more than it has to", finding.what)
    end, { seed = 1, limit = 60 })

    env.it("names a peer that does not answer, and one that is slow to", function(network)
      local server, client = env.pair(serve, nil, { heartbeat = { interval = 0.5, timeout = 1, misses = 0 } })
      env.eventually(function() return client.session.heartbeat end)
      assert.is_nil(find(client:diagnose(), "silent"))
      network:blackout(0, 4)
      echo.sleep(3)
      assert.equal("problem", found(client, "silent").level)
      echo.sleep(20)
      assert.is_nil(find(client:diagnose(), "silent"))
      client.session.heartbeat.rtt = 0.5 -- in a simulation nothing takes time to compute
      assert.matches("holds up its loop", found(client, "busy_peer").why)
      assert(server)
    end, { seed = 1, limit = 120 })

    env.it("names a far peer, and streams that are used up", function()
      local _, client = env.pair(serve, { transport = { max_concurrent_streams = 8, connection_window = 64 * KIB, stream_window = 64 * KIB } })
      assert.matches("far away", found(client, "far").why)
      for _ = 1, 7 do echo.spawn(client.request, client, "hold") end
      local stream = assert(client:create_stream "unread")
      for _ = 1, 20 do assert(stream:send(("x"):rep(10 * KIB))) end
      assert.matches("8 are under way", found(client, "no_streams").what)
      assert.matches("stream unread", found(client, "stream_credit").what)
    end, { seed = 1, delay = 0.2, limit = 120 })

    env.it("names events that did not come, and a peer that is about to stop", function(network)
      local server, client = env.pair(serve)
      client:add_event("tick", function() end)
      env.eventually(function() return #server:sessions() == 1 end)
      network:path({ loss = 0.3 }, "127.0.0.1", nil)
      for _ = 1, 100 do
        server:sessions()[1]:with({ unreliable = true }):emit "tick"
        echo.sleep(0.01)
      end
      assert.matches("events of the other side did not come", found(client, "missing_events").what)
      network:path {}
      local held = echo.spawn(client.request, client, "hold")
      local stopping = echo.spawn(server.stop, server, { grace = 5 })
      assert.equal("note", found(client, "draining").level)
      held:cancel()
      stopping:wait(30)
    end, { seed = 1, limit = 120 })
  end)
end)

describe("the rules of a diagnosis", function()
  -- What a rule says of a session whose figures are these.
  local function look(name, facts)
    for _, rule in ipairs(rules) do
      if rule.name == name then
        return rule.look(facts, rule.limit)
      end
    end
  end

  it("have names, levels and sources, and each is in the guide", function()
    local file <close> = assert(io.open "docs/GUIDE.md")
    local guide, seen = file:read "a", {}
    for _, rule in ipairs(rules) do
      assert.is_nil(seen[rule.name])
      seen[rule.name] = true
      assert.is_string(rule.source)
      assert.is_true(rule.level == nil or rule.level == "problem" or rule.level == "warning" or rule.level == "note")
      assert.truthy(guide:find("`" .. rule.name .. "`", 1, true), rule.name)
    end
  end)

  it("see what no simulation has: the kernel's drops, narrow paths, memory, a connection without credit", function()
    assert.is_nil(look("kernel_drops", { socket = { dropped_datagrams = 0, rcvbuf = 1 } }))
    local what, why, fix = look("kernel_drops", { socket = { dropped_datagrams = 7, rcvbuf = 212992 } })
    assert.matches("threw away 7 datagrams", what)
    assert.matches("208 KiB", why)
    assert.matches("net.core.rmem_max", fix)
    assert.matches("no larger than 1200", (look("small_packets", { now = { mtu_reductions = 1, path_mtu = 1200 } })))
    assert.is_nil(look("small_packets", { now = { mtu_reductions = 1, path_mtu = 1452 } }))
    assert.matches("7.0 MiB are held", (look("memory", { now = { held = 7 << 20 } })))
    assert.is_nil(look("memory", { now = { held = 1 << 20 } }))
    assert.matches("on all streams together", (look("credit", { now = { queued = 10, credit = 0 } })))
    assert.is_nil(look("credit", { now = { queued = 0, credit = 0 } }))
    assert.is_nil(look("credit", { now = { queued = 10, credit = 5000 } }))
  end)
end)
