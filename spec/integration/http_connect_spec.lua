-- What proxies and tunnels want of an HTTP/3 server: extended CONNECT, a handler of everything without limits, and to hear of clients that give up.
local echo = require "echostream"
local h3 = require "spec.support.http"
local net = require "spec.support.net"

net.each(function(env)
  local function pair(prepare, opts)
    local server = env.server(opts, prepare)
    local conn = h3.dial(server)
    table.insert(env.opened, conn)
    return conn, server
  end

  describe("extended CONNECT", function()
    env.it("is a tunnel of bytes once it was accepted", function()
      local seen
      local conn = pair(function(server)
        server:http(function(request, response)
          seen = { request.method, request.protocol, request.path, request.authority }
          for piece in request:chunks() do assert(response:write(piece:upper())) end
        end)
      end, { http = { connect = true } })
      local x = assert(conn:connect("/chat?x", "websocket", { "sec-websocket-version", "13" }))
      assert(x:write "hello")
      assert.equal(200, x:status())
      assert.equal("HELLO", x:read())
      assert(x:write "more")
      assert.equal("MORE", x:read())
      x:finish()
      assert.is_nil((x:read()))
      assert.same({ "CONNECT", "websocket", "/chat?x", "127.0.0.1" }, seen)
    end)
  end)

  describe("the handler of everything", function()
    env.it("has limits of its own, also for what no route takes", function()
      local conn = pair(function(server)
        local function count(request)
          local text, err = request:text()
          if not text then return nil, err end
          return tostring(#text)
        end
        server:http(count, { max_body = 5000, timeout = 0, body_timeout = 0 })
        server:route("POST", "/small", count)
      end, { http = { max_body = 100 } })
      assert.equal("4000", conn:fetch("POST", "/", {}, ("x"):rep(4000)).body)
      assert.equal(413, conn:fetch("POST", "/", {}, ("x"):rep(6000)).status)
      assert.equal("80", conn:fetch("POST", "/small", {}, ("x"):rep(80)).body)
      assert.equal(413, conn:fetch("POST", "/small", {}, ("x"):rep(200)).status)
      assert.has_error(function() echo.server { bind = "127.0.0.1:0", quiet = true }:http(print, { max_bdy = 1 }) end)
    end)
  end)

  describe("on_cancel", function()
    env.it("is told once, when the client gives up", function()
      local told, begun, late = 0, false, 0
      local conn = pair(function(server)
        server:http(function(request)
          request:on_cancel(function() told = told + 1 end)
          request:on_cancel(function() told = told + 10 end)
          begun = true
          echo.sleep(1000)
          request:on_cancel(function() late = late + 1 end)
        end)
      end)
      local x = assert(conn:begin("GET", "/"))
      env.eventually(function() return begun end, "the handler")
      x:reset()
      env.eventually(function() return late == 1 end, "the end of the handler")
      assert.equal(11, told)
      x:release()
    end)

    env.it("is not told when the request ends well", function()
      local told = 0
      local conn = pair(function(server)
        server:http(function(request)
          request:on_cancel(function() told = told + 1 end)
          return "fine"
        end)
      end)
      assert.equal("fine", conn:fetch("GET", "/").body)
      assert.equal("fine", conn:fetch("GET", "/").body)
      assert.equal(0, told)
    end)
  end)
end)
