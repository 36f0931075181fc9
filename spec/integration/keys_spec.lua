local echo = require "echostream"
local net = require "spec.support.net"

-- A store that counts, and whose tickets a spec can look at and exchange.
local function store()
  local it = { tickets = {}, puts = 0, gets = 0, last = nil }
  function it:get(key)
    self.gets = self.gets + 1
    return self.tickets[key]
  end
  function it:put(key, value)
    self.tickets[key] = value
    if value then
      self.puts, self.last = self.puts + 1, value
    end
  end
  return it
end

-- Does the library speak version 2 of QUIC?
local v2 = pcall(function()
  echo.sim.run({ limit = 60 }, function()
    local server = assert(echo.server { bind = "10.0.0.1:1", quiet = true, transport = { version = 2 } }:start())
    server:stop { grace = 0 }
  end)
end)

net.each(function(env)
  -- Connects, waits for the ticket, closes.
  local function visit(server, opts)
    local cache = opts.session_cache
    local had = cache.puts
    local client = env.connect(server, opts)
    env.eventually(function() return cache.puts > had end, "a ticket")
    local stats = client:stats()
    client:close()
    return stats
  end

  local function with(opts, changes)
    local copy = {}
    for key, value in pairs(opts) do
      copy[key] = value
    end
    for key, value in pairs(changes) do
      copy[key] = value
    end
    return copy
  end

  describe("a session cache", function()
    env.it("makes the next handshake with a server a resumption, on both sides", function()
      local server = env.server({}, function(s)
        s:add_rpc("resumed", function(session) return session:stats().resumed end)
      end)
      local opts = { session_cache = store() }
      assert.is_false(visit(server, opts).resumed)
      local client = env.connect(server, opts)
      assert.is_true(client:stats().resumed)
      assert.is_true(client:request("resumed"))
      assert.equal(server.pin, client.session:peer_pin())
      assert.equal(server.pin, client.session.peer_cert.pin)
      assert.equal("none", client:stats().early_data)
    end)

    env.it("is in memory for the process when it is just true, and off when nobody asks", function()
      local server = env.server()
      for expected = 0, 1 do
        local client = env.connect(server, { session_cache = true })
        assert.equal(expected == 1, client:stats().resumed)
        echo.sleep(0.2) -- the ticket comes with the next packets
        client:close()
      end
      assert.is_false(env.connect(server):stats().resumed)
    end)

    env.it("gives each ticket out once", function()
      local server = env.server()
      local opts = { session_cache = store() }
      visit(server, opts)
      local one = env.connect(server, opts)
      opts.session_cache.tickets = {}
      local two = env.connect(server, opts)
      assert.is_true(one:stats().resumed)
      assert.is_false(two:stats().resumed)
    end)

    env.it("keeps tickets apart by server name, trust and own certificate", function()
      local server = env.server()
      local opts = { session_cache = store(), pin = server.pin, server_name = "a.example" }
      visit(server, opts)
      for _, changes in ipairs { { server_name = "b.example" }, { skip_verification = true },
        { pin = { server.pin, "sha256:" .. ("0"):rep(64) } }, { tls_priority = "NORMAL" } } do
        local client = env.connect(server, with(opts, changes))
        assert.is_false(client:stats().resumed)
        client:close()
      end
      assert.is_true(env.connect(server, opts):stats().resumed)
    end)

    env.it("lets no ticket of a server pass that shows another key now", function()
      local cache = store()
      local server = env.server()
      visit(server, { session_cache = cache })
      local core = require "echostream.core"
      local key = core.key_generate()
      local cert = core.cert_self_sign(key, { "localhost" }, 10)
      local old = server.pin
      assert.is_true(server:set_certificate { cert = cert, key = key })
      -- A client that still trusts the old key only is refused, whatever tickets it has.
      local _, err = env.client(nil, { pin = old, session_cache = cache }):connect(server.address)
      assert.equal("unauthenticated", err.code)
      -- One that trusts the new key shakes hands anew, even with the old ticket under its key.
      local lying = { puts = 0, get = function() return cache.last end, put = function() end }
      local client = env.connect(server, { pin = server.pin, session_cache = lying })
      assert.is_false(client:stats().resumed)
    end)

    env.it("has no tickets left when the key of one of several names changes", function()
      local certs = require "spec.support.certs"
      local a, b, c = certs.issue(nil, {}), certs.issue(nil, {}), certs.issue(nil, {})
      local names = { ["a.example"] = { a.cert, a.key }, ["b.example"] = { b.cert, b.key } }
      local server = env.server { certs = names }
      local opts = { session_cache = store(), pin = a.pin, server_name = "a.example" }
      visit(server, opts)
      assert.is_true(server:set_certificate { certs = { ["b.example"] = names["b.example"], ["a.example"] = names["a.example"] } })
      assert.is_true(visit(server, opts).resumed) -- the same, in whatever order
      assert.is_true(server:set_certificate { certs = { ["a.example"] = { c.cert, c.key }, ["b.example"] = names["b.example"] } })
      local _, err = env.client(nil, opts):connect(server.address)
      assert.equal("unauthenticated", err.code)
      assert.truthy(err.message:find(c.pin, 1, true))
    end)

    env.it("that says nonsense costs a whole handshake and no more", function()
      local server = env.server()
      local cache = store()
      visit(server, { session_cache = cache })
      local good = cache.last
      local bad = { "", "x", ("x"):rep(1000), good:sub(1, 20), good:sub(1, -2), good .. "x", good:gsub("^....", "EST9") }
      for i = 1, #good, 97 do
        bad[#bad + 1] = good:sub(1, i - 1) .. string.char(good:byte(i) ~ 0x55) .. good:sub(i + 1)
      end
      for _, text in ipairs(bad) do
        local client = env.client(server, { session_cache = { get = function() return text end, put = function() end } })
        local ok, err = client:connect(server.address)
        assert.truthy(ok, tostring(err))
        client:close()
      end
      local raising = { get = function() error "no disk" end, put = function() error "no disk" end }
      assert(env.client(server, { session_cache = raising }):connect(server.address))
      assert.equal("error", env.logged("no disk").level)
      assert.has_error(function() echo.client { session_cache = {} } end)
      assert.has_error(function() echo.client { session_cache = 5 } end)
    end)
  end)

  describe("early data", function()
    local early = { enable_0rtt = true }

    local function counting(opts, prepare)
      local ran = { safe = 0, unsafe = 0 }
      local server = env.server(with({ transport = early }, opts or {}), function(s)
        s:add_rpc("safe", function() ran.safe = ran.safe + 1; return "safe" end, { idempotent = true })
        s:add_rpc("unsafe", function() ran.unsafe = ran.unsafe + 1; return "unsafe" end)
        s:add_event("event", function() ran.event = (ran.event or 0) + 1 end)
        s:add_stream("stream", function(_, stream)
          for frame in stream:frames() do stream:send(frame.data) end
        end)
        if prepare then prepare(s) end
      end)
      return server, ran
    end

    env.it("carries idempotent calls to idempotent methods before the handshake is over", function()
      local server, ran = counting()
      local opts = { session_cache = store(), transport = early }
      visit(server, opts)
      local client = env.connect(server, opts)
      assert.equal(0, client:stats().handshake_time) -- connect did not wait for it
      assert.equal("safe", client:with { idempotent = true }:request("safe"))
      assert.equal("accepted", client:stats().early_data)
      assert.is_true(client:stats().resumed)
      assert.equal(1, ran.safe)
      assert.equal("accepted", server:sessions()[1]:stats().early_data)
    end)

    if v2 then
      -- A ticket is good for the version it was given out under (RFC 9369, 5), which is the one that the server likes.
      env.it("comes through, once, whatever versions of QUIC the two begin with and change to", function()
        for _, versions in ipairs { { 1, 2 }, { 2, 1 }, { 2, 2 }, { 1, 1 } } do -- the server's, the client's
          local server, ran = counting { transport = { enable_0rtt = true, version = versions[1] } }
          local opts = { session_cache = store(), transport = { enable_0rtt = true, version = versions[2] } }
          for visits = 1, 3 do -- the second has a ticket
            if visits > 1 then
              local client = env.connect(server, opts)
              assert.equal("safe", client:with { idempotent = true }:request("safe"))
              assert.equal("unsafe", client:request("unsafe"))
              assert.equal(versions[1] == versions[2] and "accepted" or "none", client:stats().early_data)
              assert.equal(versions[1], client:stats().quic_version)
              client:close()
            else
              visit(server, opts)
            end
          end
          assert.same({ safe = 2, unsafe = 2 }, ran)
        end
      end)
    end

    env.it("holds everything else until the handshake is over, and then it comes too", function()
      local server, ran = counting()
      local opts = { session_cache = store(), transport = early }
      visit(server, opts)
      local client = env.connect(server, opts)
      local results = {}
      local tasks = {
        echo.spawn(function() results[1] = client:request("unsafe") end),
        echo.spawn(function() results[2] = client:with { idempotent = true }:request("unsafe") end),
        echo.spawn(function() results[3] = client:request("safe") end),
        echo.spawn(function() results[4] = client:with { idempotent = true }:request("safe") end),
        echo.spawn(function() results[5] = client:emit("event") end),
        echo.spawn(function()
          local stream = client:create_stream("stream")
          stream:send("bytes")
          results[6] = stream:recv().data
          stream:finish()
        end),
        echo.spawn(function() results[7] = select(2, client:with { idempotent = true }:request("none")).code end),
      }
      echo.all(tasks)
      assert.same({ "unsafe", "unsafe", "safe", "safe", true, "bytes", "method_not_found" }, results)
      env.eventually(function() return ran.event == 1 end)
      assert.equal(2, ran.unsafe)
      assert.equal(2, ran.safe)
      assert.equal("accepted", client:stats().early_data)
    end)

    env.it("that a server refuses is sent again after the handshake", function()
      local server, ran = counting()
      local opts = { session_cache = store(), transport = early }
      visit(server, opts)
      local stolen = opts.session_cache.last
      assert.equal("safe", env.connect(server, opts):with { idempotent = true }:request("safe"))
      -- The same ticket again makes another hello, which is early too; the ticket of before a restart is void.
      server:stop { grace = 0 }
      local again, ran_again = counting { bind = server.address }
      local cache = { get = function() return stolen end, put = function() end }
      local client = env.connect(again, { session_cache = cache, transport = early })
      local calls = client:with { idempotent = true }
      local tasks = {}
      for i = 1, 20 do
        tasks[i] = echo.spawn(function() return calls:request("safe") end)
      end
      for i = 1, 20 do
        assert.equal("safe", (tasks[i]:wait()))
      end
      assert.equal("rejected", client:stats().early_data)
      assert.is_false(client:stats().resumed)
      assert.equal(20, ran_again.safe)
      assert.equal(1, ran.safe)
    end)

    env.it("needs both sides to want it", function()
      local server, ran = counting()
      local cache = store()
      visit(server, { session_cache = cache })
      local client = env.connect(server, { session_cache = cache })
      assert.equal("safe", client:with { idempotent = true }:request("safe"))
      assert.equal("none", client:stats().early_data)
      client:close()
      local plain = env.server({}, function(s)
        s:add_rpc("safe", function() return "safe" end, { idempotent = true })
      end)
      local opts = { session_cache = store(), transport = early }
      visit(plain, opts)
      client = env.connect(plain, opts)
      assert.equal("safe", client:with { idempotent = true }:request("safe"))
      assert.equal("none", client:stats().early_data)
      assert.is_true(client:stats().resumed)
      assert.equal(1, ran.safe)
    end)

    env.it("opens no session where on_connect or auth might mind being asked twice", function()
      local server, ran
      local asked, at = 0, nil
      server, ran = counting({}, function(s)
        s:on_connect(function(session)
          asked = asked + 1
          at = session:stats().handshake_time
        end)
      end)
      local opts = { session_cache = store(), transport = early }
      visit(server, opts)
      local client = env.connect(server, opts)
      assert.equal("safe", client:with { idempotent = true }:request("safe"))
      assert.equal(2, asked)
      assert.is_true(at > 0) -- the handshake was over
      assert.equal("accepted", client:stats().early_data) -- the bytes were there early all the same
      assert.equal(1, ran.safe)
    end)

    env.it("may ask an auth function that says it does not mind", function()
      local seen = {}
      local server = counting({}, function(s)
        s:auth(function(session, credentials)
          seen[#seen + 1] = session:stats().handshake_time
          return credentials.token
        end, { early = true })
      end)
      local opts = { session_cache = store(), transport = early, metadata = { token = "t" } }
      visit(server, opts)
      local client = env.connect(server, opts)
      assert.equal("safe", client:with { idempotent = true }:request("safe"))
      assert.equal(2, #seen)
      assert.equal("t", server:sessions()[1].identity)
      if env.kind == "sim" then
        assert.equal(0, seen[2]) -- it was early
      end
    end)

    env.it("knows a client by the certificate of the session it goes on from", function()
      local certs = require "spec.support.certs"
      local authority = certs.authority "Early Authority"
      local alice = certs.issue(authority, { names = { "alice" } })
      local server = counting({ ca = authority.file }, function(s)
        s:add_rpc("who", function(session) return session.peer_cert.subject end, { idempotent = true })
      end)
      local opts = { session_cache = store(), transport = early, cert = alice.cert, key = alice.key }
      visit(server, opts)
      local client = env.connect(server, opts)
      assert.equal("CN=alice", client:with { idempotent = true }:request("who"))
      assert.equal("accepted", client:stats().early_data)
    end)
  end)

  describe("exported keys", function()
    env.it("are the same at both ends, and others for every label, context and session", function()
      local server, client = env.pair()
      env.eventually(function() return server:sessions()[1] end)
      local one, other = client.session, server:sessions()[1]
      env.eventually(function() return other:export_key("EXPORTER-spec", 32) end)
      local key = assert(one:export_key("EXPORTER-spec", 32))
      assert.equal(32, #key)
      assert.equal(key, (other:export_key("EXPORTER-spec", 32)))
      assert.equal(key, (other:export_key("EXPORTER-spec", 32, "")))
      local within = assert(one:export_key("EXPORTER-spec", 32, "context"))
      assert.equal(within, (other:export_key("EXPORTER-spec", 32, "context")))
      assert.are_not.equal(key, within)
      assert.are_not.equal(key, (one:export_key("EXPORTER-other", 32)))
      assert.equal(1024, #one:export_key("EXPORTER-spec", 1024))
      local second = env.connect(server)
      assert.are_not.equal(key, (second.session:export_key("EXPORTER-spec", 32)))
      assert.has_error(function() one:export_key("EXPORTER-spec", 1025) end)
      assert.has_error(function() one:export_key(("x"):rep(250), 32) end)
      client:close()
      local none, err = one:export_key("EXPORTER-spec", 32)
      assert.is_nil(none)
      assert.equal("connection_closed", err.code)
    end)
  end)

  describe("packet keys", function()
    env.it("change when either side asks, under load, and nothing is lost", function()
      local server, client = env.pair(function(s)
        s:add_rpc("echo", function(_, x) return x end)
      end)
      assert.equal(1, (client:request("echo", 1)))
      local peer = server:sessions()[1]
      local payload, changed, done = ("x"):rep(30000), 0, false
      local load = echo.spawn(function()
        local i = 0
        while not done or i < 400 do
          i = i + 1
          assert.equal(payload .. i, (client:request("echo", payload .. i)))
        end
      end)
      local both = { client.session, peer }
      -- Both may ask for the same change; and the library makes the next keys some probe time-outs after it.
      local ends = echo.now() + 10
      while not done and load:status() ~= "failed" do
        done = echo.now() > ends or client:stats().key_updates >= 2 and peer:stats().key_updates >= 2
        for _, side in ipairs(both) do
          if side:update_key() then
            changed = changed + 1
          end
        end
        echo.sleep(0.005)
      end
      load:wait()
      assert.is_true(changed >= 2, "changes: " .. changed)
      assert.is_true(client:stats().key_updates >= 2 and peer:stats().key_updates >= 2)
    end)

    env.it("change by themselves after many packets", function()
      local few = { key_update_packets = 64 }
      local server, client = env.pair(function(s)
        s:add_rpc("size", function(_, x) return #x end)
      end, { transport = few }, { transport = few })
      local payload = ("x"):rep(100000)
      for _ = 1, 60 do
        assert.equal(100000, client:request("size", payload))
      end
      env.eventually(function()
        client:request("size", payload)
        return client:stats().key_updates >= 2
      end)
      assert.is_true(server:sessions()[1]:stats().key_updates >= 1)
    end)

    env.it("do not change twice at once", function()
      local _, client = env.pair()
      env.eventually(function() return client.session:update_key() end)
      local ok, err = client.session:update_key()
      assert.is_nil(ok)
      assert.equal("failed_precondition", err.code)
    end)
  end)
end)

describe("early data over a bad network", function()
  -- The second visit: forty calls at once, half of them early; every third server asks for proof of the address first, every
  -- fifth was started anew meanwhile.
  local function second_visit(net_, seed)
    local early, ran = { enable_0rtt = true }, {}
    local function run(_, i, ...)
      ran[i] = (ran[i] or 0) + 1
      return i, ...
    end
    local function start()
      local server = echo.server { bind = "10.0.0.1:5000", quiet = true, transport = early, retry = seed % 3 == 0 and "always" or "never" }
      server:add_rpc("safe", run, { idempotent = true })
      server:add_rpc("unsafe", run)
      return assert(server:start())
    end
    local server, ticket = start(), nil
    local one_ticket = { get = function() return ticket end, put = function(_, _, value) ticket = value or ticket end }
    local opts = { pin = server.pin, transport = early, session_cache = one_ticket, timeout = 100 }
    local client = assert(echo.connect(server.address, opts))
    echo.sleep(1)
    client:close()
    assert.truthy(ticket)
    if seed % 5 == 0 then
      server:stop { grace = 0 }
      server = start()
      opts.pin = server.pin
    end
    net_:path { loss = seed % 3 * 0.05, duplicate = 0.1, reorder = 0.1, delay = 0.02 }
    client = assert(echo.connect(server.address, opts))
    local tasks, payload = {}, ("x"):rep(seed % 4 * 3000)
    for i = 1, 40 do
      tasks[i] = echo.spawn(function()
        local calls = i % 2 == 0 and client:with { idempotent = true } or client
        local got, back = calls:request(i % 3 == 0 and "unsafe" or "safe", i, payload)
        assert.equal(i, got)
        assert.equal(payload, back)
      end)
    end
    assert(echo.all(tasks))
    for i = 1, 40 do
      assert.equal(1, ran[i], "how often call " .. i .. " ran")
    end
    assert.equal(seed % 5 == 0 and "rejected" or "accepted", client:stats().early_data)
    client:close()
    server:stop { grace = 0 }
  end

  it("loses nothing and runs nothing twice", function()
    for seed = 1, 30 do
      echo.sim.run({ seed = seed, limit = 300, delay = 0.02 }, function(net_) second_visit(net_, seed) end)
    end
  end)
end)
