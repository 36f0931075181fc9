local listeners = require "echostream.tunnel.server.listeners"

local function check(...)
  local list = { ... }
  return function() return listeners.check("spec", list) end
end

describe("the option listen", function()
  it("is a list of places with their defaults", function()
    local list = check({ bind = "127.0.0.1:8080" }, { bind = "[::1]:0", name = "six", max_connections = 5, handshake_timeout = 2 },
      { bind = "unix:/run/x.sock", kind = "tcp", group = "db", service = "pg" })()
    assert.same({ "127.0.0.1", 8080, "http", "127.0.0.1:8080" }, { list[1].ip, list[1].port, list[1].kind, list[1].name })
    assert.same({ "::1", 0, "six", 5, 2 }, { list[2].ip, list[2].port, list[2].name, list[2].max_connections, list[2].handshake_timeout })
    assert.same({ "/run/x.sock", "tcp", "db", "pg" }, { list[3].path, list[3].kind, list[3].group, list[3].service })
    assert.same({}, listeners.check("spec", nil))
  end)

  it("says what is wrong with it", function()
    assert.error_matches(check { kind = "http" }, 'listen%[1%]: option "bind" is missing')
    assert.error_matches(check { bind = "example.org:80" }, "listen%[1%]: bind wants a numeric address and a port")
    assert.error_matches(check { bind = "127.0.0.1:99999" }, "listen%[1%]")
    assert.error_matches(check({ bind = "127.0.0.1:1" }, { bind = "127.0.0.1:1" }), "listen%[2%]: there is a listener \"127.0.0.1:1\" already")
    assert.error_matches(check { bind = "127.0.0.1:1", kind = "udp" }, 'option "kind" wants one of')
    assert.error_matches(check { bind = "127.0.0.1:1", kind = "tcp", tls = { certs = {} } }, "kind \"tcp\" takes no tls")
    assert.error_matches(check { bind = "127.0.0.1:1", tls = { certs = { { cert = "x" } } } }, 'certs%[1%]: option "key" is missing')
    assert.error_matches(check { bind = "127.0.0.1:1", limits = { head_byte = 1 } }, 'did you mean "head_bytes"')
    assert.error_matches(check { bind = "127.0.0.1:1", limits = { head_bytes = 1, head_fields = 1, target_bytes = 1, head_timeout = 1,
      idle_timeout = 1, body_timeout = 1, min_body_rate = 1, max_streams = 1, max_requests = -1 } }, 'option "max_requests" wants at least 0')
  end)
end)

describe("the certificates of a listener", function()
  it("are texts, or read from files each time", function()
    local scratch = require "spec.support.scratch"
    local path = scratch.path ".pem"
    local pem = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
    local function write(text)
      local file <close> = assert(io.open(path, "wb"))
      file:write(text)
    end
    write "one"
    local tls = { certs = { { cert = path, key = pem, names = { "a" } } }, strict = true, alpn = { "h2" } }
    assert.same({ { cert = "one", key = pem, names = { "a" } } }, listeners.certs(tls))
    write "two"
    assert.equal("two", listeners.certs(tls)[1].cert)
    os.remove(path)
    local none, err = listeners.certs(tls)
    assert.is_nil(none)
    assert.equal("io", err.code)
    assert.matches("certificate 1 cannot be read", err.message)
  end)
end)
