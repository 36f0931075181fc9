-- What was heard by multicast DNS, and for how long it is kept.

local caches = require "echostream.discovery.querier.cache"
local echo = require "echostream"
local message = require "echostream.discovery.message"

local TYPE = message.TYPE
local limits = { MAX_RECORDS = 6, MAX_SERVICES = 2, MAX_ADDRESSES = 2 }
local here, there = { name = "here" }, { name = "there" }

local function address(name, ip, ttl, flush)
  local rdata, kind = message.pack_address(ip)
  return message.record { name = name, type = kind, rdata = rdata, address = ip, ttl = ttl or 120, flush = flush }
end

local function pointer(target, ttl)
  return message.record { name = "_x._udp.local", type = TYPE.PTR, target = target, ttl = ttl or 120 }
end

local function simulated(fn)
  return function() echo.sim.run({}, fn) end
end

describe("the cache of multicast DNS", function()
  local cache, due
  before_each(function()
    due = math.huge
    cache = caches.new(limits, function(when) due = math.min(due, when) end)
  end)

  it("keeps records of each link apart, by type and name, and no more than it may", simulated(function()
    assert.is_true(cache:put(here, address("a.local", "10.0.0.1")))
    assert.is_true(cache:put(here, address("a.local", "10.0.0.1"))) -- the same again
    assert.is_true(cache:put(there, address("A.local", "10.0.0.1")))
    assert.is_false(cache:put(here, address("a.local", "10.0.0.2"))) -- two addresses of a name
    assert.equal(2, #cache:entries(TYPE.A, message.key "a.local"))
    assert.equal(0, #cache:entries(TYPE.AAAA, message.key "a.local"))
    for i = 1, 9 do cache:put(here, pointer(i .. "._x._udp.local")) end
    assert.equal(6, cache.n)
    cache:drop(TYPE.PTR, message.key "_x._udp.local", function(entry) return entry.record.target:find "^1" end)
    assert.equal(3, cache.n)
    cache:drop(TYPE.PTR, message.key "_x._udp.local")
    assert.equal(2, cache.n)
  end))

  it("asks again before the end, and forgets at the end", simulated(function()
    local gone = {}
    local function over(entry) gone[#gone + 1] = entry.record.address end
    cache:put(here, address("a.local", "10.0.0.1", 100))
    assert.near(81, due - echo.now(), 1.1)
    echo.sleep(83)
    local questions, next_due = cache:sweep(over)
    assert.same({ { name = "a.local", type = TYPE.A } }, questions[here])
    assert.near(86, next_due - echo.now() + 83, 1.1)
    assert.same({}, (cache:sweep(over)))
    echo.sleep(20)
    cache:sweep(over)
    assert.same({ "10.0.0.1" }, gone)
    assert.equal(0, cache.n)
  end))

  it("forgets soon what is taken back, and what another set replaces", simulated(function()
    cache:put(here, address("a.local", "10.0.0.1"))
    cache:put(here, address("b.local", "10.0.0.2"))
    echo.sleep(2)
    assert.is_false(cache:put(here, address("a.local", "10.0.0.1", 0)))
    assert.is_true(cache:put(here, address("b.local", "10.0.0.3", 120, true)))
    echo.sleep(1.1)
    local gone = {}
    cache:sweep(function(entry) gone[entry.record.address] = true end)
    assert.same({ ["10.0.0.1"] = true, ["10.0.0.2"] = true }, gone)
  end))

  it("knows what need not be told again, and forgets links that are gone", simulated(function()
    cache:put(here, pointer("one._x._udp.local", 100))
    cache:put(there, pointer("two._x._udp.local", 100))
    local known = cache:known_on(here, message.key "_x._udp.local")
    assert.equal(1, #known)
    assert.equal("one._x._udp.local", known[1].target)
    echo.sleep(60)
    assert.same({}, cache:known_on(here, message.key "_x._udp.local"))
    local gone = {}
    cache:keep_links({ [there] = true }, function(entry) gone[#gone + 1] = entry.record.target end)
    assert.same({ "one._x._udp.local" }, gone)
    assert.equal(1, cache.n)
    cache:drop_slot((next(cache.slots)))
    assert.equal(0, cache.n)
  end))
end)
