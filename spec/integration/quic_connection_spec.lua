local echo = require "echostream"
local net = require "spec.support.net"

local quic = echo.quic

net.each(function(env)
  -- A listener and both ends of one connection.
  local function pair(server_transport, client_transport)
    local listener = assert(quic.listen("127.0.0.1:0", {
      alpn = { "test/1" },
      state_dir = env.kind == "quic" and net.state_dir() or nil,
      transport = server_transport,
    }))
    table.insert(env.opened, listener)
    local there = assert(quic.connect(listener.address, { alpn = { "test/1" }, pin = listener.pin, transport = client_transport }))
    table.insert(env.opened, there)
    return there, assert(listener:accept(2)), listener
  end

  describe("a two-way stream", function()
    env.it("carries bytes to the end, both ways", function()
      local there, here = pair()
      local task = echo.spawn(function()
        local stream = assert(here:accept_bi_stream())
        local data = assert(stream:read_to_end())
        assert(stream:write(data:upper()))
        assert(stream:finish())
        return stream.id
      end)
      local stream = assert(there:open_bi_stream())
      assert.equal(0, stream.id)
      assert.matches("stream 0", tostring(stream))
      assert.is_true(stream:write "hel")
      assert.is_true(stream:write "lo")
      assert.is_true(stream:finish())
      assert.is_true(stream:finish())
      assert.equal("HELLO", stream:read_to_end())
      assert.is_nil((stream:read()))
      assert.equal(0, task:wait())
      local ok, err = stream:write "late"
      assert.is_nil(ok)
      assert.is_string(err.code)
    end)

    env.it("can be opened by the accepting side too", function()
      local there, here = pair()
      local mine = assert(here:open_bi_stream())
      assert(mine:write "from the server")
      assert(mine:finish())
      local stream = assert(there:accept_bi_stream(2))
      assert.equal("from the server", stream:read_to_end())
      assert.equal(1, stream.id)
    end)

    env.it("gives what has arrived, at most so many bytes", function()
      local there, here = pair()
      local stream = assert(there:open_bi_stream())
      stream:write "abcdef"
      local peer = assert(here:accept_bi_stream())
      assert.equal("ab", peer:read(2))
      assert.equal("cdef", peer:read(100))
      local nothing, err = peer:read(100, 0.05)
      assert.is_nil(nothing)
      assert.equal("timeout", err.code)
      stream:finish()
      nothing, err = peer:read(100, 2)
      assert.is_nil(nothing)
      assert.is_nil(err)
    end)

    env.it("moves more bytes than any window, and waits for a slow reader", function()
      local there, here = pair()
      local size, piece = 3 * 1024 * 1024, 100 * 1024
      local task = echo.spawn(function()
        local stream = assert(here:accept_bi_stream())
        local got, n = {}, 0
        while true do
          local data, err = stream:read(50000)
          assert(not err, tostring(err))
          if not data then break end
          got[#got + 1] = data
          n = n + 1
          if n % 20 == 0 then echo.sleep(0.001) end
        end
        return table.concat(got)
      end)
      local stream = assert(there:open_bi_stream())
      local sent = {}
      for i = 1, size // piece do
        sent[i] = string.pack(">I4", i) .. ("x"):rep(piece - 4)
        assert(stream:write(sent[i]))
      end
      stream:finish()
      assert.is_true(table.concat(sent) == task:wait())
    end)

    env.it("bounds what may wait to be sent", function()
      local there, here = pair()
      local stream = assert(there:open_bi_stream())
      local n, ok, err = 0, true, nil
      while ok and n < 100 do
        ok, err = stream:write(("x"):rep(64 * 1024), 0.1)
        n = n + 1
      end
      assert.is_nil(ok)
      assert.equal("timeout", err.code)
      assert.is_true(n < 20) -- the peer's window, 256 KiB, and as much again
      local peer = assert(here:accept_bi_stream())
      peer:stop(0)
      stream:reset(0)
    end)

    env.it("tells the reader about a reset, with its code", function()
      local there, here = pair()
      local stream = assert(there:open_bi_stream())
      stream:write "x"
      local peer = assert(here:accept_bi_stream())
      assert.equal("x", peer:read())
      assert.is_true(stream:reset(77))
      local nothing, err = peer:read(nil, 2)
      assert.is_nil(nothing)
      assert.equal("cancelled", err.code)
      assert.equal(77, err.details.reset)
      local ok
      ok, err = stream:write "y"
      assert.is_nil(ok)
      assert.equal("failed_precondition", err.code)
    end)

    env.it("tells the writer that the reader wants no more", function()
      local there, here = pair()
      local stream = assert(there:open_bi_stream())
      stream:write "x"
      local peer = assert(here:accept_bi_stream())
      assert.is_true(peer:stop(5))
      local nothing, err = peer:read()
      assert.is_nil(nothing)
      assert.equal("failed_precondition", err.code)
      local ok
      for _ = 1, 200 do
        ok, err = stream:write "more"
        if not ok then break end
        echo.sleep(0.005)
      end
      assert.is_nil(ok)
      assert.equal("cancelled", err.code)
    end)

    env.it("longer than allowed is refused by read_to_end", function()
      local there, here = pair()
      local stream = assert(there:open_bi_stream())
      stream:write(("x"):rep(11))
      stream:finish()
      local peer = assert(here:accept_bi_stream())
      local nothing, err = peer:read_to_end(10)
      assert.is_nil(nothing)
      assert.equal("resource_exhausted", err.code)
      stream = assert(there:open_bi_stream())
      stream:write(("x"):rep(10))
      stream:finish()
      assert.equal(("x"):rep(10), assert(here:accept_bi_stream()):read_to_end(10, 2))
    end)

    env.it("is given up by close, again and again, and by the collector", function()
      local there, here = pair()
      local stream = assert(there:open_bi_stream())
      stream:write "x"
      local peer = assert(here:accept_bi_stream())
      stream:close()
      stream:close()
      for _, call in ipairs { "write", "read", "reset", "stop" } do
        local ok, err = stream[call](stream, call == "write" and "x" or nil)
        assert.is_nil(ok)
        assert.equal("connection_closed", err.code)
      end
      local nothing, err = peer:read_to_end(100, 2)
      assert.is_nil(nothing)
      assert.equal("cancelled", err.code)

      there:open_bi_stream():write "dropped"
      peer = assert(here:accept_bi_stream())
      assert.equal("dropped", peer:read())
      collectgarbage()
      collectgarbage()
      nothing, err = peer:read(nil, 2)
      assert.is_nil(nothing)
      assert.equal("cancelled", err.code)
    end)

    env.it("closes at the end of its scope, and what was finished still arrives", function()
      local there, here = pair()
      do
        local stream <close> = assert(there:open_bi_stream())
        stream:write "all of it"
        stream:finish()
      end
      assert.equal("all of it", assert(here:accept_bi_stream()):read_to_end(100, 2))
    end)

    env.it("takes callbacks in place of waiting", function()
      local there, here = pair()
      local got = {}
      here:accept_bi_stream(function(peer)
        peer:read_to_end(function(data) got.all = data end)
      end)
      there:open_bi_stream(function(stream)
        stream:write("by callback", function(ok)
          got.written = ok
          stream:finish()
        end)
        stream:read(function(data, err) got.read, got.err = data, err end)
      end)
      env.eventually(function() return got.all end, "the data")
      assert.equal("by callback", got.all)
      assert.is_true(got.written)
    end)
  end)

  describe("a one-way stream", function()
    env.it("is written on one side and read on the other, and nothing else", function()
      local there, here = pair()
      local stream = assert(there:open_uni_stream())
      assert.equal(2, stream.id)
      stream:write "one way"
      stream:finish()
      local peer = assert(here:accept_uni_stream(2))
      assert.equal("one way", peer:read_to_end())
      assert.has_error(function() stream:read() end)
      assert.has_error(function() stream:stop() end)
      assert.has_error(function() peer:write "x" end)
      assert.has_error(function() peer:reset() end)
    end)

    env.it("waits for the peer's allowance and goes on when it comes back", function()
      local there, here = pair { max_streams_uni = 3 }
      local mine = {}
      for i = 1, 3 do
        mine[i] = assert(there:open_uni_stream())
        assert(mine[i]:write(tostring(i)))
      end
      local nothing, err = there:open_uni_stream(0.05)
      assert.is_nil(nothing)
      assert.equal("timeout", err.code)
      local task = echo.spawn(function()
        for i = 4, 10 do
          mine[i] = assert(there:open_uni_stream())
          assert(mine[i]:write(tostring(i)))
          assert(mine[i]:finish())
        end
      end)
      echo.sleep(0.1)
      assert.is_nil(mine[4])
      for i = 1, 3 do mine[i]:finish() end
      local seen = {}
      for _ = 1, 10 do seen[assert(assert(here:accept_uni_stream(2)):read_to_end(100, 2))] = true end
      for i = 1, 10 do assert.is_true(seen[tostring(i)]) end
      assert.is_true(task:wait())
    end)
  end)

  describe("a connection", function()
    env.it("carries many streams at once, each with its own bytes", function()
      local there, here = pair()
      local server = echo.spawn(function()
        for _ = 1, 100 do
          local stream = assert(here:accept_bi_stream())
          echo.spawn(function()
            assert(stream:write("re: " .. assert(stream:read_to_end())))
            stream:finish()
          end)
        end
      end)
      local tasks = {}
      for i = 1, 100 do
        tasks[i] = echo.spawn(function()
          local stream = assert(there:open_bi_stream())
          stream:write("number " .. i)
          stream:finish()
          return assert(stream:read_to_end())
        end)
      end
      for i = 1, 100 do assert.equal("re: number " .. i, tasks[i]:wait()) end
      server:wait()
    end)

    env.it("carries datagrams, up to the size the path takes", function()
      local there, here = pair()
      assert.is_true(there:send_datagram "ping")
      assert.equal("ping", here:recv_datagram(2))
      assert.is_true(here:send_datagram "pong")
      assert.equal("pong", there:recv_datagram(2))
      local max = there:stats().max_datagram
      assert.is_true(max > 1000)
      assert.is_true(there:send_datagram(("x"):rep(max)))
      assert.equal(max, #here:recv_datagram(2))
      max = there:stats().max_datagram -- it grows while the path is probed
      local ok, err = there:send_datagram(("x"):rep(max + 1))
      assert.is_nil(ok)
      assert.equal("resource_exhausted", err.code)
      assert.matches("at most %d+", err.message)
      local nothing
      nothing, err = there:recv_datagram(0.05)
      assert.is_nil(nothing)
      assert.equal("timeout", err.code)
    end)

    env.it("says when the peer takes no datagrams", function()
      local there = pair { max_datagram = 0 }
      local ok, err = there:send_datagram "x"
      assert.is_nil(ok)
      assert.equal("failed_precondition", err.code)
    end)

    env.it("closes with a code and a reason that the peer sees", function()
      local there, here = pair()
      local waiting = echo.spawn(function()
        local _, err = here:accept_uni_stream()
        return err
      end)
      local reading = echo.spawn(function()
        local stream = assert(there:open_bi_stream())
        stream:write "x"
        local _, err = stream:read()
        return err
      end)
      echo.sleep(0.05)
      local stream = assert(here:open_bi_stream())
      assert.is_true(there:close(99, "enough"))
      assert.is_true(there:close(1))
      local reason = here:wait_closed(2)
      assert.equal("connection_closed", reason.code)
      assert.matches("enough", reason.message)
      assert.same({ cause = "peer", app = true, code = 99 }, reason.details)
      assert.equal("connection_closed", waiting:wait().code)
      assert.equal("connection_closed", reading:wait().code)
      assert.equal("local", there:wait_closed(2).details.cause)
      assert.is_truthy(here:accept_bi_stream()) -- what had arrived can still be had
      for _, call in ipairs { "open_bi_stream", "open_uni_stream", "accept_bi_stream", "accept_uni_stream", "stats", "recv_datagram" } do
        local ok, err = here[call](here)
        assert.is_nil(ok)
        assert.equal("connection_closed", err.code)
      end
      local ok, err = here:send_datagram "x"
      assert.is_nil(ok)
      assert.equal("connection_closed", err.code)
      ok, err = stream:write "x"
      assert.is_nil(ok)
      assert.equal("connection_closed", err.code)
      assert.matches("^%d+%.", here:peer_addr())
      assert.matches("closed", tostring(here))
    end)

    env.it("still gives what had arrived before it was closed", function()
      local there, here = pair()
      local stream = assert(there:open_bi_stream())
      stream:write "before the end"
      stream:finish()
      local peer = assert(here:accept_bi_stream())
      echo.sleep(0.1)
      there:close()
      here:wait_closed(2)
      assert.equal("before the end", peer:read_to_end())
    end)

    env.it("has figures", function()
      local there = pair()
      local stats = there:stats()
      assert.is_true(stats.handshake_time > 0)
      assert.is_true(stats.rtt_smoothed > 0)
      assert.is_true(stats.bytes_sent > 1000)
      assert.is_true(stats.path_mtu >= 1200)
    end)

    env.it("ends by itself when it is idle, unless it is kept alive", function()
      local there, here = pair({ idle_timeout = 0.3 }, { keep_alive = false })
      local reason = there:wait_closed(3)
      assert.equal("idle", reason.details.cause)
      assert.equal("idle", here:wait_closed(3).details.cause)
      there = pair { idle_timeout = 0.3 }
      local _, err = there:wait_closed(1)
      assert.equal("timeout", err.code)
    end)

    env.it("checks its arguments", function()
      local there = pair()
      local stream = assert(there:open_bi_stream())
      assert.has_error(function() stream:write(1) end)
      assert.has_error(function() stream:read(0) end)
      assert.has_error(function() stream:read_to_end(-1) end)
      assert.has_error(function() stream:reset "now" end)
      assert.has_error(function() there:close(-1) end)
      assert.has_error(function() there:close(0, 7) end)
      assert.has_error(function() there:accept_bi_stream "soon" end)
      assert.has_error(function() there:send_datagram(5) end)
    end)
  end)
end)

net.only("sim", function(env)
  env.it("bytes arrive whole and in order over a bad network", function()
    local listener = assert(quic.listen("10.0.0.1:700", { alpn = { "test/1" } }))
    table.insert(env.opened, listener)
    local task = echo.spawn(function()
      local connection = assert(listener:accept())
      for _ = 1, 20 do
        local stream = assert(connection:accept_bi_stream())
        assert(stream:write(assert(stream:read_to_end())))
        stream:finish()
      end
      connection:wait_closed()
    end)
    local connection = assert(quic.connect("10.0.0.1:700", { alpn = { "test/1" }, pin = listener.pin }))
    for i = 1, 20 do
      local stream = assert(connection:open_bi_stream())
      local data = {}
      for j = 1, 500 do data[j] = ("%d/%d;"):format(i, j * i) end
      data = table.concat(data)
      assert(stream:write(data))
      stream:finish()
      assert.is_true(data == assert(stream:read_to_end()))
    end
    connection:close()
    task:wait()
  end, { seed = 5, loss = 0.1, duplicate = 0.05, reorder = 0.1, corrupt = 0.02 })
end)
