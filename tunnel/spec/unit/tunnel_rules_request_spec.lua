local fake = require "tunnel.spec.support.fake_head"
fake.install()
local request = require "echostream.tunnel.rules.request"

local function of(fields, info)
  info = info or {}
  info.peer_ip = info.peer_ip or "192.0.2.1"
  return request.new(fake.request(fields), info)
end

describe("a request", function()
  it("is what rules see", function()
    local r = assert(of({ authority = "Example.org:8443", path = "/a/%2e./b?q=%41", [1] = { "accept", "*/*" } },
      { port = 443, listener = "public", protocol = "h2", sni = "Example.Org", peer_port = 9, received = 1.5 }))
    assert.same({ "example.org", 8443, "/b", "q=%41", "GET", "https", "http", "h2", 443, "public", "192.0.2.1", 9, "192.0.2.1", "example.org", 1.5 },
      { r.host, r.host_port, r.path, r.query, r.method, r.scheme, r.kind, r.protocol, r.port, r.listener, r.peer_ip, r.peer_port, r.client_ip, r.sni,
        r.received })
  end)

  it("has the scheme by which it came, not the one that it claims", function()
    assert.equal("http", assert(of({ scheme = "https" }, { tls = false })).scheme)
    assert.equal("https", assert(of({ scheme = "http" }, { tls = true })).scheme)
    assert.equal("https", assert(of({ scheme = "https" })).scheme)
  end)

  it("gives the backend what was judged", function()
    local r = assert(of { authority = "EXAMPLE.org.:80", path = "//a/./%7euser/?x" })
    assert.equal("example.org:80", r.head.authority)
    assert.equal("/a/~user/?x", r.head.path)
  end)

  it("knows its kind", function()
    local function kind(fields) return assert(of(fields)).kind end
    assert.equal("http", kind {})
    assert.equal("http", kind { [1] = { "content-type", "application/json" } })
    assert.equal("http", kind { [1] = { "content-type", "application/grpc-web" } })
    assert.equal("grpc", kind { [1] = { "content-type", "application/grpc" } })
    assert.equal("grpc", kind { [1] = { "content-type", "Application/gRPC+proto" } })
    assert.equal("grpc", kind { [1] = { "content-type", "application/grpc; charset=x" } })
    assert.equal("websocket", kind { method = "CONNECT", protocol = "websocket" })
    local connect = assert(request.new(fake.head("request", { method = "CONNECT", authority = "db:5432" }), { peer_ip = "::1" }))
    assert.same({ "connect", "db", 5432, "" }, { connect.kind, connect.host, connect.host_port, connect.path })
  end)

  it("that asks for another protocol is judged by its path too, whatever its method", function()
    for _, method in ipairs { "CONNECT", "POST" } do
      local r = assert(of { method = method, protocol = "tcp", path = "/public/..//admin?x=1" })
      assert.same({ "connect", "/admin", "x=1", "/admin?x=1" }, { r.kind, r.path, r.query, r.head.path })
      local none, err = of { method = method, protocol = "tcp", path = "/a%00b" }
      assert.same({ nil, 400 }, { none, err.http_status })
    end
  end)

  it("of a connection has no head", function()
    local r = assert(request.new(nil, { kind = "tls", peer_ip = "::1", sni = "DB.example.org", port = 443 }))
    assert.same({ "tls", "db.example.org", "raw", 443, "" }, { r.kind, r.host, r.protocol, r.port, r.path })
  end)

  it("that can be read in two ways is refused", function()
    for _, fields in ipairs { { authority = "a b" }, { authority = "u@h" }, { path = "/../x" }, { path = "x" }, { path = "*" }, { path = "" },
      { path = "/#f" } } do
      fields.method, fields.authority, fields.path = fields.method or "GET", fields.authority or "example.org", fields.path or "/"
      local r, err = request.new(fake.head("request", fields), { peer_ip = "::1" }) -- codecs refuse some of them before
      assert.is_nil(r)
      assert.equal(400, err.http_status)
    end
    assert.equal("*", assert(of { method = "OPTIONS", path = "*" }).path)
    assert.is_nil(request.new(fake.head("request", { method = "CONNECT" }), { peer_ip = "::1" }))
  end)
end)
