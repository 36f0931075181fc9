local fake = require "tunnel.spec.support.fake_head"
fake.install()
local forwarded = require "echostream.tunnel.forwarded"
local rules = require "echostream.tunnel.rules"

local function seen(trusted, peer, fields, protocol)
  local one = assert(forwarded.new { trusted = trusted })
  local r = assert(rules.request.new(fake.request(fields), { peer_ip = peer, port = 443, protocol = protocol or "h2" }))
  one:judge(r)
  one:apply(r)
  return r.client_ip, r.head, r
end

describe("forwarded fields", function()
  it("tell backends who asks, and replace what nobody trusted said", function()
    local client, head, r = seen({}, "192.0.2.7", { { "x-forwarded-for", "1.2.3.4" }, { "forwarded", "for=1.2.3.4" }, { "x-forwarded-proto",
      "http" },
      { "x-forwarded-host", "evil" }, { "x-forwarded-port", "1" }, { "x-real-ip", "1.2.3.4" } })
    assert.same({ "192.0.2.7", "192.0.2.7", "https", "example.org", "443", nil, false },
      { client, head:get "x-forwarded-for", head:get "x-forwarded-proto", head:get "x-forwarded-host", head:get "x-forwarded-port",
        head:get "x-real-ip", r.trusted })
    assert.equal('for=192.0.2.7;by=_echostream;proto=https;host="example.org"', head:get "forwarded")
    assert.equal("2 echostream", head:get "via")
  end)

  it("name each one's own hop, whoever was before", function()
    local one = assert(forwarded.new())
    local function told(peer, host, listens_with_tls)
      local r = assert(rules.request.new(fake.request { authority = host },
        { peer_ip = peer, port = 443, protocol = "h2", tls = listens_with_tls }))
      one:judge(r)
      one:apply(r)
      return { r.head:get "forwarded", r.head:get "x-forwarded-host" }
    end
    local a = { 'for=192.0.2.7;by=_echostream;proto=https;host="a.example"', "a.example" }
    assert.same(a, told("192.0.2.7", "a.example", true))
    assert.same(a, told("192.0.2.7", "a.example", true))
    assert.same({ 'for=192.0.2.7;by=_echostream;proto=http;host="a.example"', "a.example" }, told("192.0.2.7", "a.example", false))
    assert.same({ 'for=192.0.2.7;by=_echostream;proto=http;host="b.example"', "b.example" }, told("192.0.2.7", "b.example", false))
    assert.same({ 'for="[2001:db8::5]";by=_echostream;proto=http;host="b.example"', "b.example" }, told("2001:db8::5", "b.example", false))
    assert.same(a, told("192.0.2.7", "a.example", true))
  end)

  it("go on from proxies that are trusted, as far as they are", function()
    local list = { "10.0.0.0/8", "::1" }
    local client, head = seen(list, "10.0.0.1", { { "x-forwarded-for", "6.6.6.6, 192.0.2.9, 10.0.0.2" }, { "x-forwarded-proto", "http" },
      { "x-forwarded-host", "public.example.org" }, { "x-forwarded-port", "80" }, { "via", "1.1 front" } })
    assert.same({ "192.0.2.9", "6.6.6.6, 192.0.2.9, 10.0.0.2, 10.0.0.1", "http", "public.example.org", "80", "1.1 front, 2 echostream" },
      { client, head:get "x-forwarded-for", head:get "x-forwarded-proto", head:get "x-forwarded-host", head:get "x-forwarded-port", head:get "via" })
    assert.equal('for=6.6.6.6, for=192.0.2.9, for=10.0.0.2, for=10.0.0.1;by=_echostream;proto=http;host="public.example.org"', head:get "forwarded")
    assert.equal("10.0.0.5", (seen(list, "10.0.0.1", { { "x-forwarded-for", "10.0.0.5" } })))
    assert.equal("10.0.0.1", (seen(list, "10.0.0.1", {})))
    assert.equal("192.0.2.8", (seen(list, "::1", { { "x-forwarded-for", "192.0.2.8:1234" } })))
    assert.equal("2001:db8::5", (seen(list, "::1", { { "x-forwarded-for", "[2001:db8::5]:99" } })))
    assert.equal("10.0.0.1", (seen(list, "10.0.0.1", { { "x-forwarded-for", "192.0.2.1, unknown" } })))
  end)

  it("are read from Forwarded, too", function()
    local client, head, r = seen({ "10.0.0.0/8" }, "10.0.0.1",
      { { "forwarded", 'for="[2001:db8::1]:4711";proto=http;host=public.example.org, For=10.0.0.9' } }, "http/1.1")
    assert.same({ "2001:db8::1", "http", "public.example.org", "2001:db8::1, 10.0.0.9, 10.0.0.1" },
      { client, r.scheme, r.forwarded_host, head:get "x-forwarded-for" })
    assert.truthy(head:get "forwarded":find('^for="%[2001:db8::1%]:4711";proto=http;host=public.example.org, For=10.0.0.9, for=10.0.0.1;by='))
    assert.equal("1.1 echostream", head:get "via")
  end)

  it("quote IPv6", function()
    local _, head = seen({}, "2001:db8::7", {})
    assert.same({ "2001:db8::7", 'for="[2001:db8::7]";by=_echostream;proto=https;host="example.org"' }, { head:get "x-forwarded-for",
      head:get "forwarded" })
  end)

  it("look at no more hops than there can be", function()
    local many = ("10.0.0.2, "):rep(500) .. "10.0.0.3"
    assert.equal("10.0.0.2", (seen({ "10.0.0.0/8" }, "10.0.0.1", { { "x-forwarded-for", "192.0.2.1, " .. many } })))
  end)

  it("have options that are checked", function()
    assert.truthy(select(2, forwarded.new { trusted = { "x" } }).message:find "^forwarded.trusted: ")
    assert.truthy(select(2, forwarded.new({ name = "a b" }, "f")).message:find "^f.name: ")
    local one = assert(forwarded.new { name = "edge", trusted = { "all" } })
    assert.is_true(one:is_trusted "1.2.3.4")
    local head = fake.head("response", { status = 200 })
    one:via(head, "h3")
    assert.equal("3 edge", head:get "via")
  end)
end)
