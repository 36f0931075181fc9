-- Sessions that come over WebTransport, as those of browsers do, here from our own client. What sessions do is in the other specs,
-- some of which run through this door too (net.each_door); this is about what is different.
local echo = require "echostream"
local h3 = require "spec.support.http"
local net = require "spec.support.net"

-- Waits until it is so; the time limit of the spec is the only one, because a busy machine may stand still for seconds.
local function till(fn)
  while not fn() do
    echo.sleep(0.005)
  end
end

net.each(function(env)
  local function serve(webtransport, prepare)
    return env.server({ webtransport = webtransport }, function(server)
      server:add_rpc("add", function(_, a, b)
        return a + b
      end, { idempotent = true })
      if prepare then
        prepare(server)
      end
    end)
  end

  local function client(server, webtransport, opts)
    opts = opts or {}
    opts.webtransport = webtransport
    return env.client(server, opts)
  end

  local function refusal(server, webtransport)
    local ok, err = client(server, webtransport):connect(server.address)
    assert.is_nil(ok)
    return err
  end

  describe("WebTransport", function()
    env.it("brings sessions to the handlers of the native protocol, on the same port", function()
      local seen
      local server = serve(true, function(server)
        server:on_connect(function(session)
          seen = seen or session
        end)
      end)
      local c = assert(client(server, { path = "/echostream?room=7", origin = "https://" .. server.address }):connect(server.address))
      assert.equal(30, c:request("add", 10, 20))
      assert.equal("webtransport", seen.door)
      assert.equal("/echostream?room=7", seen.path)
      assert.equal("https://" .. server.address, seen.origin)
      assert.equal(server.address, seen.authority)
      assert.equal("webtransport", c.session.door)
      local native = env.connect(server, { webtransport = false })
      assert.equal(3, native:request("add", 1, 2))
      assert.equal("native", native.session.door)
      local key, why = c.session:export_key("EXPORTER-spec", 32) -- the connection may be of several sessions
      assert.is_nil(key)
      assert.equal("failed_precondition", why.code)
      assert.is_nil(native.session.path)
      assert.is_nil(native.session.origin)
    end)

    env.it("works both ways: calls, events on lanes and in datagrams, streams", function()
      local got = {}
      local server = serve(true, function(server)
        server:add_event("at", function(session, x, y)
          got.x, got.y = x, y
          session:emit("seen", x)
        end)
        server:add_stream("echo", function(_, stream)
          for frame in stream:frames() do
            stream:send(frame.data:upper())
          end
        end)
        server:add_rpc("ask.back", function(session, n)
          return session:request("double", n)
        end)
      end)
      local c = client(server, true)
      c:add_rpc("double", function(_, n)
        return 2 * n
      end)
      c:add_event("seen", function(_, x)
        got.seen = x
      end)
      assert(c:connect(server.address))
      assert.equal(14, c:request("ask.back", 7))
      assert(c:emit("at", 1, 2))
      till(function()
        return got.seen == 1
      end)
      assert.is_true(c:stats().max_datagram > 1000)
      while got.seen ~= 3 do -- they may be lost
        assert(c:with({ unreliable = true }):emit("at", 3, 4))
        echo.sleep(0.01)
      end
      local stream = assert(c:create_stream "echo")
      local long = ("x"):rep(300000)
      stream:send "hello"
      assert.equal("HELLO", stream:recv().data)
      echo.spawn(stream.send, stream, long)
      assert.equal(long:upper(), stream:recv().data)
      stream:finish()
      assert.is_nil(stream:recv())
    end)

    env.it("refuses paths, origins and too many sessions, and says so", function()
      local server = serve { path = "/live", origins = { "https://example.org", "http://localhost:8080" } }
      assert.equal("not_found", refusal(server, true).code)
      local err = refusal(server, { path = "/live", origin = "https://evil.example" })
      assert.equal("permission_denied", err.code)
      assert.matches("403", err.message)
      assert.equal("permission_denied", refusal(server, { path = "/live", origin = "null" }).code)
      for _, origin in ipairs { "https://example.org", "http://localhost:8080", "https://" .. server.address } do
        assert(client(server, { path = "/live", origin = origin }):connect(server.address))
      end
      assert(client(serve { origins = { "*" } }, { origin = "https://anybody.example" }):connect(env.opened[#env.opened - 1].address))
    end)

    env.it("is not there unless it is asked for", function()
      assert.equal("unavailable", refusal(serve(false), true).code) -- no such protocol on that port
      local http = env.server({ webtransport = false }, function(server)
        server:http(function()
          return "ok"
        end)
      end)
      local err = refusal(http, true)
      assert.equal("unavailable", err.code)
      assert.matches("no WebTransport", err.message)
    end)

    env.it("leaves HTTP/3 as it is", function()
      local server = serve(true, function(server)
        server:http(function(request)
          return "you asked for " .. request.path
        end)
      end)
      local conn = h3.dial(server)
      table.insert(env.opened, conn)
      assert.equal("you asked for /x", conn:fetch("GET", "/x").body)
      local only = h3.dial(serve(true))
      table.insert(env.opened, only)
      assert.equal(404, only:fetch("GET", "/x").status)
    end)

    env.it("tells the other side why a session is refused or closed", function()
      local ended
      local server = serve(true, function(server)
        server:on_connect(function(session)
          if session.metadata.token ~= "right" then
            return nil, echo.error("unauthenticated", "wrong token")
          end
        end)
        server:on_disconnect(function(_, err)
          ended = err
        end)
      end)
      local c = client(server, true, { metadata = { token = "wrong" } })
      local ok, err = c:connect(server.address) -- it may know by then
      if ok then
        ok, err = c:request("add", 1, 2)
      end
      assert.is_nil(ok)
      assert.equal("unauthenticated", err.code)
      assert.equal("wrong token", err.message)
      c = client(server, true, { metadata = { token = "right" } })
      assert(c:connect(server.address))
      assert.equal(3, c:request("add", 1, 2))
      c.session:close("enough of it")
      till(function()
        return ended
      end)
      assert.matches("enough of it", ended.message)
    end)

    env.it("ends with the server, which says so first", function()
      local server = serve(true)
      local c = client(server, true)
      assert(c:connect(server.address))
      assert.equal(3, c:request("add", 1, 2))
      local session = c.session
      assert(server:stop { grace = 5 })
      till(function()
        return session.closed_by
      end)
      assert.matches("the server stopped", session.closed_by.message)
    end)
  end)
end)
