-- echo.http.request and echo.http.client, against our own server and against one that does what it is told to.
local certs = require "spec.support.certs"
local echo = require "echostream"
local h3_peer = require "spec.support.h3_peer"
local net = require "spec.support.net"

local answer, body_of, field, read, target = h3_peer.answer, h3_peer.body, h3_peer.field, h3_peer.read, h3_peer.target
local counter, pair, tell = h3_peer.counter, h3_peer.pair, h3_peer.tell

net.each(function(env)
  describe("requests", function()
    env.it("reach handlers of server:http", function()
      local server = env.server({}, function(server)
        server:http(function(request, response)
          response:send(request.method .. " " .. request.path)
        end)
      end)
      local client <close> = echo.http.client { pin = server.pin }
      local response = assert(client:request("https://" .. server.address .. "/a?b=1", { query = { c = "d e" } }))
      assert.equal(200, response.status)
      assert.is_true(response.ok)
      assert.equal("GET /a?b=1&c=d+e", response:body())
      assert.is_nil(response:read())
    end)

    env.it("carry methods, fields and bodies of every kind", function()
      local peer, client = pair(env, tell, nil, { headers = { accept = "a/b" } })
      local function ask(opts)
        local response = assert(client:request(peer.base .. "/p", opts))
        local headers = response.headers
        return headers:get "x-method", headers:get "x-length", headers:get "x-type", assert(response:body())
      end
      assert.same({ "GET", "none", "none", "" }, { ask() })
      assert.same({ "PUT", "none", "none", "" }, { ask { method = "PUT" } })
      assert.same({ "POST", "0", "none", "" }, { ask { body = "" } })
      assert.same({ "POST", "5", "t/x", "hello" }, { ask { body = "hello", headers = { ["Content-Type"] = "t/x" } } })
      assert.same({ "PATCH", "none", "none", "abab" }, { ask { method = "PATCH", body = counter(2, "ab") } })
      assert.same({ "POST", "none", "none", "" }, { ask { body = counter(0) } })
      local sized = setmetatable({ length = 4 }, { __call = counter(2, "ab") })
      assert.same({ "POST", "4", "none", "abab" }, { ask { body = sized } })
      local big = ("0123456789abcdef"):rep(20000)
      assert.same({ "POST", "320000", "none", big }, { ask { body = big } })
      local method, _, kind, text = ask { json = { a = 1 } }
      assert.same({ "POST", "application/json", '{"a":1}' }, { method, kind, text })
      local response = assert(client:request(peer.base, { headers = { host = "other.example" } }))
      assert.equal("other.example", response.headers:get "x-authority")
      assert.equal("/", response.headers:get "x-path")
      assert.equal("none", response.headers:get "x-priority")
      response = assert(client:request(peer.base, { priority = 1, incremental = true }))
      assert.equal("u=1, i", response.headers:get "x-priority")
    end)

    env.it("of HEAD, and answers 204 and 304, have no body", function()
      local peer, client = pair(env, function(x)
        local status = tonumber(target(x).path:match "%d+")
        assert(x:respond(status, status == 200 and { "content-length", "5" } or {}, status ~= 200))
        x:finish()
      end)
      for _, case in ipairs { { "HEAD", 200 }, { "GET", 204 }, { "GET", 304 } } do
        local response = assert(client:request(("%s/%d"):format(peer.base, case[2]), { method = case[1] }))
        assert.equal(case[2], response.status)
        assert.equal("", response:body())
      end
    end)

    env.it("send and get trailers", function()
      local seen
      local peer, client = pair(env, function(x)
        local body = body_of(x)
        seen = x:fields(true)
        assert(x:respond(200, {}, false))
        assert(x:write(body))
        assert(x:finish { "x-sum", "1", "x-more", "2" })
      end)
      local response = assert(client:request(peer.base, { body = counter(1, "abc"), trailers = { ["X-Check"] = "9" } }))
      assert.is_nil(response:trailers())
      assert.equal("abc", response:body())
      assert.equal("1", response:trailers():get "x-sum")
      assert.equal("2", response:trailers():get "x-more")
      assert.same({ "x-check", "9" }, seen)
      response = assert(client:request(peer.base, { body = "x", trailers = function()
        return { late = "yes" }
      end }))
      assert.equal("x", response:body())
      assert.same({ "late", "yes" }, seen)
    end)

    env.it("hear of interim answers", function()
      local peer, client = pair(env, function(x)
        assert(x:inform(103, { "link", "</a.css>" }))
        assert(x:inform(102))
        answer(x, 200, {}, "done")
      end)
      local heard = {}
      local response = assert(client:request(peer.base, { on_informational = function(status, headers)
        heard[#heard + 1] = status .. " " .. (headers:get "link" or "")
      end }))
      assert.same({ "103 </a.css>", "102 " }, heard)
      assert.equal(103, response.informational[1].status)
      assert.equal("</a.css>", response.informational[1].headers:get "link")
      assert.equal("done", response:body())
    end)

    env.it("wait for 100 (Continue) with their bodies when told to", function()
      local asked = 0
      local function body()
        asked = asked + 1
        return asked == 1 and "the body" or nil
      end
      local peer, client = pair(env, function(x)
        assert.equal("100-continue", field(x, "expect"))
        if target(x).path == "/no" then
          return answer(x, 417, {}, "no")
        end
        assert.equal(0, asked)
        assert(x:inform(100))
        answer(x, 200, {}, assert(body_of(x)))
      end)
      local response = assert(client:request(peer.base .. "/no", { body = body, expect = 1000 }))
      assert.equal(417, response.status)
      assert.equal("no", response:body())
      assert.equal(0, asked)
      response = assert(client:request(peer.base .. "/yes", { body = body, expect = 1000 }))
      assert.equal("the body", response:body())
    end)

    env.it("stream both ways at once, in bounded memory", function()
      local piece = ("0123456789abcdef"):rep(4096)
      local peer, client = pair(env, function(x)
        assert(x:respond(200, {}, false))
        while true do
          local got, err = read(x)
          assert(not err, err)
          if not got then
            break
          end
          assert(h3_peer.send(x, got))
        end
        assert(x:finish())
      end)
      local response = assert(client:request(peer.base, { body = counter(32, piece) }))
      local size, whole = 0, true
      for got in response:chunks() do
        assert.is_true(#got <= 65536)
        for at = 1, #got do -- byte by byte would be slow: the first and the last tell
          if at == 1 or at == #got then
            whole = whole and got:byte(at) == piece:byte((size + at - 1) % #piece + 1)
          end
        end
        size = size + #got
      end
      assert.equal(32 * #piece, size)
      assert.is_true(whole)
    end)

    env.it("let a server wait that is faster than its reader", function()
      local written = 0
      local peer, client = pair(env, function(x)
        assert(x:respond(200, {}, false))
        local piece = ("x"):rep(65536)
        for _ = 1, 128 do -- 8 MiB
          assert(h3_peer.send(x, piece))
          written = written + #piece
        end
        assert(x:finish())
      end)
      local response = assert(client:request(peer.base))
      local first = assert(response:read())
      for _ = 1, 50 do -- many chances to send more
        echo.sleep(0.001)
      end
      assert.is_true(written < 2 * 1024 * 1024, written)
      local size = #first
      for got in response:chunks() do
        size = size + #got
      end
      assert.equal(8 * 1024 * 1024, size)
    end)

    env.it("stop sending a body that the server does not want, and hear its answer", function()
      local peer, client = pair(env, function(x)
        answer(x, 413, {}, "too much")
      end)
      local response = assert(client:request(peer.base, { body = counter(1000000, ("x"):rep(65536)) }))
      assert.equal(413, response.status)
      assert.equal("too much", response:body())
      local _, mine = client:request(peer.base .. "/x", { body = function()
        error "mine"
      end })
      assert(mine == nil or mine.message:find "mine") -- the answer may have been faster
    end)

    env.it("fail with what their body's function said", function()
      local begun, heard
      local peer, client = pair(env, function(x)
        begun = true
        heard = select(2, body_of(x))
      end)
      local response, err = client:request(peer.base, { body = function()
        if not begun then
          echo.sleep(0.001)
          return "more"
        end
        return nil, echo.error("aborted", "changed my mind")
      end })
      assert.is_nil(response)
      assert.equal("aborted", err.code)
      response, err = client:request(peer.base, { body = function()
        return 5
      end })
      assert.is_nil(response)
      assert.equal("invalid_argument", err.code)
      h3_peer.eventually(function()
        return heard
      end, "the server hears of it")
      assert.equal("cancelled", heard.code)
      response, err = client:request(peer.base, { body = "short", headers = { ["content-length"] = "9" } })
      assert.is_nil(response) -- the length of a string is what it is
      assert.equal("internal", err.code)
    end)

    env.it("undo the coding of bodies when asked to", function()
      local server = env.server({ http = { compress = true } }, function(server)
        server:route("GET", "/*rest", function(request)
          assert(request.params.rest ~= "plain" or not request.headers:has "accept-encoding")
          return ("many of these, "):rep(100000)
        end)
      end)
      local client <close> = echo.http.client { pin = server.pin, decode = true, max_body = 2000000 }
      local base = "https://" .. server.address
      local response = assert(client:request(base .. "/coded"))
      assert.equal("zstd", response.coding)
      assert.is_false(response.headers:has "content-encoding")
      assert.equal(1500000, #assert(response:body()))
      response = assert(client:request(base .. "/coded", { headers = { ["accept-encoding"] = "gzip" } }))
      assert.equal("gzip", response.coding)
      local body, err = response:body(1000000)
      assert.is_nil(body)
      assert.equal("resource_exhausted", err.code)
      response = assert(client:request(base .. "/plain", { decode = false }))
      assert.is_nil(response.coding)
      assert.equal(1500000, #assert(response:body()))
      local peer = h3_peer.serve(env, function(x)
        answer(x, 200, { "content-encoding", "gzip" }, "no gzip at all")
      end, { bind = env.kind == "sim" and "10.0.0.2:5001" or nil })
      response = assert(client:request(peer.base, { pin = peer.pin }))
      body, err = response:body()
      assert.is_nil(body)
      assert.equal("data_loss", err.code)
    end)

    env.it("read JSON", function()
      local peer, client = pair(env, function(x)
        answer(x, 200, {}, target(x).path == "/good" and ' {"a":[1,2]} ' or '{"a":1} x')
      end)
      assert.same({ a = { 1, 2 } }, client:request(peer.base .. "/good"):json())
      local value, err = client:request(peer.base .. "/bad"):json()
      assert.is_nil(value)
      assert.equal("serialization", err.code)
    end)
  end)

  describe("redirections", function()
    local function hop(x)
      local asked = target(x)
      local status, to = asked.path:match "^/(%d+)(.*)$"
      if status then
        return answer(x, tonumber(status), { "location", to }, "moved")
      end
      answer(x, 200, { "x-secret", field(x, "authorization") or "none" }, asked.method .. " " .. (body_of(x) or ""))
    end

    env.it("are followed", function()
      local peer, client = pair(env, hop)
      local response = assert(client:request(peer.base .. "/307/302/end", { body = "data" }))
      assert.equal("GET ", response:body())
      assert.equal(peer.base .. "/end", response.url)
      assert.same({ peer.base .. "/307/302/end", peer.base .. "/302/end" }, response.redirects)
      response = assert(client:request(peer.base .. "/308/end", { body = "data" }))
      assert.equal("POST data", response:body())
      assert.equal(1, #client:connections())
    end)

    env.it("are not when the option says so, or there are too many, or they lead away from https", function()
      local peer, client = pair(env, hop)
      local response = assert(client:request(peer.base .. "/302/end", { redirects = 0 }))
      assert.equal(302, response.status)
      assert.equal("moved", response:body())
      local none, err = client:request(peer.base .. ("/302"):rep(3) .. "/end", { redirects = 2 })
      assert.is_nil(none)
      assert.equal("failed_precondition", err.code)
      none, err = client:request(peer.base .. "/302http://127.0.0.1/")
      assert.is_nil(none)
      assert.equal("protocol", err.code)
      none, err = client:request(peer.base .. "/307/end", { body = counter(1, "x") })
      assert.is_nil(none)
      assert.equal("failed_precondition", err.code)
    end)

    env.it("take no credentials to another origin", function()
      local second = h3_peer.serve(env, hop, { bind = env.kind == "sim" and "10.0.0.2:5001" or nil })
      local peer, client = pair(env, hop)
      local response = assert(client:request(peer.base .. "/302" .. second.base .. "/end", { headers = { authorization = "secret" } }))
      assert.equal("none", response.headers:get "x-secret")
      assert.equal(second.base .. "/end", response.url)
      response = assert(client:request(peer.base .. "/302/end", { headers = { authorization = "secret" } }))
      assert.equal("secret", response.headers:get "x-secret")
    end)

    env.it("take no certificate to another origin", function()
      local who = certs.issue(nil, { names = { "ann" } })
      local function serve(bind)
        return env.server({ require_client_cert = true, bind = bind }, function(server)
          server:http(function(request, response)
            if request.query.to then
              return response:redirect(request.query.to)
            end
            return request.peer_cert.pin
          end)
        end)
      end
      local first, second = serve(), serve(env.kind == "sim" and "10.0.0.2:5001" or nil)
      local client <close> = echo.http.client { pin = { first.pin, second.pin }, cert = who.cert, key = who.key }
      local base, other = "https://" .. first.address, "https://" .. second.address
      local shown = assert(assert(client:request(base)):body())
      assert.equal(shown, assert(client:request(other)):body()) -- whoever is asked may see it
      assert.equal(shown, assert(client:request(base, { query = { to = "/" } })):body())
      assert.is_nil((client:request(base, { query = { to = other } })))
    end)
  end)
end)

net.only("sim", function(env)
  describe("time-outs", function()
    env.it("are of the connection, the head, the body and the whole", function()
      local peer, client = pair(env, function(x)
        local path = target(x).path
        if path == "/head" then
          return echo.sleep(100)
        end
        assert(x:respond(200, {}, false))
        for _ = 1, 100 do
          assert(x:write "x")
          echo.sleep(path == "/idle" and 50 or 1)
        end
      end)
      local function timed(fn)
        local began = echo.now()
        local value, err = fn()
        assert.is_nil(value)
        assert.equal("timeout", err.code)
        return math.floor(echo.now() - began + 0.5), err.message
      end
      assert.equal(3, (timed(function()
        return client:request("https://10.9.9.9:1/", { connect_timeout = 3 })
      end)))
      assert.equal(4, (timed(function()
        return client:request(peer.base .. "/head", { head_timeout = 4 })
      end)))
      assert.equal(5, (timed(function()
        return assert(client:request(peer.base .. "/idle", { idle_timeout = 5 })):body()
      end)))
      local seconds, message = timed(function()
        return assert(client:request(peer.base .. "/drip", { timeout = 6, idle_timeout = 5 })):body()
      end)
      assert.equal(6, seconds)
      assert.matches("longer than 6 s", message, 1, true)
      local response = assert(client:request(peer.base .. "/idle", { idle_timeout = 80 }))
      assert.equal("x", response:read(1))
      local piece, err = response:read(1) -- the caller's own: it goes on
      assert.is_nil(piece)
      assert.equal("timeout", err.code)
      assert.equal("x", response:read())
      response:close()
    end)

    env.it("let a slow body take its time", function()
      local peer, client = pair(env, tell, { limits = { timeout = 200, body_timeout = 200 } })
      local n = 0
      local function body()
        n = n + 1
        echo.sleep(10)
        return n <= 6 and "piece" or nil
      end
      local began = echo.now()
      local response = assert(client:request(peer.base, { body = body, head_timeout = 15 }))
      assert.equal(("piece"):rep(6), response:body())
      assert.is_true(echo.now() - began > 60)
      n = 0
      local none, err = client:request(peer.base, { body = body, head_timeout = 15, timeout = 33 })
      assert.is_nil(none)
      assert.equal("timeout", err.code)
      assert.matches("longer than 33 s", err.message, 1, true)
    end)

    env.it("of the whole end also who reads in small steps", function()
      local peer, client = pair(env, function(x)
        assert(x:respond(200, {}, false))
        while x:write "x" and echo.sleep(1) do
          assert(x:peer_addr())
        end
      end)
      local response = assert(client:request(peer.base, { timeout = 10 }))
      local began = echo.now()
      repeat
        local _, err = response:read(0.3)
      until err and err.message:find "longer than 10 s" or echo.now() - began > 20
      assert.is_true(echo.now() - began <= 10.1)
    end)

    env.it("end uploads that the server takes nothing of", function()
      local peer, client = pair(env, function()
        echo.sleep(100)
      end)
      local began = echo.now()
      local response, err = client:request(peer.base, { body = counter(10000, ("x"):rep(65536)), idle_timeout = 7 })
      assert.is_nil(response)
      assert.equal("timeout", err.code)
      assert.is_true(echo.now() - began < 20) -- what fits into windows and queues goes first
    end)

    env.it("are not waited for longer than told with Expect", function()
      local peer, client = pair(env, tell)
      local began = echo.now()
      assert.equal("x", assert(client:request(peer.base, { body = "x", expect = 2 })):body())
      assert.is_true(echo.now() - began >= 2 and echo.now() - began < 4)
    end)
  end)

  env.it("everything arrives across an outage of two seconds", function(network)
    local peer, client = pair(env, function(x)
      answer(x, 200, {}, assert(body_of(x)))
    end)
    assert(client:request(peer.base)):body()
    network:blackout(0.05, 2)
    local tasks = {}
    for i = 1, 30 do
      tasks[i] = echo.spawn(function()
        echo.sleep(i * 0.1)
        local body = ("%d "):format(i):rep(i * 1000)
        return assert(assert(client:request(peer.base, { body = body })):body()) == body
      end)
    end
    for _, equal in ipairs(assert(echo.all(tasks))) do
      assert.is_true(equal)
    end
    assert.equal(31, client:connections()[1].requests)
  end)

  for _, loss in ipairs { 0.02, 0.1 } do
    env.it(("everything arrives at %d %% loss"):format(loss * 100), function()
      local peer, client = pair(env, function(x)
        answer(x, 200, {}, assert(body_of(x)))
      end, nil, { head_timeout = 150, connect_timeout = 60 })
      local tasks = {}
      for i = 1, 50 do
        tasks[i] = echo.spawn(function()
          local body = ("%d "):format(i):rep(i * 500)
          return assert(assert(client:request(peer.base, { body = body })):body()) == body
        end)
      end
      for _, equal in ipairs(assert(echo.all(tasks))) do
        assert.is_true(equal)
      end
    end, { seed = 7, loss = loss, delay = 0.02 })
  end
end)

describe("echo.http.request", function()
  local server, base

  setup(function()
    server = echo.server { bind = "127.0.0.1:0", quiet = true, state_dir = net.state_dir() }
    server:http(function(request, response)
      response:send(request.method)
    end)
    assert(server:start())
    base = "https://" .. server.address
  end)

  teardown(function()
    echo.http.close()
    server:stop()
  end)

  it("works at a prompt, in tasks and with a callback", function()
    local response = assert(echo.http.request(base, { pin = server.pin }))
    assert.equal("GET", response:body())
    local heard
    local asking = echo.http.request(base, { pin = server.pin, method = "DELETE" }, function(answered)
      heard = answered
    end)
    assert(asking:wait(20))
    assert.equal("DELETE", heard:body())
    local read_one
    heard = assert(echo.http.request(base, { pin = server.pin }))
    local reading = heard:read(20, function(piece)
      read_one = piece
    end)
    assert(reading:wait(20))
    assert.equal("GET", read_one)
    assert.matches("echostream.http.answer 200 https://", tostring(heard), 1, true)
  end)

  it("raises when it is misused", function()
    local function raises(why, ...)
      local ok, err = pcall(echo.http.request, ...)
      assert.is_false(ok)
      assert.matches(why, tostring(err), 1, true)
    end
    raises("no URL to ask", "example.org")
    raises("url wants a string", nil)
    raises("not for http", "http://a/")
    raises("did you mean \"method\"", base, { metod = "GET" })
    raises("no method", base, { method = "G T" })
    raises("no method", base, { method = "CONNECT" })
    raises("belongs to a connection", base, { headers = { connection = "close" } })
    raises("headers", base, { headers = { ["a b"] = "c" } })
    raises("headers", base, { headers = { a = "b\r\nc: d" } })
    raises("exclude each other", base, { body = "x", json = 1 })
    raises("wants a string or a function", base, { body = 5 })
    raises("sha256:", base, { pin = "nonsense" })
    raises("callback", base, {}, 5)
    assert.is_false((pcall(echo.http.client, { headers = { ["a b"] = "c" } })))
    assert.is_false((pcall(echo.http.client, { bind = "nonsense" })))
  end)
end)
