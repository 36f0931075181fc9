-- Sessions over TCP, for where UDP is blocked; and the way back.

local echo = require "echostream"
local certs = require "spec.support.certs"
local doctor_checks = require("echostream.doctor.server").checks
local net = require "spec.support.net"
local udp_gate = require "spec.support.udp_gate"

local PATIENCE = 15 -- seconds that something may take that takes none

local function wait_until(fn, what)
  local ends = echo.now() + PATIENCE
  while not fn() do
    assert(echo.now() < ends, "did not happen: " .. what)
    echo.sleep(0.01)
  end
end

local function door_server(env, opts)
  opts = opts or {}
  opts.tcp = true
  return env.server(opts, function(server)
    server:add_rpc("door", function(session)
      return session.door
    end)
    server:add_rpc("add", function(_, a, b)
      return a + b
    end)
  end)
end

-- A server where one was before. The port may be somebody's for a moment: whoever dials out over TCP gets one of the same range.
local function server_again(env, address)
  local server
  wait_until(function()
    local ok, started = pcall(door_server, env, { bind = address })
    server = ok and started
    return ok
  end, "the port is free again")
  return server
end

net.only("quic", function(env)
  env.it("goes over TCP when it is told so", function()
    local server = door_server(env)
    assert.are.equal(server.address, server.tcp_address)
    local client = env.connect(server, { transport = "tcp" })
    assert.are.equal("tcp", client.session.door)
    assert.are.equal("tcp", client:request "door")
    local stats = client:stats()
    assert.are.equal("tcp", stats.carrier)
    assert.is_nil(stats.fallback)
    assert.are.equal(0, stats.quic_version)
    assert.are.equal(1, server:stats().endpoint.tcp.accepted)
    local key = assert(client.session:export_key("EXPORTER-spec", 32, "context"))
    assert.are.equal(key, server:sessions()[1]:export_key("EXPORTER-spec", 32, "context"))
    assert.are.equal("native", env.connect(server):request "door")
    assert.are.equal("quic", env.connect(server):stats().carrier)
  end)

  env.it("listens where it is told to", function()
    local server = env.server { tcp = "127.0.0.1:0" }
    local host, port = server.tcp_address:match "^(.*):(%d+)$"
    assert.are.equal("127.0.0.1", host)
    assert.are.equal(server.address:match ":(%d+)$", port)
    assert.has_error(function()
      echo.server { tcp = "example.org:80" }
    end, 'echo.server: option "tcp" wants true or a numeric address such as "0.0.0.0:5000", got "example.org:80"')
  end)

  env.it("says that its port on TCP is taken", function()
    local first = door_server(env)
    local second = echo.server { bind = "127.0.0.1:0", tcp = first.tcp_address, quiet = true, state_dir = net.state_dir() }
    local ok, err = second:start()
    assert.is_nil(ok)
    assert.are.equal("already_exists", err.code)
    assert.matches("listen on .*TCP.*: Address already in use", err.message)
  end)

  env.it("has calls, events, streams and datagrams both ways", function()
    local got
    local server = door_server(env)
    server:add_rpc("back", function(session, x)
      return session:request("twice", x)
    end)
    server:add_event("note", function(session, text)
      session:with({ unreliable = true }):emit("noted", text)
    end)
    server:add_stream("echo", function(_, stream)
      for frame in stream:frames() do
        stream:send(frame.data)
      end
    end)
    local client = env.client(server, { transport = "tcp" })
    client:add_rpc("twice", function(_, x)
      return 2 * x
    end)
    client:add_event("noted", function(_, text)
      got = text
    end)
    assert(client:connect(server.address))
    assert.are.equal(42, client:request("back", 21))
    client:emit("note", "hello")
    wait_until(function()
      return got == "hello"
    end, "the event's answer")
    local stream = assert(client:create_stream "echo")
    local large = ("x"):rep(1 << 20)
    local sender = echo.spawn(function()
      stream:send(large)
      stream:finish()
    end)
    assert.are.equal(large, stream:recv().data)
    assert.is_nil(stream:recv())
    sender:wait()
  end)

  env.it("believes nobody whom QUIC would not believe", function()
    local server = door_server(env)
    local client = env.client(nil, { pin = "sha256:" .. ("0"):rep(64), transport = "tcp" })
    local ok, err = client:connect(server.address)
    assert.is_nil(ok)
    assert.are.equal("unauthenticated", err.code)
    assert.matches("expected sha256:000", err.message)
  end)

  env.it("shows the certificates of clients", function()
    local ca = certs.authority "us"
    local server = door_server(env, { ca = ca.file })
    local cert = certs.issue(ca, { names = { "agent-7" } })
    local client = env.client(server, { transport = "tcp", cert = cert.cert, key = cert.key })
    assert(client:connect(server.address))
    assert.are.equal("tcp", client:request "door")
    assert.are.equal(cert.pin, server:sessions()[1]:peer_pin())
    assert.are.equal(cert.pin, client.pin)
    local stranger = env.client(server, { transport = "tcp", timeout = 5 })
    local ok, err = stranger:connect(server.address)
    if ok then -- the server's word may come a little later than the end of our handshake
      ok, err = stranger:request "door"
    end
    assert.is_nil(ok)
    assert.are.equal("unauthenticated", err.code)
  end)

  env.it("says what TCP cannot do", function()
    local server = door_server(env)
    local client = env.connect(server, { transport = "tcp" })
    local ok, err = client:migrate()
    assert.is_nil(ok)
    assert.are.equal("failed_precondition", err.code)
    assert.matches("over TCP", err.message)
    assert.is_nil((client.session:update_key()))
    local early = env.client(server, { transport = { carrier = "tcp", enable_0rtt = true } })
    ok, err = early:connect(server.address)
    assert.is_nil(ok)
    assert.matches("early data", err.message)
    assert.has_error(function()
      echo.client { skip_verification = true, transport = "tcp", webtransport = true }
    end, 'echo.client: option "webtransport" is QUIC\'s: it does not go with transport "tcp"')
    assert.has_error(function()
      echo.server { transport = { carrier = "tcp" } }
    end, 'echo.server: transport option "carrier" is for clients')
  end)

  env.it("says that nobody listens, and both reasons when neither way is open", function()
    local server = door_server(env)
    local address = server.address
    server:stop { grace = 0 }
    local ok, err = env.client(nil, { pin = server.pin, transport = "tcp" }):connect(address)
    assert.is_nil(ok)
    assert.are.equal("unavailable", err.code)
    assert.matches("Connection refused", err.message)
    ok, err = env.client(nil, { pin = server.pin, transport = { carrier = "auto", fallback_after = 0.1 } }):connect(address)
    assert.is_nil(ok)
    assert.matches("neither QUIC nor TCP gets there", err.message)
    assert.matches("Connection refused", err.details.tcp.message)
    assert.is_string(err.details.quic.code)
  end)

  env.it("is what the doctor recommends where UDP is swallowed", function()
    local function ask(address, blocked)
      local case = { name = "127.0.0.1", addresses = { "127.0.0.1" }, port = tonumber(address:match ":(%d+)$"), timeout = PATIENCE }
      case.answered, case.unreachable = not blocked and "127.0.0.1" or nil, blocked
      for _, check in ipairs(doctor_checks) do
        if check[1] == "tcp" then
          return check[2](case)[1]
        end
      end
    end
    local server = door_server(env)
    local finding = ask(server.address, true)
    assert.are.equal("warn", finding.status)
    assert.matches("QUIC does not get to .*, and TCP does", finding.detail)
    assert.matches('transport = "auto"', finding.fix)
    finding = ask(server.address, false)
    assert.are.equal("ok", finding.status)
    assert.matches("over TCP too", finding.detail)
    server:stop { grace = 0 }
    for _, blocked in ipairs { true, false } do
      finding = ask(server.address, blocked)
      assert.are.equal("skipped", finding.status)
      assert.matches("Connection refused", finding.detail)
    end
  end)

  env.it("waits for a server that does not listen yet, and comes from the address it is told to", function()
    local first = door_server(env)
    local address = first.address
    first:stop { grace = 0 }
    local client = env.client(first, { transport = { carrier = "tcp", wait_for_ready = true }, bind = "127.0.0.2:0" })
    local connecting = echo.spawn(function()
      return client:connect(address)
    end)
    echo.sleep(0.15)
    local server = server_again(env, address)
    assert.are.equal(client, connecting:wait())
    assert.are.equal("tcp", client:request "door")
    assert.are.equal("127.0.0.2", (server:sessions()[1].peer_addr:match "^(.*):"))
  end)

  env.it("takes QUIC when it is there", function()
    local server = door_server(env)
    local client = env.connect(server, { transport = "auto" })
    assert.are.equal("native", client:request "door")
    assert.is_nil(client.fallback)
  end)

  env.it("falls back when UDP is swallowed, and goes back to QUIC with calls in flight, none of which fails", function()
    local server = door_server(env)
    local release = false
    server:add_rpc("slow", function(session)
      while not release do
        echo.sleep(0.01)
      end
      return session.door
    end)
    local gate <close> = setmetatable({ gate = udp_gate.new(server.address) }, { __close = function(self)
      self.gate:close()
    end })
    local changes = {}
    local client = env.client(server, {
      transport = { carrier = "auto", fallback_after = 0.2, retry_quic = 0.05, tcp_port = tonumber(server.address:match ":(%d+)$") },
      on_carrier = function(_, carrier, session, reason)
        changes[#changes + 1] = { carrier, session.door, reason }
      end,
    })
    local connected = 0
    client:on_connect(function()
      connected = connected + 1
    end)
    assert(client:connect(gate.gate.address))
    assert.are.equal("tcp", client:request "door")
    assert.is_true(gate.gate.swallowed > 0)
    assert.matches("gave no answer within", client.fallback.reason)
    assert.are.equal(client.fallback, client:stats().fallback)
    assert.is_not_nil(env.logged "over TCP now")
    local old = client.session
    local slow = echo.spawn(function()
      return client:request "slow"
    end)
    local failed, calls, stop = 0, 0, false
    local busy = echo.spawn(function()
      while not stop do
        calls = calls + 1
        if client:request("add", calls, 1) ~= calls + 1 then
          failed = failed + 1
        end
        echo.sleep(0.001)
      end
    end)
    wait_until(function()
      return client.fallback.attempts > 0
    end, "an attempt to go back")
    gate.gate:open()
    wait_until(function()
      return client.session ~= old and not client.fallback
    end, "the way back")
    assert.are.equal("native", client:request "door")
    assert.is_nil(old.closed_by) -- the slow call is still there
    release = true
    local door = slow:wait()
    assert.are.equal("tcp", door)
    wait_until(function()
      return old.closed_by
    end, "the end of the session over TCP")
    stop = true
    busy:wait()
    assert.are.equal(0, failed)
    assert.are.equal("native", client:request "door")
    assert.are.equal(2, connected)
    wait_until(function()
      return #changes == 2
    end, "both changes")
    assert.are.same({ "tcp", "tcp" }, { changes[1][1], changes[1][2] })
    assert.are.same({ "quic", "native" }, { changes[2][1], changes[2][2] })
    assert.is_not_nil(env.logged "QUIC answers again")
  end)

  env.it("comes back over TCP when the server was started anew and UDP is still swallowed", function()
    local server = door_server(env)
    local address, port = server.address, tonumber(server.address:match ":(%d+)$")
    local gate <close> = setmetatable({ gate = udp_gate.new(address) }, { __close = function(self)
      self.gate:close()
    end })
    local client = env.client(server, {
      reconnect = { cap = 0.2 },
      transport = { carrier = "auto", fallback_after = 0.2, retry_quic = 1000, tcp_port = port },
    })
    assert(client:connect(gate.gate.address))
    local since = client.fallback.since
    server:stop { grace = 0 }
    wait_until(function()
      return client.state == "reconnecting"
    end, "the loss")
    server_again(env, address)
    assert.are.equal("tcp", client:with({ timeout = PATIENCE }):request "door")
    assert.are.equal(since, client.fallback.since)
    assert.are.equal(1, client.reconnects)
  end)

  env.it("ends in good order: what is under way is answered", function()
    local server = door_server(env)
    server:add_rpc("slow", function()
      echo.sleep(0.2)
      return "done"
    end)
    local client = env.connect(server, { transport = "tcp" })
    local slow = echo.spawn(function()
      return client:request "slow"
    end)
    wait_until(function()
      return server:stats().calls_in_running == 1
    end, "the call")
    assert(server:stop { grace = PATIENCE })
    assert.are.equal("done", (slow:wait()))
    wait_until(function()
      return not client.session
    end, "the end of the session")
    local _, err = client:request "door"
    assert.are.equal("connection_closed", err.code)
  end)
end)
