local fake = require "tunnel.spec.support.fake_head"
fake.install()
local codec = require "echostream.codec"
local log = require "echostream.log"
local rules = require "echostream.tunnel.rules"

local function request(fields, info)
  info = info or {}
  info.peer_ip = info.peer_ip or "192.0.2.7"
  info.port = info.port or 443
  info.protocol = info.protocol or "h2"
  return assert(rules.request.new(fake.request(fields), info))
end

-- The group that a list gives a request, or the status.
local function group(list, fields, info)
  local decision, err = assert(rules.new(list)):match(request(fields, info))
  return decision and decision.group or err.http_status
end

-- Runs fn with the log caught.
local function logged(fn)
  local lines = {}
  log.set(function(record) lines[#lines + 1] = record.message end, { repeats = false })
  local ok, err = pcall(fn)
  log.set(nil)
  assert(ok, err)
  return table.concat(lines, "\n")
end

describe("a rule matches", function()
  it("by host, exactly, by wildcard, or any", function()
    local list = { { host = "Example.org", group = "one" }, { host = { "*.example.org", "example.net" }, group = "two" }, { host = "*",
      group = "any" } }
    for host, name in pairs { ["example.org"] = "one", ["EXAMPLE.org:8443"] = "one", ["example.org."] = "one", ["a.example.org"] = "two",
      ["a.b.example.org"] = "two", ["example.net"] = "two", ["aexample.org"] = "any", ["org"] = "any", ["example.org.evil.com"] = "any" } do
      assert.equal(name, group(list, { authority = host }), host)
    end
    assert.equal(404, group({ { host = "example.org", group = "x" } }, { authority = "other.org" }))
  end)

  it("by path, exactly or by prefix, in canonical form", function()
    local list = { { path = "/exact", group = "exact" }, { path = { "/api/*", "/rpc/*" }, group = "api" }, { path = "/*", group = "rest" } }
    for path, name in pairs { ["/exact"] = "exact", ["/exact/"] = "rest", ["/exact?x"] = "exact", ["/api"] = "api", ["/api/"] = "api",
      ["/api/x/y"] = "api",
      ["/apix"] = "rest", ["/rpc/x"] = "api", ["/%61pi/x"] = "api", ["//api//x"] = "api", ["/x/../api"] = "api", ["/"] = "rest",
        ["/API/x"] = "rest" } do
      assert.equal(name, group(list, { path = path }), path)
    end
  end)

  it("by method, protocol, kind, port, listener and server name", function()
    assert.equal("x", group({ { method = { "GET", "HEAD" }, group = "x" } }, { method = "HEAD" }))
    assert.equal(404, group({ { method = "get", group = "x" } }, {}))
    assert.equal("x", group({ { protocol = "h2", group = "x" } }, {}))
    assert.equal(404, group({ { protocol = { "h3", "http/1.1" }, group = "x" } }, {}))
    assert.equal("x", group({ { scheme = "https", group = "x" } }, {}))
    assert.equal(404, group({ { scheme = "http", group = "x" } }, {}))
    assert.equal("x", group({ { kind = "grpc", group = "x" } }, { { "content-type", "application/grpc" } }))
    assert.equal("x", group({ { kind = "websocket", group = "x" } }, { method = "CONNECT", protocol = "websocket" }))
    assert.equal("x", group({ { port = { 80, 443 }, group = "x" } }, {}))
    assert.equal(404, group({ { port = 80, group = "x" } }, {}))
    assert.equal("x", group({ { listener = "public", group = "x" } }, {}, { listener = "public" }))
    assert.equal("x", group({ { sni = "*.example.org", group = "x" } }, {}, { sni = "A.example.org" }))
    assert.equal(404, group({ { sni = "*.example.org", group = "x" } }, {}))
  end)

  it("by fields", function()
    local function by(header, ...) return group({ { header = header, group = "x" } }, { ... }) end
    assert.equal("x", by({ ["X-Env"] = "canary" }, { "x-env", "canary" }))
    assert.equal(404, by({ ["x-env"] = "canary" }, { "x-env", "Canary" }))
    assert.equal("x", by({ ["x-env"] = { "a", "b" } }, { "x-env", "b" }))
    assert.equal("x", by({ ["x-env"] = true }, { "x-env", "" }))
    assert.equal(404, by { ["x-env"] = true })
    assert.equal("x", by { ["x-env"] = false })
    assert.equal(404, by({ ["x-env"] = "a", ["x-other"] = true }, { "x-env", "a" }))
  end)

  it("by the networks of who asks", function()
    local list = { { client = { "10.0.0.0/8", "2001:db8::/32" }, group = "x" } }
    assert.equal("x", group(list, {}, { peer_ip = "10.1.1.1" }))
    assert.equal("x", group(list, {}, { peer_ip = "2001:db8::5" }))
    assert.equal(404, group(list, {}, { peer_ip = "11.1.1.1" }))
  end)

  it("only what it says of CONNECT and of raw connections", function()
    local set = assert(rules.new { { group = "web" }, { kind = "tcp", port = 5432, group = "db" }, { kind = "tls", sni = "db.example.org",
      group = "tls" },
      { kind = "connect", host = "inside", group = "proxy" } })
    local function of(head, info)
      info.peer_ip = "::1"
      local decision, err = set:match(assert(rules.request.new(head, info)))
      return decision and decision.group or err.http_status
    end
    assert.equal("db", of(nil, { kind = "tcp", port = 5432 }))
    assert.equal(404, of(nil, { kind = "tcp", port = 5433 }))
    assert.equal("tls", of(nil, { kind = "tls", port = 443, sni = "DB.example.org" }))
    assert.equal(404, of(nil, { kind = "tls", port = 443 }))
    assert.equal("proxy", of(fake.head("request", { method = "CONNECT", authority = "inside:22" }), {}))
    assert.equal(404, of(fake.head("request", { method = "CONNECT", authority = "outside:22" }), {}))
  end)

  it("first, whatever the index says", function()
    local list = { { path = "/a/*", host = "*.org", group = "1" }, { host = "x.org", path = "/b", group = "2" }, { group = "3", method = "PUT" },
      { host = { "x.org", "*.org" }, path = "/a/b", group = "4" }, { path = "/b", group = "5" }, { host = "x.org", group = "6" } }
    local function at(host, path, method) return group(list, { authority = host, path = path, method = method }) end
    assert.equal("1", at("x.org", "/a/b"))
    assert.equal("2", at("x.org", "/b", "PUT"))
    assert.equal("3", at("x.org", "/c", "PUT"))
    assert.equal("6", at("x.org", "/c"))
    assert.equal("5", at("y.org", "/b"))
    assert.equal(404, at("y.net", "/c"))
  end)

  it("as a walk through all of them does", function()
    local seed = 4711
    local function any(list)
      seed = (seed * 1103515245 + 12345) & 0x7fffffff
      return list[(seed >> 8) % #list + 1]
    end
    local none = {}
    local hosts, wilds = { "a.org", "b.a.org", "c.b.a.org", "b.org", "org" }, { "*.org", "*.a.org", "*.b.a.org", "*" }
    local paths = { "/", "/a", "/a/b", "/b", "/b/c", "/c", "/a/b/c" }
    for _ = 1, 60 do
      local list = {}
      for i = 1, 12 do
        local host, path = any { none, none, any(hosts), any(wilds), { any(hosts), any(wilds) } }, any { none, any(paths), any(paths) .. "/*" }
        if path == "//*" then path = "/*" end
        list[i] = { host = host ~= none and host or nil, path = path ~= none and path or nil, method = any { none, none, "PUT" }, group = "g" .. i }
        if list[i].method == none then list[i].method = nil end
      end
      local set = assert(rules.new(list))
      for _ = 1, 30 do
        local r = request { authority = any(hosts), path = any(paths), method = any { "GET", "PUT" } }
        local expected
        for _, rule in ipairs(set:list()) do
          local all = true
          for _, condition in ipairs(rule.conditions) do all = all and condition.test(r) end
          if all then expected = rule.decision.group break end
        end
        local decision = set:match(r)
        assert.equal(expected, decision and decision.group)
      end
    end
  end)
end)

describe("a rule's function", function()
  it("decides, or leaves it to the next rule", function()
    local seen
    local list = { { host = "example.org", decide = function(r) seen = r.path return r.method == "PUT" and "writers" end },
      function(r) if r.path == "/t" then return { group = "t", timeout = { idle = 5 }, service = "s" } end end, { group = "rest" } }
    assert.equal("writers", group(list, { method = "PUT" }))
    assert.equal("/", seen)
    assert.equal("rest", group(list, {}))
    local decision = assert(rules.new(list)):match(request { path = "/t" })
    assert.same({ "t", "s", 5, "rules[2]" }, { decision.group, decision.service, decision.timeout.idle, decision.rule.name })
  end)

  it("gives the same decision for the same group, so that limits know it again", function()
    local set = assert(rules.new { function() return "a" end })
    assert.equal(set:match(request {}), (set:match(request {})))
  end)

  it("that fails is 500 and in the log, and the next rules are not asked", function()
    for name, fn in pairs { raises = function() error "boom" end, wrong = function() return 5 end,
      unknown = function() return { gruop = "x" } end } do
      local set = assert(rules.new { { name = name, decide = fn }, { group = "rest" } })
      local text = logged(function()
        local decision, err = set:match(request {})
        assert.is_nil(decision)
        assert.equal(500, err.http_status)
        assert.equal(name, err.rule)
        assert.is_nil(err.message:find "boom")
      end)
      assert.truthy(text:find("the rule " .. name .. " failed", 1, true), text)
      assert.equal(1, set.failed)
    end
  end)

  it("when may refuse a rule, and fail", function()
    local list = { { when = function(r) return r.client_ip == "192.0.2.7" end, group = "x" }, { group = "y" } }
    assert.equal("x", group(list, {}))
    assert.equal("y", group(list, {}, { peer_ip = "192.0.2.8" }))
    local text = logged(function() assert.equal(500, group({ { name = "n", when = function() error "no" end, group = "x" } }, {})) end)
    assert.truthy(text:find("the function when of the rule n failed", 1, true), text)
  end)
end)

describe("what is wrong with rules", function()
  local function message(list) return select(2, rules.new(list)).message end

  it("is named by field", function()
    for text, list in pairs {
      ['rules[1].pth: there is no such field (did you mean "path"?)'] = { { pth = "/", group = "x" } },
      ["rules[1].path: wants a string or a table, got 5"] = { { path = 5, group = "x" } },
      ["rules[2].path: requests are matched in canonical form, which is /b"] = { { group = "x" }, { path = "/a/../b", group = "x" } },
      ["rules[1].path[2]: a path begins with a slash"] = { { path = { "/", "x" }, group = "x" } },
      ["rules[1]: wants group, redirect, respond or decide"] = { { path = "/" } },
      ["rules[1]: group, redirect and respond exclude each other"] = { { group = "x", redirect = "/" } },
      ['rules[1].timeout.headrs: there is no such field (did you mean "headers"?)'] = { { group = "x", timeout = { headrs = 1 } } },
      ["rules[1].kind: wants connect, grpc, http, tcp, tls, websocket, got \"htp\""] = { { group = "x", kind = "htp" } },
      ["rules[1].rewrite.prefix: wants a rule whose path is a prefix, such as /api/*"] = { { group = "x", path = "/a",
        rewrite = { prefix = "/b" } } },
      ["rules[1].request_headers.set.Host: Host is not for rules to change: that is rewrite.host"] =
        { { group = "x", request_headers = { set = { Host = "y" } } } },
      ["rules[1].redirect.to: there is no ${hst} (did you mean ${host}?)"] = { { redirect = "https://${hst}" } },
      ["rules[1].redirect.status: wants 301, 302, 303, 307 or 308, got 200"] = { { redirect = { to = "/", status = 200 } } },
      ["rules[2].name: rules[1] has this name, too"] = { { name = "a", group = "x" }, { name = "a", group = "y" } },
      ["rules[1].group: a rule with decide has it from its function"] = { { group = "x", decide = print } },
      ["rules[1].rate.rate: is missing; it wants a number"] = { { group = "x", rate = {} } },
      ["rules[1].client: \"10.0.0.0/40\": the prefix is longer than the address"] = { { group = "x", client = "10.0.0.0/40" } },
      ["rules: wants a list of rules, and \"host\" is no place in it"] = { host = "x" },
    } do
      assert.equal(text, message(list))
    end
    local host = message { { host = "a:80", group = "x" } }
    assert.truthy(host:find("rules[1].host: \"a:80\" has a port", 1, true), host)
    local star = message { { path = "/a/*/b", group = "x" } }
    assert.truthy(star:find("rules[1].path: \"/a/*/b\": a star stands at the end only", 1, true), star)
    assert.equal("rules[1].rate.rate", select(2, rules.new { { group = "x", rate = {} } }).field)
  end)

  it("keeps the old ones in place", function()
    local set = assert(rules.new { { group = "old" } })
    local ok, err = set:replace { { grup = "new" } }
    assert.is_nil(ok)
    assert.equal(err, set.last_error)
    assert.equal("old", set:match(request {}).group)
    assert.equal(1, set.version)
    local before = set:match(request {})
    assert.is_true(set:replace { { group = "new" } })
    assert.same({ "old", "new", 2, nil }, { before.group, set:match(request {}).group, set.version, set.last_error })
  end)
end)

describe("shadow rules", function()
  it("are compared, counted and told, not followed", function()
    local set = assert(rules.new { { name = "next", path = "/a", group = "b", shadow = true }, { name = "same", path = "/c", group = "a",
      shadow = true },
      { group = "a" } })
    local r = request { path = "/a" }
    local text = logged(function() assert.equal("a", set:match(r).group) end)
    assert.same({ { rule = "next", list = false, would = "group b", does = "group a", differs = true } }, r.shadowed)
    assert.truthy(text:find("the rule next would: group b; done: group a", 1, true), text)
    assert.equal("", logged(function() set:match(request { path = "/c" }) end))
    local plain = request { path = "/d" }
    set:match(plain)
    assert.is_nil(plain.shadowed)
    assert.same({ next = { matched = 1, differed = 1, failed = 0 }, same = { matched = 1, differed = 0, failed = 0 } }, set.shadows)
  end)

  it("that fail hurt nobody", function()
    local set = assert(rules.new { { name = "bad", shadow = true, decide = function() error "x" end }, { group = "a" } })
    logged(function() assert.equal("a", set:match(request {}).group) end)
    assert.equal(1, set.shadows.bad.failed)
  end)

  it("can be a whole second list", function()
    local set = assert(rules.new({ { group = "a" } }, { { name = "n", path = "/x/*", group = "b" } }))
    logged(function()
      assert.equal("a", set:match(request { path = "/x/1" }).group)
      assert.equal("a", set:match(request { path = "/y" }).group)
    end)
    assert.same({ n = { matched = 1, differed = 1, failed = 0 }, ["(none)"] = { matched = 1, differed = 1, failed = 0 } }, set.shadows)
    assert.equal("shadow[1].path: a path begins with a slash", select(2, rules.new({}, { { path = "x", group = "b" } })).message)
  end)
end)

describe("an explanation", function()
  it("says of each rule why it does not match", function()
    local set = assert(rules.new { { name = "api", host = "api.example.org", group = "api" }, { method = "PUT", path = "/x", group = "w" },
      { header = { ["x-env"] = "canary" }, group = "c" }, function() return nil end, { name = "try", shadow = true, group = "s" }, { name = "web",
        description = "rest",
        group = "web" } })
    local report = rules.explain(set, request { path = "/x?q" })
    assert.same({ "rules[2]", "method", "PUT", "GET" }, { report.steps[2].rule, report.steps[2].field, report.steps[2].wants, report.steps[2].got })
    assert.same({ "web", "group web", 6 }, { report.rule, report.outcome, report.total })
    assert.equal([[
GET https://example.org/x?q (http, h2) from 192.0.2.7
rules, of 6:
  - api: host wants api.example.org, got example.org
  - rules[2]: method wants PUT, got GET
  - rules[3]: header x-env wants canary, got absent
  - rules[4]: its function leaves it to the next rule
  + try (shadow): group s
  + web: group web
decision: group web, by web
]], report:text())
    assert.is_string(codec.json.pack(report))
    assert.equal(0, set.matched) -- nothing is counted
  end)

  it("names the status of what is not forwarded, and what a second list would do", function()
    local set = assert(rules.new({ { path = "/old", redirect = { to = "/new", status = 308 } } }, { { group = "b" } }))
    local report = rules.explain(set, request { path = "/old" })
    assert.same({ 308, "an answer of the rule rules[1]", "group b" }, { report.status, report.outcome, report.second })
    assert.truthy(report:text():find("second list: group b  <- differs", 1, true))
    report = rules.explain(set, request { path = "/none" })
    assert.same({ 404, "refuse: no rule matches" }, { report.status, report.outcome })
  end)

  it("leaves out what other hosts have in long lists, and secrets", function()
    local list = {}
    for i = 1, 50 do list[i] = { host = i .. ".org", group = "g" } end
    list[51] = { header = { authorization = "Bearer x" }, group = "g" }
    local text = rules.explain(assert(rules.new(list)), request { authority = "x.org", { "authorization", "Bearer s3cret" } }):text()
    assert.truthy(text:find("(50 rules for other hosts)", 1, true), text)
    assert.is_nil(text:find("s3cret", 1, true))
  end)
end)
