local core = require "echostream.core"
local certs = require "spec.support.certs"
local identity = require "echostream.tls.identity"
local log = require "echostream.log"
local tls = require "echostream.tls"

local pin = "sha256:" .. ("ab"):rep(32)

describe("TLS options", function()
  it("say whom a client trusts", function()
    assert.is_nil(tls.trust("here", {}))
    assert.same({ trust = "skip" }, tls.trust("here", { skip_verification = true, pin = pin }))
    assert.same({ trust = "pin", pins = { identity.pin_bytes(pin) } }, tls.trust("here", { pin = pin, ca = "x.pem" }))
    assert.same({ trust = "system" }, tls.trust("here", { ca = "system" }))
    assert.same({ trust = "ca", ca_file = "x.pem" }, tls.trust("here", { ca = "x.pem" }))
    assert.has_error(function() tls.trust("here", { pin = { pin, "md5:1" } }) end)
    assert.has_error(function() tls.trust("here", { pin = {} }) end)
  end)

  it("refuse a client that trusts nobody, with the ways out", function()
    local context, err = tls.client({}, nil, "a.example")
    assert.is_nil(context)
    assert.equal("unauthenticated", err.code)
    assert.matches("skip_verification", err.message)
  end)

  it("of a server that contradict each other raise", function()
    tls.check_server("here", { ca = "x.pem", require_client_cert = false })
    tls.check_server("here", { require_client_cert = true })
    assert.has_error(function() tls.check_server("here", { ca = "x.pem", client_pins = { pin } }) end)
    assert.has_error(function() tls.check_server("here", { require_client_cert = false }) end)
    assert.has_error(function() tls.check_server("here", { client_pins = {} }) end)
    assert.has_error(function() tls.check_server("here", { certs = { ["a.example"] = "a.pem" } }) end)
  end)

  it("of a server change by what is given only", function()
    local before = { cert = "a.pem", key = "a.key", grace = 3 }
    assert.same({ cert = "b.pem", key = "a.key", grace = 3 }, tls.changed("here", before, { cert = "b.pem" }))
    assert.same(before, tls.changed("here", before, nil))
    assert.has_error(function() tls.changed("here", {}, { cert = "b.pem" }) end)
    assert.has_error(function() tls.changed("here", before, { grace = 5 }) end)
  end)

  it("make a server's context, with a made certificate or with its own", function()
    local key = core.key_generate()
    local made = assert(tls.server("here", {}, key, { "localhost" }))
    local one = certs.issue(nil, {})
    local own = assert(tls.server("here", { cert = one.cert, key = one.key }))
    assert.equal(identity.pin_bytes(one.pin), (own:pin()))
    assert.not_equal((own:pin()), (made:pin()))
    local none, err = tls.server("here", { cert = one.cert, key = key })
    assert.is_nil(none)
    assert.truthy(err.message)
  end)

  it("name tickets by server, protocol, trust and ourselves", function()
    local seen = {}
    local store = { get = function(_, key) seen[key] = true end, put = function() end }
    local one = certs.issue(nil, {})
    log.set(function() end)
    local function look(opts, host, port, alpn)
      opts.session_cache = store
      local trust = tls.trust("here", opts)
      local context = assert(tls.client(opts, trust, host or "a.example"))
      local _, keep = tls.tickets(opts, {}, trust, context, host or "a.example", port or 1, alpn or "echostream/1")
      assert.is_function(keep)
    end
    look { pin = pin }
    look { pin = pin }
    look({ pin = pin }, "b.example")
    look({ pin = pin }, nil, 2)
    look({ pin = pin }, nil, nil, "other/1")
    look { skip_verification = true }
    look { pin = pin, server_name = "c.example" }
    look { pin = pin, cert = one.cert, key = one.key }
    log.set(nil)
    local n = 0
    for _ in pairs(seen) do n = n + 1 end
    assert.equal(7, n)
    local trust = tls.trust("here", { pin = pin })
    assert.is_nil((tls.tickets({}, {}, trust, tls.client({}, trust, "a.example"), "a.example", 1, "x")))
  end)

  it("describe certificates", function()
    local one = certs.issue(nil, { names = { "alice", "a@example.org", "10.0.0.1" } })
    local described = tls.describe(core.cert_inspect(one.cert))
    assert.equal(one.pin, described.pin)
    assert.matches("^sha256:%x+$", described.hash)
    assert.equal("CN=alice", described.subject)
    assert.equal("CN=alice", described.issuer)
    assert.same({ "alice", "a@example.org", "10.0.0.1" }, described.names)
    assert.is_nil(described.spki)
    assert.is_nil(tls.describe(nil))
  end)
end)
