-- The agent's part of an exchange: simulated sessions, and backends that do what the spec says.

local world = require "tunnel.spec.support.agent_world"
local core = require "echostream.tunnel.core"
local echo = require "echostream"
local net = require "spec.support.net"

local END = world.END

net.only("sim", function(env)
  local function opened(opts, protocol, most)
    local w = world.new(env, opts)
    w.engine.on_dial = function(dial)
      echo.spawn(function() dial:open(protocol or "http/1.1", most) end)
    end
    return w
  end

  describe("an exchange through an agent", function()
    env.it("goes to the backend and comes back, with a note of how", function()
      local w = opened()
      local stream = world.request(w, world.head { path = "/a?b", scheme = "https" })
      local x = world.exchange(world.dial(w).connection)
      assert.equal("/a?b", x.request.path)
      assert.equal("http", x.request.scheme) -- the backend's
      assert.equal("example.org", x.request.authority)
      assert.is_true(x.fin)
      x:push(core.part("body", "hello") .. END, true)
      x:respond(world.response(200, { { "x-a", "b" } }))
      local list, err = world.collect(stream)
      assert.is_nil(err)
      assert.equal("note head:200 body:hello end", world.words(list))
      assert.equal("b", list[2][2]:get "x-a")
      assert.equal("default 10.9.9.9:80", world.note(list).backend)
      assert.is_false(world.note(list).reused)
      assert.is_nil(x.was_reset)
      assert.equal(1, w.agent.stats.served)
      assert.equal(0, w.agent.stats.in_flight)
      assert.equal(0, w.agent.backends.services.default.backends[1].in_flight)
    end)

    env.it("streams both ways, with informational heads and trailers", function()
      local w = opened()
      local stream = world.request(w, world.head { method = "POST" }, core.part("body", "one"))
      local x = world.exchange(world.dial(w).connection)
      assert.is_false(x.fin)
      x:respond(world.response(103))
      local first = stream:recv()
      assert.equal("informational:103", world.words { { core.parts(first.data)() } })
      x:respond(world.response(200))
      assert.equal("note head:200", world.words((function()
        local list = {}
        for kind, value in core.parts(stream:recv().data) do table.insert(list, { kind, value }) end
        return list
      end)()))
      assert(stream:send(core.part("body", "two")))
      assert(stream:send(END))
      stream:finish()
      while #x.sent < 3 do echo.sleep(0.001) end
      assert.equal(core.part("body", "one") .. core.part("body", "two") .. END, table.concat(x.sent))
      local trailers = assert(core.head("trailers", { { "grpc-status", "0" } }))
      x:push(core.part("body", "three"))
      x:push(trailers:part(), true)
      local list = world.collect(stream)
      assert.equal("body:three trailers", world.words(list))
      assert.equal("0", list[2][2]:get "grpc-status")
    end)

    env.it("waits when the backend has no room", function()
      local w = opened()
      local stream = world.request(w, world.head { method = "POST" }, core.part("body", "x"))
      local x = world.exchange(world.dial(w).connection)
      x.full = true
      local big = core.part("body", ("y"):rep(60000))
      local sender = echo.spawn(function()
        for _ = 1, 200 do assert(stream:send(big)) end
        stream:send(END)
        stream:finish()
      end)
      echo.sleep(5)
      local before = #x.sent
      assert.is_true(before < 5, before)
      assert.equal("suspended", sender:status())
      x:set_full(false)
      assert(sender:wait(100))
      while x.sent[#x.sent] ~= END do echo.sleep(0.01) end
      x:respond(world.response(204), true)
      assert.equal("note head:204 end", world.words(world.collect(stream)))
    end)

    env.it("that the visitor gives up is given up at the backend, before the head and after", function()
      local w = opened(nil, "h2", 10)
      local before = world.request(w, world.head())
      local c = world.dial(w).connection
      local x = world.exchange(c)
      before:reset(1)
      local at = echo.now()
      while not x.was_reset do echo.sleep(0.01) end
      assert.is_true(echo.now() - at < 0.5)
      assert.equal("cancel", x.was_reset)
      local during = world.request(w, world.head { method = "POST" }, core.part("body", "x"))
      local y = world.exchange(c, 2)
      y:respond(world.response(200))
      during:recv()
      during:reset(1)
      while not y.was_reset do echo.sleep(0.01) end
      while w.agent.stats.in_flight > 0 do echo.sleep(0.01) end
      assert.equal(0, w.agent.backends.services.default.backends[1].in_flight)
    end)

    env.it("that is cut off in the middle of its body is given up", function()
      local w = opened()
      local stream = world.request(w, world.head { method = "POST" }, core.part("body", "x"))
      local x = world.exchange(world.dial(w).connection)
      stream:finish() -- without an END
      while not x.was_reset do echo.sleep(0.01) end
      assert.equal("cancel", x.was_reset)
    end)

    env.it("is 502 or 504 when the backend fails before the head, and cut after it", function()
      local w = opened(nil, "h2", 10)
      local stream = world.request(w, world.head { method = "POST" })
      local c = world.dial(w).connection
      world.exchange(c):fail("truncated", "the connection ended")
      local list = world.collect(stream)
      assert.equal("head:502 body:default 10.9.9.9:80: the connection ended\n end", world.words(list))
      assert.equal("agent", list[1][2]:get "x-echostream-tunnel")
      stream = world.request(w, world.head())
      world.exchange(c, 2):fail("timeout", "too slow")
      assert.matches("^head:504 ", world.words((world.collect(stream))))
      stream = world.request(w, world.head { method = "HEAD" })
      world.exchange(c, 3):fail("protocol", "no HTTP")
      assert.equal("head:502 end", world.words((world.collect(stream))))
      stream = world.request(w, world.head())
      local x = world.exchange(c, 4)
      x:respond(world.response(200))
      x:push(core.part("body", "half"))
      echo.sleep(0.1)
      x:fail("truncated", "the connection ended")
      list = world.collect(stream)
      assert.equal("note head:200 body:half reset:truncated", world.words(list))
      assert.equal("the connection ended", list[4][2][2])
      assert.equal(4, w.agent.stats.errors)
    end)

    env.it("is 504 when no response begins, and cut when it goes quiet", function()
      local w = opened({ agent = { services = { web = { backends = "http://10.9.9.9:80", headers_timeout = 3, idle_timeout = 2 } } } }, "h2", 10)
      local stream = world.request(w, world.head())
      local c = world.dial(w).connection
      local before = echo.now()
      assert.matches("^head:504 body:web 10.9.9.9:80: no response: nothing came or went for 3 s", world.words((world.collect(stream))))
      assert.near(3, echo.now() - before, 0.5)
      assert.equal("timeout", c.exchanges[1].was_reset)
      stream = world.request(w, world.head())
      world.exchange(c, 2):respond(world.response(200))
      assert.equal("note head:200 reset:timeout", world.words((world.collect(stream))))
    end)

    env.it("may be quiet for long when it is of a kind that is", function()
      local w = opened({ agent = { services = { web = { backends = "http://10.9.9.9:80", headers_timeout = 1, idle_timeout = 1,
        websocket_timeout = 50 } } } }, "h2", 10)
      local stream = world.request(w, world.head())
      local c = world.dial(w).connection
      local x = world.exchange(c)
      x:respond(world.response(200, { { "content-type", "text/event-stream; charset=utf-8" } }))
      echo.sleep(40)
      x:push(END, true)
      assert.equal("note head:200 end", world.words((world.collect(stream))))
      stream = world.request(w, world.head { method = "POST", { "content-type", "application/grpc+proto" } }, "")
      x = world.exchange(world.dial(w, 2).connection) -- HTTP/2 for it
      echo.sleep(40)
      x:respond(world.response(200), true)
      assert.equal("note head:200 end", world.words((world.collect(stream))))
    end)

    env.it("is 502 when nobody can be reached, and 503 when too many wait or a backend is left alone", function()
      local w = world.new(env, { agent = { services = { web = { backends = "http://10.9.9.9:80", max_failures = 2, failure_pause = 5 } } } })
      w.engine.on_dial = function(dial)
        echo.spawn(function() dial:fail("unavailable", "connection refused") end)
      end
      for _ = 1, 2 do
        assert.equal("head:502 body:10.9.9.9:80: connection refused\n end", world.words((world.collect(world.request(w, world.head())))))
      end
      local list = world.collect(world.request(w, world.head()))
      assert.matches("^head:503 body:no backend can be asked: web 10.9.9.9:80: 2 connections in a row failed", world.words(list))
      assert.equal("1", list[1][2]:get "retry-after")
      assert.equal(2, #w.engine.dials)
      echo.sleep(5)
      world.collect(world.request(w, world.head()))
      assert.equal(3, #w.engine.dials)
      assert.is_false(w.agent.backends:report()["web 10.9.9.9:80"].healthy)
    end)

    env.it("goes to another backend when one cannot be reached", function()
      local w = world.new(env, { agent = { backend = { "http://10.9.9.8:80", "http://10.9.9.9:80" } } })
      w.engine.on_dial = function(dial)
        echo.spawn(function()
          if dial.options.ip == "10.9.9.8" then dial:fail("unavailable", "connection refused") else dial:open "http/1.1" end
        end)
      end
      local stream = world.request(w, world.head { method = "POST" }, core.part("body", "x") .. END)
      while #w.engine.dials < 2 and not (w.engine.dials[1] and w.engine.dials[1].connection.exchanges[1]) do echo.sleep(0.001) end
      local good = w.engine.dials[2] or w.engine.dials[1]
      local x = world.exchange(good.connection)
      x:respond(world.response(200), true)
      assert.equal("note head:200 end", world.words((world.collect(stream))))
      assert.equal(core.part("body", "x") .. END, table.concat(x.sent))
    end)

    env.it("is sent again when the backend did not look at it, with its body, and only where that is safe", function()
      local w = opened(nil, "h2", 10)
      local stream = world.request(w, world.head { method = "POST" }, core.part("body", "one"))
      local c = world.dial(w).connection
      local x = world.exchange(c)
      assert(stream:send(core.part("body", "two")))
      while #x.sent < 2 do echo.sleep(0.001) end
      x:fail("refused", "GOAWAY")
      local y = world.exchange(c, 2)
      assert(stream:send(END))
      while #y.sent < 3 do echo.sleep(0.001) end
      assert.equal(core.part("body", "one") .. core.part("body", "two") .. END, table.concat(y.sent))
      y:respond(world.response(200), true)
      assert.equal("note head:200 end", world.words((world.collect(stream))))
      -- a body that was too long to be kept
      stream = world.request(w, world.head { method = "PUT" }, core.part("body", ("x"):rep(60000)))
      x = world.exchange(c, 3)
      assert(stream:send(core.part("body", ("x"):rep(60000))))
      while #x.sent < 2 do echo.sleep(0.001) end
      x:fail("refused", "GOAWAY")
      assert.matches("^head:502 ", world.words((world.collect(stream))))
      assert.equal(3, #c.exchanges)
    end)

    env.it("is sent again with a body that came in pieces, whether its end has come or not", function()
      for _, whole in ipairs { true, false } do
        local w = opened({}, "h2", 10)
        local stream = world.request(w, world.head { method = "PUT" }, core.part("body", "one"))
        local c = world.dial(w).connection
        local x = world.exchange(c)
        assert(stream:send(whole and core.part("body", "two") .. END or core.part("body", "two")))
        while #x.sent < 2 do echo.sleep(0.001) end
        x:fail("refused", "no room")
        local again = world.exchange(c, 2)
        while #again.sent < 2 do echo.sleep(0.001) end
        assert.equal(table.concat(x.sent), table.concat(again.sent))
        if not whole then
          assert(stream:send(END))
          while #again.sent < 3 do echo.sleep(0.001) end
          assert.equal(END, again.sent[3])
        end
        again:respond(world.response(200), true)
        assert.equal("note head:200 end", world.words((world.collect(stream))))
      end
    end)

    env.it("is sent again after a kept connection of HTTP/1.1 ended, unless it must not be repeated", function()
      local w = opened()
      local first = world.request(w, world.head())
      local c = world.dial(w).connection
      world.exchange(c):respond(world.response(200), true)
      world.collect(first)
      c.exchanges[1]:done()
      local second = world.request(w, world.head())
      local x = world.exchange(c, 2)
      c:gone()
      x:fail("refused", "the connection ended")
      c = world.dial(w, 2).connection
      local again = world.exchange(c)
      again:respond(world.response(200), true)
      assert.equal("note head:200 end", world.words((world.collect(second))))
      again:done()
      local third = world.request(w, world.head { method = "POST" })
      world.exchange(c, 2):fail("refused", "the connection ended")
      assert.matches("^head:502 ", world.words((world.collect(third))))
      assert.equal(1, w.agent.stats.retries)
    end)

    env.it("of a WebSocket is a tunnel whose ends are independent", function()
      local w = opened()
      local stream = world.request(w, world.head { method = "CONNECT", protocol = "websocket" }, "")
      local x = world.exchange(world.dial(w).connection)
      assert.is_false(x.fin)
      x:respond(world.response(101))
      local list = {}
      for kind, value in core.parts(stream:recv().data) do table.insert(list, { kind, value }) end
      assert.equal("note head:200", world.words(list))
      x:push(core.part("body", "from the backend") .. END, true)
      assert.equal("body:from the backend end", world.words((world.collect(stream))))
      assert.equal(0, w.agent.stats.served)
      assert(stream:send(core.part("body", "from the visitor")))
      assert(stream:send(END))
      stream:finish()
      while w.agent.stats.in_flight > 0 do echo.sleep(0.01) end
      assert.equal(core.part("body", "from the visitor") .. END, table.concat(x.sent))
      assert.is_nil(x.was_reset)
    end)

    env.it("whose response is over early lets go of the request", function()
      local w = opened(nil, "h2", 10)
      local stream = world.request(w, world.head { method = "POST" }, core.part("body", "x"))
      local x = world.exchange(world.dial(w).connection)
      x:push(core.part("body", "too large") .. END, true)
      x:respond(world.response(413))
      assert.equal("note head:413 body:too large end", world.words((world.collect(stream))))
      while not x.was_reset do echo.sleep(0.01) end
      assert.equal("no_error", x.was_reset)
    end)

    env.it("goes to the service it names, as the authority that the service says", function()
      local w = opened { agent = { services = {
        a = { backends = "http://10.9.9.1:80", host = "a.internal" }, default = "http://10.9.9.2:80", db = { kind = "tcp", backends = "10.9.9.3:1" },
      } } }
      local stream = world.request(w, world.head { { "x-echostream-service", "a" } })
      local x = world.exchange(world.dial(w).connection)
      assert.equal("10.9.9.1", w.engine.dials[1].options.ip)
      assert.equal("a.internal", x.request.authority)
      assert.is_nil(x.request:get "x-echostream-service")
      x:respond(world.response(200), true)
      world.collect(stream)
      world.request(w, world.head())
      assert.equal("10.9.9.2", world.dial(w, 2).options.ip)
      assert.matches('^head:503 body:this agent has no service "b"', world.words((world.collect(world.request(w, world.head {
        { "x-echostream-service", "b" } })))))
      assert.matches('is of kind tcp', world.words((world.collect(world.request(w, world.head { { "x-echostream-service", "db" } })))))
    end)

    env.it("goes where the agent's own rules say, who may answer themselves", function()
      local w = opened { agent = {
        services = { a = "http://10.9.9.1:80", default = "http://10.9.9.2:80" },
        rules = {
          { path = "/a/*", service = "a", group = "a", rewrite = { prefix = "/" }, response_headers = { set = { ["x-by"] = "rule" } } },
          { path = "/no", respond = { status = 403, body = "not here" } },
          { path = "/bad", header = { ["x-fail"] = "1" }, group = "nobody" },
        },
      } }
      local stream = world.request(w, world.head { path = "/a/b?c" })
      local x = world.exchange(world.dial(w).connection)
      assert.equal("10.9.9.1", w.engine.dials[1].options.ip)
      assert.equal("/b?c", x.request.path)
      x:respond(world.response(200), true)
      local list = world.collect(stream)
      assert.equal("rule", list[2][2]:get "x-by")
      list = world.collect(world.request(w, world.head { path = "/no" }))
      assert.matches("^head:403 body:not here", world.words(list))
      world.request(w, world.head { path = "/other" })
      assert.equal("10.9.9.2", world.dial(w, 2).options.ip)
      list = world.collect(world.request(w, world.head { path = "/bad", { "x-fail", "1" } }))
      assert.matches("^head:503 body:this agent has no service \"nobody\"", world.words(list))
      list = world.collect(world.request(w, world.head { path = "/%zz" }))
      assert.matches("^head:400 ", world.words(list))
    end)

    env.it("ends when the session does", function()
      local w = opened()
      world.request(w, world.head())
      local x = world.exchange(world.dial(w).connection)
      w.session:close()
      while not x.was_reset do echo.sleep(0.01) end
      while w.agent.stats.in_flight > 0 do echo.sleep(0.01) end
    end)

    env.it("that begins with something else is refused", function()
      local w = opened()
      local stream = assert(w.session:create_stream "tunnel.http")
      assert(stream:send(core.part("body", "no head")))
      local _, err = stream:recv()
      assert.equal(3, err.details.reset)
      assert.is_truthy(env.logged "did not begin with a request")
      assert.equal(0, w.agent.stats.in_flight)
    end)
  end)
end)
