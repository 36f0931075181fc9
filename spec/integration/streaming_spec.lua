-- Streaming calls, and what long streams can do: pausing, half-closing in every order, reset codes, backpressure.

local echo = require "echostream"
local net = require "spec.support.net"

local function methods(host)
  host:add_rpc("range", function(_, stream, from, to)
    for i = from, to do
      assert(stream:send(i))
    end
    return to - from + 1, nil, "done"
  end, { stream = "out" })
  host:add_rpc("sum", function(_, stream, start)
    local n = start or 0
    for value in stream:values() do
      n = n + value
    end
    return n
  end, { stream = "in" })
  host:add_rpc("echo", function(_, stream)
    for frame in stream:frames() do
      assert(stream:send(frame.data))
    end
  end, { stream = "both" })
  host:add_rpc("plain", function() return 1 end)
end

net.each_door(function(env)
  describe("a streaming call", function()
    env.it("takes messages from its handler and then the results", function()
      local _, client = env.pair(methods)
      local stream = assert(client:stream("range", 3, 6))
      local got = {}
      for value in stream:values() do got[#got + 1] = value end
      assert.same({ 3, 4, 5, 6 }, got)
      assert.is_nil(stream.error)
      local n, hole, word = stream:result()
      assert.same({ 4, nil, "done" }, { n, hole, word })
      assert.equal("done", (select(3, stream:result(1)))) -- as often as one likes
    end)

    env.it("sends messages to its handler, which answers once", function()
      local _, client = env.pair(methods)
      local stream = assert(client:stream("sum", 100))
      for i = 1, 10 do assert.is_true(stream:send(i)) end
      local result, err = stream:result(0.05)
      assert.is_nil(result)
      assert.equal("timeout", err.code)
      stream:finish()
      assert.equal(155, stream:result())
      assert.is_nil((stream:recv()))
    end)

    env.it("does both at once, and a handler without results gives true", function()
      local _, client = env.pair(methods)
      local stream = assert(client:stream("echo"))
      for i = 1, 5 do
        stream:send { i, text = "x" }
        assert.same({ i, text = "x" }, stream:recv().data)
      end
      stream:finish()
      assert.is_nil((stream:recv()))
      assert.is_true(stream:result())
    end)

    env.it("is offered by clients as well", function()
      local server, client = env.pair()
      methods(client)
      env.eventually(function() return #server:sessions() == 1 end)
      local stream = assert(server:sessions()[1]:stream("range", 1, 2))
      assert.equal(1, stream:recv().data)
      assert.equal(2, (stream:result()))
    end)

    env.it("carries every kind of value, nil and false among them", function()
      local _, client = env.pair(methods)
      for _, codec in ipairs { "msgpack", "json" } do
        local stream = assert(client:with { codec = codec }:stream("echo"))
        local values = { false, 1, 2.0, "s", { a = { 1, 2 } }, true }
        for _, value in ipairs(values) do stream:send(value) end
        stream:send(nil)
        stream:send(echo.null)
        stream:finish()
        for _, value in ipairs(values) do assert.same(value, stream:recv().data) end
        local frame = stream:recv()
        assert.is_table(frame) -- nil is a message, not the end
        assert.is_nil(frame.data)
        local rest = {}
        for value in stream:values() do rest[#rest + 1] = value end
        assert.same({ echo.null }, rest)
        assert.is_true(stream:result())
      end
    end)

    env.it("in the raw codec carries strings, and needs no arguments", function()
      local _, client = env.pair(methods)
      local stream = assert(client:with { codec = "raw" }:stream("echo"))
      stream:send("\0\1\2")
      assert.equal("\0\1\2", stream:recv().data)
      stream:finish()
      assert.is_true(stream:result())
      assert.has_error(function() stream:send { 1 } end)
    end)

    env.it("says what cannot be sent, and goes on", function()
      local _, client = env.pair(methods)
      assert.error_matches(function() client:stream("echo", print) end, "argument 1")
      local stream = assert(client:stream("echo"))
      local ok, err = stream:send(print)
      assert.is_nil(ok)
      assert.equal("serialization", err.code)
      stream:send("fine")
      assert.equal("fine", stream:recv().data)
    end)

    env.it("shows a failing handler in recv and in result, with its details", function()
      local _, client = env.pair(function(server)
        server:add_rpc("bad", function(_, stream)
          stream:send("first")
          return nil, echo.error("not_found", "no such user", { id = 7 })
        end, { stream = "both" })
        server:add_rpc("worse", function() error("secret path") end, { stream = "both" })
        server:add_rpc("odd", function() return print end, { stream = "both" })
      end)
      local stream = assert(client:stream("bad"))
      assert.equal("first", stream:recv().data)
      local frame, err = stream:recv()
      assert.is_nil(frame)
      assert.equal("not_found: no such user", tostring(err))
      local result
      result, err = stream:result()
      assert.is_nil(result)
      assert.same({ id = 7 }, err.details)
      assert.equal("yes", err.processed)
      _, err = stream:send("x")
      assert.equal("not_found", err.code)
      _, err = assert(client:stream("worse")):result()
      assert.equal("unknown", err.code)
      assert.is_truthy(env.logged("secret path"))
      _, err = assert(client:stream("odd")):result()
      assert.equal("serialization", err.code)
    end)

    env.it("is not confused with other sorts of calls", function()
      local _, client = env.pair(methods)
      local _, err = client:request("range", 1, 2)
      assert.equal("invalid_argument", err.code)
      assert.matches("range is a server%-streaming method", err.message)
      assert.equal("no", err.processed)
      _, err = assert(client:stream("plain")):result()
      assert.equal("invalid_argument", err.code)
      assert.matches("plain is a plain method", err.message)
      _, err = assert(client:stream("nobody")):result()
      assert.equal("method_not_found", err.code)
      _, err = assert(client:stream("range", 1, 1)):send("not wanted")
      if err then assert.equal("cancelled", err.code) end
    end)

    env.it("lets messages go only where they are declared", function()
      local seen
      local _, client = env.pair(function(server)
        server:add_rpc("in", function(_, stream)
          local _, err = stream:send("x")
          seen = err
          return stream:recv().data
        end, { stream = "in" })
        server:add_rpc("out", function(_, stream)
          return stream:recv() == nil
        end, { stream = "out" })
      end)
      local stream = assert(client:stream("in"))
      stream:send("hello")
      assert.equal("hello", stream:result()) -- the handler is done: nobody has to finish
      assert.equal("failed_precondition", seen.code)
      stream = assert(client:stream("out"))
      assert.is_true(stream:result())
      local _, err = stream:send("x")
      assert.equal("cancelled", err.code)
    end)

    env.it("has a deadline only when asked, for the whole of it", function()
      local deadline, remaining, outcome = {}, nil, nil
      local _, client = env.pair(function(server)
        server:add_rpc("slow", function(_, stream)
          deadline[#deadline + 1] = echo.call().deadline or false
          local ok, err = echo.sleep(5)
          outcome = { ok, err.code, echo.call():cancelled(), (stream:send(1)) }
        end, { stream = "out" })
        server:add_rpc("nested", function(session)
          local inner = session:stream("up")
          remaining = inner:result()
        end, { stream = "out" })
      end)
      client:add_rpc("up", function() return echo.call():remaining() or "none" end, { stream = "out" })
      local began = echo.now()
      local stream = assert(client:with { timeout = 0.2 }:stream("slow"))
      local _, err = stream:recv()
      assert.equal("timeout", err.code)
      assert.is_true(echo.now() - began < 0.4)
      env.eventually(function() return outcome end)
      assert.same({ nil, "cancelled", true, nil }, outcome)
      local rounding = 1e-6 -- differences of points in time are not exact
      assert.is_true(deadline[1] > 0.1 and deadline[1] <= 0.2 + rounding)
      stream = client:stream("slow")
      echo.sleep(0.05)
      stream:reset()
      env.eventually(function() return deadline[2] ~= nil end)
      assert.is_false(deadline[2])
      -- What is left of a handler's time bounds the streams it opens.
      assert.is_true(client:with { timeout = 3 }:stream("nested"):result())
      assert.is_true(remaining > 2 and remaining <= 3 + rounding)
      client:stream("nested"):result()
      assert.equal("none", remaining)
    end)

    env.it("is cancelled by reset and by close: its handler's waits return", function()
      local outcomes, codes = {}, {}
      local _, client = env.pair(function(server)
        server:add_rpc("wait", function(_, stream, how)
          local call = echo.call()
          call:on_cancel(function(code) codes[#codes + 1] = code end)
          local _, err
          if how == "recv" then
            _, err = stream:recv()
          else
            _, err = echo.sleep(10)
          end
          outcomes[#outcomes + 1] = { err.code, call:cancelled() }
          return "nobody hears this"
        end, { stream = "both" })
      end)
      local n = 0
      for _, how in ipairs { "recv", "sleep" } do
        for _, give_up in ipairs { "reset", "close", "collect" } do
          local stream = assert(client:stream("wait", how))
          echo.sleep(0.05)
          if give_up == "collect" then
            stream = nil -- luacheck: ignore
            collectgarbage()
            collectgarbage()
          else
            stream[give_up](stream)
          end
          n = n + 1
          env.eventually(function() return #outcomes == n and #codes == n end, how .. " " .. give_up)
          assert.same({ "cancelled", true }, outcomes[n])
          assert.equal(0x10, codes[n])
        end
      end
    end)

    env.it("fails with its connection, on both sides", function()
      local outcome
      local server, client = env.pair(function(server)
        server:add_rpc("wait", function(_, stream)
          local _, err = stream:recv()
          outcome = { err.code, echo.call():cancelled() }
        end, { stream = "both" })
      end)
      local stream = assert(client:stream("wait"))
      echo.sleep(0.05)
      client.session:close()
      local _, err = stream:result()
      assert.equal("connection_closed", err.code)
      env.eventually(function() return outcome end)
      assert.same({ "connection_closed", true }, outcome)
      assert.equal(0, #server:sessions())
    end)

    env.it("knows its metadata, session and kind", function()
      local _, client = env.pair(function(server)
        server:add_rpc("who", function(session, stream)
          local call = echo.call()
          return call.name, call.kind, call.metadata.lang, call.session == session, stream:metadata().lang,
            stream.session == session
        end, { stream = "out" })
      end)
      local results = { client:with { metadata = { lang = "en" }, priority = 1 }:stream("who"):result() }
      assert.same({ "who", "stream", "en", true, "en", true }, results)
    end)

    env.it("takes large arguments at once after connecting", function()
      local server = env.server(nil, methods)
      server:add_rpc("length", function(_, _, text) return #text end, { stream = "out" })
      local client = env.connect(server)
      assert.equal(300000, client:stream("length", ("x"):rep(300000)):result())
      local _, err = client:stream("length", ("x"):rep(5000000))
      assert.equal("resource_exhausted", err.code)
    end)

    env.it("has large results", function()
      local _, client = env.pair(function(server)
        server:add_rpc("big", function(_, stream)
          stream:send("before")
          return ("y"):rep(1000000)
        end, { stream = "out" })
      end)
      local stream = assert(client:stream("big"))
      assert.equal(1000000, #stream:result())
      assert.equal("before", stream:recv().data)
    end)

    env.it("can be closed by its handler, whose results still arrive", function()
      local _, client = env.pair(function(server)
        server:add_rpc("closes", function(_, stream)
          stream:send("a")
          do
            local scoped <close> = stream -- luacheck: ignore
          end
          local frame, err = stream:recv()
          local ok = stream:send("b")
          return frame, err.code, ok, "still"
        end, { stream = "both" })
        server:add_rpc("finishes", function(_, stream)
          stream:send("a")
          stream:finish()
          local _, err = stream:send("b")
          return stream:recv().data, err.code
        end, { stream = "both" })
      end)
      local stream = assert(client:stream("closes"))
      assert.equal("a", stream:recv().data)
      assert.equal("still", (select(4, stream:result())))
      stream = assert(client:stream("finishes"))
      assert.equal("a", stream:recv().data)
      stream:send("read on")
      assert.same({ "read on", "failed_precondition" }, { stream:result() })
    end)

    env.it("has callback forms, and can be misused only loudly", function()
      local server, client = env.pair(methods)
      local got
      client:stream("range", 1, 2):result(function(n) got = n end):wait(5)
      assert.equal(2, got)
      assert.error_matches(function() client:stream(5) end, "name")
      assert.error_matches(function() client:stream("bad name") end, "a method name is")
      assert.error_matches(function() client:create_stream("audio"):result() end, "named stream")
      assert.error_matches(function() server:add_rpc("x", print, { stream = "up" }) end, "stream")
      assert.error_matches(function() server:add_rpc("x", nil, { stream = "out" }) end, "handler")
      assert.error_matches(function() server:add_stream("range", print) end, "already")
      server:add_stream("audio", function() end)
      assert.error_matches(function() server:add_rpc("audio", print, { stream = "in" }) end, "already")
      local _, err = client:with { metadata = { ["UPPER"] = "x" } }:stream("range", 1, 2)
      assert.equal("invalid_argument", err.code)
      local stranger = env.client(server)
      _, err = stranger:stream("range", 1, 2)
      assert.equal("unavailable", err.code)
    end)

    env.it("counts against max_named_streams", function()
      local _, client = env.pair(methods, { max_named_streams = 2 })
      client:request("plain") -- the HELLO is there
      local first, second = client:stream("echo"), client:stream("echo")
      local third, err = client:stream("echo")
      assert.is_nil(third)
      assert.equal("resource_exhausted", err.code)
      first:close()
      second:close()
      assert.is_truthy(client:stream("echo"))
    end)
  end)

  describe("a stream", function()
    -- What each side does, in order: opener's acts are lower case, the handler's upper case.
    -- f finish, s send, r receive one, e receive the end
    for _, order in ipairs {
      "fEFe", "FefE", "sRfESrFe", "SrFesRfE", "fESrFe", "FesRfE", "sSfFRrEe", "sSFfrReE", "fFeE", "FfEe", "sfSFRErF",
    } do
      env.it("ends each direction on its own: " .. order, function()
        local theirs
        local _, client = env.pair(function(server)
          server:add_stream("s", function(_, stream)
            theirs = stream
            env.eventually(function() return not theirs end)
          end)
        end)
        local ours = assert(client:create_stream("s"))
        ours:send("hello")
        env.eventually(function() return theirs end)
        assert.equal("hello", theirs:recv(2).data)
        for act in order:gmatch "." do
          local stream = act:lower() == act and ours or theirs
          act = act:lower()
          if act == "f" then
            assert.is_true(stream:finish())
            local _, err = stream:send("late")
            assert.equal("failed_precondition", err.code)
          elseif act == "s" then
            assert.is_true(stream:send("m"))
          elseif act == "r" then
            assert.equal("m", stream:recv(2).data)
          else
            local frame, err = stream:recv(2)
            assert.is_nil(frame)
            assert.is_nil(err)
            assert.is_true(stream:stats().peer_finished)
          end
        end
        assert.is_true(ours:finish())
        assert.is_true(theirs:finish())
        env.eventually(function() return not ours:stats().open and not theirs:stats().open end)
        assert.is_nil(ours.error)
        theirs = nil
      end)
    end

    env.it("brings a user's reset code to the other side, whoever resets", function()
      local seen
      local _, client = env.pair(function(server)
        for _, kind in ipairs { "named", "call" } do
          local function handler(_, stream, n)
            if n or stream:metadata().n then
              stream:recv()
              stream:reset(n or math.tointeger(stream:metadata().n))
              return
            end
            for _ in stream:frames() do end
            seen = stream.error
          end
          if kind == "named" then
            server:add_stream(kind, handler)
          else
            server:add_rpc(kind, handler, { stream = "both" })
          end
        end
      end)
      local largest = env.door == "webtransport" and (1 << 32) - 257 or 1 << 40 -- codes have 32 bits there, of which 256 are ours
      for _, n in ipairs { 0, 7, 255, 70000, largest } do
        for _, kind in ipairs { "named", "call" } do
          local what = kind .. " " .. n
          local stream = kind == "named" and client:create_stream(kind) or client:stream(kind)
          stream:send("x")
          echo.sleep(0.02)
          seen = nil
          stream:reset(n)
          env.eventually(function() return seen end, what)
          assert.equal("cancelled", seen.code)
          assert.same({ reset = n }, seen.details, what)
          stream = kind == "named" and client:create_stream(kind, { metadata = { n = tostring(n) } })
            or client:stream(kind, n)
          stream:send("x")
          local _, err = stream:recv(2)
          assert.equal("cancelled", err.code)
          assert.same({ reset = n }, err.details, what)
        end
      end
      assert.has_error(function() client:create_stream("named"):reset("x") end)
      assert.has_error(function() client:create_stream("named"):reset(-1) end)
    end)

    env.it("pauses: nothing is delivered, the sender is slowed, resume goes on", function()
      local sent, sender = 0, nil
      local _, client = env.pair(function(server)
        server:add_stream("flood", function(_, stream)
          sender = stream
          local chunk = ("z"):rep(20000)
          for _ = 1, 200 do
            assert(stream:send(chunk))
            sent = sent + 1
          end
        end)
      end)
      local stream = assert(client:create_stream("flood"))
      stream:pause()
      assert.is_true(stream:stats().paused)
      local frame, err = stream:recv(0.3)
      assert.is_nil(frame)
      assert.equal("timeout", err.code)
      local before = sent
      assert.is_true(before < 60, "the sender was not slowed: " .. before)
      echo.sleep(0.3)
      assert.equal(before, sent)
      local ours, theirs = stream:stats(), sender:stats()
      assert.is_true(ours.unread > 0 and ours.unread < 1000000)
      assert.is_true(theirs.queued < 400000)
      assert.is_true(ours.idle > 0.2 and theirs.idle > 0.2)
      local got = 0
      local reader = echo.spawn(function()
        for _ in stream:frames() do got = got + 1 end
      end)
      echo.sleep(0.05)
      assert.equal(0, got)
      assert.equal(stream, stream:resume())
      assert.is_false(stream:stats().paused)
      assert.is_true(reader:wait(10))
      assert.equal(200, got)
      assert.equal(0, stream:stats().unread)
    end)

    env.it("that is paused says at once that it failed, or was closed", function()
      local _, client = env.pair(function(server)
        server:add_stream("fails", function(_, stream)
          stream:recv()
          return nil, echo.error("aborted", "enough")
        end)
      end)
      local stream = assert(client:create_stream("fails"))
      stream:pause()
      local waiting = echo.spawn(function() return stream:recv() end)
      echo.sleep(0.05)
      stream:send("go")
      local frame, err = waiting:wait(2)
      assert.is_nil(frame)
      assert.equal("aborted", err.code)
      stream = assert(client:create_stream("fails")):pause()
      waiting = echo.spawn(function() return stream:recv() end)
      echo.sleep(0.05)
      assert.equal("suspended", waiting:status())
      stream:close()
      frame, err = waiting:wait(2)
      assert.is_nil(frame)
      assert.equal("connection_closed", err.code)
      local stats
      stats, err = stream:stats()
      assert.is_nil(stats)
      assert.equal("connection_closed", err.code)
    end)

    env.it("keeps both queues bounded between a fast sender and a slow reader", function()
      local total, most_unread, most_queued = 2000, 0, 0
      local mine
      local _, client = env.pair(function(server)
        server:add_rpc("sink", function(_, stream)
          local n = 0
          for value in stream:values() do
            n = n + #value
            if n % 100000 == 0 then
              most_unread = math.max(most_unread, stream:stats().unread)
              most_queued = math.max(most_queued, mine:stats().queued)
              echo.sleep(0.02) -- 5 MB/s
            end
          end
          return n
        end, { stream = "in" })
      end)
      mine = assert(client:stream("sink"))
      local chunk = ("q"):rep(2000)
      for _ = 1, total do
        assert(mine:send(chunk))
      end
      mine:finish()
      assert.equal(total * #chunk, mine:result())
      -- The window of a stream is 256 KiB and grows with a consumer that keeps up; the queue stops at 256 KiB.
      assert.is_true(most_unread > 0 and most_unread < 1024 * 1024, "unread: " .. most_unread)
      assert.is_true(most_queued < 300 * 1024, "queued: " .. most_queued)
    end)

    env.it("hands the slowness of a consumer on through a handler that pipes two streams", function()
      local sent, slow = 0, true
      local server, client = env.pair()
      local consumer = env.client(server)
      consumer:add_stream("out", function(_, stream)
        local n = 0
        for frame in stream:frames() do
          n = n + #frame.data
          while slow and echo.sleep(0.01) do end
        end
        stream:send(tostring(n))
      end)
      assert(consumer:connect(server.address))
      env.eventually(function() return #server:sessions() == 2 end)
      server:add_stream("in", function(session, stream)
        local peers = server:sessions()
        local other = assert((peers[1] == session and peers[2] or peers[1]):create_stream("out"))
        for frame in stream:frames() do assert(other:send(frame.data)) end
        other:finish()
        stream:send(other:recv().data)
      end)
      local stream = assert(client:create_stream("in"))
      local sender = echo.spawn(function()
        for _ = 1, 1000 do
          assert(stream:send(("x"):rep(20000)))
          sent = sent + 1
        end
        stream:finish()
        return stream:recv().data
      end)
      echo.sleep(0.5)
      assert.is_true(sent < 500, "nobody held the sender back: " .. sent)
      local before = sent
      echo.sleep(0.2)
      assert.equal(before, sent)
      slow = false
      assert.equal(tostring(1000 * 20000), sender:wait(10))
    end)

    env.it("carries times, numbers, and values of codecs that say on the wire what they are", function()
      local _, client = env.pair(function(server)
        server:add_stream("values", function(_, stream)
          for frame in stream:frames() do
            stream:send_timestamped { data = { frame.data }, seq = frame.seq, wall_time = frame.wall_time }
          end
        end, { codec = "json" })
        server:add_stream("bytes", function(_, stream)
          stream:send("\xc1") -- what MessagePack never uses
          stream:send("after")
        end)
        server:add_stream("broken", function(_, stream)
          stream:send("\xc1")
          stream:send("\x07")
        end, { codec = "raw" })
      end)
      -- Each message says its codec, so the ends need not agree on one.
      local stream = assert(client:create_stream("values", { codec = "msgpack" }))
      for i, value in ipairs { false, 0, "", { 1 } } do
        stream:send_timestamped { data = value, wall_time = 5.25, seq = i * 10 }
        local frame = stream:recv()
        assert.same({ value }, frame.data)
        assert.equal(i * 10, frame.seq)
        assert.equal(5.25, frame.wall_time)
      end
      stream = assert(client:create_stream("bytes", { codec = "msgpack" }))
      assert.equal("\xc1", stream:recv().data)
      assert.equal("after", stream:recv().data)
      -- Bytes of a codec that cannot be read are an error of that message only.
      local broken = assert(client:create_stream("broken", { codec = "msgpack" }))
      assert.equal("\xc1", broken:recv().data)
    end)

    env.it("says of a message that it cannot be decoded, and goes on with the next", function()
      local _, client = env.pair(function(server)
        server:add_stream("mixed", function(_, stream)
          stream._channel:codec("msgpack")
          stream:send("\xc1") -- announced as MessagePack, which it is not
          stream:send("\x07")
        end)
      end)
      local stream = assert(client:create_stream("mixed", { codec = "msgpack" }))
      local frame, err = stream:recv()
      assert.is_nil(frame)
      assert.equal("serialization", err.code)
      assert.equal(7, stream:recv().data)
      assert.is_nil((stream:recv()))
    end)

    env.it("handler is cancelled when its opener goes away", function()
      local outcome
      local _, client = env.pair(function(server)
        server:add_stream("long", function()
          local ok, err = echo.sleep(10)
          outcome = { ok, err.code, echo.call():cancelled() }
        end)
      end)
      local stream = assert(client:create_stream("long"))
      echo.sleep(0.05)
      stream:reset(3)
      env.eventually(function() return outcome end)
      assert.same({ nil, "cancelled", true }, outcome)
    end)
  end)
end)

net.only("sim", function(env)
  describe("a streaming call over a bad network", function()
    for seed = 1, 5 do
      env.it("loses, doubles and mixes nothing, seed " .. seed, function()
        local _, client = env.pair(methods)
        local tasks = {}
        for k = 1, 10 do
          tasks[k] = echo.spawn(function()
            local stream = assert(client:stream("echo"))
            local reader = echo.spawn(function()
              local n = 0
              for value in stream:values() do
                n = n + 1
                assert(value[1] == k and value[2] == n)
              end
              return n
            end)
            for i = 1, 50 do assert(stream:send { k, i, ("x"):rep(i * 40) }) end
            stream:finish()
            assert(stream:result())
            return assert(reader:wait())
          end)
        end
        local results = assert(echo.all(tasks))
        for k = 1, 10 do assert.equal(50, results[k]) end
      end, { seed = seed, loss = 0.05, duplicate = 0.02, reorder = 0.05, corrupt = 0.01 })
    end
  end)
end)
