-- How long an HTTP/3 server waits, for whom, and how it ends: in the simulator, whose clock is exact.
local echo = require "echostream"
local h3 = require "spec.support.http"
local net = require "spec.support.net"

net.only("sim", function(env)
  local function pair(prepare, opts, transport)
    local server = env.server(opts, prepare)
    local conn = h3.dial(server, { transport = transport })
    table.insert(env.opened, conn)
    return conn, server
  end

  local function near(expected, got, what)
    assert.is_true(math.abs(expected - got) < 0.8, ("%s: expected about %g s, got %g"):format(what, expected, got))
  end

  describe("an HTTP/3 server", function()
    env.it("cancels the handler of a client that gave up", function()
      local why, nested, after
      local conn = pair(function(server)
        server:http(function(request)
          local ok, err = echo.sleep(1000)
          why = not ok and err.code
          nested = request:cancelled()
          after = true
        end)
      end)
      local x = conn:begin("GET", "/")
      echo.sleep(0.5)
      assert.is_nil(after)
      x:reset()
      env.eventually(function()
        return after
      end, "the end of the handler")
      assert.equal("cancelled", why)
      assert.is_true(nested)
      x:release()
    end)

    env.it("does not even begin when the client gave up before", function()
      local ran = 0
      local conn = pair(function(server)
        server:http(function()
          ran = ran + 1
          return "x"
        end)
      end)
      local x = conn:begin("GET", "/", {}, true)
      x:reset()
      x:release()
      assert.equal("x", conn:fetch("GET", "/").body)
      assert.is_true(ran <= 2)
    end)

    env.it("answers for a handler that takes too long, and cancels it", function()
      local ended = {}
      local conn = pair(function(server)
        server:http(function(_, response)
          local began = echo.now()
          echo.sleep(1000)
          table.insert(ended, echo.now() - began)
          response:send "too late"
        end)
        server:route("GET", "/slow", function()
          echo.sleep(8)
          return "at last"
        end, { timeout = 10 })
        server:route("GET", "/begins", function(_, response)
          response:write "a"
          echo.sleep(20) -- the answer has begun: it may go on
          response:write "b"
        end)
      end, { http = { timeout = 5 } })
      local began = echo.now()
      local answer = conn:fetch("GET", "/")
      near(5, echo.now() - began, "the answer")
      assert.same({ 504, "timeout" }, { answer.status, echo.codec.json.unpack(answer.body).error.code })
      near(5, ended[1], "the handler")
      assert.is_truthy(env.logged "did not answer in time")
      assert.equal("at last", conn:fetch("GET", "/slow").body)
      assert.equal("ab", conn:fetch("GET", "/begins").body)
    end)

    env.it("does not wait for ever for the arguments of a method that takes messages", function()
      local conn = pair(function(server)
        server:add_rpc("sum", function(_, stream, sum)
          for frame in stream:frames() do
            sum = sum + frame.data
          end
          return sum
        end, { stream = "in" })
        server:rpc_over_http()
      end, { http = { body_timeout = 5 } })
      local lines = { "content-type", "application/x-ndjson" }
      local began = echo.now()
      local x = conn:begin("POST", "/rpc/sum", lines, true)
      assert.equal(408, x:status())
      near(5, echo.now() - began, "the first line")
      x:release()
      x = conn:begin("POST", "/rpc/sum", lines, true) -- but the messages may come when they like
      x:write "[10]\n"
      echo.sleep(12)
      x:write "1\n2"
      x:finish()
      assert.equal(200, x:status())
      x:release()
    end)

    env.it("does not wait for ever for a body", function()
      local conn = pair(function(server)
        server:http(function(request)
          return request:text()
        end)
        server:route("POST", "/quiet", function(request)
          return request:text()
        end, { body_timeout = 0 })
      end, { http = { body_timeout = 5, timeout = 3 } })
      local began = echo.now()
      local x = conn:begin("POST", "/", {}, true)
      x:write "a"
      assert.equal(408, x:status())
      near(5, echo.now() - began, "a body that stops")
      x:release()
      -- A byte every now and then: each comes in time, all of them together do not.
      began = echo.now()
      x = conn:begin("POST", "/", {}, true)
      local trickle = x
      local writer = echo.spawn(function()
        repeat
          trickle:write "a"
        until not echo.sleep(2)
      end)
      assert.equal(408, x:status())
      near(5, echo.now() - began, "a body that trickles")
      writer:cancel()
      x:release()
      -- What is slow but gets on may take much longer than that, and the handler's own time stands still meanwhile.
      x = conn:begin("POST", "/", {}, true)
      for _ = 1, 10 do
        assert(x:write(("a"):rep(200)))
        echo.sleep(2)
      end
      x:finish()
      assert.equal(2000, #x:answer().body)
      x = conn:begin("POST", "/quiet", {}, true)
      x:write "a"
      echo.sleep(60)
      x:finish()
      assert.equal("a", x:answer().body)
    end)

    env.it("does not keep for ever what a client does not take", function()
      local outcome, took
      local conn = pair(function(server)
        server:route("GET", "/written", function(_, response)
          local began = echo.now()
          for _ = 1, 100 do
            local ok, err = response:write(("x"):rep(65536))
            if not ok then
              outcome, took = err, echo.now() - began
              return
            end
          end
        end)
        server:route("GET", "/whole", function()
          return ("x"):rep(1 << 20)
        end)
        server:route("GET", "/small", function()
          return "small"
        end)
      end, { http = { body_timeout = 5 } }, { stream_window = 65536 })
      local x = conn:begin("GET", "/written")
      assert.equal(200, x:status())
      while not outcome do
        echo.sleep(0.1)
      end
      near(5.5, took, "the handler")
      local piece, err
      repeat
        piece, err = x:read()
      until not piece
      assert.equal("cancelled", err.code)
      x:release()

      x = conn:begin("GET", "/whole") -- its handler is over at once
      assert.equal(200, x:status())
      echo.sleep(8)
      repeat
        piece, err = x:read()
      until not piece
      assert.equal("cancelled", err.code)
      x:release()
      assert.equal("small", conn:fetch("GET", "/small").body)
    end)

    env.it("lets a slow reader read", function()
      local conn = pair(function(server)
        server:http(function()
          return ("x"):rep(1 << 20)
        end)
      end, { http = { body_timeout = 2 } }, { stream_window = 65536 })
      local x = conn:begin("GET", "/")
      assert.equal(200, x:status())
      local size = 0
      for piece in function() return x:read() end do
        size = size + #piece
        echo.sleep(1)
      end
      assert.equal(1 << 20, size)
      x:release()
    end)
  end)

  describe("an HTTP/3 server that stops", function()
    env.it("answers what it took, to the last byte, and refuses what comes after", function()
      local conn, server = pair(function(server)
        server:http(function(request)
          echo.sleep(tonumber(request.query.wait))
          return ("x"):rep(1 << 20)
        end)
      end)
      local x = assert(conn:begin("GET", "/?wait=3"))
      local stopped
      echo.sleep(1)
      local began = echo.now()
      local stopping = echo.spawn(function()
        assert(server:stop { grace = 20 })
        stopped = echo.now() - began
      end)
      conn:wait "goaway"
      local refused, err = conn:fetch("GET", "/?wait=0")
      assert.is_nil(refused)
      assert.is_truthy(err)
      local answer = assert(x:answer())
      assert.equal(1 << 20, #answer.body)
      assert(stopping:wait())
      near(3.3, stopped, "the stop")
      conn:wait "closed"
    end, { seed = 1, delay = 0.05, rate = 1e7 })

    env.it("does not wait longer than its grace", function()
      local cancelled
      local conn, server = pair(function(server)
        server:http(function()
          local ok, err = echo.sleep(1000)
          cancelled = not ok and err.code
        end)
      end)
      assert(conn:begin("GET", "/"))
      echo.sleep(0.5)
      local began = echo.now()
      assert(server:stop { grace = 3 })
      near(3, echo.now() - began, "the stop")
      conn:wait "closed"
      env.eventually(function()
        return cancelled
      end, "the end of the handler")
    end)

    env.it("may be stopped by a handler", function()
      local conn, server = pair(function(server)
        server:http(function(request)
          request._host.server_to_stop:stop()
          return "bye"
        end)
      end)
      server._http_host.server_to_stop = server
      assert.equal("bye", conn:fetch("GET", "/").body)
      conn:wait "closed"
      env.eventually(function()
        return server.state == "stopped"
      end, "the end")
    end)
  end)
end)
