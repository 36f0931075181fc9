-- HTTP/3 beside the native protocol on one port, with the core's own client, over sockets and in the simulator.
local echo = require "echostream"
local h3 = require "spec.support.http"
local net = require "spec.support.net"
local scratch = require "spec.support.scratch"

net.each(function(env)
  -- A server that `prepare` registers at, and a connection to it.
  local function pair(prepare, opts, dial_opts)
    local server = env.server(opts, prepare)
    local conn = h3.dial(server, dial_opts)
    table.insert(env.opened, conn)
    return conn, server
  end

  describe("HTTP/3", function()
    env.it("answers requests on the port of the native protocol", function()
      local conn, server = pair(function(server)
        server:http(function(request, response)
          response.headers:set("content-type", "text/plain")
          response:send(("%s %s %s"):format(request.method, request.path, request.headers:get "x-test"))
        end)
        server:add_rpc("math.add", function(_, a, b)
          return a + b
        end)
      end)
      local answer = assert(conn:fetch("GET", "/a?b=c", { "x-test", "1" }))
      assert.equal(200, answer.status)
      assert.equal("GET /a?b=c 1", answer.body)
      assert.equal("text/plain", answer.headers["content-type"])
      assert.equal("12", answer.headers["content-length"])
      assert.is_number(echo.http.date.parse(answer.headers.date))
      assert.equal(30, env.connect(server):request("math.add", 10, 20))
    end)

    env.it("has routes, whose handlers find names, query, cookies and the body", function()
      local conn = pair(function(server)
        server:route("GET", "/users/:id", function(request)
          return ("%s %s %s %s"):format(request.params.id, request.route, request.query.full, request.cookies.session)
        end)
        server:route({ "POST", "PUT" }, "/sum", function(request, response)
          local numbers, err = request:json()
          if not numbers then
            return nil, err
          end
          response:set_cookie("last", "1"):json({ sum = numbers[1] + numbers[2] }, 201)
        end)
        server:route("POST", "/form", function(request, response)
          response.body = assert(request:form()).name
        end)
        server:route("GET", "/old", function(_, response)
          response:redirect("/users/1", 301)
        end)
      end)
      local answer = conn:fetch("GET", "/users/a%20b?full=yes", { "cookie", "a=b; session=xyz" })
      assert.same({ 200, "a b /users/:id yes xyz" }, { answer.status, answer.body })
      answer = conn:fetch("POST", "/sum", {}, "[1,2]")
      assert.same({ 201, '{"sum":3}', "application/json" }, { answer.status, answer.body, answer.headers["content-type"] })
      assert.equal("last=1; Path=/; Secure; HttpOnly; SameSite=Lax", answer.headers["set-cookie"])
      answer = conn:fetch("POST", "/form", { "content-type", "application/x-www-form-urlencoded" }, "name=a+b&x=1")
      assert.equal("a b", answer.body)
      answer = conn:fetch("GET", "/old")
      assert.same({ 301, "/users/1" }, { answer.status, answer.headers.location })
      answer = conn:fetch("DELETE", "/sum")
      assert.same({ 405, "OPTIONS, POST, PUT" }, { answer.status, answer.headers.allow })
      answer = conn:fetch("OPTIONS", "/sum")
      assert.same({ 204, "OPTIONS, POST, PUT" }, { answer.status, answer.headers.allow })
      assert.equal(404, conn:fetch("GET", "/none").status)
      assert.equal(400, conn:fetch("GET", "/users/..").status)
      assert.equal(400, conn:fetch("POST", "/sum", {}, "[1,").status)
      assert.equal(415, conn:fetch("POST", "/sum", { "content-type", "text/plain" }, "[1,2]").status)
    end)

    env.it("takes routes away and adds some while it runs, and asks middleware first", function()
      local seen = {}
      local function outer(request, response, next)
        seen[#seen + 1] = "outer " .. request.method
        response.headers:set("x-outer", "1")
        return next(request, response)
      end
      local conn, server = pair(function(server)
        server:http(function()
          return "fallback"
        end)
        server:http_middleware(outer)
        server:http_middleware(function(request, response, next)
          if request.path == "/secret" then
            return nil, echo.error("permission_denied", "not for you")
          end
          request.context.user = "ann"
          return next(request, response)
        end)
      end)
      assert.equal("fallback", conn:fetch("GET", "/a").body)
      server:route("GET", "/a", function(request)
        return "for " .. request.context.user
      end)
      assert.equal("for ann", conn:fetch("GET", "/a").body)
      assert.is_true(server:remove_route("GET", "/a"))
      assert.is_false(server:remove_route("GET", "/a"))
      assert.equal("fallback", conn:fetch("GET", "/a").body)
      local answer = conn:fetch("GET", "/secret")
      assert.same({ 403, "1" }, { answer.status, answer.headers["x-outer"] })
      assert.is_true(server:remove_http_middleware(outer))
      conn:fetch("GET", "/a")
      assert.equal(4, #seen)
    end)

    env.it("streams bodies both ways, with trailers, and waits for the slower side", function()
      local conn = pair(function(server)
        server:http(function(request, response)
          local size = 0
          for piece in request:chunks() do
            size = size + #piece
            assert(response:write(piece))
          end
          assert.equal("1", request:trailers():get "x-sent")
          response:finish { ["x-size"] = tostring(size) }
        end)
      end)
      local piece = ("0123456789abcdef"):rep(4096)
      local x = conn:begin("POST", "/", {}, true)
      local size, err = 0, nil
      local reader = echo.spawn(function()
        x:status()
        for data in function() return x:read() end do
          assert(piece:find(data:sub(1, 16), 1, true))
          size = size + #data
        end
      end)
      for _ = 1, 32 do
        assert(x:write(piece))
      end
      assert(x:finish { "x-sent", "1" })
      assert(reader:wait())
      assert.equal(32 * #piece, size)
      assert.same({ "x-size", tostring(32 * #piece) }, x:trailers())
      assert.is_nil(err)
      x:release()
    end)

    env.it("pulls bodies that are functions, and resets when they fail", function()
      local conn = pair(function(server)
        server:route("GET", "/count", function(_, response)
          local i = 0
          response.body = function()
            i = i + 1
            return i <= 3 and tostring(i) or nil
          end
          response.trailers = { ["x-end"] = "yes" }
        end)
        server:route("GET", "/breaks", function(_, response)
          local i = 0
          response.body = function()
            i = i + 1
            if i > 2 then
              return nil, echo.error("data_loss", "gone")
            end
            return "piece"
          end
        end)
        server:route("GET", "/raises", function(_, response)
          response:write "begun"
          error "in the middle"
        end)
      end)
      local answer = conn:fetch("GET", "/count")
      assert.same({ 200, "123", { "x-end", "yes" } }, { answer.status, answer.body, answer.trailers })
      local _, err = conn:fetch("GET", "/breaks")
      assert.equal("internal", err.code)
      _, err = conn:fetch("GET", "/raises")
      assert.equal("internal", err.code)
      assert.is_truthy(env.logged "in the middle")
    end)

    env.it("has no content for HEAD and 204, and the right lengths", function()
      local conn = pair(function(server)
        server:route("GET", "/text", function()
          return "12345"
        end)
        server:route("GET", "/nothing", function() end)
        server:route("GET", "/empty", function()
          return ""
        end)
        server:route("GET", "/wrong", function(_, response)
          response.headers:set("content-length", 3)
          return "12345"
        end)
      end)
      local answer = conn:fetch("HEAD", "/text")
      assert.same({ 200, "", "5" }, { answer.status, answer.body, answer.headers["content-length"] })
      answer = conn:fetch("GET", "/nothing")
      assert.same({ 204, "", nil }, { answer.status, answer.body, answer.headers["content-length"] })
      answer = conn:fetch("GET", "/empty")
      assert.same({ 200, "", "0" }, { answer.status, answer.body, answer.headers["content-length"] })
      answer = conn:fetch("GET", "/wrong")
      assert.equal(500, answer.status)
      assert.is_truthy(env.logged "cannot be sent")
    end)

    env.it("sends early hints before the answer", function()
      local conn = pair(function(server)
        server:http(function(_, response)
          assert(response:early_hints { link = "</a.css>; rel=preload" })
          response:send("late", 404)
        end)
      end)
      local x = conn:begin("GET", "/")
      assert.same({ 103, { "link", "</a.css>; rel=preload" } }, x:informed())
      assert.equal(404, x:status())
      x:release()
    end)

    env.it("tells a client that waits to send its body, when it is wanted", function()
      local conn = pair(function(server)
        server:route("POST", "/wants", function(request)
          return assert(request:text())
        end)
        server:route("POST", "/wants-not", function(_, response)
          response.status = 403
        end)
      end)
      local x = conn:begin("POST", "/wants", { "expect", "100-continue" }, true)
      assert.same({ 100, {} }, x:informed())
      assert(x:write "here it is")
      x:finish()
      assert.equal("here it is", x:answer().body)
      assert.equal(417, conn:fetch("POST", "/wants", { "expect", "a-pony" }, "x").status)
      x = conn:begin("POST", "/wants-not", { "expect", "100-continue" }, true)
      assert.equal(403, x:status())
      x:release()
    end)

    env.it("bounds bodies", function()
      local conn = pair(function(server)
        server:http(function(request)
          local body, err = request:text()
          if not body then
            return nil, err
          end
          return tostring(#body)
        end)
        server:route("POST", "/more", function(request)
          local size = 0
          for piece in request:chunks() do
            size = size + #piece
          end
          return tostring(size)
        end, { max_body = 200 })
      end, { http = { max_body = 100 } })
      assert.equal("100", conn:fetch("POST", "/", {}, ("x"):rep(100)).body)
      assert.equal(413, conn:fetch("POST", "/", {}, ("x"):rep(101)).status)
      assert.equal("101", conn:fetch("POST", "/more", {}, ("x"):rep(101)).body)
      assert.equal(413, conn:fetch("POST", "/more", {}, { ("x"):rep(100), ("x"):rep(101) }).status)
      local x = conn:begin("POST", "/", { "content-length", "101" }, true) -- refused without waiting for it
      assert.equal(413, x:status())
      x:release()
    end)

    env.it("lets a body come that it refused, or does not read: who looks at answers only after that hears them too", function()
      local conn = pair(function(server)
        server:route("POST", "/limited", function(request)
          return request:text()
        end)
        server:route("POST", "/unread", function()
          echo.sleep(0.05)
          return "no matter"
        end)
      end, { http = { max_body = 100 } })
      local piece, pieces <const> = ("x"):rep(65536), 64
      for path, status in pairs { ["/limited"] = 413, ["/unread"] = 200 } do
        local x = assert(conn:begin("POST", path, { "content-length", tostring(pieces * #piece) }, true))
        for _ = 1, pieces do
          assert.is_true(x:write(piece))
        end
        assert.is_true(x:finish())
        assert.equal(status, assert(x:answer()).status)
      end
    end)

    env.it("answers 500 when the handler raises, and tells only the log why", function()
      local conn = pair(function(server)
        server:route("GET", "/raises", function()
          error "the secret"
        end)
        server:route("GET", "/object", function()
          error(echo.error("not_found", "no such thing", { id = 7 }))
        end)
      end)
      local answer = conn:fetch("GET", "/raises")
      assert.equal(500, answer.status)
      assert.is_nil(answer.body:find("secret", 1, true))
      assert.is_truthy(env.logged "the secret")
      answer = conn:fetch("GET", "/object")
      assert.equal(404, answer.status)
      assert.same({ code = "not_found", message = "no such thing", details = { id = 7 } }, echo.codec.json.unpack(answer.body).error)
    end)

    env.it("refuses heads that are too much, without a handler", function()
      local ran = 0
      local conn = pair(function(server)
        server:http(function()
          ran = ran + 1
          return "x"
        end)
      end, { http = { max_header_bytes = 1000, max_header_fields = 10, max_target_bytes = 50, head_timeout = 5 } })
      assert.equal(431, conn:fetch("GET", "/", { "x-long", ("x"):rep(1000) }).status)
      local many = {}
      for i = 1, 11 do
        table.move({ "x-" .. i, "" }, 1, 2, #many + 1, many)
      end
      assert.equal(431, conn:fetch("GET", "/", many).status)
      assert.equal(414, conn:fetch("GET", "/" .. ("x"):rep(50)).status)
      assert.equal(0, ran)
      assert.equal(200, conn:fetch("GET", "/" .. ("x"):rep(49)).status)
    end)

    env.it("compresses what gets smaller, for who takes it", function()
      local text = ("all work and no play makes jack a dull boy\n"):rep(100)
      local conn = pair(function(server)
        server:route("GET", "/text", function(_, response)
          response.headers:set("etag", '"1"')
          return text
        end)
        server:route("GET", "/pieces", function(_, response)
          response.headers:set("content-type", "text/event-stream")
          local i = 0
          response.body = function()
            i = i + 1
            return i <= 3 and text or nil
          end
        end)
        server:route("GET", "/image", function(_, response)
          response.headers:set("content-type", "image/png")
          return text
        end)
        server:route("GET", "/secret", function(_, response)
          response.compress = false
          return text
        end)
        server:route("GET", "/short", function()
          return "short"
        end)
      end, { http = { compress = { threshold = 100, level = 5 } } })
      for coding, magic in pairs { gzip = "\x1f\x8b", zstd = "\x28\xb5\x2f\xfd" } do
        local answer = conn:fetch("GET", "/text", { "accept-encoding", coding })
        assert.equal(coding, answer.headers["content-encoding"])
        assert.same({ "Accept-Encoding", 'W/"1"' }, { answer.headers.vary, answer.headers.etag })
        assert.equal(tostring(#answer.body), answer.headers["content-length"])
        assert.equal(magic, answer.body:sub(1, #magic))
        assert.is_true(#answer.body < #text / 10)
        answer = conn:fetch("GET", "/pieces", { "accept-encoding", coding })
        assert.equal(magic, answer.body:sub(1, #magic))
        assert.is_true(#answer.body < #text)
        assert.is_nil(answer.headers["content-length"])
      end
      for _, path in ipairs { "/image", "/secret", "/short" } do
        assert.is_nil(conn:fetch("GET", path, { "accept-encoding", "gzip" }).headers["content-encoding"])
      end
      assert.equal(text, conn:fetch("GET", "/text").body)
      assert.equal(text, conn:fetch("GET", "/text", { "accept-encoding", "br" }).body)
    end)

    env.it("counts requests by route, and tells who wants to hear", function()
      local heard, lines = {}, {}
      local conn, server = pair(function(server)
        server:on_http(function(request, _, outcome, seconds)
          table.insert(heard, ("%s %s %s"):format(request.method, request.path, outcome))
          assert.is_true(seconds >= 0)
        end)
        assert(server:plugin(echo.plugins.access_log { sessions = false, bytes = true, write = function(_, entry)
          table.insert(lines, ("%s %s %s %s %s"):format(entry.kind, entry.name, entry.code, entry.status, entry.bytes_out))
        end }))
        server:route("GET", "/users/:id", function(request)
          return request.params.id
        end)
        server:route("GET", "/waits", function()
          echo.sleep(1000)
        end)
      end)
      conn:fetch("GET", "/users/ann")
      conn:fetch("GET", "/users/bob")
      conn:fetch("BREW", "/none")
      local x = conn:begin("GET", "/waits")
      env.eventually(function()
        return server:metrics().http.running == 1
      end, "the request is there")
      x:reset()
      env.eventually(function()
        return #heard == 4
      end, "its end")
      x:release()
      assert.same({ "GET /users/ann 200", "GET /users/bob 200", "BREW /none 404", "GET /waits cancelled" }, heard)
      assert.same({ "http GET /users/ann ok 200 3", "http GET /users/bob ok 200 3" }, { lines[1], lines[2] })
      assert.is_truthy(lines[3]:find("http BREW /none not_found 404", 1, true))
      assert.is_truthy(lines[4]:find("http GET /waits cancelled nil", 1, true))
      local http = server:metrics().http
      assert.equal(0, http.running)
      local users = http.requests["GET /users/:id"]
      assert.same({ 2, 0, { [200] = 2 }, 6 }, { users.count, users.errors, users.codes, users.bytes })
      assert.same({ 1, 1 }, { http.requests["(other) (none)"].count, http.requests["(other) (none)"].errors })
      assert.same({ cancelled = 1 }, http.requests["GET /waits"].codes)
      local text = echo.metrics.prometheus(server)
      assert.is_truthy(text:find('echostream_http_requests_total{host="[^"]*",method="GET",route="/users/:id",code="200"} 2'))
      assert.is_truthy(text:find('echostream_http_request_seconds_count{host="[^"]*",method="GET",route="/users/:id"} 2'))
    end)

    env.it("says where else it is to be had", function()
      local conn = pair(function(server)
        server:route("GET", "/", function()
          return "x"
        end)
      end, { http = { alt_svc = 'h3=":4433"; ma=60' } })
      assert.equal('h3=":4433"; ma=60', conn:fetch("GET", "/").headers["alt-svc"])
      assert.equal('h3=":4433"; ma=60', conn:fetch("GET", "/none").headers["alt-svc"])
    end)
  end)
end)

net.only("quic", function(env)
  describe("HTTP/3", function()
    env.it("serves files", function()
      local dir = scratch.path()
      os.execute(("mkdir '%s' && printf 0123456789 > '%s/a.txt'"):format(dir, dir))
      local server = env.server({}, function(server)
        server:static("/files", dir)
      end)
      local conn = h3.dial(server)
      table.insert(env.opened, conn)
      local answer = conn:fetch("GET", "/files/a.txt", { "range", "bytes=2-4" })
      assert.same({ 206, "234", "text/plain; charset=utf-8" }, { answer.status, answer.body, answer.headers["content-type"] })
      answer = conn:fetch("GET", "/files?x=1")
      assert.same({ 308, "/files/?x=1" }, { answer.status, answer.headers.location })
      assert.equal(404, conn:fetch("GET", "/files/b.txt").status)
      assert.equal(400, conn:fetch("GET", "/files/../a.txt").status)
    end)
  end)
end)

net.only("sim", function(env)
  describe("HTTP/3", function()
    env.it("sends what is urgent first", function()
      local server = env.server({}, function(server)
        server:route("GET", "/bulk", function(_, response)
          response:priority(7)
          return ("b"):rep(1 << 20)
        end)
        server:route("GET", "/urgent", function(_, response)
          response:priority(0)
          return ("u"):rep(1 << 16)
        end)
      end)
      local conn = h3.dial(server)
      table.insert(env.opened, conn)
      local order = {}
      local bulk = echo.spawn(function()
        assert.equal(1 << 20, #assert(conn:fetch("GET", "/bulk")).body)
        order[#order + 1] = "bulk"
      end)
      local urgent = echo.spawn(function()
        assert.equal(1 << 16, #assert(conn:fetch("GET", "/urgent")).body)
        order[#order + 1] = "urgent"
      end)
      assert(bulk:wait())
      assert(urgent:wait())
      assert.same({ "urgent", "bulk" }, order)
    end, { seed = 1, delay = 0.01, rate = 1e7 })
  end)
end)
