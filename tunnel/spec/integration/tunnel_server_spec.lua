-- The whole way of requests: visitor, server, session, agent, backend, and back. All real but for the visitors, who are Lua.
local core = require "echostream.tunnel.core"
local echo = require "echostream"
local exchanges = require "echostream.tunnel.exchange"
local net = require "spec.support.net"
local world = require "tunnel.spec.support.world"

local function answer(x, status, body, fields)
  local given = { status = status }
  for i, field in ipairs(fields or {}) do given[i] = field end
  local head = assert(core.head("response", given))
  if x:send_head(head, body == nil) and body then x:write(body, true) end
end

net.only("quic", function(env)
  describe("a request through the tunnel", function()
    for _, codec in ipairs { "http/1.1", "h2" } do
      env.it("reaches the backend and comes back, by " .. codec, function()
        local seen
        local w = world.new(env, { backend = function(x, head)
          seen = head
          answer(x, 200, "hello", { { "content-type", "text/plain" } })
        end })
        local response = assert(w:get("/path?a=b", { { "accept", "*/*" } }, { codec = codec }))
        assert.equal(200, response.status)
        assert.equal("hello", response.body)
        assert.equal("text/plain", response.head:get "content-type")
        assert.equal("GET", seen.method)
        assert.equal("/path?a=b", seen.path)
        assert.equal("example.org", seen.authority)
        assert.equal("127.0.0.1", seen:get "x-forwarded-for")
        assert.matches("^%x+$", seen:get "x-request-id")
        assert.matches("^00%-%x+%-%x+%-%x%x$", seen:get "traceparent")
        w:wait(function() return w.records[1] end)
        local record = w.records[1]
        assert.same({ 200, "web", "a1", "GET", "/path", "a=b", codec, 5, 0, 1 }, { record.status, record.group, record.agent, record.method,
          record.path, record.query, record.protocol, record.bytes_out, record.bytes_in, record.attempts })
        assert.is_nil(record.cause)
        assert.equal(seen:get "x-request-id", record.id)
      end)
    end

    env.it("carries bodies and trailers both ways, streaming", function()
      local w = world.new(env, { backend = function(x, head)
        x:send_head(assert(core.head("response", { status = 103, { "link", "</style.css>" } })))
        x:send_head(assert(core.head("response", { status = 200, { "x-length", tostring(head.length) } })))
        while true do
          local bytes, err = x:read()
          if not bytes then
            assert(not err, err)
            break
          end
          x:write(bytes:upper())
        end
        x:finish(assert(core.head("trailers", { { "x-check", x:trailers() and x:trailers():get "x-sum" or "none" } })))
      end })
      local connection = assert(world.dial(env, w.address, "h2"))
      local x = assert(exchanges.request(connection, world.head("POST", "/up", { { "te", "trailers" } })))
      x:write "one "
      local informational = assert(x:head())
      assert.equal(103, informational.status)
      local head = assert(x:head())
      assert.equal(200, head.status)
      assert.equal("ONE ", (x:read()))
      x:write "two"
      assert.equal("TWO", (x:read()))
      x:finish(assert(core.head("trailers", { { "x-sum", "7" } })))
      assert.is_nil((x:read()))
      assert.equal("7", x:trailers():get "x-check")
      w:wait(function() return w.records[1] end)
      assert.same({ 7, 7 }, { w.records[1].bytes_in, w.records[1].bytes_out })
      assert.is_nil(w.records[1].cause)
    end)

    env.it("can be large, in both directions at once", function()
      local size = 3 * 1024 * 1024
      local w = world.new(env, { backend = function(x)
        x:send_head(assert(core.head("response", { status = 200 })))
        while true do
          local bytes = x:read()
          if not bytes then break end
          x:write(bytes)
        end
        x:finish()
      end })
      local connection = assert(world.dial(env, w.address, "h2"))
      local x = assert(exchanges.request(connection, world.head("POST", "/big")))
      local sending = echo.spawn(function()
        local chunk = ("0123456789abcdef"):rep(4096)
        for _ = 1, size // #chunk do assert(x:write(chunk)) end
        assert(x:finish())
      end)
      assert.equal(200, x:head().status)
      local got = 0
      while true do
        local bytes, err = x:read()
        if not bytes then
          assert(not err, err)
          break
        end
        got = got + #bytes
      end
      assert(sending:wait())
      assert.equal(size, got)
      w:wait(function() return w.records[1] end)
      assert.same({ size, size }, { w.records[1].bytes_in, w.records[1].bytes_out })
    end)
  end)

  describe("answers of the server's own", function()
    env.it("are 404 without a rule, 503 without an agent, and what rules say", function()
      local w = world.new(env, { agents = 0, rules = {
        { host = "moved.example", redirect = "https://new.example${uri}" },
        { host = "fixed.example", respond = { status = 418, body = "tea" } },
        { host = "secret.example", group = "web", auth = { bearer = { ["plain:0123456789abcdef"] = "alice" } } },
        { host = "closed.example", group = "web", addresses = { deny = "127.0.0.0/8" } },
        { host = "example.org", group = "web" },
      }, server = { shadow = { { group = "other" } }, trusted = { "10.0.0.0/8" }, retries = 2, max_agents = 5 } })
      local function ask(host) return assert(w:get("/x", {}, { authority = host })) end
      assert.equal(404, ask("nowhere.example").status)
      assert.equal(503, ask("example.org").status)
      local moved = ask "moved.example"
      assert.same({ 307, "https://new.example/x" }, { moved.status, moved.head:get "location" })
      local fixed = ask "fixed.example"
      assert.same({ 418, "tea" }, { fixed.status, fixed.body })
      assert.equal(401, ask("secret.example").status)
      assert.equal(403, ask("closed.example").status)
      w:wait(function() return #w.records == 6 end)
      local causes = {}
      for i, record in ipairs(w.records) do causes[i] = record.cause or "none" end
      assert.same({ "no_rule", "no_agent", "none", "none", "refused", "refused" }, causes)
    end)

    env.it("are 413 for a body that is too large, and 502 or 504 for a backend that is dead or silent", function()
      local silent
      local w = world.new(env, { backend = function(x)
        silent = x
        x:on_abort(function() silent = "aborted" end)
      end, rules = { { path = "/small", group = "web", max_body = 4 }, { path = "/slow", group = "web", timeout = { headers = 0.3 } },
        { path = "/dead", group = "dead" } } })
      w:add_agent("dead", { group = "dead", backend = "http://127.0.0.1:1" })
      assert.equal(413, assert(w:request(world.head("POST", "/small", { { "content-length", "10" } }), "0123456789")).status)
      assert.equal(504, assert(w:get "/slow").status)
      w:wait(function() return silent == "aborted" end)
      local response = assert(w:get "/dead")
      assert.equal(502, response.status)
      assert.equal("agent", response.head:get "x-echostream-tunnel")
      w:wait(function() return #w.records == 3 end)
      assert.same({ "limit", "timeout", "backend" }, { w.records[1].cause, w.records[2].cause, w.records[3].cause })
    end)

    env.it("are the codec's for what is malformed, and are told", function()
      local w = world.new(env, { agents = 0 })
      local s = assert(world.dial(env, w.address, "raw"))
      local socket = require("echostream.tunnel.socket").new(s)
      socket:write "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"
      assert.matches("^HTTP/1.1 400", assert(socket:read()))
      w:wait(function() return w.records[1] end)
      assert.same({ "malformed", 400, "127.0.0.1" }, { w.records[1].cause, w.records[1].status, w.records[1].peer_ip })
      assert.equal(1, w.plugin:stats().malformed)
    end)
  end)

  env.it("a function that groups are balanced by may fail: 500, and nothing is held", function()
    local w = world.new(env, { server = { groups = { default = { balance = "hash", by = function() error "spec" end } } } })
    w:add_agent "a2"
    for _ = 1, 3 do assert.equal(500, w:get("/").status) end
    w:wait(function() return #w.records == 3 end)
    assert.same({ "internal", 0 }, { w.records[1].cause, w.plugin:stats().in_flight })
    assert.is_nil(next(w.plugin._ingress.watch._runs))
  end)

  env.it("what a function says that no answer can say ends the exchange, and holds nothing", function()
    local said = require("echostream.tunnel.errors").new(503, "later", { retry_after = "soon" })
    local w = world.new(env, { rules = { { group = "web", auth = { verify = function() return nil, said end } } } })
    assert.is_nil((w:get("/", { { "authorization", "Bearer x" } })))
    w:wait(function() return #w.records == 1 end)
    assert.equal(0, w.plugin:stats().in_flight)
  end)

  describe("a visitor who goes", function()
    for name, begin in pairs {
      ["before the head"] = function() end,
      ["in the middle of a download"] = function(x) x:send_head(assert(core.head("response", { status = 200 }))) x:write "some" end,
    } do
      env.it(name .. " is gone for the backend too", function()
        local begun, aborted
        local w = world.new(env, { backend = function(x)
          x:on_abort(function() aborted = true end)
          begin(x)
          begun = true
        end })
        local connection = assert(world.dial(env, w.address, "h2"))
        local x = assert(exchanges.request(connection, world.head("GET", "/"), true))
        w:wait(function() return begun end)
        if name:find "middle" then
          assert(x:head())
          assert(x:read())
        end
        x:reset "cancel"
        w:wait(function() return aborted and w.records[1] end)
        assert.equal("visitor", w.records[1].cause)
      end)
    end
  end)

  describe("a WebSocket", function()
    env.it("is bytes both ways after its head, with an end of its own in each direction", function()
      local w = world.new(env, { backend = function(x, head)
        assert.equal("CONNECT", head.method)
        assert.equal("websocket", head.protocol)
        x:send_head(assert(core.head("response", { status = 200 })))
        while true do
          local bytes = x:read()
          if not bytes then break end
          x:write("<" .. bytes .. ">")
        end
        x:write "end"
        x:finish()
      end })
      local connection = assert(world.dial(env, w.address, "h2"))
      local head = assert(core.head("request", { method = "CONNECT", scheme = "http", authority = "example.org", path = "/ws",
        protocol = "websocket", { "sec-websocket-version", "13" } }))
      w:wait(function() return connection:room() > 0 end)
      local x = assert(exchanges.request(connection, head))
      assert.equal(200, assert(x:head()).status)
      x:write "a"
      assert.equal("<a>", (x:read()))
      x:write "b"
      assert.equal("<b>", (x:read()))
      x:finish()
      assert.equal("end", (x:read()))
      assert.is_nil((x:read()))
      w:wait(function() return w.records[1] end)
      assert.equal("websocket", w.records[1].kind)
      assert.is_nil(w.records[1].cause)
    end)
  end)

  describe("the plugin", function()
    env.it("says who is there, and takes new rules and configurations while it runs", function()
      local w = world.new(env, { backend = function(x) answer(x, 200, "ok") end, agents = 2 })
      local list = w.plugin:agents()
      assert.same({ "a1", "a2" }, { list[1].id, list[2].id })
      assert.equal(2, w.plugin:stats().agents)
      assert.same({ web = w.address }, w.plugin:addresses())
      assert(w.plugin.rules:replace { { host = "other.example", group = "web" } })
      assert.equal(404, assert(w:get "/").status)
      local ok, err = w.plugin.rules:replace { { host = "a b", group = "web" } }
      assert.is_nil(ok)
      assert.matches("rules%[1%]", err.message)
      assert.equal(200, assert(w:get("/", {}, { authority = "other.example" })).status)
      local results = w.plugin:set_config({ services = {} }, "v1")
      assert.equal(2, #results) -- these agents take none
      assert.has_error(function() w.plugin:on("nothing", print) end, "tunnel:on: what is \"agent\" or \"exchange\", got \"nothing\"")
      local seen = 0
      w.plugin:on("exchange", function() error "a listener's own affair" end):on("exchange", function() seen = seen + 1 end)
      assert.equal(404, assert(w:get "/").status)
      w:wait(function() return seen == 1 end)
      assert.truthy(env.logged "a listener's own affair")
    end)

    env.it("gives a drained agent nothing new", function()
      local served = {}
      local w = world.new(env, { backend = function(x) answer(x, 200, "ok") end, agents = 2 })
      w.plugin:on("exchange", function(record) served[record.agent or "nobody"] = (served[record.agent or "nobody"] or 0) + 1 end)
      assert(w.plugin:drain_agent "a1")
      for _ = 1, 4 do assert.equal(200, assert(w:get "/").status) end
      w:wait(function() return served.a2 == 4 end)
      local ok, err = w.plugin:drain_agent "nobody"
      assert.is_nil(ok)
      assert.equal("not_found", err.code)
    end)

    env.it("goes with all it brought", function()
      local w = world.new(env, { backend = function(x) answer(x, 200, "ok") end })
      assert.equal(200, assert(w:get "/").status)
      assert.is_true(w.server:remove_plugin "tunnel")
      assert.same({}, w.plugin:addresses())
      assert.is_nil((w:get "/"))
      assert.equal(0, w.plugin.registry:count())
      assert.equal("method_not_found", select(2, w.clients[1]:request "tunnel.challenge").code)
      w.server:plugin(w.plugin) -- and can come back, to a server that runs
      w.address = w.plugin:addresses().web
      assert.equal(503, assert(w:get "/").status)
    end)

    env.it("drains: what is under way ends, new connections are refused, what stays is cut at the end", function()
      local release = false
      local w = world.new(env, { backend = function(x, head)
        if head.path == "/stays" then return x:send_head(assert(core.head("response", { status = 200 }))) end
        while not release do echo.sleep(0.005) end
        answer(x, 200, "done")
      end })
      local slow = echo.spawn(function() return w:get "/slow" end)
      w:wait(function() return w.plugin:stats().in_flight == 1 end)
      local draining = echo.spawn(function() return w.plugin:drain { grace = 20 } end)
      w:wait(function() return not (world.dial(env, w.address)) end)
      release = true
      assert.equal("done", assert(slow:wait()).body)
      assert.is_true(draining:wait())
    end)

    env.it("cuts what has not ended when the grace time is over, also when the server is stopped", function()
      local w = world.new(env, { backend = function(x) x:send_head(assert(core.head("response", { status = 200 }))) end })
      local connection = assert(world.dial(env, w.address, "h2"))
      local x = assert(exchanges.request(connection, world.head("GET", "/"), true))
      assert.equal(200, assert(x:head()).status)
      assert(w.server:stop { grace = 0.3 })
      local bytes, err = x:read()
      assert.is_nil(bytes)
      assert.truthy(err)
      w:wait(function() return w.records[1] end)
      assert.equal("stopped", w.records[1].cause)
    end)
  end)

  describe("listeners", function()
    local certs = require "spec.support.certs"

    env.it("end TLS, with certificates that can be changed", function()
      local authority = certs.authority "Tunnel"
      local one, two = certs.issue(authority, { names = { "example.org" } }), certs.issue(authority, { names = { "example.org" } })
      local given = { cert = one.cert, key = one.key }
      local w = world.new(env, { backend = function(x) answer(x, 200, "ok") end,
        listen = { { bind = "127.0.0.1:0", name = "web", max_connections = 50, handshake_timeout = 5, tls = { certs = { given } } } } })
      local function ask()
        local file <close> = assert(io.open(authority.file))
        local client = assert(core.tls_client { ca = file:read "a", alpn = { "h2" } })
        return w:get("/", {}, { codec = "auto", dial = { tls = client, name = "example.org" } })
      end
      local response, err = ask()
      assert.truthy(response, err)
      assert.equal("ok", response.body)
      w:wait(function() return w.records[1] end)
      assert.same({ "h2", "example.org" }, { w.records[1].protocol, w.records[1].sni })
      assert(w.plugin:renew())
      assert.equal("ok", assert(ask()).body)
      assert.truthy(two)
    end)

    env.it("of kind tcp pass every connection on, with half-close", function()
      local sockets = require "echostream.tunnel.socket"
      local engine = require "echostream.tunnel.engine"
      local listener = assert(engine.current():listen { ip = "127.0.0.1", port = 0, kind = "raw", on_socket = function(raw)
        local s = sockets.new(raw)
        echo.spawn(function()
          local all = {}
          while true do
            local bytes = s:read()
            if not bytes then break end
            all[#all + 1] = bytes
          end
          s:write("got " .. table.concat(all))
          s:finish()
        end)
      end })
      table.insert(env.opened, { close = function() listener:close() end })
      local w = world.new(env, { agents = 0, listen = { { bind = "127.0.0.1:0", name = "db", kind = "tcp", group = "web", service = "pg" } } })
      w:add_agent("a1", { services = { pg = { kind = "tcp", backends = { listener:address() } } } })
      local s = sockets.new(assert(world.dial(env, w.plugin:addresses().db, "raw")))
      assert(s:write "hello ")
      assert(s:write "there")
      s:finish()
      assert.equal("got hello there", (s:read()))
      assert.is_nil((s:read()))
      w:wait(function() return w.records[1] end)
      local record = w.records[1]
      assert.same({ "tcp", "a1", 11, 15 }, { record.kind, record.agent, record.bytes_in, record.bytes_out })
      assert.is_nil(record.cause)
      -- nobody there: the connection ends
      w.clients[1]:close()
      w:wait(function() return w.plugin.registry:count() == 0 end)
      s = sockets.new(assert(world.dial(env, w.plugin:addresses().db, "raw")))
      assert.is_nil((s:read()))
      w:wait(function() return w.records[2] end)
      assert.equal("no_agent", w.records[2].cause)
    end)

    env.it("of kind tcp pass nothing on that a rule answers, or whose rule failed", function()
      local sockets = require "echostream.tunnel.socket"
      local failing = { kind = "tcp", when = function() error "spec" end, group = "web" }
      for _, rule in ipairs { { kind = "tcp", respond = { status = 403 } }, failing } do
        local w = world.new(env, { agents = 0, rules = { rule }, listen = { { bind = "127.0.0.1:0", name = "db", kind = "tcp", group = "web" } } })
        w:add_agent "a1"
        local s = sockets.new(assert(world.dial(env, w.plugin:addresses().db, "raw")))
        assert.is_nil((s:read()))
        assert.equal(0, w.plugin:stats().exchanges)
      end
    end)

    env.it("of kind tls pass what a rule fits through as it is, and end the rest here", function()
      local authority = certs.authority "Names"
      local inner, outer = certs.issue(authority, { names = { "inner.example" } }), certs.issue(authority, { names = { "outer.example" } })
      local function read(path)
        local file <close> = assert(io.open(path))
        return file:read "a"
      end
      local there = world.serve(env, function(x) answer(x, 200, "inside") end,
        { tls = assert(core.tls_server { certs = { { cert = inner.cert, key = inner.key } }, alpn = { "http/1.1" } }) })
      local w = world.new(env, { agents = 0, backend = function(x) answer(x, 200, "outside") end,
        rules = { { kind = "tls", sni = "inner.example", group = "pass", service = "raw" }, { group = "web" } },
        listen = { { bind = "127.0.0.1:0", name = "web", kind = "tls", tls = { certs = { { cert = outer.cert, key = outer.key } } } } } })
      w:add_agent "a1"
      w:add_agent("a2", { group = "pass", services = { raw = { kind = "tcp", backends = { there:address() } } } })
      local client = assert(core.tls_client { ca = read(authority.file), alpn = { "http/1.1" } })
      for name, said in pairs { ["inner.example"] = "inside", ["outer.example"] = "outside" } do
        local response, err = w:get("/", {}, { authority = name, codec = "auto", dial = { tls = client, name = name } })
        assert.truthy(response, err)
        assert.equal(said, response.body)
      end
    end)
  end)

  env.it("an agent with clients of its own comes back to a server that was started anew", function()
    local w = world.new(env, { backend = function(x) answer(x, 200, "ok") end, agents = 0 })
    local running = require("echostream.tunnel").run_agent { client_id = "own", group = "web", backend = "http://" .. w.backend:address(),
      servers = { w.server.address }, client = { pin = w.server.pin } }
    w:wait(function() return w.plugin.registry:get "own" end)
    assert.equal(200, assert(w:get "/").status)
    local first = w.plugin.registry:get("own").session
    first:close "go away"
    w:wait(function()
      local member = w.plugin.registry:get "own"
      return member and member.session ~= first
    end)
    assert.equal(200, assert(w:get "/").status)
    assert(running:stop { grace = 1 })
    w:wait(function() return w.plugin.registry:count() == 0 end)
  end)

  describe("a token", function()
    env.it("lets those in who can prove it, on their own connection", function()
      local w = world.new(env, { backend = function(x) answer(x, 200, "ok") end, agents = 0,
        server = { agents = { { token = "a secret of enough bytes", groups = { "web" } } } } })
      w:add_agent("a1", { token = "a secret of enough bytes" })
      assert.equal(200, assert(w:get "/").status)
      local client = env.connect(w.server)
      local asked = { protocol = 1, client_id = "x", group = "web" }
      local ok, err = client:request("tunnel.register", asked)
      assert.is_nil(ok)
      assert.same({ "unauthenticated", true }, { err.code, err.details.permanent })
      local sessions = require "echostream.tunnel.session"
      local function prove(token, session, nonce)
        return sessions.proof(token, "x", "web", nonce, assert(session:export_key(sessions.EXPORTER, 32)))
      end
      local nonce = assert(client:request "tunnel.challenge").nonce
      assert.equal(32, #nonce)
      asked.proof = prove("another secret that is wrong", client.session, nonce)
      assert.equal("unauthenticated", select(2, client:request("tunnel.register", asked)).code)
      asked.proof = prove("a secret of enough bytes", client.session, nonce)
      assert.equal("unauthenticated", select(2, client:request("tunnel.register", asked)).code) -- a nonce is good once
      local other = env.connect(w.server)
      nonce = assert(client:request "tunnel.challenge").nonce
      asked.proof = prove("a secret of enough bytes", other.session, nonce) -- of another connection
      assert.equal("unauthenticated", select(2, client:request("tunnel.register", asked)).code)
      nonce = assert(client:request "tunnel.challenge").nonce
      asked.proof = prove("a secret of enough bytes", client.session, nonce)
      assert.is_true(assert(client:request("tunnel.register", asked)).accepted)
    end)
  end)
end)
