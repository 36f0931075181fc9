-- Visitors of HTTP/3 as exchanges: with the core's own client, over sockets and in the simulator.
local core = require "echostream.tunnel.core"
local echo = require "echostream"
local errors = require "echostream.tunnel.errors"
local h3 = require "spec.support.http"
local http3 = require "echostream.tunnel.server.http3"
local net = require "spec.support.net"

-- A response's head.
local function response(status, ...)
  return assert(core.head("response", { status = status, ... }))
end

-- The parts of a message as text.
local function shown(message)
  local list = {}
  for kind, value in assert(core.parts(message)) do
    if kind == "trailers" then
      for name, text in value:each() do kind = ("%s %s=%s"):format(kind, name, text) end
    elseif kind == "body" then
      kind = kind .. " " .. #value
    end
    list[#list + 1] = kind
  end
  return table.concat(list, ",")
end

net.each(function(env)
  local function pair(serve, opts)
    local server = env.server(opts, function(server) http3.attach(server, serve, { port = 443, listener = "h3" }) end)
    local conn = h3.dial(server)
    table.insert(env.opened, conn)
    return conn, server
  end

  describe("a visitor of HTTP/3", function()
    env.it("is an exchange with a head, a body and trailers, both ways", function()
      local head, info, seen = nil, nil, {}
      local conn = pair(function(x, its_head, its_info)
        head, info = its_head, its_info
        local over = false
        while not over do
          local message
          message, over = assert(x:take())
          seen[#seen + 1] = shown(message)
        end
        assert(x:send_head(response(103, { "link", "</a>; rel=preload" })))
        assert(x:send_head(response(100)))
        assert(x:send_head(response(201, { "x-a", "1" }, { "x-a", "2" }, { "content-length", "10" })))
        assert(x:put(core.part("body", "hello")))
        local trailers = assert(core.head("trailers", { { "x-sum", "7" } }))
        assert.same({ true, true }, { x:put(core.part("body", "world") .. trailers:part()) })
        assert.same({ 5 + 70000, 10 }, { x:info().received, x:info().sent })
      end)
      local x = assert(conn:begin("POST", "/a?b", { "x-test", "1", "te", "trailers", "cookie", "a=b" }, true))
      assert(x:write "12345")
      assert(x:write(("x"):rep(70000)))
      x:finish { "x-end", "yes" }
      local status, fields = table.unpack(assert(x:informed()))
      assert.same({ 103, "link" }, { status, fields[1] })
      local answer = assert(x:answer())
      assert.same({ 201, "helloworld", { "x-sum", "7" } }, { answer.status, answer.body, answer.trailers })
      assert.same({ "POST", "https", "127.0.0.1", "/a?b", "1", "trailers", "a=b" }, { head.method, head.scheme, head.authority, head.path,
        head:get "x-test", head:get "te", head:get "cookie" })
      assert.same({ "h3", 443, "h3" }, { info.protocol, info.port, info.listener })
      assert.is_string(info.peer_ip)
      assert.is_true(info.peer_port > 0)
      local text = table.concat(seen, ",")
      assert.truthy(text:find "^body %d+,.*trailers x%-end=yes$", text)
    end)

    env.it("that has no body is told so at once", function()
      local told, first = {}, nil
      local conn = pair(function(x, head, _, fin)
        told[head.path] = fin
        first = { x:try_take() }
        x:send_head(response(204), true)
      end)
      assert.equal(204, conn:fetch("GET", "/").status)
      assert.same({ nil, true }, first)
      assert.equal(204, conn:fetch("POST", "/body", {}, "text").status)
      assert.same({ ["/"] = true, ["/body"] = false }, told)
    end)

    env.it("that waits for leave to send its body gets it when the body is asked for", function()
      local ask, fins = false, nil
      local conn = pair(function(x, head, _, fin)
        fins = { fin, head:get "expect" }
        env.eventually(function() return ask end, "the spec's word")
        local message, over = assert(x:take())
        if not over then over = select(2, assert(x:take())) end
        assert.is_true(over)
        assert(x:send_head(response(200, { "x-got", shown(message) }), true))
      end)
      local x = assert(conn:begin("POST", "/", { "expect", "100-continue", "content-length", "4" }, true))
      ask = true
      assert.equal(100, assert(x:informed())[1])
      assert(x:write "body")
      x:finish()
      assert.equal("body 4", assert(x:answer()).headers["x-got"])
      assert.same({ false, nil }, fins)
    end)

    env.it("may send as much as it likes, as fast as it is taken", function()
      local total, waited = 0, 0
      local conn = pair(function(x)
        local message, over = x:try_take() -- or nothing, so early
        repeat
          if not message then message, over = assert(x:take()) end
          for kind, value in core.parts(message) do
            if kind == "body" then total = total + #value end
          end
          waited, message = waited + 1, nil
        until over
        errors.send(x, nil, errors.new(503, "later"))
      end, { http = { max_body = 1000 } })
      local x = assert(conn:begin("PUT", "/", {}, true))
      for _ = 1, 40 do assert(x:write(("x"):rep(16384))) end
      x:finish()
      local answer = assert(x:answer())
      assert.same({ 503, "503 Service Unavailable\nlater\n", 40 * 16384 }, { answer.status, answer.body, total })
      assert.is_true(waited > 5)
    end)

    env.it("that gives up is known at once, before the head and in the middle", function()
      local aborts, begun, ended = {}, 0, 0
      local conn = pair(function(x, head)
        x:on_abort(function(why) aborts[#aborts + 1] = why end)
        if head.path == "/body" then
          assert(x:send_head(response(200)))
          assert(x:put(core.part("body", "begun")))
        elseif head.path == "/upload" then
          assert.equal("body 4", shown((assert(x:take()))))
        end
        begun = begun + 1
        env.eventually(function() return #aborts > 0 end, "the abort")
        assert.equal("cancelled", select(2, x:take()).code)
        assert.is_nil((x:send_head(response(200))))
        assert.is_nil((x:put(core.part("body", "more"))))
        x:on_abort(function(why) aborts[#aborts + 1] = "again " .. why end)
        ended = ended + 1
      end)
      for i, path in ipairs { "/before", "/body", "/upload" } do
        aborts = {}
        local x = assert(conn:begin("POST", path, {}, path == "/upload"))
        if path == "/body" then assert(x:status()) end
        if path == "/upload" then assert(x:write "some") end
        env.eventually(function() return begun == i end, "the server has it: " .. path)
        x:reset()
        env.eventually(function() return ended == i end, path)
        assert.same({ "cancel", "again cancel" }, aborts)
        x:release()
      end
    end)

    env.it("is not told that all is well when the exchange was given up", function()
      local conn = pair(function(x, head)
        if head.path == "/early" then return end
        if head.path == "/raises" then error("on purpose", 0) end
        assert(x:send_head(response(200, { "content-length", "100" })))
        assert(x:put(core.part("body", "half")))
        if head.path == "/cut" then x:put(core.part("reset", { why = "truncated", text = "" })) else x:reset "internal" end
      end)
      assert.equal(502, conn:fetch("GET", "/early").status)
      echo.set_log(function() end)
      assert.equal(502, conn:fetch("GET", "/raises").status)
      echo.set_log(nil)
      for _, path in ipairs { "/cut", "/reset" } do
        local answer, err = conn:fetch("GET", path)
        assert.is_nil(answer)
        assert.equal("string", type(err.code))
      end
      assert.equal(502, conn:fetch("GET", "/early").status) -- the connection goes on
    end)

    env.it("may open a tunnel by an extended CONNECT, such as a WebSocket's", function()
      local kind
      local conn = pair(function(x, head)
        kind = head.protocol
        assert(x:send_head(response(200)))
        local over
        repeat
          local message
          message, over = assert(x:take())
          assert(x:put(message))
        until over
      end, { http = { connect = true } })
      local x = assert(conn:connect("/chat", "websocket"))
      assert.equal(200, x:status())
      assert(x:write "ping")
      assert.equal("ping", x:read())
      assert(x:write "pong")
      assert.equal("pong", x:read())
      x:finish()
      assert.is_nil((x:read()))
      assert.equal("websocket", kind)
    end)
  end)
end)
