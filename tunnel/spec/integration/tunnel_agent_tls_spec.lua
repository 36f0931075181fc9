-- An agent before backends of HTTP/2 and TLS: nginx and nghttpd.

local world = require "tunnel.spec.support.agent_world"
local backends = require "tunnel.spec.support.backends"
local certs = require "spec.support.certs"
local core = require "echostream.tunnel.core"
local echo = require "echostream"
local net = require "spec.support.net"

local function response(stream)
  local list = world.collect(stream)
  local body, words = {}, {}
  for _, part in ipairs(list) do
    table.insert(part[1] == "body" and body or words, part[1] == "body" and part[2] or world.words { part })
  end
  return table.concat(words, " "), table.concat(body), list
end

net.only("quic", function(env)
  if not backends.has_nginx or not backends.has_nghttpd then
    pending "nginx and nghttpd are wanted"
    return
  end

  local function new(services)
    return world.new(env, { real = true, agent = { services = services } })
  end

  local function protocol_of(w, service, kind)
    return w.agent.backends.services[service].backends[1]:pool(kind or "http"):stats().protocol
  end

  describe("an agent", function()
    env.it("shares one connection of HTTP/2 among many requests, without TLS too", function()
      local server = backends.nghttpd { ["a"] = ("x"):rep(100000) }
      local w = new { h2c = { backends = "http://127.0.0.1:" .. server.port, protocol = "h2c" } }
      local all = {}
      for i = 1, 50 do
        all[i] = echo.spawn(function() return response(world.request(w, world.head { path = "/a" })) end)
      end
      for i = 1, 50 do
        local words, body = all[i]:wait(20)
        assert.equal("note head:200 end", words)
        assert.equal(100000, #body)
      end
      local stats = w.agent.backends.services.h2c.backends[1]:pool("http"):stats()
      assert.equal(1, stats.open)
      assert.equal("h2", stats.protocol)
      assert.matches("^note head:404", (response(world.request(w, world.head { path = "/none" }))))
      server.kill()
      assert.matches("^head:502", (response(world.request(w, world.head { path = "/a", method = "POST" }, core.part("body", "x") .. world.END))))
    end)

    env.it("agrees on the protocol by ALPN, and believes only whom it is told to", function()
      local authority = certs.authority "ca.test"
      local cert = certs.issue(authority, { names = { "app.test" } })
      local nginx = backends.nginx { listen = "ssl http2", tls = cert }
      local url = "https://127.0.0.1:" .. nginx.port
      local function service(tls, protocol) return { backends = { { url = url, tls = tls, protocol = protocol } } } end
      local w = new {
        good = service { ca = authority.file, name = "app.test" },
        pinned = service { pin = cert.pin },
        old = service({ ca = authority.cert, name = "app.test" }, "http/1.1"),
        new = service({ ca = authority.cert, name = "app.test" }, "h2"),
        anybody = service { skip_verification = true },
        name = service { ca = authority.cert, name = "other.test" },
        issuer = service { ca = certs.authority("other.test").cert, name = "app.test" },
        pin = service { pin = certs.issue(authority, {}).pin },
        system = service(nil),
      }
      for name, protocol in pairs { good = "h2", pinned = "h2", old = "http/1.1", new = "h2", anybody = "h2" } do
        local words, body = response(world.request(w, world.head { { "x-echostream-service", name } }))
        assert.equal("note head:200 end", words, name)
        assert.equal("hello from nginx\n", body)
        assert.equal(protocol, protocol_of(w, name), name)
      end
      for _, name in ipairs { "name", "issuer", "pin", "system" } do
        local words, body = response(world.request(w, world.head { { "x-echostream-service", name } }))
        assert.equal("head:502 end", words, name)
        assert.matches(name == "pin" and "127.0.0.1:%d+: .*pin" or "127.0.0.1:%d+: .*certificate", body, name)
      end
      nginx.kill()
    end)

    env.it("shows a certificate to backends that ask for one", function()
      local authority = certs.authority "ca.test"
      local cert, own = certs.issue(authority, { names = { "app.test" } }), certs.issue(authority, { names = { "agent.test" } })
      local nginx = backends.nginx { listen = "ssl", tls = cert,
        server = ("ssl_client_certificate %s; ssl_verify_client on;"):format(authority.file) }
      local url = "https://127.0.0.1:" .. nginx.port
      local w = new {
        known = { backends = url, tls = { ca = authority.file, name = "app.test", cert = own.cert, key = own.key } },
        unknown = { backends = url, tls = { ca = authority.file, name = "app.test" } },
      }
      assert.equal("note head:200 end", (response(world.request(w, world.head { { "x-echostream-service", "known" } }))))
      assert.equal("note head:400 end", (response(world.request(w, world.head { { "x-echostream-service", "unknown" } }))))
      nginx.kill()
    end)
  end)
end)
