-- The numbers of events: what is missing and what comes twice is noticed.

local echo = require "echostream"
local frame = require "echostream.frame"
local net = require "spec.support.net"

net.only("sim", function(env)
  local function listening(server, got)
    server:add_event("n", function(_, n)
      local call = echo.call()
      got[#got + 1] = { n, call.seq, call.gap }
    end)
  end

  describe("the numbers of events", function()
    env.it("are without gaps in a lane, whatever the network loses", function()
      local got = {}
      local server, client = env.pair(function(s) listening(s, got) end)
      for i = 0, 199 do
        client:emit("n", i)
        echo.sleep(0.002)
      end
      env.eventually(function() return #got == 200 end, "all")
      for i = 0, 199 do assert.same({ i, i, 0 }, got[i + 1]) end
      assert.equal(0, server:sessions()[1]:stats().events_missing)
    end, { seed = 1, loss = 0.1, duplicate = 0.1, reorder = 0.1 })

    env.it("tell of unreliable ones that were lost or came late", function(simulated)
      local got = {}
      local server, client = env.pair(function(s) listening(s, got) end)
      simulated:path { loss = 0.05, reorder = 0.2, duplicate = 0.2 }
      local calls = client:with { unreliable = true }
      for i = 0, 499 do
        assert(calls:emit("n", i))
        echo.sleep(0.002)
      end
      simulated:path {}
      echo.sleep(1)
      assert(calls:emit("n", 500)) -- so that those lost at the end are known to be
      while #got == 0 or got[#got][1] ~= 500 do assert(echo.sleep(0.1)) end
      local stats = server:sessions()[1]:stats()
      assert.is_true(#got < 501 and #got > 100)
      assert.equal(501 - #got, stats.events_missing)
      assert.is_true(stats.events_late > 0)
      assert.equal(0, stats.events_duplicated) -- QUIC sees to that
      local late, seen = 0, {}
      for i, event in ipairs(got) do
        assert.equal(event[1], event[2])
        assert.is_nil(seen[event[1]])
        seen[event[1]] = true
        if i > 1 and event[2] < got[i - 1][2] then late = late + 1 end
      end
      assert.is_true(late > 0)
    end, { seed = 4 })

    env.it("leave out what the sender dropped", function()
      local open, got = false, {}
      local server = env.server({ transport = { stream_window = 16384 } }, function(s)
        s:add_event("n", function(_, n)
          while not open do assert(echo.sleep(0.01)) end
          local call = echo.call()
          got[#got + 1] = { n, call.gap }
        end)
      end)
      local client = env.connect(server, { event_queue = 10240 })
      local filler = ("x"):rep(1024)
      for i = 1, 200 do client:with({ when_full = "drop_newest" }):emit("n", i, filler) end
      local dropped = client:stats().dropped
      assert.is_true(dropped > 0)
      open = true
      env.eventually(function() return #got == 200 - dropped end, "those that went")
      client:emit("n", 201)
      env.eventually(function() return #got == 201 - dropped end, "one more")
      assert.same({ 201, dropped }, got[#got])
      assert.equal(dropped, server:sessions()[1]:stats().events_missing)
    end)

    env.it("show an event that comes again", function()
      local got = {}
      local server = env.server(nil, function(s) listening(s, got) end)
      local raw = assert(echo.quic.connect(server.address, { alpn = { "echostream/1" }, pin = server.pin }))
      table.insert(env.opened, raw)
      local control = assert(raw:open_uni_stream())
      control:write("\0" .. frame.encode { type = "hello", instance = ("i"):rep(16), caps = 4 })
      local function event(seq)
        return frame.encode { type = "event", name = "n", seq = seq, payload = echo.codec.msgpack.encode(seq) }
      end
      local lane = assert(raw:open_uni_stream())
      lane:write("\1" .. event(0) .. event(1) .. event(1) .. event(4))
      env.eventually(function() return #got == 4 end, "the lane's")
      assert.same({ { 0, 0, 0 }, { 1, 1, 0 }, { 1, 1, 0 }, { 4, 4, 2 } }, got)
      local stats = server:sessions()[1]:stats()
      assert.same({ 1, 2 }, { stats.events_duplicated, stats.events_missing })
    end)
  end)
end)
