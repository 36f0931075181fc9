-- Backpressure: marks of send queues, policies when one is full, memory beside a slow reader.

local core = require "echostream.core"
local echo = require "echostream"
local net = require "spec.support.net"

local KIB = 1024

-- A server with a stream that nobody reads until open() is called, and one that is read at once.
local function gate(server)
  local open, got = false, {}
  server:add_stream("gated", function(session, stream)
    while not open do assert(echo.sleep(0.01)) end
    for frame in stream:frames() do got[#got + 1] = frame end
    stream:send("end")
    session:set("ended", true)
  end)
  server:add_stream("fast", function(_, stream)
    local n = 0
    for frame in stream:frames() do n = n + #frame.data end
    stream:send(tostring(n))
  end)
  return got, function() open = true end
end

-- Sends n messages of `size` bytes and finishes; `sent` counts.
local function sender(stream, n, size)
  local sent = { n = 0 }
  local chunk = ("x"):rep(size)
  sent.task = echo.spawn(function()
    for _ = 1, n do
      assert(stream:send(chunk))
      sent.n = sent.n + 1
    end
    assert(stream:finish())
  end)
  return sent
end

local small_windows = { stream_window = 16 * KIB }

net.each_door(function(env)
  describe("a send queue", function()
    env.it("stops at its high mark, goes on at its low one, and says how long that took", function()
      local got, open
      local server = env.server(nil, function(s) got, open = gate(s) end)
      local client = env.connect(server)
      local stream = assert(client:create_stream("gated", { queue = { high = 20 * KIB, low = 4 * KIB } }))
      local sent = sender(stream, 400, 2 * KIB)
      env.eventually(function() return stream:stats().waits > 0 end, "full queue")
      for _ = 1, 20 do echo.sleep(0.005) end
      local stats = stream:stats()
      assert.is_true(sent.n * 2 * KIB <= 400 * KIB) -- what the reader's side takes unread, and the queue
      assert.equal(20 * KIB, stats.high)
      assert.equal(4 * KIB, stats.low)
      assert.is_true(stats.queued > stats.low and stats.queued <= 24 * KIB)
      assert.is_true(stats.full)
      assert.is_true(stats.waited > 0)
      assert.is_true(client:stats().queued >= stats.queued)
      open()
      assert.equal("end", stream:recv().data)
      assert.equal(400, #got)
      assert.is_true(sent.task:wait())
      assert.equal(0, stream:stats().queued)
      assert.is_false(stream:stats().full)
      assert.is_true(client:stats().send_waits > 0)
      assert.is_true(client:stats().send_waited > 0)
    end)

    env.it("of a session bounds its streams together, and stops none whose own queue is short", function()
      local _, open
      local server = env.server({ transport = small_windows }, function(s) _, open = gate(s) end)
      local client = env.connect(server, { session_queue = { high = 300 * KIB, low = 100 * KIB } })
      local streams, sends = {}, {}
      for i = 1, 20 do
        streams[i] = assert(client:create_stream("gated"))
        sends[i] = sender(streams[i], 300, KIB)
      end
      env.eventually(function()
        for _, stream in ipairs(streams) do
          if stream:stats().waits == 0 then return false end
        end
        return true
      end, "all wait")
      assert.is_true(client:stats().queued <= 300 * KIB + 20 * 18 * KIB)
      local fast = assert(client:create_stream("fast"))
      sender(fast, 100, 8 * KIB)
      assert.equal(tostring(100 * 8 * KIB), fast:recv().data)
      open()
      for i, stream in ipairs(streams) do
        assert.equal("end", stream:recv().data)
        assert.equal(300, sends[i].n)
      end
    end)

    env.it("of a whole server bounds its sessions together", function()
      local sessions = {}
      local server = env.server({ total_queue = 100 * KIB, session_queue = KIB * KIB }, function(s)
        s:add_stream("pour", function(session, stream)
          sessions[#sessions + 1] = session
          local chunk = ("x"):rep(4 * KIB)
          for _ = 1, 100 do assert(stream:send(chunk)) end
        end)
      end)
      local streams = {}
      for i = 1, 5 do
        streams[i] = assert(env.connect(server, { transport = small_windows }):create_stream("pour")):pause()
      end
      env.eventually(function() return server:stats().send_waits > 0 or server:stats().queued > 100 * KIB end, "full")
      for _ = 1, 20 do echo.sleep(0.005) end
      assert.is_true(server:stats().queued <= 100 * KIB + 5 * 21 * KIB)
      for i = 1, 5 do
        local n = 0
        for frame in streams[i]:resume():frames() do n = n + #frame.data end
        assert.equal(400 * KIB, n)
      end
      env.eventually(function() return server:stats().queued == 0 end, "empty")
    end)

    env.it("of events has marks too", function()
      local open, got = false, 0
      local server = env.server({ transport = small_windows }, function(s)
        s:add_event("slow", function()
          while not open do assert(echo.sleep(0.01)) end
          got = got + 1
        end)
      end)
      local client = env.connect(server, { event_queue = 10 * KIB })
      local payload, kept, refused = ("x"):rep(KIB), 0, nil
      for _ = 1, 200 do
        local ok, err = client:with { when_full = "error" }:emit("slow", payload)
        if ok then kept = kept + 1 else refused = err break end
      end
      assert.equal("resource_exhausted", refused.code)
      assert.is_true(kept >= 10 and kept <= 60)
      open = true
      env.eventually(function() return got == kept end, "handled")
    end)
  end)

  describe("a full queue of a stream", function()
    local function full(policy, n)
      local got, open
      local server = env.server({ transport = small_windows }, function(s) got, open = gate(s) end)
      local client = env.connect(server)
      local stream = assert(client:create_stream("gated", { queue = 8 * KIB, when_full = policy, outbox = 4, numbered = true }))
      local refused = 0
      for i = 1, n do
        local ok, err = stream:send(tostring(i) .. ("."):rep(KIB))
        if not ok then
          assert.equal("resource_exhausted", err.code)
          refused = refused + 1
        end
      end
      local stats = stream:stats()
      assert.is_true(stream:finish())
      open()
      assert.equal("end", stream:recv().data)
      local missing, last = 0, nil
      for _, frame in ipairs(got) do
        missing = missing + (frame.gap or 0)
        last = tonumber(frame.data:match "^%d+")
      end
      return stats, #got, missing, last, refused
    end

    env.it("drops the newest messages when it is told so, and the reader sees the gap", function()
      local stats, got, _, last = full("drop_newest", 100)
      assert.is_true(stats.dropped > 0)
      assert.equal(100, got + stats.dropped)
      assert.is_true(last < 100)
    end)

    env.it("drops the oldest that wait, and keeps the newest", function()
      local stats, got, missing, last = full("drop_oldest", 100)
      assert.is_true(stats.dropped > 0)
      assert.equal(4, stats.waiting)
      assert.equal(100, got + stats.dropped)
      assert.equal(stats.dropped, missing)
      assert.equal(100, last)
    end)

    env.it("is an error when it is told so", function()
      local stats, got, _, _, refused = full("error", 100)
      assert.is_true(refused > 0)
      assert.equal(100, got + refused)
      assert.equal(0, stats.dropped)
    end)

    env.it("keeps a handler's stream open until what waits is sent", function()
      local server = env.server({ transport = small_windows }, function(s)
        s:add_stream("last", function(_, stream)
          for i = 1, 200 do stream:send(i .. ("."):rep(KIB)) end
        end, { queue = 8 * KIB, when_full = "drop_oldest", outbox = 3, numbered = true })
        s:add_rpc("last.of", function(_, stream, n)
          for i = 1, n do stream:send(i .. ("."):rep(KIB)) end
          return "done"
        end, { stream = "out", queue = 8 * KIB, when_full = "drop_oldest", outbox = 3 })
      end)
      local client = env.connect(server, { transport = small_windows })
      for _, open in ipairs { "create_stream", "stream" } do
        local stream = assert(client[open](client, open == "stream" and "last.of" or "last", open == "stream" and 200 or nil))
        stream:pause()
        env.eventually(function() return stream:stats().unread > 8 * KIB end, "much is unread")
        for _ = 1, 10 do echo.sleep(0.005) end
        local last
        for frame in stream:resume():frames() do last = tonumber(frame.data:match "^%d+") end
        assert.equal(200, last)
        if open == "stream" then assert.equal("done", stream:result()) end
      end
    end)

    env.it("gives a callback its answer at once", function()
      local server = env.server(nil, gate)
      local stream = assert(env.connect(server):create_stream("gated", { when_full = "drop_newest" }))
      local said
      stream:send("x", function(ok) said = ok end)
      env.eventually(function() return said end)
      assert.is_true(said)
    end)
  end)

  describe("a full queue of events", function()
    env.it("drops the newest or the oldest when it is told so", function()
      for _, policy in ipairs { "drop_newest", "drop_oldest" } do
        local open, got = false, {}
        local server = env.server({ transport = small_windows }, function(s)
          s:add_event("slow", function(_, i)
            while not open do assert(echo.sleep(0.01)) end
            got[#got + 1] = i
          end)
        end)
        local client = env.connect(server, { event_queue = 10 * KIB })
        local calls, payload = client:with { when_full = policy, outbox = 5 }, ("x"):rep(KIB)
        for i = 1, 200 do assert.is_true(calls:emit("slow", i, payload)) end
        local dropped = client:stats().dropped
        assert.is_true(dropped > 0)
        open = true
        env.eventually(function() return #got == 200 - dropped end, "handled")
        assert.equal(policy == "drop_oldest", got[#got] == 200)
      end
    end)
  end)
end)

net.only("sim", function(env)
  describe("a slow reader", function()
    env.it("of 1 MB/s keeps both ends within 8 MiB of their idle memory", function()
      local MIB, total, at_most = KIB * KIB, 64, 0
      local function used()
        collectgarbage() -- how much garbage there is, is the collector's business
        return core.memory().in_use + collectgarbage "count" * KIB
      end
      local server, client = env.pair(function(s)
        s:add_stream("slow", function(_, stream)
          local got = 0
          for frame in stream:frames() do
            got = got + #frame.data
            assert(echo.sleep(#frame.data / 1e6))
            if got % MIB == 0 then at_most = math.max(at_most, used()) end
          end
          stream:send(tostring(got))
        end)
      end)
      client:describe() -- what is loaded lazily is
      local idle = used()
      local stream = assert(client:create_stream("slow"))
      local chunk = ("x"):rep(64 * KIB)
      for i = 1, total * 16 do
        assert(stream:send(chunk))
        if i % 20 == 0 then at_most = math.max(at_most, used()) end
      end
      stream:finish()
      assert.equal(tostring(total * MIB), stream:recv().data)
      assert.is_true(at_most - idle <= 8 * MIB, ("%.1f MiB above idle"):format((at_most - idle) / MIB))
      server:stop { grace = 0 }
    end, { seed = 1, limit = 600, rate = 100e6, delay = 0.01, queue = 100 })
  end)
end)
