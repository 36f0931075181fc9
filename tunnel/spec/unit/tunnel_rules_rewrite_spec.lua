local fake = require "tunnel.spec.support.fake_head"
fake.install()
local core = require "echostream.tunnel.core"
local rules = require "echostream.tunnel.rules"

local function request(fields, info)
  info = info or {}
  info.peer_ip = info.peer_ip or "192.0.2.7"
  return assert(rules.request.new(fake.request(fields), info))
end

-- The head that a backend gets by a rule.
local function rewritten(rule, fields)
  rule.group = "g"
  local r = request(fields)
  local decision = assert(assert(rules.new { rule }):match(r))
  local ok, err = decision.rewrite(r)
  return ok and r.head or err, r
end

describe("a rewrite", function()
  it("replaces the prefix of a path, and keeps the query", function()
    local function path(prefix, from, to) return rewritten({ path = prefix, rewrite = { prefix = to } }, { path = from }).path end
    assert.equal("/v2/x?q=1", path("/api/*", "/api/x?q=1", "/v2"))
    assert.equal("/v2", path("/api/*", "/api", "/v2"))
    assert.equal("/", path("/api/*", "/api", "/"))
    assert.equal("/x", path("/api/*", "/api/x", "/"))
    assert.equal("/", path("/api/*", "/api/", "/"))
    assert.equal("/new/b/c", path({ "/a/*", "/a/b/*" }, "/a/b/b/c", "/new/"))
    assert.equal("/new/x", path("/*", "/x", "/new"))
    assert.equal("/new/", path("/*", "/", "/new"))
  end)

  it("sets path and host, and leaves what was judged to logs", function()
    local head, r = rewritten({ rewrite = { path = "/fixed/${method}", host = "backend.internal:8080" } }, { path = "/x?q" })
    assert.same({ "/fixed/GET?q", "backend.internal:8080", "/x", "example.org" }, { head.path, head.authority, r.path, r.host })
    assert.equal("/p?a=1&b=2", rewritten({ rewrite = { path = "/p?a=1" } }, { path = "/x?b=2" }).path)
  end)

  it("changes fields of requests and responses", function()
    local head = rewritten({ request_headers = { remove = { "Cookie", "x-a" }, set = { ["X-Client"] = "${client_ip} ${host}", accept = "z" },
      add = { ["x-more"] = "2" } } }, { { "cookie", "a=b" }, { "x-a", "1" }, { "x-client", "fake" }, { "accept", "y" }, { "x-more", "1" } })
    assert.same({ nil, nil, "192.0.2.7 example.org", "z", "1, 2" }, { head:get "cookie", head:get "x-a", head:get "x-client", head:get "accept",
      head:get "x-more" })
    local r = request {}
    local decision = assert(rules.new { { group = "g", response_headers = { set = { ["x-frame-options"] = "DENY" }, remove = "server" } } }):match(r)
    local response = fake.head("response", { status = 200, { "server", "nginx" } })
    assert.is_true(decision.response(r, response))
    assert.same({ "DENY", nil }, { response:get "x-frame-options", response:get "server" })
  end)

  it("by a regular expression uses its groups", function()
    if not core.regex then return pending "the C module is not built" end
    local function path(pattern, with, from) return rewritten({ rewrite = { regex = { pattern = pattern, with = with } } }, { path = from }).path end
    assert.equal("/u/7/profile?q", path("^/users/([0-9]+)(/.*)?$", "/u/\\1\\2", "/users/7/profile?q"))
    assert.equal("/u/7", path("^/users/([0-9]+)(/.*)?$", "/u/\\1\\2", "/users/7"))
    assert.equal("/other", path("^/users/([0-9]+)", "/u/\\1", "/other"))
    assert.equal("/a-b/", path("/b/", "-\\0", "/a/b/"):gsub("%-/", "-"))
    local err = rewritten({ rewrite = { regex = { pattern = "^/x", with = "" } } }, { path = "/x" })
    assert.equal(400, err.http_status)
    local _, problem = rules.new { { group = "g", rewrite = { regex = { pattern = "(", with = "" } } } }
    assert.truthy(problem.message:find("rules[1].rewrite.regex.pattern", 1, true))
  end)

  it("never makes a path that climbs", function()
    local err = rewritten({ rewrite = { path = "/a/../../b" } }, {})
    assert.equal(400, err.http_status)
  end)
end)

describe("an answer of a rule's own", function()
  local function answer(rule, fields)
    local r = request(fields)
    return assert(assert(rules.new { rule }):match(r)).answer(r)
  end

  it("is a redirect", function()
    local head, body = answer({ redirect = "https://www.${host}${uri}" }, { path = "/a%20b?q=1", authority = "example.org:80" })
    assert.same({ 307, "https://www.example.org/a%20b?q=1", "" }, { head.status, head:get "location", body })
    assert.equal(301, answer({ redirect = { to = "/x", status = 301 } }, {}).status)
  end)

  it("is a fixed response", function()
    local rule = { respond = { status = 503, headers = { ["content-type"] = "text/html", ["x-why"] = "maintenance" }, body = "<h1>${host}</h1>" } }
    local head, body = answer(rule, {})
    assert.same({ 503, "text/html", "maintenance", "20", "<h1>example.org</h1>" }, { head.status, head:get "content-type", head:get "x-why",
      head:get "content-length", body })
    head, body = answer(rule, { method = "HEAD" })
    assert.same({ "20", "" }, { head:get "content-length", body })
    head, body = answer({ respond = { status = 204 } }, {})
    assert.same({ 204, nil, "" }, { head.status, head:get "content-length", body })
  end)

  it("escapes what visitors say in HTML", function()
    local function body(kind) return select(2, answer({ respond = { status = 404, headers = { ["Content-Type"] = kind },
      body = "<b>${query}</b>" } },
      { path = "/?<script>&'\"" })) end
    assert.equal("<b>&lt;script&gt;&amp;&#39;&quot;</b>", body "text/html; charset=utf-8")
    assert.equal("<b><script>&'\"</b>", body "text/plain")
  end)

  it("is never taken for the tunnel that was asked for", function()
    for _, status in ipairs { 200, 204, 403 } do
      local head = answer({ kind = { "websocket", "connect" }, respond = { status = status, body = "x" } },
        { method = "CONNECT", protocol = "websocket" })
      assert.equal(status == 403 and 403 or 404, head.status)
    end
  end)

  it("speaks gRPC to gRPC", function()
    local head, body = answer({ respond = { status = 503, body = "closed" } }, { { "content-type", "application/grpc" } })
    assert.same({ 200, "14", "closed", "" }, { head.status, head:get "grpc-status", head:get "grpc-message", body })
  end)
end)
