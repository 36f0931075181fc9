local echo = require "echostream"
local certs = require "spec.support.certs"
local net = require "spec.support.net"

local authority, other

setup(function()
  authority = certs.authority "Spec Authority"
  other = certs.authority "Another Authority"
end)

local function hello(server)
  server:add_rpc("hello", function() return "hello" end)
  server:add_rpc("who", function(session)
    local cert = session.peer_cert
    return cert and cert.subject, cert and cert.pin, cert and cert.names, cert and cert.issuer
  end)
end

net.each(function(env)
  local function with(cert, opts)
    opts = opts or {}
    opts.cert, opts.key = cert.cert, cert.key
    return env.server(opts, hello)
  end

  describe("a client checks the server:", function()
    local function refused(server, client_options, word, alert)
      local _, err = env.client(nil, client_options):connect(server.address)
      assert.equal("unauthenticated", err and err.code, tostring(err))
      assert.truthy(err.message:find(word, 1, true), err.message)
      assert.equal(0x100 + alert, err.details.code)
      assert.is_false(err.details.app)
    end

    env.it("an address is one of the certificate's addresses", function()
      local server = with(certs.issue(authority, { names = { "a.example", "127.0.0.1" } }))
      assert.equal("hello", assert(env.client(nil, { ca = authority.file }):connect(server.address)):request("hello"))
      refused(with(certs.issue(authority, { names = { "a.example", "127.0.0.2" } })), { ca = authority.file },
        'for another name than "127.0.0.1"', 42)
    end)

    env.it("one of its authority, for its name, is let in", function()
      local server = with(certs.issue(authority, { names = { "a.example" } }))
      local client = assert(env.client(nil, { ca = authority.file, server_name = "a.example" }):connect(server.address))
      assert.equal("hello", client:request("hello"))
      assert.equal("CN=a.example", client.session.peer_cert.subject)
      assert.equal("ca", client.session.peer_cert.checked)
      assert.equal("CN=Spec Authority", client.session.peer_cert.issuer)
      assert.same({ "a.example" }, client.session.peer_cert.names)
      assert.equal(server.pin, client.session.peer_cert.pin)
      assert.equal(server.cert_hash, client.session.peer_cert.hash)
    end)

    env.it("expired", function()
      local server = with(certs.issue(authority, { from = -10, to = -1 }))
      refused(server, { ca = authority.file, server_name = "localhost" }, "the server's certificate has expired", 45)
    end)

    env.it("not valid yet", function()
      local server = with(certs.issue(authority, { from = 1, to = 10 }))
      refused(server, { ca = authority.file, server_name = "localhost" }, "not valid yet", 45)
    end)

    env.it("wrong name", function()
      local server = with(certs.issue(authority, { names = { "a.example" } }))
      refused(server, { ca = authority.file, server_name = "b.example" }, 'for another name than "b.example"', 42)
    end)

    env.it("self-signed", function()
      local server = with(certs.issue(nil, {}))
      refused(server, { ca = authority.file, server_name = "localhost" }, "unknown issuer", 48)
    end)

    env.it("of another authority", function()
      local server = with(certs.issue(other, {}))
      refused(server, { ca = authority.file, server_name = "localhost" }, "unknown issuer", 48)
    end)

    env.it("not meant for servers", function()
      local server = with(certs.issue(authority, { servers = false }))
      refused(server, { ca = authority.file, server_name = "localhost" }, "is not meant for servers", 42)
    end)

    env.it("wrong pin, and both keys are named", function()
      local server = with(certs.issue(authority, {}))
      local wrong = "sha256:" .. ("0"):rep(64)
      refused(server, { pin = wrong }, server.pin, 42)
      refused(server, { pin = { wrong, wrong } }, "or another of the pins", 42)
    end)

    env.it("whom to trust has to be said, and not to check has to be asked for and is logged", function()
      local server = with(certs.issue(nil, {}))
      local _, err = env.client(nil, {}):connect(server.address)
      assert.equal("unauthenticated", err.code)
      assert.truthy(err.message:find("give pin", 1, true))
      assert(env.client(nil, { skip_verification = true }):connect(server.address))
      assert.equal("warn", env.logged("without verifying").level)
    end)
  end)

  describe("a server checks the client:", function()
    local function refused(server, client_options, word)
      client_options = client_options or {}
      client_options.pin = server.pin
      -- In TLS 1.3 a client is done before the server has looked: the refusal is what its first call is told.
      local client = env.client(nil, client_options)
      local ok, err = client:connect(server.address)
      if ok then
        ok, err = client:request("hello")
        assert.is_nil(ok)
      end
      assert.equal("unauthenticated", err.code, tostring(err))
      assert.truthy(err.message:find(word, 1, true), err.message)
      assert.equal(0, #server:sessions())
    end

    env.it("its certificate is who it is", function()
      local server = env.server({ ca = authority.file }, hello)
      local alice = certs.issue(authority, { names = { "alice" } })
      local client = env.connect(server, { cert = alice.cert, key = alice.key })
      local subject, pin, names, issuer = client:request("who")
      assert.equal("CN=alice", subject)
      assert.equal(alice.pin, pin)
      assert.same({ "alice" }, names)
      assert.equal("CN=Spec Authority", issuer)
      local cert = server:sessions()[1].peer_cert
      assert.equal("ca", cert.checked)
      assert.matches("^%x+$", cert.serial)
      assert.matches("^sha256:%x+$", cert.hash)
      assert.is_true(cert.not_before < os.time() and cert.not_after > os.time())
      assert.equal(alice.pin, server:sessions()[1]:peer_pin())
    end)

    env.it("none", function()
      refused(env.server({ ca = authority.file }, hello), {}, "the client sent no certificate")
    end)

    env.it("expired", function()
      local late = certs.issue(authority, { from = -10, to = -1 })
      refused(env.server({ ca = authority.file }, hello), { cert = late.cert, key = late.key },
        "the client's certificate has expired")
    end)

    env.it("of another authority", function()
      local foreign = certs.issue(other, {})
      refused(env.server({ ca = authority.file }, hello), { cert = foreign.cert, key = foreign.key }, "unknown issuer")
    end)

    env.it("not meant for clients", function()
      local usage = certs.issue(authority, { clients = false })
      refused(env.server({ ca = authority.file }, hello), { cert = usage.cert, key = usage.key }, "is not meant for clients")
    end)

    env.it("by its key", function()
      local alice, bob = certs.issue(nil, { names = { "alice" } }), certs.issue(nil, { names = { "bob" } })
      local server = env.server({ client_pins = { alice.pin } }, hello)
      assert.equal("CN=alice", env.connect(server, { cert = alice.cert, key = alice.key }):request("who"))
      server:sessions()[1]:close()
      refused(server, { cert = bob.cert, key = bob.key }, bob.pin)
    end)

    env.it("who has none is let in where that is allowed, who has a wrong one is not", function()
      local server = env.server({ ca = authority.file, require_client_cert = false }, hello)
      local alice, foreign = certs.issue(authority, { names = { "alice" } }), certs.issue(other, {})
      local client = env.connect(server)
      assert.is_nil((client:request("who")))
      client:close()
      client = env.connect(server, { cert = alice.cert, key = alice.key })
      assert.equal("CN=alice", client:request("who"))
      client:close()
      env.eventually(function() return #server:sessions() == 0 end)
      refused(server, { cert = foreign.cert, key = foreign.key }, "unknown issuer")
    end)

    env.it("any certificate will do where only its key counts", function()
      local server = env.server({ require_client_cert = true }, hello)
      local alice = certs.issue(nil, { names = { "alice" } })
      local _, pin = env.connect(server, { cert = alice.cert, key = alice.key }):request("who")
      assert.equal(alice.pin, pin)
      server:sessions()[1]:close()
      refused(server, {}, "the client sent no certificate")
    end)

    env.it("refuses options that contradict each other", function()
      assert.has_error(function() echo.server { ca = "x.pem", client_pins = { "sha256:" .. ("0"):rep(64) } } end)
      assert.has_error(function() echo.server { client_pins = { "md5:1" } } end)
      assert.has_error(function() echo.server { require_client_cert = false } end)
      assert.has_error(function() echo.server { certs = { "a.pem" } } end)
    end)
  end)

  describe("a server with several names", function()
    env.it("shows each client the certificate for the name it asks for", function()
      local function cert(name)
        return certs.issue(authority, { names = { name } })
      end
      local default, a, wild, deep = cert "default.example", cert "a.example", cert "*.b.example", cert "x.b.example"
      local server = with(default, { certs = {
        ["A.example"] = { a.cert, a.key },
        ["*.b.example"] = { cert = certs.file(wild.cert), key = certs.file(wild.key) },
        ["x.b.example"] = { deep.cert, deep.key },
      } })
      local expected = {
        ["a.example"] = a, ["y.b.example"] = wild, ["x.b.example"] = deep, ["b.example"] = default,
        ["z.y.b.example"] = default, ["default.example"] = default, ["elsewhere.example"] = default,
      }
      for name, one in pairs(expected) do
        local client = env.client(nil, { pin = one.pin, server_name = name })
        assert(client:connect(server.address))
        assert.equal(one.pin, client.session:peer_pin(), name)
        client:close()
      end
      local client = assert(env.client(nil, { ca = authority.file, server_name = "y.b.example" }):connect(server.address))
      assert.equal("hello", client:request("hello"))
    end)

    env.it("refuses names that are none", function()
      local one = certs.issue(nil, {})
      for _, name in ipairs { "", "*", "a b", "*.", "a.*.example", ".example" } do
        local server = echo.server { quiet = true, cert = one.cert, key = one.key, certs = { [name] = { one.cert, one.key } } }
        local ok, err = server:start()
        assert.is_nil(ok, name)
        assert.equal("invalid_argument", err.code)
      end
    end)
  end)

  describe("a running server", function()
    env.it("replaces its certificate: sessions under way keep theirs, new ones get the new one, the key stays", function()
      local first = certs.issue(authority, {})
      local server = with(first)
      local hash = server.cert_hash
      local before = env.connect(server)
      local renewed = certs.issue(authority, { key = first.key, to = 60 })
      assert.is_true(server:set_certificate { cert = renewed.cert })
      assert.equal(first.pin, server.pin)
      assert.not_equal(hash, server.cert_hash)
      assert.equal("hello", before:request("hello"))
      assert.equal(hash, before.session.peer_cert.hash)
      local after = env.connect(server)
      assert.equal(server.cert_hash, after.session.peer_cert.hash)
      assert.equal("hello", after:request("hello"))
      local another = certs.issue(authority, {})
      assert.is_true(server:set_certificate { cert = another.cert, key = another.key })
      assert.equal(another.pin, server.pin)
      assert.equal("hello", env.connect(server):request("hello"))
    end)

    env.it("stays as it was when the new one is bad", function()
      local server = with(certs.issue(authority, {}))
      local pin = server.pin
      local stranger = certs.issue(authority, {})
      local ok, err = server:set_certificate { cert = stranger.cert } -- not of this key
      assert.is_nil(ok)
      assert.truthy(err)
      assert.equal(pin, server.pin)
      assert.equal("hello", env.connect(server):request("hello"))
      assert.has_error(function() server:set_certificate { crt = "x" } end)
    end)

    env.it("reads its files again when asked without options", function()
      local first, second = certs.issue(authority, {}), certs.issue(authority, {})
      local cert, key = certs.file(first.cert), certs.file(first.key)
      local server = env.server({ cert = cert, key = key }, hello)
      assert.equal(first.pin, server.pin)
      for path, text in pairs { [cert] = second.cert, [key] = second.key } do
        local file = assert(io.open(path, "w"))
        file:write(text)
        file:close()
      end
      assert.is_true(server:set_certificate())
      assert.equal(second.pin, server.pin)
      assert.equal("hello", env.connect(server):request("hello"))
    end)
  end)

  describe("a TLS policy", function()
    env.it("chooses among what QUIC can use", function()
      local server = env.server({ tls_priority = "NORMAL:-CIPHER-ALL:+CHACHA20-POLY1305" }, hello)
      assert.equal("hello", env.connect(server):request("hello"))
      local _, err = env.client(server, { tls_priority = "NORMAL:-CIPHER-ALL:+AES-256-GCM" }):connect(server.address)
      assert.truthy(err)
    end)

    env.it("is refused when it is no policy or leaves nothing", function()
      for _, policy in ipairs { "NONSENSE", "NORMAL:-CIPHER-ALL:+AES-128-CBC", "NORMAL:-GROUP-ALL" } do
        local ok, err = echo.server({ quiet = true, state_dir = net.state_dir(), tls_priority = policy }):start()
        assert.is_nil(ok, policy)
        assert.equal("invalid_argument", err.code)
      end
    end)
  end)

  env.it("a key log gets the secrets of every connection, for its owner only, and the log says so", function()
    local path = certs.file ""
    os.remove(path)
    local server = env.server({ keylog = path }, hello)
    assert.equal("hello", env.connect(server):request("hello"))
    local file = assert(io.open(path))
    local text = file:read "a"
    file:close()
    for _, label in ipairs { "CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_0",
      "SERVER_TRAFFIC_SECRET_0" } do
      assert.matches(label .. " %x+ %x+\n", text)
    end
    local pipe = assert(io.popen("stat -c %a '" .. path .. "'"))
    assert.equal("600\n", pipe:read "a")
    pipe:close()
    assert.equal("warn", env.logged("keylog").level)
    os.remove(path)
  end)
end)

describe("raw QUIC", function()
  it("has certificates by name, client certificates and other certificates while it runs", function()
    local default, a, alice = certs.issue(nil, {}), certs.issue(nil, { names = { "a.example" } }), certs.issue(nil, {})
    local listener = assert(echo.quic.listen("127.0.0.1:0", {
      alpn = { "test/1" }, cert = default.cert, key = default.key, certs = { ["a.example"] = { a.cert, a.key } },
      client_pins = { alice.pin },
    }))
    local mine = { alpn = { "test/1" }, cert = alice.cert, key = alice.key, pin = a.pin, server_name = "a.example" }
    local there = assert(echo.quic.connect(listener.address, mine))
    local here = assert(listener:accept(5))
    assert.equal(alice.pin, here:peer_cert().pin)
    assert.equal(a.pin, there:peer_cert().pin)
    there:close()
    local next_one = certs.issue(nil, {})
    assert.is_true(listener:set_certificate { cert = next_one.cert, key = next_one.key })
    assert.equal(next_one.pin, listener.pin)
    mine.pin, mine.server_name = next_one.pin, nil
    there = assert(echo.quic.connect(listener.address, mine))
    there:close()
    mine.cert, mine.key = nil, nil
    local refused = assert(echo.quic.connect(listener.address, mine))
    assert.equal("unauthenticated", refused:wait_closed(5).code)
    listener:close()
  end)
end)

describe("the environment's SSLKEYLOGFILE", function()
  it("gets the secrets too, and is warned of once", function()
    local process = require "spec.support.process"
    local dir = process.directory()
    process.write(dir .. "/two.lua", [[
      local echo = require "echostream"
      local server = echo.server { quiet = true, state_dir = arg[1] }
      server:add_rpc("hello", function() return "hello" end)
      assert(server:start())
      for _ = 1, 2 do
        local client = assert(echo.connect(server.address, { pin = server.pin }))
        assert(client:request("hello") == "hello")
        client:close()
      end
      server:stop { grace = 0 }
    ]])
    local result = process.run(("exec lua5.4 %s/two.lua %s"):format(dir, dir), { env = { SSLKEYLOGFILE = dir .. "/keys" } })
    assert.equal(0, result.code, result.err)
    assert.equal(1, select(2, result.err:gsub("SSLKEYLOGFILE", "")), result.err)
    assert.matches("CLIENT_TRAFFIC_SECRET_0 %x+ %x+\n", process.read(dir .. "/keys"))
    process.remove(dir)
  end)
end)
