-- The life of a stream: its state, idle time-outs, numbers, and one stream piped into another.

local echo = require "echostream"
local net = require "spec.support.net"

local KIB = 1024

net.each(function(env)
  describe("the state of a stream", function()
    env.it("goes from open through half closed to closed", function()
      local theirs
      local _, client = env.pair(function(s)
        s:add_stream("one", function(_, stream)
          theirs = stream
          for frame in stream:frames() do stream:send(frame.data) end
          theirs = stream:state()
        end)
      end)
      local stream = assert(client:create_stream("one"))
      assert.same({ "open", false }, { stream:state() })
      stream:send("x")
      assert.equal("x", stream:recv().data)
      assert.equal("open", (theirs:state()))
      assert.same({ "open", true }, { stream:pause():state() })
      stream:resume()
      stream:finish()
      assert.equal("half_closed_local", (stream:state()))
      assert.is_nil((stream:recv()))
      assert.equal("closed", (stream:state()))
      assert.equal("half_closed_remote", theirs)
      stream:close()
      assert.equal("closed", (stream:state()))
    end)

    env.it("says that it failed", function()
      local _, client = env.pair()
      local stream = assert(client:create_stream("nobody"))
      assert.is_nil((stream:recv()))
      assert.equal("failed", (stream:state()))
    end)
  end)

  describe("a numbered stream", function()
    env.it("says what is missing and what came twice", function()
      local got = {}
      local _, client = env.pair(function(s)
        s:add_stream("numbers", function(_, stream)
          for frame in stream:frames() do
            got[#got + 1] = { frame.seq, frame.gap or false, frame.duplicate or false }
          end
          local stats = stream:stats()
          stream:send(stats.missing .. " " .. stats.duplicates)
        end, { numbered = true })
      end)
      local stream = assert(client:create_stream("numbers", { numbered = true }))
      stream:send("0")
      stream:send("1")
      for _, seq in ipairs { 4, 4, 3, 5 } do stream:send_timestamped { data = "x", seq = seq } end
      stream:finish()
      assert.equal("2 2", stream:recv().data)
      assert.same({ { 0, false, false }, { 1, false, false }, { 4, 2, false }, { 4, false, true }, { 3, false, true },
        { 5, false, false } }, got)
    end)
  end)

  describe("a pipe", function()
    -- A middle server whose "through" is piped into the last server's "end", both ways when asked.
    local function chain(last)
      local final = env.server(nil, last)
      local onward
      local middle = env.server(nil, function(s)
        s:add_stream("through", function(_, stream)
          local out = assert(onward:create_stream("end"))
          local back = echo.spawn(function() return out:pipe(stream) end)
          local n, err = stream:pipe(out)
          if not n then
            return nil, err
          end
          local m, problem = back:wait()
          if not m then return nil, problem end
        end)
      end)
      onward = env.connect(final)
      return env.connect(middle)
    end

    env.it("hands on everything in order, both ways, and the ends", function()
      local client = chain(function(s)
        s:add_stream("end", function(_, stream)
          for frame in stream:frames() do
            stream:send_timestamped { data = frame.data:upper(), seq = frame.seq, wall_time = frame.wall_time }
          end
          stream:send("over")
        end)
      end)
      local stream = assert(client:create_stream("through"))
      for i = 1, 50 do stream:send_timestamped { data = "m" .. i, seq = i, wall_time = 1000 } end
      stream:finish()
      for i = 1, 50 do
        local frame = stream:recv()
        assert.same({ "M" .. i, i, 1000 }, { frame.data, frame.seq, frame.wall_time })
      end
      assert.equal("over", stream:recv().data)
      assert.is_nil((stream:recv()))
    end)

    env.it("carries a slow reader's pressure to the sender at the other end", function()
      local open, got = false, 0
      local client = chain(function(s)
        s:add_stream("end", function(_, stream)
          while not open do assert(echo.sleep(0.01)) end
          for frame in stream:frames() do got = got + #frame.data end
          stream:send(tostring(got))
        end)
      end)
      local stream = assert(client:create_stream("through"))
      local chunk, total = ("x"):rep(64 * KIB), 100 * 64 * KIB
      local sending = echo.spawn(function()
        for _ = 1, 100 do assert(stream:send(chunk)) end
        return stream:finish()
      end)
      env.eventually(function() return stream:stats().waits > 0 end, "the sender waits")
      for _ = 1, 50 do echo.sleep(0.005) end
      assert.equal("open", (stream:state()))
      assert.is_true(stream:stats().bytes_out < 3 * KIB * KIB)
      open = true
      assert.equal(tostring(total), stream:recv().data)
      assert.is_true(sending:wait())
    end)

    env.it("hands a reset on, and stops the source when the target takes no more", function()
      local seen
      local client = chain(function(s)
        s:add_stream("end", function(_, stream)
          local frame, err
          stream:send("ready")
          repeat frame, err = stream:recv() until not frame or frame.data == "stop"
          seen = err or "stopped"
          if frame then stream:reset(5) end
        end)
      end)
      local stream = assert(client:create_stream("through"))
      stream:send("x")
      assert.equal("ready", stream:recv().data)
      stream:reset(7)
      env.eventually(function() return seen end, "the reset arrives")
      assert.equal(7, seen.details.reset)
      stream = assert(client:create_stream("through"))
      assert.equal("ready", stream:recv().data)
      stream:send("stop")
      local frame, err = stream:recv()
      assert.is_nil(frame)
      assert.equal("cancelled", err.code)
      assert.equal(5, err.details.reset)
    end)

    env.it("tells a callback, and wants a stream", function()
      local _, client = env.pair(function(s)
        s:add_stream("values", function(_, stream)
          for i = 1, 3 do stream:send { i } end
        end, { codec = "json" })
        s:add_stream("sink", function(_, stream)
          local got = {}
          for value in stream:values() do got[#got + 1] = value[1] end
          stream:send { sum = got[1] + got[2] + got[3] }
        end, { codec = "msgpack" })
      end)
      local from = assert(client:create_stream("values", { codec = "json" }))
      local to = assert(client:create_stream("sink", { codec = "msgpack" }))
      local n
      from:pipe(to, function(count) n = count end)
      assert.same({ sum = 6 }, to:recv().data)
      env.eventually(function() return n end, "the callback")
      assert.equal(3, n)
      assert.has_error(function() from:pipe("x") end, 'stream:pipe: wants a stream, got "x"')
    end)
  end)
end)

net.only("sim", function(env)
  describe("an idle time-out", function()
    local function idle(client_options, server_options, use)
      local theirs, ended
      local _, client = env.pair(function(s)
        s:add_stream("quiet", function(_, stream)
          theirs = stream
          local _, err = stream:recv()
          while not err and stream:state() == "open" do _, err = stream:recv() end
          theirs, ended = err, echo.now()
        end, server_options)
      end)
      local began = echo.now()
      local stream = assert(client:create_stream("quiet", client_options))
      local err = use(stream)
      local own = echo.now() - began
      echo.sleep(1)
      return err, own, theirs, ended and ended - began
    end

    env.it("ends a stream on which nothing moves, on both sides", function()
      local err, own, theirs, ended = idle({ idle_timeout = 5 }, nil, function(stream) return select(2, stream:recv()) end)
      assert.equal("timeout", err.code)
      assert.truthy(err.message:find("idle", 1, true))
      assert.is_true(own >= 5 and own < 5.1, tostring(own))
      assert.equal("timeout", theirs.code)
      assert.is_true(ended >= 5 and ended < 5.2, tostring(ended))
    end)

    env.it("is an option of handlers too", function()
      local err, own, theirs = idle(nil, { idle_timeout = 3 }, function(stream) return select(2, stream:recv()) end)
      assert.is_true(own >= 3 and own < 3.2)
      assert.equal("timeout", theirs.code)
      assert.equal("timeout", err.code)
    end)

    env.it("begins anew with every message, and with parts of a long one", function()
      local err, own = idle({ idle_timeout = 5 }, nil, function(stream)
        for _ = 1, 4 do
          echo.sleep(4)
          assert(stream:send("x"))
        end
        return select(2, stream:recv())
      end)
      assert.equal("timeout", err.code)
      assert.is_true(own >= 21 and own < 21.2)
    end)

    env.it("counts the parts of a message that takes long", function()
      local _, client = env.pair(function(s)
        s:add_stream("size", function(_, stream) stream:send(tostring(#stream:recv().data)) end)
      end)
      local stream = assert(client:create_stream("size", { idle_timeout = 2 }))
      assert(stream:send(("x"):rep(1000000))) -- 8 s at this rate
      assert.equal("1000000", stream:recv().data)
    end, { seed = 3, rate = 1e6, delay = 0.02, limit = 60 })
  end)
end)
