require("tunnel.spec.support.fake_head").install()
local in_flight = require "echostream.tunnel.limits.in_flight"
local buckets = require "echostream.tunnel.limits.buckets"
local matcher = require "echostream.tunnel.rules.matcher"
local rule_table = require "echostream.tunnel.rules.table"

describe("the index of rules", function()
  local function names(one, host, path)
    local list = {}
    for i, rule in ipairs(one:candidates { host = host, path = path or "/" }) do list[i] = rule.name end
    return table.concat(list, " ")
  end

  it("leaves only those whose host fits, in order", function()
    local one = matcher.new(assert(rule_table.compile({ { name = "any1", group = "g" }, { name = "x", host = "x.org", group = "g" },
      { name = "wild", host = "*.org", group = "g" }, { name = "any2", group = "g" }, { name = "deep", host = "*.a.org", group = "g" } }, "rules")))
    assert.equal("any1 x wild any2", names(one, "x.org"))
    assert.equal("any1 wild any2", names(one, "y.org"))
    assert.equal("any1 wild any2 deep", names(one, "b.a.org"))
    assert.equal("any1 wild any2", names(one, "a.org"))
    assert.equal("any1 any2", names(one, "org"))
    assert.equal("any1 any2", names(one, ""))
  end)

  it("keeps no more buckets than names in the rules, whoever asks", function()
    local one = matcher.new(assert(rule_table.compile({ { host = "x.org", group = "g" }, { host = "*.org", group = "g" } }, "rules")))
    for i = 1, 1000 do names(one, "h" .. i .. ".org") names(one, "h" .. i .. ".com") end
    local n = 0
    for _ in pairs(one._buckets) do n = n + 1 end
    assert.equal(2, n)
  end)

  it("leaves only those whose first segment fits, of many", function()
    local list = {}
    for i = 1, 20 do list[i] = { name = "r" .. i, path = ("/s%d/*"):format(i), group = "g" } end
    list[21] = { name = "both", path = { "/s3/x", "/s4" }, group = "g" }
    list[22] = { name = "rest", path = "/*", group = "g" }
    local one = matcher.new(assert(rule_table.compile(list, "rules")))
    assert.equal("r3 both rest", names(one, "h", "/s3/x"))
    assert.equal("r4 both rest", names(one, "h", "/s4"))
    assert.equal("r5 rest", names(one, "h", "/s5"))
    assert.equal("rest", names(one, "h", "/other"))
    assert.equal("rest", names(one, "h", ""))
  end)
end)

describe("counters", function()
  it("take all or nothing, and give back", function()
    local counters = in_flight.new()
    local wanted = { { key = "a", name = "a" }, { key = "b", name = "b", requests = 1 } }
    local taken = assert(counters:take(wanted, 1))
    assert.is_nil((counters:take({ { key = "a", name = "a" }, { key = "b", name = "b", requests = 1 } }, 1)))
    assert.equal(1, counters:of "a".requests)
    assert.is_true(counters:add(taken, 7, 1))
    assert.equal(7, counters:of "b".bytes)
    counters:give(taken, 7)
    assert.same({ requests = 0, bytes = 0 }, counters:of "a")
  end)

  it("of bytes a second have debts", function()
    local one = buckets.new(10)
    assert.equal(0, one:spend("k", 10, 5, 10, 1))
    assert.equal(2, one:spend("k", 10, 5, 10, 1))
    assert.equal(1, one:spend("k", 0, 5, 10, 2))
  end)
end)
