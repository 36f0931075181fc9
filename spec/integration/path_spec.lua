-- Paths: moving to another address, being moved by a NAT, preferred addresses, packets' sizes, congestion marks, keep-alives.

local echo = require "echostream"
local impair = require "spec.support.impair"
local net = require "spec.support.net"
local scratch = require "spec.support.scratch"

local function add(server)
  server:add_rpc("add", function(_, a, b)
    return a + b
  end)
end

-- Calls `add` again and again in a task of its own until told to stop; the task gives how many calls, and the first error.
local function load_of(client)
  local going = true
  local task = echo.spawn(function()
    local n = 0
    while going do
      n = n + 1
      local sum, err = client:request("add", n, 1)
      if sum ~= n + 1 then
        return n, err or "a wrong sum"
      end
      echo.sleep(0.002)
    end
    return n
  end)
  return function()
    going = false
    return task:wait(10)
  end
end

net.each(function(env)
  local here = env.kind == "quic" and "127.0.0.1" or "10.1.9.9"
  local server_address = env.kind == "quic" and "127.0.0.1:0" or "10.0.0.1:5000"

  local function pair(prepare, server_options, client_options)
    server_options = server_options or {}
    server_options.bind = server_address
    return env.pair(function(server)
      add(server)
      if prepare then
        prepare(server)
      end
    end, server_options, client_options)
  end

  env.it("a client moves to another port and to another address while calls are under way", function()
    local moves = {}
    local _, client = pair(function(server)
      server:on_migrate(function(session, old, new, of_the_peer)
        assert.is_true(of_the_peer)
        assert.equal(new, session.peer_addr)
        assert.is_true(old ~= new)
        moves[#moves + 1] = new
      end)
    end)
    local own = {}
    client:on_migrate(function(session, old, new, of_the_peer)
      assert.is_false(of_the_peer)
      assert.is_true(old ~= new)
      assert.equal(client.session, session)
      own[#own + 1] = new
    end)
    local stop = load_of(client)
    echo.sleep(0.02)
    assert.is_true(client:migrate { bind = here .. ":0" })
    echo.sleep(0.05)
    assert.is_true(client:migrate { bind = (env.kind == "quic" and "127.0.0.7" or "10.1.7.7") .. ":0" })
    echo.sleep(0.05)
    assert.is_true(client:migrate())
    echo.sleep(0.05)
    local n, err = stop()
    assert.is_nil(err)
    assert.is_true(n > 5)
    env.eventually(function()
      return #moves == 3 and #own == 3
    end, "both sides hear of three moves")
    assert.equal(here .. ":", moves[1]:match "^.*:")
    assert.is_truthy(moves[2]:find("7.7:", 1, true) or moves[2]:find("0.7:", 1, true))
    assert.equal(own[2], moves[2])
    assert.equal(3, client:stats().migrations)
  end)

  env.it("a migration that gets no answer fails, and everything goes on over the old path", function(sim)
    local _, client = pair()
    if sim then
      sim:path({ loss = 1 }, "10.1.66.6", nil)
    end
    assert.equal(3, client:request("add", 1, 2))
    -- Over sockets: from the loopback interface nobody is reached who is not on it, the other way round neither.
    local ok, err = client:migrate { bind = sim and "10.1.66.6:0" or "192.0.2.77:0" }
    assert.is_nil(ok)
    assert.equal(sim and "timeout" or "io", err.code)
    assert.equal(7, client:request("add", 3, 4))
    assert.equal(0, client:stats().migrations)
    assert.is_true(client:migrate { bind = here .. ":0" })
    assert.equal(7, client:request("add", 3, 4))
  end)

  env.it("only who dialled can move, one move at a time, to a real address", function()
    local server, client = pair()
    local session
    env.eventually(function()
      session = server:sessions()[1]
      return session ~= nil
    end)
    local ok, err = session:migrate()
    assert.is_nil(ok)
    assert.equal("failed_precondition", err.code)
    local first = echo.spawn(client.migrate, client, { bind = here .. ":0" })
    echo.sleep(0)
    ok, err = client:migrate { bind = here .. ":0" }
    assert.is_nil(ok)
    assert.equal("already_exists", err.code)
    assert.is_true(first:wait(5))
    ok, err = client:migrate { bind = "[::1]:0" }
    assert.is_nil(ok)
    assert.equal("invalid_argument", err.code)
    assert.error_matches(function()
      client:migrate { bind = "nonsense" }
    end, "not an address")
    assert.error_matches(function()
      client:migrate { bind = "localhost:0" }
    end, "wants an IP address")
    assert.error_matches(function()
      client:migrate { where = "x" }
    end, "unknown option")
    client:close()
    ok, err = client:migrate()
    assert.is_nil(ok)
    assert.is_truthy(err.code)
  end)

  env.it("a session that ends while it moves says so", function()
    local _, client = pair()
    local outcome
    client:migrate({ bind = here .. ":0" }, function(...)
      outcome = table.pack(...)
    end)
    client:close()
    env.eventually(function()
      return outcome ~= nil
    end)
    assert.is_true(outcome[1] == true or outcome[2].code ~= nil)
  end)

  env.it("a peer whose NAT gives it another port is followed once the new path is validated", function(sim)
    local moves = {}
    local server, client = pair(function(server)
      server:on_migrate(function(_, old, new)
        moves[#moves + 1] = { old, new }
      end)
    end)
    assert.equal(3, client:request("add", 1, 2))
    local before = server:sessions()[1].peer_addr
    local client_ip = before:match "^(.*):"
    if sim then -- what the server sends gets lost: it must not believe the new address yet
      sim:path({ loss = 1 }, "10.0.0.1", client_ip)
    end
    client._endpoint:rebind()
    local pending = echo.spawn(client.request, client, "add", 3, 4)
    if sim then
      echo.sleep(0.5)
      assert.equal(0, #moves)
      assert.equal(before, server:sessions()[1].peer_addr)
      sim:path({}, "10.0.0.1", client_ip)
    end
    assert.equal(7, pending:wait(10))
    env.eventually(function()
      return #moves == 1
    end, "the server hears of the move")
    assert.equal(before, moves[1][1])
    assert.equal(moves[1][2], server:sessions()[1].peer_addr)
    assert.equal(1, server:sessions()[1]:stats().migrations)
  end)

  env.it("a client moves to the server's preferred address", function()
    local prefers = env.kind == "quic" and "127.0.0.3:0" or "10.0.0.3:6000"
    local server, client = pair(nil, { transport = { preferred_address = prefers } })
    local moves = {}
    client:on_migrate(function(_, old, new, of_the_peer)
      moves[#moves + 1] = { old, new, of_the_peer }
    end)
    assert.equal(3, client:request("add", 1, 2))
    env.eventually(function()
      return #moves == 1
    end, "the client moves")
    assert.equal(server.address, moves[1][1])
    assert.equal(prefers:match "^.*:", moves[1][2]:match "^.*:")
    assert.is_true(moves[1][3])
    assert.equal(moves[1][2], client.session.peer_addr)
    assert.equal(7, client:request("add", 3, 4))
    local other = env.connect(server, { transport = { follow_preferred_address = false } })
    assert.equal(7, other:request("add", 3, 4))
    echo.sleep(0.1)
    assert.equal(server.address, other.session.peer_addr)
    assert.error_matches(function()
      echo.server { transport = { preferred_address = "example.org:1" } }
    end, "wants an IP address with a port")
    assert.error_matches(function()
      echo.client { transport = { preferred_address = prefers } }
    end, "is for servers")
  end)

  env.it("raw connections move too, and tell of the peer's moves", function()
    local listener = assert(echo.quic.listen(server_address, { alpn = { "x" },
      state_dir = env.kind == "quic" and net.state_dir() or nil }))
    local accepted = echo.spawn(listener.accept, listener)
    local connection <close> = assert(echo.quic.connect(listener.address, { alpn = { "x" }, pin = listener.pin }))
    local incoming = accepted:wait(5)
    local stream = connection:open_bi_stream()
    stream:write "a"
    local other = incoming:accept_bi_stream(5)
    assert.equal("a", other:read())
    local heard = echo.spawn(incoming.wait_migrated, incoming, 5)
    local before = incoming:peer_addr()
    assert.is_true(connection:migrate { bind = here .. ":0" })
    stream:write "b"
    assert.equal("b", other:read())
    local new, old = heard:wait(5)
    assert.equal(before, old)
    assert.equal(new, incoming:peer_addr())
    assert.is_true(new ~= old)
    local none, err = incoming:wait_migrated(0.01)
    assert.is_nil(none)
    assert.equal("timeout", err.code)
    assert.equal(1, listener:stats().accepted)
    none, err = incoming:migrate()
    assert.is_nil(none)
    assert.equal("failed_precondition", err.code)
    listener:close()
  end)

  env.it("has figures of both sides", function()
    local server, client = pair()
    for i = 1, 30 do
      client:request("add", i, ("x"):rep(1) and 1)
    end
    local session = server:sessions()[1]
    for _, stats in ipairs { client:stats(), session:stats() } do
      for _, name in ipairs { "rtt_latest", "rtt_min", "rtt_smoothed", "handshake_time" } do
        assert.is_true(stats[name] > 0 and stats[name] < 5, name)
      end
      for _, name in ipairs { "cwnd", "bytes_sent", "bytes_received", "packets_sent", "packets_received", "ecn_sent", "ecn_acked",
        "ecn_received" } do
        assert.equal("integer", math.type(stats[name]), name)
        assert.is_true(stats[name] > 0, name)
      end
      assert.equal(0, stats.packets_lost)
      assert.equal(0, stats.migrations)
      assert.equal(0, stats.mtu_reductions)
      assert.equal("capable", stats.ecn)
      assert.equal(false, stats.resumed)
      assert.equal("none", stats.early_data)
      assert.is_true(stats.path_mtu >= 1200 and stats.path_mtu <= 1452)
    end
    local endpoint = server:stats().endpoint
    assert.equal(1, endpoint.connections)
    assert.equal(0, endpoint.dropped_datagrams)
  end)
end)

-- What needs a network that can be changed.
net.only("sim", function(env)
  local function pair(server_options, client_options)
    server_options = server_options or {}
    server_options.bind = "10.0.0.1:5000"
    return env.pair(function(server)
      add(server)
      server:add_rpc("size", function(_, data)
        return #data
      end)
    end, server_options, client_options)
  end

  env.it("packets that get lost are counted", function(sim)
    local _, client = pair()
    sim:path { loss = 0.1 }
    local data = ("x"):rep(100000)
    for _ = 1, 20 do
      assert.equal(#data, client:request("size", data))
    end
    local stats = client:stats()
    assert.is_true(stats.packets_lost > stats.packets_sent * 0.05 and stats.packets_lost < stats.packets_sent * 0.15,
      ("%d of %d"):format(stats.packets_lost, stats.packets_sent))
  end)

  env.it("a path whose full packets vanish gets smaller ones, and full ones when it carries them again", function(sim)
    local _, client = pair()
    local data = ("x"):rep(200000)
    assert.equal(#data, client:request("size", data))
    local function grown()
      return client:stats().path_mtu > 1400
    end
    env.eventually(grown, "the path's MTU is found")
    assert.equal(0, client:stats().mtu_reductions)
    sim:path { mtu = 1280 }
    local began = echo.now()
    assert.equal(#data, client:request("size", data))
    assert.is_true(echo.now() - began < 3)
    assert.equal(1200, client:stats().path_mtu)
    assert.equal(1, client:stats().mtu_reductions)
    for _ = 1, 30 do
      assert.equal(#data, client:request("size", data))
      echo.sleep(0.2)
    end
    assert.equal(1200, client:stats().path_mtu)
    assert.equal(1, client:stats().mtu_reductions)
    sim:path {}
    began = echo.now()
    while not grown() do
      assert.equal(#data, client:request("size", data))
      assert.is_true(echo.now() - began < 60)
      echo.sleep(0.2)
    end
  end)

  env.it("a path whose full packets vanish while small ones pass is found out too", function(sim)
    local _, client = pair()
    local data = ("x"):rep(200000)
    assert.equal(#data, client:request("size", data))
    env.eventually(function()
      return client:stats().path_mtu > 1400
    end, "the path's MTU is found")
    local going = true
    local small = echo.spawn(function()
      while going do
        assert(client:request("add", 1, 2))
        echo.sleep(0.005)
      end
    end)
    sim:path { mtu = 1280 }
    assert.equal(#data, client:request("size", data))
    going = false
    small:wait(5)
    assert.equal(1200, client:stats().path_mtu)
  end)

  env.it("marks are believed where the path carries them, and given up where it wipes them", function(sim)
    local _, client = pair()
    local data = ("x"):rep(100000)
    for _ = 1, 5 do
      client:request("size", data)
    end
    assert.equal("capable", client:stats().ecn)
    assert.equal(0, client:stats().ecn_ce_acked)
    sim:path { rate = 2e6, queue = 100, mark = 10000 } -- a router marks instead of dropping
    for _ = 1, 5 do
      client:request("size", data)
    end
    local stats = client:stats()
    assert.is_true(stats.ecn_ce_acked > 0)
    assert.equal(0, stats.packets_lost)
    sim:path { bleach = true }
    for _ = 1, 5 do
      assert.equal(#data, client:request("size", data))
    end
    assert.equal("failed", client:stats().ecn)
  end)

  env.it("a path that wipes marks from the start is found out, and works", function(sim)
    sim:path { bleach = true }
    local _, client = pair()
    local data = ("x"):rep(100000)
    for _ = 1, 5 do
      assert.equal(#data, client:request("size", data))
    end
    local stats = client:stats()
    assert.equal("failed", stats.ecn)
    assert.equal(0, stats.ecn_acked)
    assert.is_true(stats.ecn_sent > 0)
  end)

  env.it("who waits for an answer when the NAT changes the port gets it soon after", function(sim)
    local server, client = pair()
    server:add_rpc("slow", function()
      echo.sleep(2)
      return "done"
    end)
    local waiting = echo.spawn(client.request, client, "slow")
    echo.sleep(0.5)
    assert(sim:rebind(client)) -- the answer goes to where nobody listens
    local began = echo.now()
    assert.equal("done", waiting:wait(20))
    assert.is_true(echo.now() - began < 4)
  end)

  env.it("an idle connection outlives lost keep-alives", function(sim)
    local _, client = pair({ transport = { idle_timeout = 8 } }, { transport = { idle_timeout = 8 } })
    for _ = 1, 20 do
      sim:blackout(1.5, 3) -- takes the keep-alive of the second second
      echo.sleep(8)
      assert.is_true(client:is_open())
    end
    assert.equal(3, client:request("add", 1, 2))
  end)
end)

describe("the qlog option", function()
  local qlog = require "echostream.qlog"

  it("compares versions as Debian does", function()
    local ascending = { "0.12.0+dfsg-1", "0.12.1~rc1-1", "0.12.1+dfsg-1", "0.12.1+dfsg-1+deb12u1", "0.12.1+dfsg-1+deb12u2",
      "0.12.1+dfsg-1+deb12u10", "0.12.1+dfsg-2", "1.11.0-1", "1.11.0-1+deb13u1", "1.22.1-1" }
    for i = 1, #ascending - 1 do
      assert.is_true(qlog.compare(ascending[i], ascending[i + 1]) < 0, ascending[i])
      assert.is_true(qlog.compare(ascending[i + 1], ascending[i]) > 0, ascending[i])
      assert.equal(0, qlog.compare(ascending[i], ascending[i]))
    end
  end)

  it("is there where the library has no known flaw, and says why where it is not", function()
    local ok, reason = qlog.available()
    assert.equal(ok or reason, echo.libraries.qlog)
    if not ok then
      assert.matches("CVE%-2026%-40170", reason)
    end
  end)

  it("wants a directory that is there", function()
    local wanted = qlog.available() and "wants a directory" or "cannot be given"
    assert.error_matches(function()
      echo.server { transport = { qlog = "/nowhere/at/all" } }
    end, wanted)
    assert.error_matches(function()
      qlog.check("here", "/nowhere/at/all", 2)
    end, wanted)
  end)
end)

net.only("quic", function(env)
  env.it("every connection writes a qlog when that is asked for", function()
    if echo.libraries.qlog ~= true then
      return
    end
    local json = require("echostream.codec").json
    local dir = scratch.path()
    assert(os.execute("mkdir " .. dir))
    local server, client = env.pair(add, { transport = { qlog = dir } }, { transport = { qlog = dir } })
    assert.equal(3, client:request("add", 1, 2))
    client:close()
    server:stop { grace = 0 }
    local seen = {}
    local pipe = io.popen("ls " .. dir)
    for name in pipe:lines() do
      local role = assert(name:match "^%x+_(%a+)%.sqlog$", name)
      local records, events = 0, {}
      local file = assert(io.open(dir .. "/" .. name))
      local text = file:read "a"
      file:close()
      for record in text:gmatch "\30([^\30]*)" do -- RFC 7464
        local value = assert(json.unpack(record))
        records = records + 1
        if records == 1 then
          assert.equal("JSON-SEQ", value.qlog_format)
        else
          assert.equal("number", type(value.time))
          events[value.name] = true
        end
      end
      assert.is_true(records > 10)
      assert.is_true(events["transport:packet_sent"] and events["transport:packet_received"])
      seen[role] = true
    end
    pipe:close()
    os.execute("rm -r " .. dir)
    assert.same({ client = true, server = true }, seen)
  end)
end)

describe("a NAT that changes the client's address under load (RELIABILITY N5)", function()
  local rebinding = require "spec.support.rebinding"

  local function check(figures, moves)
    assert.equal(0, figures.failed, figures.error)
    assert.is_true(figures.calls > 100)
    assert.is_true(moves > 0 and moves <= figures.rebinds)
  end

  for _, kind in ipairs { "port", "address" } do
    net.only("sim", function(env)
      env.it("its " .. kind .. ", each second for a minute: no call fails", function(sim)
        local moves
        local _, client = env.pair(function(server)
          moves = rebinding.prepare(server)
        end, { bind = "10.0.0.1:5000" })
        local figures = rebinding.run { client = client, seconds = 60, rebind = function(n)
          assert(sim:rebind(client, kind == "address" and ("10.7.0.%d:0"):format(n) or nil))
        end }
        assert.equal(59, figures.rebinds)
        check(figures, #moves)
      end, { seed = 5, delay = 0.02, loss = 0.02 })
    end)

    net.only("quic", function(env)
      env.it("its " .. kind .. ", each quarter of a second: no call fails", function()
        local moves
        local server = env.server(nil, function(server)
          moves = rebinding.prepare(server)
        end)
        local between = impair.new { to = server.address, rebind_address = kind == "address" and 1 or 0 }
        local client = env.client(server)
        assert(client:connect(between.address))
        local figures = rebinding.run { client = client, seconds = 3, every = 0.25, rebind = function()
          between:rebind()
        end }
        check(figures, #moves)
        assert.equal(moves[#moves], server:sessions()[1].peer_addr)
        client:close()
        between:close()
      end)
    end)
  end
end)
