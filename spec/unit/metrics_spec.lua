-- The registry of metrics and its text: lua/echostream/metrics.lua, metrics/text.lua.

local busted = require "busted"
local metrics = require "echostream.metrics"
local prometheus = require "spec.support.prometheus"
local text = require "echostream.metrics.text"
local describe, it = busted.describe, busted.it

-- The registry belongs to the Lua state, so every spec has names of its own.
local made = 0
local function name(suffix)
  made = made + 1
  return ("spec_%d_%s"):format(made, suffix or "x")
end

describe("a counter", function()
  it("counts by label and never falls", function()
    local n = name "total"
    local counter = metrics.counter(n, "Calls.", { "method", "code" })
    counter:inc("add", "ok")
    counter:add(2, "add", "ok")
    counter:inc("add", "timeout")
    assert.equal(3, counter:value("add", "ok"))
    assert.equal(0, counter:value("sub", "ok"))
    assert.error_matches(function() counter:add(-1, "add", "ok") end, "only rises")
    assert.error_matches(function() counter:set(1, "add", "ok") end, "is a counter")
    local families = prometheus.parse(metrics.prometheus())
    assert.equal("counter", families[n].type)
    assert.equal(3, prometheus.value(families, n, { method = "add", code = "ok" }))
    assert.equal(2, #families[n].samples)
  end)

  it("without labels is there at 0 from the beginning", function()
    local n = name()
    local counter = metrics.counter(n, "…")
    assert.equal(0, prometheus.value(prometheus.parse(metrics.prometheus()), n))
    counter:inc()
    assert.equal(1, metrics.table()[n])
    counter:remove()
    assert.equal(0, counter:value())
  end)

  it("is the same one under the same name, and nothing else can be", function()
    local n = name()
    assert.equal(metrics.counter(n, "…", { "a" }), metrics.counter(n, "other words", { "a" }))
    assert.error_matches(function() metrics.gauge(n, "…", { "a" }) end, "registered already, as a counter")
    assert.error_matches(function() metrics.counter(n, "…", { "b" }) end, "registered already")
  end)
end)

describe("a gauge", function()
  it("rises, falls and is set when somebody reads", function()
    local n = name()
    local gauge = metrics.gauge(n, "Queued.", { "queue" })
    local stop = metrics.on_collect(function()
      gauge:set(7.5, "b")
    end)
    gauge:set(3, "a")
    gauge:inc("a")
    gauge:add(-2, "a")
    local families = prometheus.parse(metrics.prometheus())
    assert.equal(2, prometheus.value(families, n, { queue = "a" }))
    assert.equal(7.5, prometheus.value(families, n, { queue = "b" }))
    stop()
    gauge:remove("b")
    assert.same({ { labels = { queue = "a" }, value = 2 } }, metrics.table()[n])
  end)

  it("survives a collector that raises", function()
    local log = require "echostream.log"
    local records = {}
    log.set(function(record) table.insert(records, record) end)
    local stop = metrics.on_collect(function() error "broken" end)
    assert.is_string(metrics.prometheus())
    stop()
    log.set()
    assert.matches("broken", records[1].message)
  end)
end)

describe("a histogram", function()
  it("knows its quantiles to an eighth", function()
    local n = name "seconds"
    local histogram = metrics.histogram(n, "Times.", { "method" })
    for i = 1, 1000 do
      histogram:observe(i / 1000, "add")
    end
    local value = histogram:value "add"
    assert.equal(1000, value.count)
    assert.is_true(math.abs(value.sum - 500.5) < 1e-6)
    for share, key in pairs { [0.5] = "p50", [0.95] = "p95", [0.99] = "p99" } do
      assert.is_true(math.abs(value[key] - share) < share / 8, key)
    end
    assert.equal(1, value.max)
    local families = prometheus.parse(metrics.prometheus())
    assert.equal("histogram", families[n].type)
    assert.equal(1000, prometheus.value(families, n .. "_count", { method = "add" }))
    assert.equal(16, prometheus.value(families, n .. "_bucket", { method = "add", le = "0.016777216" }))
    assert.equal(0, histogram:value("nobody").count)
  end)

  it("takes bytes and counts too", function()
    local n = name "bytes"
    local histogram = metrics.histogram(n, "Sizes.", nil, "bytes")
    histogram:observe(64)
    histogram:observe(65)
    histogram:observe(-5)
    local families = prometheus.parse(metrics.prometheus())
    assert.equal(2, prometheus.value(families, n .. "_bucket", { le = "64" }))
    assert.equal(129, prometheus.value(families, n .. "_sum"))
    assert.error_matches(function() metrics.histogram(name(), "…", nil, "weeks") end, "a unit is")
    assert.error_matches(function() histogram:observe(0 / 0) end, "wants a number")
  end)
end)

describe("what peers put into labels", function()
  it("is escaped and cut", function()
    local n = name()
    local counter = metrics.counter(n, "…", { "peer" })
    for _, hostile in ipairs { "a\nb\"c\\d", "\27[31mred", "\0", ("x"):rep(1 << 20), "\xff\xfe", "ä\xc3", "\u{9b}31m", ("é"):rep(65) } do
      counter:inc(hostile)
    end
    local families = prometheus.parse(metrics.prometheus())
    assert.equal(8, #families[n].samples)
    for _, sample in ipairs(families[n].samples) do
      assert.is_true(#sample.labels.peer <= 4 * 131)
      assert.is_nil(sample.labels.peer:find "[%c\127]")
    end
    assert.equal('a\\x0ab"c\\d', families[n].samples[1].labels.peer)
    assert.equal(("x"):rep(128) .. "...", text.label_value(("x"):rep(129)))
    assert.equal(("é"):rep(64) .. "...", text.label_value(("é"):rep(65)))
  end)

  it("cannot make more than 1,000 series", function()
    local n = name()
    local counter = metrics.counter(n, "…", { "peer" })
    for i = 1, 3000 do
      counter:inc("peer " .. i)
    end
    local families = prometheus.parse(metrics.prometheus())
    assert.equal(1001, #families[n].samples)
    assert.equal(2000, prometheus.value(families, n, { peer = "(other)" }))
  end)

  it("counts together what looks the same", function()
    local n = name()
    local counter = metrics.counter(n, "…", { "peer" })
    counter:inc "\27"
    counter:inc "\\x1b"
    counter:inc(5)
    counter:inc "5"
    assert.equal(2, counter:value "\27")
    assert.equal(2, counter:value(5))
    counter:remove(5)
    assert.equal(0, counter:value "5")
    counter:inc "5"
    assert.equal(1, counter:value(5))
  end)
end)

describe("registering", function()
  it("says what is wrong with a name", function()
    assert.error_matches(function() metrics.counter("9lives", "…") end, "a name is up to")
    assert.error_matches(function() metrics.counter(name(), "…", { "le" }) end, "a label's name")
    assert.error_matches(function() metrics.counter(name(), "…", { "a-b" }) end, "a label's name")
    assert.error_matches(function() metrics.counter(name()) end, "help wants a string") ---@diagnostic disable-line
    assert.error_matches(function() metrics.on_collect(5) end, "wants a function") ---@diagnostic disable-line
  end)

  it("writes every number as Prometheus reads it", function()
    assert.equal("+Inf", text.number(math.huge))
    assert.equal("-Inf", text.number(-math.huge))
    assert.equal("NaN", text.number(0 / 0))
    assert.equal("0.1", text.number(0.1))
    assert.equal(1 / 3, tonumber(text.number(1 / 3)))
    assert.equal("9223372036854775807", text.number(math.maxinteger))
  end)

  it("takes a histogram of the core apart, and puts it together again", function()
    local core = require "echostream.core"
    local a, b = core.histogram(), core.histogram()
    for _, value in ipairs { 3, 3, 100, 1000000, 999999 } do
      a:add(value)
    end
    local buckets = a:buckets()
    assert.same({ 3, 2, 104, 1, 1048576, 2 }, buckets)
    for i = 1, #buckets, 2 do
      b:add(buckets[i], buckets[i + 1])
    end
    b:add(5, 0)
    assert.same(buckets, b:buckets())
    assert.same({ 5, 6 + 104 + 2 * 1048576, 1048576 }, { b:totals() })
    assert.same({}, core.histogram():buckets())
    assert.has_error(function() b:add(1, -1) end)
  end)

  it("merges histograms of the core", function()
    local core = require "echostream.core"
    local a, b = core.histogram(), core.histogram()
    a:add(10)
    b:add(30)
    a:merge(b)
    assert.same({ count = 2, sum = 40, max = 30, p50 = 10, p95 = text.summary(a, 1).p95, p99 = text.summary(a, 1).p99 }, text.summary(a, 1))
  end)
end)
