-- Visitors of HTTP/3 through the whole tunnel.
local core = require "echostream.tunnel.core"
local h3 = require "spec.support.http"
local net = require "spec.support.net"
local world = require "tunnel.spec.support.world"

net.only("quic", function(env)
  local function new(backend, opts)
    opts = opts or {}
    opts.backend = backend
    opts.server = opts.server or {}
    opts.server.http3 = opts.server.http3 or true
    opts.echo_server = { http = { connect = true } }
    local w = world.new(env, opts)
    local conn = h3.dial(w.server)
    table.insert(env.opened, conn)
    return w, conn
  end

  describe("a visitor of HTTP/3", function()
    env.it("reaches the backend, and is told what it says", function()
      local seen, body, trailers
      local w, conn = new(function(x, head, fin)
        seen = head
        local pieces = {}
        while not fin do
          local bytes, err, last = x:read()
          assert(not err, err)
          trailers = last or trailers
          if not bytes then break end
          pieces[#pieces + 1] = bytes
        end
        body = table.concat(pieces)
        assert(x:send_head(assert(core.head("response", { status = 201, { "x-b", "1" } }))))
        assert(x:write "made")
        assert(x:finish())
      end)
      local x = assert(conn:begin("POST", "/a//b?q", { "x-test", "1" }, true))
      assert(x:write(("x"):rep(100000)))
      x:finish()
      local answer = assert(x:answer())
      assert.same({ 201, "made", "1" }, { answer.status, answer.body, answer.headers["x-b"] })
      assert.same({ "POST", "/a/b?q", "1", 100000 }, { seen.method, seen.path, seen:get "x-test", #body })
      assert.equal("127.0.0.1", seen:get "x-forwarded-for")
      w:wait(function() return #w.records == 1 end)
      local record = w.records[1]
      assert.same({ "h3", "h3", 201, "POST", 4 }, { record.protocol, record.listener, record.status, record.method, record.bytes_out })
      assert.is_true(record.bytes_in == 100000 and record.port > 0)
      assert.is_nil(trailers)
    end)

    env.it("meets the same rules, limits and errors", function()
      local w, conn = new(function(x) x:send_head(assert(core.head("response", { status = 204 })), true) end, {
        rules = { { path = "/once", group = "web", rate = { rate = 0.001, burst = 1 } }, { path = "/none", group = "nobody" },
          { path = "/moved", redirect = "/new${path}" }, { protocol = "h3", path = "/h3/*", group = "web" } },
      })
      local function status(path) return assert(conn:fetch("GET", path)).status end
      assert.same({ 204, 429, 503, 307, 204, 404, 400 }, { status "/once", status "/once", status "/none", status "/moved", status "/h3/x",
        status "/other", status "/../x" })
      assert.equal("/new/moved", conn:fetch("GET", "/moved").headers.location)
      assert.equal(404, assert(w:get "/h3/x").status)
      w:wait(function() return #w.records == 9 end)
    end)

    env.it("that gives up is gone for the backend, too", function()
      local begun, gone = 0, 0
      local w, conn = new(function(x, head)
        x:on_abort(function() gone = gone + 1 end)
        if head.path == "/body" then
          assert(x:send_head(assert(core.head("response", { status = 200 }))))
          x:write "begun"
        end
        begun = begun + 1
      end)
      for i, path in ipairs { "/before", "/body" } do
        local x = assert(conn:begin("GET", path))
        if path == "/body" then assert.equal(200, x:status()) end
        w:wait(function() return begun == i end)
        x:reset()
        x:release()
        w:wait(function() return gone == i and #w.records == i end)
        assert.equal("visitor", w.records[i].cause)
      end
    end)

    env.it("may open a WebSocket by an extended CONNECT", function()
      local w, conn = new(function(x, head)
        assert.equal("websocket", head.protocol)
        assert(x:send_head(assert(core.head("response", { status = 200 }))))
        while true do
          local bytes = x:read()
          if not bytes then break end
          x:write(bytes:upper())
        end
        x:finish()
      end)
      local x = assert(conn:connect("/chat", "websocket"))
      assert.equal(200, x:status())
      assert(x:write "one")
      assert.equal("ONE", x:read())
      assert(x:write "two")
      assert.equal("TWO", x:read())
      x:finish()
      assert.is_nil((x:read()))
      w:wait(function() return #w.records == 1 end)
      assert.same({ "websocket", nil }, { w.records[1].kind, w.records[1].cause })
    end)

    env.it("is told of by Alt-Svc, where the option says so", function()
      local w = new(function(x) x:send_head(assert(core.head("response", { status = 204 })), true) end,
        { server = { http3 = { name = "quic", alt_svc = 'h3=":443"; ma=60' } } })
      assert.equal('h3=":443"; ma=60', assert(w:get "/").head:get "alt-svc")
      local conn = h3.dial(w.server)
      table.insert(env.opened, conn)
      assert.is_nil(conn:fetch("GET", "/").headers["alt-svc"])
      w:wait(function() return #w.records == 2 end)
      assert.equal("quic", w.records[2].listener)
    end)
  end)
end)
