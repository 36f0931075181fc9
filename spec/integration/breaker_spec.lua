local breaker = require "echostream.breaker"
local echo = require "echostream"
local net = require "spec.support.net"

-- Runs a function in a simulation, for its clock.
local function timed(fn)
  return function()
    echo.sim.run(fn)
  end
end

describe("a breaker", function()
  local function new(opts)
    local changes = {}
    opts.on_change = function(info)
      changes[#changes + 1] = info.from .. " " .. info.to
    end
    return breaker.new(opts), changes
  end

  it("opens when so many calls fail, and not before there are enough", timed(function()
    local one, changes = new { min_calls = 10, failure_rate = 0.5 }
    for i = 1, 9 do
      assert.is_true(one:allow())
      one:record(i > 4)
    end
    assert.equal("closed", one.state)
    one:record(false) -- the tenth: five of ten
    assert.equal("open", one.state)
    assert.is_false((one:allow()))
    assert.same({ "closed open" }, changes)
    assert.equal(1, one.opened)
    assert.equal(1, one.refused)
  end))

  it("looks only at what was lately", timed(function()
    local one = new { min_calls = 4, window = 10 }
    for _ = 1, 3 do
      one:record(false)
    end
    echo.sleep(11)
    for _ = 1, 3 do
      one:record(false)
    end
    assert.equal("closed", one.state)
    assert.equal(3, one:stats().failed)
    one:record(false)
    assert.equal("open", one.state)
  end))

  it("opens when calls are slow", timed(function()
    local one = new { min_calls = 4, slow_call = 1, slow_rate = 0.75 }
    one:record(true, 0.5)
    one:record(true, 1)
    one:record(true, 2)
    assert.equal("closed", one.state)
    one:record(true, 3)
    assert.equal("open", one.state)
  end))

  it("lets probes through after a while, closes when they succeed and opens when one fails", timed(function()
    local one, changes = new { min_calls = 1, open_for = 5, probes = 2 }
    one:record(false)
    local allowed, wait = one:allow()
    assert.same({ false, 5 }, { allowed, wait })
    echo.sleep(4)
    assert.is_false((one:allow()))
    echo.sleep(1)
    assert.is_true((one:allow()))
    assert.is_true((one:allow()))
    assert.is_false((one:allow())) -- two at a time
    assert.equal("half_open", one.state)
    one:record(true)
    assert.is_false((one:allow()))
    one:record(false)
    assert.equal("open", one.state)
    echo.sleep(5)
    one:allow()
    one:record(true)
    one:allow()
    one:record(true)
    assert.equal("closed", one.state)
    assert.same({ "closed open", "open half_open", "half_open open", "open half_open", "half_open closed" }, changes)
    one:record(true)
    assert.equal(1, one:stats().calls)
  end))

  it("does not count a call from before its last change, one that says nothing, or a probe that never ends", timed(function()
    local one = new { min_calls = 1, open_for = 5, probes = 1 }
    local _, before = one:allow()
    one:record(nil, 1, before)
    assert.equal(0, one:stats().calls)
    one:record(false, 0, before)
    echo.sleep(5)
    local _, era = one:allow()
    one:record(true, 0, before) -- it began when the breaker was closed
    assert.equal("half_open", one.state)
    assert.is_false((one:allow()))
    one:record(nil, 0, era) -- cancelled: another may try
    assert.is_true((one:allow()))
    echo.sleep(5) -- and its end is never said
    assert.is_true((one:allow()))
    one:record(true, 0, era)
    assert.equal("closed", one.state)
  end))

  it("can be opened and closed by hand, and says which errors count", timed(function()
    local one, changes = new { failures = { "my.code" } }
    one:open()
    one:open()
    assert.is_false((one:allow()))
    one:close()
    one:close()
    assert.is_true((one:allow()))
    assert.same({ "closed open", "open closed" }, changes)
    assert.is_true(one:counts(echo.error("my.code")))
    assert.is_false(one:counts(echo.error("unavailable")))
    assert.is_true(breaker.new():counts(echo.error("unavailable")))
    assert.is_false(breaker.new():counts(echo.error("not_found")))
    assert.has_error(function() breaker.new { windw = 1 } end)
    assert.has_error(function() breaker.group { probes = 0 } end)
  end))
end)

net.only("quic", function(env)
  env.it("refuses while it is open", function()
    local group = breaker.group { min_calls = 1, open_for = 3600 }
    local _, client = env.pair(function(server)
      server:add_rpc("bad", function() return nil, echo.error("unavailable", "broken") end)
      server:add_rpc("good", function() return "fine" end)
    end)
    client:middleware(group.middleware)
    assert.equal("broken", select(2, client:request "bad").message)
    local _, err = client:request "bad"
    assert.equal("unavailable", err.code)
    assert.equal("no", err.processed)
    assert.equal("fine", client:request "good")
    group.all[client.session.peer_addr .. " bad"]:close()
    assert.equal("broken", select(2, client:request "bad").message)
  end)
end)

net.only("sim", function(env)
  env.it("lets calls of a method fail at once, and others pass", function()
    local broken, runs, told = true, 0, {}
    local group = breaker.group { min_calls = 3, open_for = 0.2, probes = 1 }
    local _, client = env.pair(function(server)
      server:add_rpc("bad", function()
        runs = runs + 1
        if broken then
          return nil, echo.error("unavailable", "broken")
        end
        return "fine"
      end, { idempotent = true })
      server:add_rpc("refuses", function() return nil, echo.error("not_found") end)
      server:add_event("seen", function() end)
    end)
    client:middleware(group.middleware)
    client:on("breaker", function(info) told[#told + 1] = info.to end)
    for _ = 1, 3 do
      assert.equal("broken", select(2, client:request "bad").message)
    end
    local _, err = client:request "bad"
    assert.equal("unavailable", err.code)
    assert.equal("no", err.processed)
    assert.matches(" bad$", err.details.breaker)
    assert.is_true(err.retry_after > 0 and err.retry_after <= 0.2)
    assert.equal(3, runs)
    for _ = 1, 5 do
      assert.equal("not_found", select(2, client:request "refuses").code) -- no fault of the other side
    end
    assert.is_true(client:emit "seen")
    broken = false
    -- A retry waits for the breaker, and is its probe.
    assert.equal("fine", client:with { idempotent = true, retry = { backoff = 0.01 } }:request "bad")
    assert.equal(4, runs)
    env.eventually(function() return #told == 3 end)
    assert.same({ "open", "half_open", "closed" }, told)
    assert.equal("closed", group.all[client.session.peer_addr .. " bad"].state)
    assert.truthy(env.logged "is open")
  end)
end)
