-- Calls over HTTP and calls by the native protocol reach the same handlers in the same way.
require "echostream.http.calls"
require "echostream.http.rpc"
require "echostream.http.rpc_message"
require "echostream.http.rpc_stream"
local calls = require "spec.support.http_calls"
local certs = require "spec.support.certs"
local codec = require "echostream.codec"
local echo = require "echostream"
local http = require "spec.support.http"
local net = require "spec.support.net"
local process = require "spec.support.process"

local function offer(server)
  server:add_rpc("math.add", function(_, a, b) return a + b end, { idempotent = true, arguments = { "a: a number", "b: a number" } })
  server:add_rpc("nothing", function() end)
  server:add_rpc("several", function(_, ...) return 1, nil, "three", ... end)
  server:add_rpc("echo", function(_, ...) return ... end)
  server:add_rpc("checked", function(_, n) return n end, { arguments = { { "n", echo.schema.integer { min = 1 } } } })
  server:add_rpc("fails", function() error(echo.error("failed_precondition", "not today", { day = 3 })) end)
  server:add_rpc("refuses", function() return nil, echo.error("my_code", "mine") end)
  server:add_rpc("breaks", function() error "a mistake" end)
  server:add_rpc("slow", function() echo.sleep(60) end)
  server:add_rpc("short", function() echo.sleep(60) end, { timeout = 0.05 })
  server:add_rpc("meta", function() return echo.call().metadata.user end)
end

net.each(function(env)
  local it = env.it

  -- Each call, and what both doors have to say to it.
  local rows = {
    { "math.add", 10, 20 }, { "math.add", 1.5, 2 }, { "nothing" }, { "several" }, { "several", "x", true },
    { "echo", { a = { 1, 2, { b = "ü" } } }, echo.null }, { "echo", 9007199254740993 }, { "echo", "" }, { "echo" }, { "checked", 5 },
    { "checked", 0 }, { "checked", "x" }, { "fails" }, { "refuses" }, { "breaks" }, { "no.such" }, { "math.add", {}, 1 },
  }

  it("gives the same answers and errors through both doors, and passes the same middleware", function()
    local trace = {}
    local server, client = env.pair(function(server)
      offer(server)
      server:middleware(function(call, next)
        trace[#trace + 1] = ("%s %s %s %d"):format(call.kind, call.direction, call.name, #call.args)
        local response = next(call)
        trace[#trace + 1] = tostring(response.ok)
        return response
      end)
    end)
    local web = calls.client(server)
    for _, kind in ipairs { "application/json", "application/msgpack" } do
      for _, row in ipairs(rows) do
        local name = row[1]
        trace = {}
        local native = table.pack(client:request(table.unpack(row)))
        local native_trace = trace
        trace = {}
        local over_http = table.pack(web:call(name, { ["content-type"] = kind }, table.unpack(row, 2)))
        if native[1] == nil and native[2] ~= nil then
          assert.equal(native[2].code, over_http[2].code, name)
          assert.equal(native[2].message:gsub('^.*no%.such.*$', "?"), over_http[2].message:gsub('^.*no%.such.*$', "?"), name)
          assert.same(native[2].details, over_http[2].details, name)
          assert.equal(native[2].processed, over_http[2].processed, name)
        else
          assert.same(native, over_http, name)
        end
        assert.same(native_trace, trace, name)
      end
    end
  end)

  it("answers with the status of the code", function()
    local server = env.server(nil, offer)
    local web = calls.client(server)
    local function status(...)
      local _, _, answer = web:call(...)
      return answer and answer.status
    end
    assert.equal(404, status "no.such")
    assert.equal(400, status("checked", nil, 0))
    assert.equal(400, status "fails")
    assert.equal(500, status "breaks")
    assert.equal(504, status "short")
    assert.equal(504, status("slow", { timeout = "20ms" }))
    assert.equal(504, status("slow", { timeout = "0.02" }))
    assert.equal(504, status("slow", { ["grpc-timeout"] = "20m" }))
    assert.equal(400, status("slow", { timeout = "soon" }))
    assert.equal(400, status("slow", { ["grpc-timeout"] = "20" }))
    assert.equal(400, web:fetch("POST", "/rpc/echo", {}, "[1,").status)
    assert.equal(400, web:fetch("POST", "/rpc/echo", {}, "[1] 2").status)
    assert.equal(415, web:fetch("POST", "/rpc/echo", { ["content-type"] = "text/plain" }, "[1]").status)
    assert.equal(415, web:fetch("POST", "/rpc/echo", { ["content-encoding"] = "gzip" }, "[1]").status)
    assert.equal(406, web:fetch("POST", "/rpc/echo", { accept = "text/html" }, "[1]").status)
    assert.equal(405, web:fetch("PUT", "/rpc/echo", {}, "[1]").status)
    assert.equal(413, web:fetch("POST", "/rpc/echo", { ["content-length"] = tostring(1 << 40) }, "[1]").status)
  end)

  it("takes arguments as a list, by name, alone or none", function()
    local server = env.server(nil, offer)
    local web = calls.client(server)
    local function body(path, sent, headers)
      return web:fetch("POST", path, headers, sent).body
    end
    assert.equal("30", body("/rpc/math.add", "[10,20]", { ["content-type"] = "application/x-www-form-urlencoded" }))
    assert.equal("30", body("/rpc/math.add", '{"b":20,"a":10}'))
    assert.equal('{"c":1}', body("/rpc/echo", '{"c":1}'))
    assert.equal('"text"', body("/rpc/echo", '"text"'))
    assert.equal("false", body("/rpc/echo", "false"))
    assert.equal("true", body("/rpc/nothing", nil)) -- as for native callers
    assert.equal("[]", body("/rpc/echo", "[[]]"))
    local several = web:fetch("POST", "/rpc/several", {}, "[]")
    assert.same({ '[1,null,"three"]', "3" }, { several.body, several.headers:get "results" })
    assert.equal("\30", body("/rpc/math.add", "\x92\10\20", { ["content-type"] = "application/msgpack" }))
    assert.equal("\30", body("/rpc/math.add", "[10,20]", { accept = "application/msgpack" }))
    assert.equal("30", body("/rpc/math.add", codec.msgpack.pack { a = 10, b = 20 },
      { ["content-type"] = "application/msgpack", accept = "application/json" }))
    assert.equal("3", web:fetch("GET", "/rpc/math.add?args=%5B1,2%5D").body)
    assert.equal("3", web:fetch("GET", '/rpc/math.add?args={"a":1,"b":2}').body)
    local refused = web:fetch("GET", "/rpc/echo?args=[1]")
    assert.same({ 405, "POST, OPTIONS" }, { refused.status, refused.headers:get "allow" })
  end)

  it("shows handlers a session, its peer, metadata and a deadline", function()
    local seen
    local server = env.server(nil, function(server)
      server:add_rpc("who", function(session)
        local call = echo.call()
        seen = { session.door, session.peer_addr, session.incoming, session.metadata.authorization, call.metadata.user,
          call.metadata.authorization, call.deadline ~= nil and call.deadline <= 5 }
        call:set_trailers { cost = "7" }
        return session.id
      end)
    end)
    local web = calls.client(server)
    local headers = { ["metadata-user"] = "ann", authorization = "Bearer x", timeout = "5" }
    local answer = web:fetch("POST", "/rpc/who", headers)
    assert.same({ "h3", "192.0.2.1:7000", true, "Bearer x", "ann", "Bearer x", true }, seen)
    assert.equal("7", answer.headers:get "metadata-cost")
    assert.equal(answer.body, web:fetch("POST", "/rpc/who", headers).body) -- the same session for the same client
    assert.not_equal(answer.body, web:fetch("POST", "/rpc/who", { authorization = "Bearer y" }).body)
    assert.equal(2, #server:sessions())
    assert.same({ 0, 0 }, { server:broadcast("news", 1) })
  end)

  it("lets auth and on_connect decide", function()
    local gone = {}
    local server = env.server(nil, function(server)
      offer(server)
      server:auth(function(_, credentials)
        if credentials.authorization ~= "Bearer good" and credentials.authorization ~= "Bearer late" then
          return nil, echo.error("unauthenticated", "who are you?")
        end
        return "ann"
      end)
      server:on_connect(function(session)
        if session.metadata.authorization == "Bearer late" then
          return nil, echo.error("permission_denied", "too late")
        end
      end)
      server:on_disconnect(function(session) gone[#gone + 1] = session.door end)
    end)
    local web = calls.client(server)
    local function ask(token)
      local value, err, answer = web:call("math.add", { authorization = token }, 1, 2)
      return value or err.code, answer and answer.status, answer and answer.headers:get "www-authenticate"
    end
    assert.same({ "unauthenticated", 401, "Bearer" }, { ask "Bearer bad" })
    assert.same({ "unauthenticated", 401, "Bearer" }, { ask(nil) })
    assert.same({ "permission_denied", 403 }, { ask "Bearer late" })
    assert.same({ "unauthenticated", 401, "Bearer" }, { ask "Bearer bad" })
    assert.equal(3, (ask "Bearer good"))
    server:stop { grace = 0 }
    env.eventually(function() return #gone == 1 end, "on_disconnect")
    assert.same({ "h3" }, gone)
    assert.same({ "unavailable", 503 }, { ask "Bearer good" })
  end)

  it("lets the plugins decide that decide about clients", function()
    local server = env.server(nil, function(server)
      server:plugin(echo.plugins.auth { tokens = { s3cret = { name = "ann", roles = { "admin" } }, ["0ther"] = "bob" },
        allow = { ["admin.*"] = { "admin" } } })
      server:plugin(echo.plugins.rate_limit { rate = 0.001, burst = 3 })
      server:add_rpc("admin.who", function(session) return session.identity end)
      server:add_rpc("who", function(session) return session.identity end)
    end)
    local web = calls.client(server)
    local function ask(name, token)
      local value, err, answer = web:call(name, { authorization = token and "Bearer " .. token })
      return value or err.code, answer and answer.status
    end
    assert.equal("ann", (ask("admin.who", "s3cret")))
    assert.equal("bob", (ask("who", "0ther")))
    assert.same({ "permission_denied", 403 }, { ask("admin.who", "0ther") })
    assert.same({ "unauthenticated", 401 }, { ask("who", "wrong") })
    assert.same({ "unauthenticated", 401 }, { ask "who" })
    for _ = 1, 5 do
      ask("who", "s3cret")
    end
    assert.same({ "resource_exhausted", 429 }, { ask("who", "s3cret") })
  end)

  it("gives nobody more by other credentials, of which no more is kept than a bit", function()
    local server = env.server(nil, function(server)
      server:plugin(echo.plugins.rate_limit { rate = 0.001, burst = 3 })
      server:add_rpc("who", function() return "somebody" end)
    end)
    local web = calls.client(server)
    for i = 1, 5 do -- nobody here looks at them
      local _, err = web:call("who", { authorization = "Bearer " .. i })
      assert.equal(i > 3 and "resource_exhausted" or nil, err and err.code)
    end
    assert.equal("somebody", (calls.client(server, nil, { peer_addr = "192.0.2.9:1" }):call "who"))
    collectgarbage()
    local before = collectgarbage "count"
    for i = 1, 300 do
      local _, _, answer = web:call("who", { authorization = i .. ("x"):rep(60000) })
      assert.equal(431, answer.status)
    end
    collectgarbage()
    assert.is_true(collectgarbage "count" - before < 9000)
  end)

  it("counts calls, keeps limits, and knows repeated calls again", function()
    local ran = 0
    local server = env.server({ dedupe = true }, function(server)
      offer(server)
      server:add_rpc("once", function() ran = ran + 1 return ran end, { idempotent = true })
      server:add_rpc("crowded", function() echo.sleep(60) end, { max_calls = 1 })
    end)
    local web = calls.client(server)
    assert.equal(1, web:call("once", { ["idempotency-key"] = "k1" }))
    assert.equal(1, web:call("once", { ["idempotency-key"] = "k1" }))
    local other = calls.client(server, nil, { peer_addr = "192.0.2.9:1" })
    assert.equal(1, other:call("once", { ["idempotency-key"] = "k1" })) -- over another connection
    assert.equal(2, web:call("once", { ["idempotency-key"] = "k2" }))
    assert.equal(3, web:call("once", { ["idempotency-key"] = "k1", authorization = "Bearer x" })) -- somebody else
    assert.equal(4, web:call "once")

    local held = echo.spawn(web.call, web, "crowded", { timeout = "50" })
    env.eventually(function() return server:stats().calls_in_running == 1 end, "the first call")
    local _, err, answer = web:call("crowded")
    assert.same({ "resource_exhausted", 429 }, { err.code, answer.status })
    held:cancel() -- what a server does when the client has gone
    env.eventually(function() return server:stats().calls_in_running == 0 end, "the handler is cancelled")
    assert.equal(6, server:metrics().calls.incoming.once.count) -- those that were answered from memory too
  end)

  it("refuses metadata and credentials that could not be carried", function()
    local server = env.server(nil, function(server)
      offer(server)
      server:add_event("log", function() end)
      server:add_rpc("out", function() end, { stream = "out" })
    end)
    local web = calls.client(server, { credentials = { "cookie" } })
    local many = {}
    for i = 1, 65 do
      many["metadata-k" .. i] = "v"
    end
    for _, path in ipairs { "/rpc/echo", "/event/log", "/rpc/out" } do
      local function status(headers)
        return web:fetch("POST", path, headers, "[1]").status
      end
      assert.equal(431, status(many))
      assert.equal(400, status { ["metadata-" .. ("k"):rep(65)] = "v" })
      assert.equal(400, status { ["metadata-a!b"] = "v" })
      assert.equal(400, status { ["metadata-"] = "v" })
      assert.equal(431, status { ["metadata-a"] = ("v"):rep(20000) })
      assert.equal(431, status { authorization = ("v"):rep(20000) })
      assert.equal(431, status { cookie = ("v"):rep(20000) })
      assert.is_true(status { ["metadata-a"] = "\xff\xfe", ["metadata-" .. ("k"):rep(64)] = ("v"):rep(16000) } < 300)
    end
  end)

  it("emits events, in order", function()
    local got = {}
    local server = env.server(nil, function(server)
      server:add_event("log", function(session, n)
        echo.sleep(0.001)
        got[#got + 1] = session.door .. n .. tostring(echo.call().metadata.tag)
      end)
    end)
    local web = calls.client(server)
    for i = 1, 20 do
      assert.equal(202, web:fetch("POST", "/event/log", { ["metadata-tag"] = "t" }, ("[%d]"):format(i)).status)
    end
    assert.equal(404, web:fetch("POST", "/event/none", {}, "[1]").status)
    env.eventually(function() return #got == 20 end, "the events")
    for i = 1, 20 do
      assert.equal("h3" .. i .. "t", got[i])
    end
  end)

  it("refuses events for which there is no room in time", function()
    local go
    local server = env.server(nil, function(server)
      server:add_event("stuck", function()
        while not go do echo.sleep(0.01) end
      end)
    end)
    local web = calls.client(server)
    local status, n = 202, 0
    while status == 202 and n < 1000 do
      status = web:fetch("POST", "/event/stuck", { timeout = "0.05" }, '["' .. ("x"):rep(1 << 17) .. '"]').status
      n = n + 1
    end
    assert.equal(429, status)
    assert.is_true(n > 1)
    go = true
    env.eventually(function()
      return web:fetch("POST", "/event/stuck", {}, "[1]").status == 202
    end, "room again")
  end)

  it("streams what a method sends, as events and as lines", function()
    local server = env.server(nil, function(server)
      server:add_rpc("count", function(_, stream, n)
        for i = 1, n do
          if not stream:send { i = i } then return end
        end
        return "done", n
      end, { stream = "out", idempotent = true })
      server:add_rpc("torn", function(_, stream)
        stream:send "one"
        error(echo.error("aborted", "torn"))
      end, { stream = "out" })
      server:add_rpc("closed", function() error(echo.error("permission_denied", "no")) end, { stream = "out" })
    end)
    local web = calls.client(server)
    local answer = web:fetch("POST", "/rpc/count", {}, "[2]")
    assert.same({ 200, "text/event-stream" }, { answer.status, answer.headers:get "content-type" })
    assert.equal('data: {"i":1}\n\ndata: {"i":2}\n\nevent: result\ndata: ["done",2]\n\n', answer.body)
    assert.equal(answer.body, web:fetch("GET", "/rpc/count?args=[2]").body)
    assert.equal('{"message":{"i":1}}\n{"results":["done",1]}\n',
      web:fetch("POST", "/rpc/count", { accept = "application/x-ndjson" }, "[1]").body)
    answer = web:fetch("POST", "/rpc/torn")
    assert.equal('data: "one"\n\n', answer.body:match "^.-\n\n")
    assert.truthy(answer.body:find('event: error\ndata: {"error":', 1, true))
    assert.equal(403, web:fetch("POST", "/rpc/closed").status)
    local _, lines = web:fetch("POST", "/rpc/count", {}, "[500]").body:gsub("data: {", "")
    assert.equal(500, lines)
  end)

  it("streams what a method takes, line by line", function()
    local server = env.server(nil, function(server)
      server:add_rpc("sum", function(_, stream, factor)
        local sum = 0
        for n in stream:values() do sum = sum + n end
        return sum * factor
      end, { stream = "in" })
      server:add_rpc("double", function(_, stream)
        for n in stream:values() do stream:send(n * 2) end
        return "end"
      end, { stream = "both" })
    end)
    local web = calls.client(server)
    local lines = { ["content-type"] = "application/x-ndjson", accept = "application/x-ndjson" }
    assert.equal("60", web:fetch("POST", "/rpc/sum", { ["content-type"] = "application/x-ndjson" }, "[10]\n1\n2\n\n3").body)
    assert.equal("30", web:fetch("POST", "/rpc/sum", { ["content-type"] = "application/x-ndjson" }, -- soon, however short the lines are
      "[10]\n" .. ("\n"):rep(1 << 18) .. "3").body)
    local pieces, i = { "[1", "0]\n1", "\n2\n3", "0\n" }, 0
    assert.equal("330", web:fetch("POST", "/rpc/sum", { ["content-type"] = "application/x-ndjson" }, function()
      i = i + 1
      return pieces[i]
    end).body)
    assert.equal('{"message":2}\n{"message":4}\n{"results":["end"]}\n', web:fetch("POST", "/rpc/double", lines, "[]\n1\n2").body)
    assert.equal(415, web:fetch("POST", "/rpc/sum", {}, "[1]").status)
    assert.equal(400, web:fetch("POST", "/rpc/sum", { ["content-type"] = "application/x-ndjson" }, "[1]\n{").status)
    assert.equal(400, web:fetch("POST", "/rpc/sum", { ["content-type"] = "application/x-ndjson" }, "1\n1").status)
  end)

  it("cancels the handler when the client goes away", function()
    local over
    local server = env.server(nil, function(server)
      server:add_rpc("ticks", function(_, stream)
        stream:send(1)
        echo.call():on_cancel(function() over = true end)
        echo.sleep(1000)
      end, { stream = "out" })
    end)
    local outgoing = calls.client(server):begin("POST", "/rpc/ticks")
    assert.equal("data: 1\n\n", outgoing.body())
    outgoing.close()
    env.eventually(function() return over end, "the cancellation")
    assert.is_nil(outgoing.body())
  end)

  it("reaches only what it may", function()
    local server = env.server(nil, offer)
    local web = calls.client(server, { prefix = "/api", only = { "math.*" }, max_body = 20, credentials = { "X-Key" },
      cors = { origins = { "https://page.example" } } })
    assert.equal("3", web:fetch("POST", "/api/rpc/math.add", {}, "[1,2]").body)
    assert.equal(404, web:fetch("POST", "/api/rpc/echo", {}, "[1,2]").status)
    assert.equal(404, web:fetch("POST", "/rpc/math.add", {}, "[1,2]").status)
    assert.equal(404, web:fetch("POST", "/api/rpc/rpc.list", {}, "[]").status)
    assert.equal(413, web:fetch("POST", "/api/rpc/math.add", {}, '[1,"' .. ("x"):rep(20) .. '"]').status)
    local list = codec.json.unpack(web:fetch("GET", "/api/rpc").body)
    assert.equal(1, #list)
    assert.same({ "math.add", "/api/rpc/math.add", true, "a" }, { list[1].name, list[1].path, list[1].idempotent, list[1].arguments[1].name })

    local allowed = { origin = "https://page.example" }
    local answer = web:fetch("POST", "/api/rpc/math.add", allowed, "[1,2]")
    assert.same({ "3", "https://page.example" }, { answer.body, answer.headers:get "access-control-allow-origin" })
    answer = web:fetch("OPTIONS", "/api/rpc/math.add", { origin = "https://page.example", ["access-control-request-method"] = "POST" })
    assert.equal(204, answer.status)
    assert.truthy(answer.headers:get("access-control-allow-headers"):find "timeout")
    assert.equal(403, web:fetch("POST", "/api/rpc/math.add", { origin = "https://other.example" }, "[1,2]").status)
    assert.equal(403, web:fetch("GET", "/api/rpc/math.add?args=[1,2]", { ["sec-fetch-site"] = "cross-site" }).status)
    assert.equal("3", web:fetch("POST", "/api/rpc/math.add", { origin = "https://127.0.0.1:5000" }, "[1,2]").body)
    for _, wrong in ipairs { { prefix = "api" }, { credentials = { "a b" } }, { only = "x" }, { unknown = 1 } } do
      assert.has_error(function() server:rpc_over_http(wrong) end)
    end
  end)
end)

net.each(function(env)
  env.it("are served beside the native protocol on one port", function()
    local server, client = env.pair(function(server)
      server:add_rpc("math.add", function(_, a, b) return a + b end)
      server:add_rpc("count", function(_, stream, n)
        for i = 1, n do stream:send(i) end
        return "done"
      end, { stream = "out" })
      server:add_rpc("door", function(session) return session.door, session.peer_addr ~= "" end)
      server:rpc_over_http()
    end)
    local web = http.dial(server)
    local function ask(...)
      local answer = assert(web:fetch(...))
      return { answer.status, answer.body, answer.headers["content-type"] }
    end
    local form = { "content-type", "application/x-www-form-urlencoded" }
    assert.same({ 200, "30", "application/json" }, ask("POST", "/rpc/math.add", form, "[10,20]"))
    assert.equal(30, client:request("math.add", 10, 20))
    assert.same({ 200, '["h3",true]', "application/json" }, ask("POST", "/rpc/door", {}, ""))
    assert.equal("native", (client:request "door"))
    assert.same({ 200, 'data: 1\n\ndata: 2\n\nevent: result\ndata: ["done"]\n\n', "text/event-stream" }, ask("POST", "/rpc/count", {}, "[2]"))
    assert.equal(404, ask("POST", "/rpc/nothing", {}, "[]")[1])
    assert.equal(400, ask("POST", "/rpc/../x", {}, "[]")[1])
    assert.equal(405, ask("DELETE", "/rpc/math.add")[1])
    web:close()
  end)
end)

net.each(function(env)
  env.it("have a session for each connection, which ends with it, and cancel what a client that is gone had asked for", function()
    local cancelled
    local server = env.server(nil, function(server)
      server:add_rpc("remember", function(session, value)
        local before = session:get "value"
        session:set("value", value)
        return before or false
      end)
      server:add_rpc("slow", function()
        echo.call():on_cancel(function() cancelled = true end)
        echo.sleep(1000)
      end)
      server:rpc_over_http()
    end)
    local one, two = http.dial(server), http.dial(server)
    assert.equal("false", assert(one:fetch("POST", "/rpc/remember", {}, "[1]")).body)
    assert.equal("false", assert(two:fetch("POST", "/rpc/remember", {}, "[2]")).body)
    assert.equal("1", assert(one:fetch("POST", "/rpc/remember", {}, "[3]")).body)
    assert.equal(2, #server:sessions())
    local x = assert(two:begin("POST", "/rpc/slow", {}, false))
    env.eventually(function() return server:stats().calls_in_running == 1 end, "the call")
    x:reset()
    env.eventually(function() return cancelled end, "the cancellation")
    two:close()
    if env.kind == "sim" then
      echo.sleep(12)
      assert.equal(1, #server:sessions())
    end
    one:close()
  end)
end)

net.each(function(env)
  env.it("end a stream that nobody reads any more, and answer what is under way when the server stops", function()
    local streaming, go
    local server = env.server(nil, function(server)
      server:add_rpc("ticks", function(_, stream)
        streaming = true
        while stream:send(1) do echo.sleep(0.005) end
        streaming = false
      end, { stream = "out" })
      server:add_rpc("wait", function()
        while not go do echo.sleep(0.005) end
        return "done"
      end)
      server:rpc_over_http()
    end)
    local web = http.dial(server)
    local x = assert(web:begin("POST", "/rpc/ticks", {}, false))
    assert.equal(200, (x:status()))
    assert.matches("^data: 1\n\n", (x:read()))
    assert.is_true(streaming)
    x:reset()
    x:release()
    env.eventually(function() return streaming == false end, "the end of the handler")

    x = assert(web:begin("POST", "/rpc/wait", {}, false))
    env.eventually(function() return server:stats().calls_in_running == 1 end, "the call")
    local stopping = echo.spawn(function() return server:stop { grace = 15 } end)
    env.eventually(function() return server.state == "stopping" end)
    go = true
    local answer = assert(x:answer())
    assert.same({ 200, '"done"' }, { answer.status, answer.body })
    assert(stopping:wait())
    web:close()
  end)
end)

net.only("quic", function(env)
  env.it("stay there when the file that opened the door is loaded again", function()
    local dir = process.directory()
    local path = dir .. "/app.lua"
    local function write(sign, door)
      process.write(path, ([[
        local server = ...
        server:add_rpc("math.do", function(_, a, b) return a %s b end)
        %s
      ]]):format(sign, door))
    end
    write("+", "server:rpc_over_http()")
    local server = env.server(nil, function(server) assert(server:load(path)) end)
    local web = http.dial(server)
    local function ask(prefix)
      local answer = assert(web:fetch("POST", prefix .. "/rpc/math.do", {}, "[6,7]"))
      return answer.status == 200 and answer.body or answer.status
    end
    assert.equal("13", ask "")
    write("*", "server:rpc_over_http()")
    assert(server:reload())
    assert.equal("42", ask "")
    assert.equal(1, #server:sessions()) -- the one of before
    write("-", "server:rpc_over_http { prefix = '/api' }")
    assert(server:reload())
    assert.same({ 404, "-1" }, { ask "", ask "/api" })
    write("-", "")
    assert(server:reload())
    assert.equal(404, ask "/api")
    web:close()
    process.remove(dir)
  end)

  env.it("shows handlers the certificate of the connection", function()
    local who = certs.issue(nil, { names = { "ann" } })
    local server = env.server({ require_client_cert = true }, function(server)
      server:add_rpc("who", function(session) return session.peer_cert and session.peer_cert.pin, session.metadata["echostream-door"] end)
      server:rpc_over_http { credentials = { "echostream-door" } }
    end)
    local web = http.dial(server, { cert = who.cert, key = who.key })
    local answer = assert(web:fetch("POST", "/rpc/who", { "echostream-door", "7" }, "[]"))
    assert.equal(('["%s",null]'):format(env.connect(server, { cert = who.cert, key = who.key }):request "who"), answer.body)
    web:close()
  end)
end)

net.only("sim", function(env)
  env.it("take as long as their deadlines say, in both directions", function()
    local server = env.server(nil, function(server)
      server:add_rpc("slow", function()
        echo.sleep(45)
        return "at last"
      end)
      server:add_rpc("rare", function(_, stream)
        for i = 1, 2 do
          echo.sleep(70)
          stream:send(i)
        end
      end, { stream = "out" })
      server:add_rpc("count", function(_, stream)
        local n = 0
        for _ in stream:values() do n = n + 1 end
        return n
      end, { stream = "in" })
      server:rpc_over_http()
    end)
    local web = http.dial(server)
    local answer = assert(web:fetch("POST", "/rpc/slow", { "timeout", "55" }, "[]"))
    assert.same({ 200, '"at last"' }, { answer.status, answer.body })
    answer = assert(web:fetch("POST", "/rpc/slow", {}, "[]"))
    assert.same({ 504, "timeout" }, { answer.status, codec.json.unpack(answer.body).error.code })
    answer = assert(web:fetch("POST", "/rpc/rare", {}, "[]"))
    assert.matches("data: 2\n\nevent: result\ndata: %[true%]\n\n$", answer.body)
    local x = assert(web:begin("POST", "/rpc/count", { "content-type", "application/x-ndjson" }, true))
    assert(x:write "[]\n")
    for _ = 1, 5 do
      echo.sleep(50)
      assert(x:write "1\n")
    end
    x:finish()
    assert.equal("5", assert(x:answer()).body)
    -- A body that is no stream is not waited for like that.
    x = assert(web:begin("POST", "/rpc/count", { "content-type", "application/json" }, true))
    local began = echo.now()
    assert(x:write "[")
    assert.is_true((x:answer() or { status = 408 }).status >= 400)
    assert.is_true(echo.now() - began < 60)
    web:close()
  end, { seed = 1, limit = 2000 })

  env.it("keeps a quiet stream alive with comments, for as long as it takes", function()
    local server = env.server(nil, function(server)
      server:add_rpc("rare", function(_, stream)
        echo.sleep(40)
        stream:send "news"
        return true
      end, { stream = "out" })
    end)
    local began = echo.now()
    local answer = calls.client(server):fetch("POST", "/rpc/rare")
    assert.equal(': \n\n: \n\ndata: "news"\n\nevent: result\ndata: [true]\n\n', answer.body)
    assert.equal(40, math.floor(echo.now() - began))
    assert.equal(1, #server:sessions())
  end)

  env.it("answers every request that makes no sense", function()
    local server = env.server({ dedupe = true }, function(server)
      server:add_rpc("echo", function(_, ...) return ... end, { idempotent = true, arguments = { "a", "b" } })
      server:add_rpc("out", function(_, stream, ...)
        stream:send { ... }
        return ...
      end, { stream = "out", idempotent = true })
      server:add_rpc("in", function(_, stream)
        for _ in stream:values() do end
      end, { stream = "in" })
      server:add_rpc("both", function(_, stream)
        for value in stream:values() do stream:send(value) end
      end, { stream = "both" })
      server:add_event("log", function() end)
    end)
    local web = calls.client(server)
    local fragments = { "[", "]", "{", "}", "1", "null", '"a"', ":", ",", "true", "\n", " ", "1e400", "-0", '"\\u0000"', "\xff", '"b":2',
      "9007199254740993", "[]", "{}", "\x91", "\x81", "\xdd\xff\xff\xff\xff" }
    local fields = { ["content-type"] = { "application/json", "application/msgpack", "application/x-ndjson", "text/plain", "x", "" },
      accept = { "*/*", "application/json", "text/event-stream", "application/msgpack", "", "x;q=9" }, timeout = { "1", "1s", "x", "-1", "1e3" },
      ["grpc-timeout"] = { "1S", "x", "99999999H" }, origin = { "https://127.0.0.1:5000", "null", "x" }, ["content-length"] = { "1", "x" },
      ["sec-fetch-site"] = { "cross-site", "none" }, ["idempotency-key"] = { "a", "b" }, ["metadata-x"] = { "1", "" } }
    local paths = { "/rpc/echo", "/rpc/out", "/rpc/in", "/rpc/both", "/event/log", "/rpc", "/rpc/none", "/rpc/a b", "/rpc/rpc.list", "/rpc/",
      "/rpc/echo?args=[1]", "/rpc/out?args={}", "/rpc/echo?args=%5B%ff", "/event/%00" }
    local state = 7
    local function one_of(list)
      state = (state * 1103515245 + 12345) % 2147483648
      return list[state // 65536 % #list + 1]
    end
    for _ = 1, 1500 do
      local body, headers = {}, {}
      for i = 1, one_of { 0, 1, 2, 3, 5, 8 } do
        body[i] = one_of(fragments)
      end
      for name, values in pairs(fields) do
        headers[name] = one_of { 1, 2, 3, 4 } == 1 and one_of(values) or nil
      end
      local method, path, text = one_of { "GET", "POST", "POST" }, one_of(paths), table.concat(body)
      assert.not_equal(500, web:fetch(method, path, headers, text).status, method .. path .. ("%q"):format(text))
    end
    for _, record in ipairs(env.logs) do
      assert.not_equal("error", record.level, record.message)
    end
  end)

  env.it("closes the sessions of clients that ask nothing any more, and makes room", function()
    local door = require "echostream.http.door"
    local server = env.server(nil, offer)
    calls.client(server):call("echo", nil, 1)
    assert.equal(1, #server:sessions())
    echo.sleep(door.idle * 2)
    assert.equal(0, #server:sessions())
    local most = door.max_sessions
    door.max_sessions = 3
    local held = {}
    for i = 1, 5 do
      assert.equal(i, calls.client(server, nil, { peer_addr = "192.0.2.1:" .. i }):call("echo", nil, i))
      echo.sleep(0.01)
    end
    assert.equal(3, #server:sessions())
    for i = 1, 3 do
      held[i] = echo.spawn(function()
        local web = calls.client(server, nil, { peer_addr = "192.0.2.2:" .. i })
        web:call("slow", { timeout = "20" })
      end)
      echo.sleep(0.01)
    end
    local _, err = calls.client(server, nil, { peer_addr = "192.0.2.3:1" }):call("echo", nil, 1)
    assert.equal("unavailable", err.code)
    door.max_sessions = most
    for _, task in ipairs(held) do task:wait() end
  end)
end)
