local fake = require "tunnel.spec.support.fake_head"
fake.install()
local base64 = require "echostream.base64"
local core = require "echostream.tunnel.core"
local echo = require "echostream"
local limits = require "echostream.tunnel.limits"
local log = require "echostream.log"
local loop = require "echostream.loop"
local rules = require "echostream.tunnel.rules"

local function request(fields, info)
  info = info or {}
  info.peer_ip = info.peer_ip or "192.0.2.7"
  return assert(rules.request.new(fake.request(fields), info))
end

local function decision_of(rule)
  rule.group = rule.group or "web"
  return (assert(assert(rules.new { rule }):match(request {})))
end

local plain = decision_of {}

describe("limits of requests in flight", function()
  it("say which limit it is, and when to come again", function()
    local gate = assert(limits.new { visitor = { requests = 2 }, retry_after = 3, max_keys = 100 })
    local a, b = assert(gate:admit(request {}, plain)), assert(gate:admit(request {}, plain))
    local slot, err = gate:admit(request {}, plain)
    assert.is_nil(slot)
    assert.same({ 503, "visitor requests", 3 }, { err.http_status, err.limit, err.retry_after })
    assert.truthy(gate:admit(request({}, { peer_ip = "192.0.2.8" }), plain))
    a:release()
    a:release() -- harmless
    local c = assert(gate:admit(request {}, plain))
    assert.is_nil((gate:admit(request {}, plain)))
    b:release()
    c:release()
    assert.same({ 1, 4, { ["visitor requests"] = 2 } }, { gate.in_flight, gate.admitted, gate.refused })
  end)

  it("are of everybody, a group, a rule and a visitor of a rule", function()
    local function full(options, rule)
      local gate, decision = assert(limits.new(options)), decision_of(rule or {})
      local keep = assert(gate:admit(request {}, decision))
      local _, err = gate:admit(request({}, { peer_ip = rule and rule.limits and rule.limits.per_visitor and "192.0.2.7" or "10.0.0.1" }), decision)
      keep:release()
      local slot = assert(gate:admit(request {}, decision))
      slot:release()
      assert.equal(0, gate.in_flight)
      return err.limit
    end
    assert.equal("global requests", full { global = { requests = 1 } })
    assert.equal("group web requests", full { group = { requests = 1 } })
    assert.equal("group web requests", full { group = { requests = 50 }, groups = { web = { requests = 1 } } })
    assert.equal("rule r requests", full({}, { name = "r", limits = { requests = 1 } }))
    assert.equal("rule r visitor requests", full({}, { name = "r", limits = { per_visitor = 1 } }))
  end)

  it("are of a group that no rule chose, too, such as a listener's", function()
    local gate = assert(limits.new { group = { requests = 1 } })
    local slot = assert(gate:admit(request {}, { group = "web" }))
    assert.equal("group web requests", select(2, gate:admit(request {}, { group = "web" })).limit)
    slot:release()
    assert.equal("0 of 1 in flight", gate:explain(request {}, { group = "web" })[1].says)
  end)

  it("count an IPv6 visitor by its /64", function()
    local gate = assert(limits.new { visitor = { requests = 1 } })
    assert.truthy(gate:admit(request({}, { peer_ip = "2001:db8::1" }), plain))
    assert.is_nil((gate:admit(request({}, { peer_ip = "2001:db8::ffff:2" }), plain)))
    assert.truthy(gate:admit(request({}, { peer_ip = "2001:db8:0:1::1" }), plain))
  end)

  it("count bytes, exactly", function()
    local gate = assert(limits.new { global = { bytes = 1000 } })
    local a, b = assert(gate:admit(request {}, plain)), assert(gate:admit(request {}, plain))
    assert.is_true(a:bytes(600))
    local ok, err = b:bytes(401)
    assert.is_nil(ok)
    assert.equal("global bytes", err.limit)
    assert.is_true(b:bytes(400))
    assert.is_nil((gate:admit(request {}, plain)))
    assert.is_true(a:bytes(-100))
    assert.is_true(b:bytes(100))
    a:release()
    assert.is_true(b:bytes(500))
    assert.is_true(b:bytes(-99999)) -- no more than it has
    assert.is_true(b:bytes(1000))
    b:release()
    assert.is_true(b:bytes(5))
    assert.equal(0, gate._counters:of "global".bytes)
  end)

  it("are given back by who forgets a slot, at the end of a block, and after any order of events", function()
    local gate = assert(limits.new { global = { requests = 5, bytes = 100 }, visitor = { requests = 3 } })
    do local slot <close> = gate:admit(request {}, plain) assert.equal(1, gate.in_flight) assert(slot) end
    assert.equal(0, gate.in_flight)
    gate:admit(request {}, plain)
    collectgarbage()
    collectgarbage()
    assert.equal(0, gate.in_flight)
    local seed, slots = 3, {}
    for _ = 1, 2000 do
      seed = (seed * 1103515245 + 12345) & 0x7fffffff
      local n = (seed >> 8) % 4
      if n == 0 then slots[#slots + 1] = gate:admit(request({}, { peer_ip = "10.0.0." .. (seed >> 12) % 3 }), plain)
      elseif n == 1 and #slots > 0 then table.remove(slots, (seed >> 12) % #slots + 1):release()
      elseif #slots > 0 then slots[(seed >> 12) % #slots + 1]:bytes((seed >> 16) % 60 - 25) end
      assert.equal(#slots, gate.in_flight)
      assert.is_true(#slots <= 5)
    end
    for _, slot in ipairs(slots) do slot:release() end
    assert.is_nil(next(gate._counters._by_key))
  end)
end)

describe("rates", function()
  it("refuse with 429 and a time", function()
    local gate, decision = assert(limits.new()), decision_of { name = "r", rate = { rate = 0.001, burst = 2 } }
    for _ = 1, 2 do gate:admit(request {}, decision):release() end
    local _, err = gate:admit(request {}, decision)
    assert.same({ 429, "rule r rate" }, { err.http_status, err.limit })
    assert.is_true(err.retry_after > 900 and err.retry_after <= 1000)
    assert.truthy(gate:admit(request({}, { peer_ip = "10.0.0.1" }), decision))
  end)

  it("have keys", function()
    local function shared(per, one, other)
      local gate, decision = assert(limits.new { rate = { rate = 0.001, burst = 1, per = per } }), plain
      assert(gate:admit(one, decision)):release()
      return (gate:admit(other, decision)) == nil
    end
    local a, b = { peer_ip = "10.0.0.1" }, { peer_ip = "10.0.0.2" }
    assert.is_false(shared("visitor", request({}, a), request({}, b)))
    assert.is_true(shared("all", request({}, a), request({}, b)))
    assert.is_true(shared("host", request({}, a), request({}, b)))
    assert.is_false(shared("host", request({ authority = "x" }, a), request({}, a)))
    assert.is_true(shared("header:X-Key", request({ { "x-key", "1" } }, a), request({ { "x-key", "1" } }, b)))
    assert.is_false(shared("header:x-key", request({ { "x-key", "1" } }, a), request({ { "x-key", "2" } }, a)))
    assert.is_true(shared(function(r) return r.method end, request({}, a), request({}, b)))
    assert.is_false(shared(function() return nil end, request({}, a), request({}, a)))
    assert.is_false(shared("user", request({}, a), request({}, b)))
  end)

  it("fill by and by, and never over the burst; old keys are forgotten", function()
    local buckets = require("echostream.tunnel.limits.buckets").new(8)
    assert.is_true(buckets:take("a", 2, 2, 100))
    assert.is_true(buckets:take("a", 2, 2, 100))
    assert.same({ nil, 0.5 }, { buckets:take("a", 2, 2, 100) })
    assert.is_true(buckets:take("a", 2, 2, 100.5))
    assert.is_nil((buckets:take("a", 2, 2, 100.5)))
    assert.equal(2, buckets:level("a", 2, 2, 1000))
    assert.is_nil((buckets:take("a", 2, 2, 90))) -- a clock that goes back
    for i = 1, 100 do buckets:take("k" .. i, 1, 1, 101) end
    local n = 0
    for _ in pairs(buckets._young) do n = n + 1 end
    for _ in pairs(buckets._old) do n = n + 1 end
    assert.is_true(n <= 8)
    assert.equal(2, buckets:level("a", 2, 2, 101))
  end)
end)

describe("bandwidth", function()
  it("tells how long to wait, in each direction", function()
    local buckets = require "echostream.tunnel.limits.buckets"
    local bandwidth = require "echostream.tunnel.limits.bandwidth"
    local spec = bandwidth.compile("b", { up = 100, down = 1000, burst = 1000 })
    local pacer = assert(bandwidth.pacer(spec, buckets.new(2), function() return buckets.new(2) end, "rule", request {}))
    assert.equal(0, pacer:pass("out", 1000, 50))
    assert.equal(2, pacer:pass("out", 2000, 50))
    assert.equal(0, pacer:pass("in", 1000, 50))
    assert.equal(10, pacer:pass("in", 1000, 50))
    assert.equal(0, pacer:pass("out", 1000, 53))
  end)

  it("is of a request, or shared", function()
    local gate = assert(limits.new())
    local own, all = decision_of { bandwidth = { down = 100, burst = 100 } }, decision_of { bandwidth = { down = 0.001 + 1, burst = 100,
      per = "all" } }
    local a, b = assert(gate:admit(request {}, own)), assert(gate:admit(request {}, own))
    assert.is_true(a:paced())
    assert.equal(0, a:pace("out", 100))
    assert.equal(0, b:pace("out", 100))
    local c, d = assert(gate:admit(request {}, all)), assert(gate:admit(request {}, all))
    assert.equal(0, c:pace("out", 100))
    assert.is_true(d:pace("out", 100) > 50)
    assert.equal(0, d:pace("in", 1 << 30))
    local none = assert(gate:admit(request {}, plain))
    assert.same({ false, 0 }, { none:paced(), none:pace("out", 1 << 30) })
    assert.is_nil((rules.new { { group = "x", bandwidth = {} } }))
  end)

  it("whose function fails takes nothing", function()
    local gate = assert(limits.new { global = { requests = 1 } })
    local broken = decision_of { bandwidth = { down = 100, per = function() error "spec" end } }
    for _ = 1, 3 do assert.is_false((pcall(gate.admit, gate, request {}, broken))) end
    assert.equal(0, gate.in_flight)
    assert.truthy(gate:admit(request {}, plain))
  end)
end)

describe("addresses", function()
  it("are judged for everybody and by rule", function()
    local gate, decision = assert(limits.new { addresses = { deny = "10.0.0.0/8" } }), decision_of { addresses = { allow = { "192.0.2.0/24" } } }
    local function status(ip)
      local slot, err = gate:admit(request({}, { peer_ip = ip }), decision)
      return slot and 200 or err.http_status
    end
    assert.same({ 403, 403, 200 }, { status "10.1.1.1", status "11.1.1.1", status "192.0.2.1" })
    assert.equal("limits.addresses: \"x\" is no address, and no network such as 10.0.0.0/8",
      select(2, limits.new { addresses = { allow = { "x" } } }).message)
  end)
end)

describe("credentials", function()
  local function check(auth, value)
    local r = request { value and { "authorization", value } or nil }
    local slot, err = assert(limits.new()):admit(r, decision_of { auth = auth })
    return slot and (r.user or "(no name)") or err.http_status, r, err
  end
  local function basic(user, password) return "Basic " .. base64.encode(user .. ":" .. password) end

  it("of Basic are a name and a password", function()
    if not core.sha256 then return pending "the C module is not built" end
    local passwords = require "echostream.tunnel.limits.passwords"
    local users = { ann = "plain:secret:1", bob = passwords.hash("pass", 1000), eve = passwords.digest "token" }
    assert.equal("ann", (check({ basic = users }, basic("ann", "secret:1"))))
    assert.equal("bob", (check({ basic = users }, basic("bob", "pass"))))
    assert.equal("eve", (check({ basic = users }, basic("eve", "token"))))
    for _, value in ipairs { basic("ann", "secret"), basic("bob", "Pass"), basic("bob", ""), basic("x", "pass"), basic("eve", users.eve),
      "Basic !!!",
      "Basic " .. base64.encode "ann", "Bearer secret:1", "Basic", "" } do
      local status, _, err = check({ basic = users, realm = "here" }, value)
      assert.equal(401, status, value)
      assert.same({ { "www-authenticate", 'Basic realm="here", charset="UTF-8"' } }, err.headers)
    end
    local auth = decision_of { auth = { basic = users } }.auth
    for _ = 1, 3 do assert.is_true(auth:check(request { { "authorization", basic("bob", "pass") } })) end
    assert.equal(1, auth._right.entries)
    assert.is_nil((auth:check(request { { "authorization", basic("bob", "pas") } })))
  end)

  it("are not tried without end where a function says the lists with each request", function()
    local hash = require("echostream.tunnel.limits.passwords").hash
    local lists = { a = { bob = hash("pass", 1) }, b = { bob = hash("other", 1) } }
    local set = assert(rules.new { function(asked)
      return { group = "web", auth = { basic = lists[asked.host] } }
    end })
    local gate = assert(limits.new())
    local function try(host, password)
      local asked = request { authority = host, { "authorization", "Basic " .. base64.encode("bob:" .. password) } }
      local slot, err = gate:admit(asked, assert(set:match(asked)))
      return slot and 200 or err.http_status
    end
    local statuses, real, now = {}, loop.now, loop.now()
    loop.now = function() return now end
    statuses[1], statuses[2] = try("a", "pass"), try("b", "pass") -- what is right for one list is not for the other
    for i = 3, 14 do statuses[i] = try("a", "wrong") end
    statuses[15] = try("a", "pass") -- known to be right
    loop.now = real
    assert.equal("200 401 401 401 401 401 401 401 401 401 429 429 429 429 200", table.concat(statuses, " "))
  end)

  it("of Basic cannot be guessed fast, for hashes take their time", function()
    local users = { bob = require("echostream.tunnel.limits.passwords").hash("pass", 1) }
    local auth = decision_of { auth = { basic = users } }.auth
    local function try(password, ip) return select(2, auth:check(request({ { "authorization", basic("bob", password) } }, { peer_ip = ip }))) end
    assert.is_nil(try("pass", "10.0.0.1"))
    local statuses, real, now = {}, loop.now, loop.now() + 1000
    loop.now = function() return now end
    for i = 1, 12 do statuses[i] = try("wrong" .. i, "10.0.0.2").http_status end
    local right, other = try("pass", "10.0.0.2"), try("wrong", "10.0.0.3")
    now = now + 1
    local later = try("wrong", "10.0.0.2")
    loop.now = real
    assert.equal("401 401 401 401 401 401 401 401 401 401 429 429", table.concat(statuses, " "))
    assert.is_nil(right) -- what is known to be right is not looked at again
    assert.same({ 401, 401 }, { other.http_status, later.http_status })
  end)

  it("of Bearer are a token", function()
    if not core.sha256 then return pending "the C module is not built" end
    local passwords = require "echostream.tunnel.limits.passwords"
    local tokens = { [passwords.digest "t0ken"] = "ci", ["plain:other"] = "dev" }
    assert.equal("ci", (check({ bearer = tokens }, "Bearer t0ken")))
    assert.equal("dev", (check({ bearer = tokens }, "bearer other")))
    local status, _, err = check({ bearer = tokens }, "Bearer no")
    assert.equal(401, status)
    assert.same({ { "www-authenticate", 'Bearer realm="echostream"' } }, err.headers)
  end)

  it("may be judged by a function, which may wait", function()
    local auth = { verify = function(r, given)
      echo.sleep(0.001)
      if given.token == "good" and r.host == "example.org" then return "ann" end
      return given.user == "any"
    end }
    local results = {}
    echo.spawn(function()
      for i, value in ipairs { "Bearer good", "Bearer bad", basic("any", "x") } do results[i] = check(auth, value) end
    end):wait(10)
    assert.same({ "ann", 401, "any" }, results)
  end)

  it("that cannot be judged are 500", function()
    local said = {}
    log.set(function(record) said[#said + 1] = record.message end)
    local status = check({ verify = function() error "database" end }, "Bearer x")
    log.set(nil)
    assert.same({ 500, "auth: the function verify failed" }, { status, said[1] })
  end)

  it("stay here, unless the rule passes them on", function()
    local auth = { verify = function() return true end }
    local name, r = check(auth, "Bearer x")
    assert.same({ "(no name)", nil }, { name, r.head:get "authorization" })
    auth.pass = true
    r = select(2, check(auth, "Bearer x"))
    assert.equal("Bearer x", r.head:get "authorization")
  end)

  it("that are none of ours are refused when rules are read", function()
    for _, auth in ipairs { {}, { basic = { ann = "secret" } }, { basic = { ["a:b"] = "plain:x" } }, { bearer = { x = "y" } }, { verify = print,
      realm = "\"" },
      { basic = { ann = "pbkdf2-sha256:0:salt:" .. ("a"):rep(64) } }, { basic = { ann = "sha256:abc" } } } do
      local set, err = rules.new { { group = "x", auth = auth } }
      assert.is_nil(set)
      assert.truthy(err.message:find("rules[1].auth", 1, true), err.message)
      assert.is_nil(err.message:find("secret", 1, true))
    end
  end)
end)

describe("a gate", function()
  it("explains how full it is, and takes nothing by that", function()
    local gate = assert(limits.new { global = { requests = 5, bytes = 100 }, addresses = { deny = { "10.0.0.0/8" } } })
    local decision = decision_of { name = "r", rate = { rate = 1, burst = 7 }, limits = { requests = 2 }, auth = { verify = print } }
    assert.same({ { limit = "addresses", says = "192.0.2.7 is not denied" }, { limit = "rule r rate", says = "7.0 of 7 requests left, 1 a second" },
      { limit = "auth", says = "credentials are asked for" }, { limit = "global requests", says = "0 of 5 in flight" },
      { limit = "global bytes", says = "0 of 100 in flight" }, { limit = "rule r requests", says = "0 of 2 in flight" } }, gate:explain(request {},
        decision))
    assert.equal(0, gate.in_flight)
    local report = rules.explain(assert(rules.new { { group = "web" } }), request {}, { limits = gate })
    assert.truthy(report:text():find("limit: global requests: 0 of 5 in flight", 1, true))
  end)

  it("takes other limits while requests are in flight", function()
    local gate = assert(limits.new { global = { requests = 1 } })
    local slot = assert(gate:admit(request {}, plain))
    assert.is_true(gate:replace { global = { requests = 2 }, visitor = { requests = 5 } })
    local other = assert(gate:admit(request {}, plain))
    assert.is_nil((gate:admit(request {}, plain)))
    local ok, err = gate:replace { globl = {} }
    assert.is_nil(ok)
    assert.equal('limits.globl: there is no such field (did you mean "global"?)', err.message)
    assert.equal("x.global.requests: wants at least 1, got 0", select(2, limits.new({ global = { requests = 0 } }, "x")).message)
    slot:release()
    other:release()
    assert.is_nil(next(gate._counters._by_key))
  end)
end)
