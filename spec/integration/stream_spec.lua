local echo = require "echostream"
local net = require "spec.support.net"

local function streams(server)
  server:add_stream("echo", function(_, stream)
    for frame in stream:frames() do
      assert(stream:send(frame.data))
    end
  end)
  server:add_stream("count", function(_, stream)
    local n = 0
    for frame in stream:frames() do
      n = n + #frame.data
    end
    stream:send(tostring(n))
  end)
end

net.each_door(function(env)
  describe("a stream", function()
    env.it("carries messages both ways, in order, with their boundaries", function()
      local _, client = env.pair(streams)
      local stream = assert(client:create_stream("echo"))
      for _, text in ipairs { "a", "", "ccc", ("x"):rep(5000) } do
        assert.is_true(stream:send(text))
        assert.equal(text, stream:recv().data)
      end
      stream:finish()
      assert.is_nil((stream:recv()))
      stream:close()
    end)

    env.it("ends with nil and no error when the peer finished", function()
      local _, client = env.pair(streams)
      local stream = assert(client:create_stream("count"))
      stream:send("12345")
      stream:send("678")
      assert.is_true(stream:finish())
      assert.equal("8", stream:recv().data)
      local frame, err = stream:recv()
      assert.is_nil(frame)
      assert.is_nil(err)
      local ok
      ok, err = stream:send("late")
      assert.is_nil(ok)
      assert.is_string(err.code)
    end)

    env.it("that nobody handles says so at recv", function()
      local _, client = env.pair(streams)
      local stream = assert(client:create_stream("none"))
      local frame, err = stream:recv()
      assert.is_nil(frame)
      assert.equal("method_not_found", err.code)
    end)

    env.it("carries times and numbers", function()
      local _, client = env.pair(function(server)
        server:add_stream("stamp", function(_, stream)
          local frame = stream:recv()
          stream:send_timestamped { data = frame.data, seq = frame.seq + 1, wall_time = frame.wall_time + 1 }
          frame = stream:recv()
          stream:send_timestamped { data = frame.data .. type(frame.wall_time) .. frame.seq }
        end)
      end)
      local stream = assert(client:create_stream("stamp"))
      assert.is_true(stream:send_timestamped { wall_time = 1234.5, seq = 7, data = "x" })
      local frame = stream:recv()
      assert.equal("x", frame.data)
      assert.equal(8, frame.seq)
      assert.is_true(math.abs(frame.wall_time - 1235.5) < 1e-5)
      stream:send_timestamped { data = "y" }
      frame = stream:recv()
      assert.equal("ynumber8", frame.data)
      assert.equal(9, frame.seq)
    end)

    env.it("carries only bytes, unless both ends name a codec", function()
      local _, client = env.pair(function(server)
        server:add_stream("values", function(_, stream)
          for frame in stream:frames() do
            stream:send { got = frame.data }
          end
        end, { codec = "msgpack" })
      end)
      local stream = assert(client:create_stream("values", { codec = "msgpack" }))
      stream:send { 1, 2.5, "x" }
      assert.same({ got = { 1, 2.5, "x" } }, stream:recv().data)
      local raw = assert(client:create_stream("values"))
      assert.has_error(function() raw:send { 1 } end)
      assert.has_error(function() raw:send(nil) end)
      assert.has_error(function() raw:send(5) end)
    end)

    env.it("moves much more than its windows, with a slow reader", function()
      local total = 0
      local _, client = env.pair(function(server)
        server:add_stream("sink", function(_, stream)
          for frame in stream:frames() do
            total = total + #frame.data
            if total % 7 == 0 then
              echo.sleep(0)
            end
          end
          stream:send("done")
        end)
      end)
      local stream = assert(client:create_stream("sink"))
      local chunk = ("z"):rep(50000)
      for _ = 1, 200 do
        assert.is_true(stream:send(chunk))
      end
      stream:finish()
      assert.equal("done", stream:recv().data)
      assert.equal(200 * 50000, total)
    end)

    env.it("gives up waiting for a message in time", function()
      local _, client = env.pair(streams)
      local stream = assert(client:create_stream("echo"))
      local began = echo.now()
      local frame, err = stream:recv(0.1)
      assert.is_nil(frame)
      assert.equal("timeout", err.code)
      assert.is_true(echo.now() - began < 0.3)
      stream:send("still alive")
      assert.equal("still alive", stream:recv(5).data)
    end)

    env.it("has callback forms", function()
      local _, client = env.pair(streams)
      local stream = assert(client:create_stream("echo"))
      local sent, got
      stream:send("x", function(ok) sent = ok end):wait(5)
      stream:recv(function(frame) got = frame.data end):wait(5)
      assert.is_true(sent)
      assert.equal("x", got)
    end)

    env.it("can be reset, and the peer hears of it", function()
      local seen
      local _, client = env.pair(function(server)
        server:add_stream("watch", function(_, stream)
          for _ in stream:frames() do end
          seen = stream.error and stream.error.code or "ended"
        end)
      end)
      local stream = assert(client:create_stream("watch"))
      stream:send("x")
      echo.sleep(0.1)
      stream:reset(7)
      env.eventually(function() return seen end)
      assert.equal("cancelled", seen)
      local ok, err = stream:send("y")
      assert.is_nil(ok)
      assert.is_string(err.code)
    end)

    env.it("whose handler fails fails for the other side", function()
      local _, client = env.pair(function(server)
        server:add_stream("bad", function() return nil, echo.error("permission_denied", "not you") end)
        server:add_stream("worse", function() error("secret path") end)
      end)
      local _, err = assert(client:create_stream("bad")):recv()
      assert.equal("permission_denied", err.code)
      assert.equal("not you", err.message)
      _, err = assert(client:create_stream("worse")):recv()
      assert.equal("unknown", err.code)
      assert.is_truthy(env.logged("secret path"))
    end)

    env.it("ends when its handler returns, and is closed by <close>", function()
      local _, client = env.pair(function(server)
        server:add_stream("short", function(_, stream) stream:send("bye") end)
      end)
      do
        local stream <close> = assert(client:create_stream("short"))
        assert.equal("bye", stream:recv().data)
        assert.is_nil((stream:recv()))
      end
    end)

    env.it("is opened by servers as well, and knows its name, session and metadata", function()
      local server, client = env.pair()
      client:add_stream("up", function(session, stream)
        stream:send(stream.name .. " " .. tostring(session == stream.session) .. " " .. stream:metadata().lang)
      end)
      env.eventually(function() return #server:sessions() == 1 end)
      local stream = assert(server:sessions()[1]:create_stream("up", { metadata = { lang = "en" } }))
      assert.equal("up true en", stream:recv().data)
    end)

    env.it("counts", function()
      local _, client = env.pair(streams)
      local stream = assert(client:create_stream("echo"))
      stream:send("abc")
      stream:recv()
      local stats = stream:stats()
      assert.equal(1, stats.messages_out)
      assert.equal(1, stats.messages_in)
      assert.equal(3, stats.bytes_out)
      assert.is_true(stats.open)
    end)

    env.it("runs beside others without waiting for them", function()
      local _, client = env.pair(function(server)
        streams(server)
        server:add_stream("stuck", function() echo.sleep(1) end)
      end)
      local stuck = assert(client:create_stream("stuck"))
      local filler = echo.spawn(function()
        for _ = 1, 100 do
          if not stuck:send(("x"):rep(100000)) then
            break
          end
        end
      end)
      local stream = assert(client:create_stream("echo"))
      for i = 1, 20 do
        stream:send("m" .. i)
        assert.equal("m" .. i, stream:recv(2).data)
      end
      stuck:reset()
      filler:wait(5)
    end)
  end)
end, "tcp")
