-- Fleets: pools, balancing, failover, outliers, other addresses, scatter and gather. All in virtual time.

local balance = require "echostream.fleet.balance"
local echo = require "echostream"
local net = require "spec.support.net"
local outlier = require "echostream.fleet.outlier"
local quality = require "echostream.quality"
require "echostream.fleet.pool"

-- Servers 10.0.0.1 to n, all of one key.
local function place(env, n, prepare)
  local at = { servers = {}, targets = {}, served = {} }
  local function up(i)
    at.served[i] = 0
    at.servers[i] = env.server({ bind = ("10.0.0.%d:5000"):format(i), state_dir = net.state_dir() }, function(server)
      local function count() at.served[i] = at.served[i] + 1 end
      server:add_rpc("who", function() count() return i end, { idempotent = true })
      server:add_rpc("slow", function(_, seconds) count() echo.sleep(seconds) return i end, { idempotent = true })
      server:add_rpc("fail", function(_, code) count() return nil, echo.error(code, "as asked") end, { idempotent = true })
      if prepare then prepare(server, i) end
    end)
    return at.servers[i]
  end
  at.up = up
  for i = 1, n do
    up(i)
    at.targets[("abcdefgh"):sub(i, i)] = at.servers[i].address
  end
  at.pins = {}
  for i = 1, n do at.pins[i] = at.servers[i].pin end
  function at.fleet(opts)
    opts = opts or {}
    opts.targets, opts.client = opts.targets or at.targets, opts.client or { pin = at.pins }
    local fleet = echo.fleet.new(opts)
    table.insert(env.opened, fleet)
    return fleet
  end
  return at
end

local function ready(fleet, n)
  local ends = echo.now() + 10
  while true do
    local open = 0
    for _, one in pairs(fleet:stats()) do open = open + one.open end
    if open >= n then return end
    assert(echo.now() < ends, "the connections are not there")
    echo.sleep(0.01)
  end
end

local function tally(calls, fn)
  local seen = {}
  for i = 1, calls do
    local who = fn(i) or "none"
    seen[who] = (seen[who] or 0) + 1
  end
  return seen
end

net.only("sim", function(env)
  describe("a fleet", function()
    env.it("spreads calls one after the other, by load, and by key", function()
      local at = place(env, 3)
      local turn = at.fleet { balance = "round_robin" }
      ready(turn, 3)
      assert.same({ 10, 10, 10 }, tally(30, function() return turn:request "who" end))

      for _, policy in ipairs { "least_in_flight", "power_of_two" } do
        local fleet = at.fleet { balance = policy }
        ready(fleet, 3)
        local tasks = {}
        for i = 1, 90 do
          tasks[i] = echo.spawn(function() return fleet:request("slow", 1) end)
        end
        local seen = tally(90, function(i) return tasks[i]:wait() end)
        local spread = policy == "least_in_flight" and 0 or 5
        for i = 1, 3 do assert.is_true(math.abs(seen[i] - 30) <= spread, policy .. " " .. seen[i]) end
      end

      local hashed = at.fleet { balance = "consistent_hash" }
      ready(hashed, 3)
      local home = {}
      local seen = tally(300, function(i)
        home[i] = hashed:with({ key = "user" .. i }):request "who"
        return home[i]
      end)
      for i = 1, 3 do assert.is_true(seen[i] > 50, "keys are spread") end
      hashed:remove "b"
      for i = 1, 300 do -- only the keys of the one that is gone have moved
        local now = hashed:with({ key = "user" .. i }):request "who"
        assert.is_true(now == home[i] or home[i] == 2 and now ~= 2)
      end
      assert.same({ "a", "c" }, hashed:targets())
      hashed:add("b", at.targets.b)
      assert.has_error(function() hashed:add("b", at.targets.b) end)
      ready(hashed, 3)
      for i = 1, 300 do assert.equal(home[i], (hashed:with({ key = "user" .. i }):request "who")) end

      local own = at.fleet { balance = function(candidates) return candidates[1] end }
      ready(own, 3)
      assert.same({ 5 }, tally(5, function() return own:request "who" end))
      assert.equal(3, own:with({ target = "c" }):request "who")
      assert.equal("not_found", select(2, own:with({ target = "x" }):request "who").code)
    end)

    env.it("keeps connections warm, opens more under load, and closes them when they are idle", function()
      local at = place(env, 1)
      local prepared = 0
      local fleet = at.fleet { pool = { min = 2, max = 4, per_connection = 10, idle = 5 },
        prepare = function(client, target)
          prepared = prepared + 1
          assert.equal("a", target)
          client:add_rpc("ask", function() return "me" end)
        end }
      echo.sleep(1)
      assert.equal(2, fleet:stats().a.open)
      local tasks = {}
      for i = 1, 60 do
        tasks[i] = echo.spawn(function() return fleet:request("slow", 2) end)
        echo.sleep(0.01)
      end
      assert.equal(4, fleet:stats().a.open)
      assert.equal(60, fleet:stats().a.in_flight)
      for i = 1, 60 do assert.equal(1, tasks[i]:wait()) end
      assert.equal(4, prepared)
      echo.sleep(10)
      assert.equal(2, fleet:stats().a.open)
      assert.equal(2, #at.servers[1]:sessions())
      assert.equal("me", at.servers[1]:sessions()[1]:request "ask")
      local client = fleet:client()
      assert.equal(1, client:request "who")
      fleet:client({ target = "a" }, function(other) assert.equal(1, other:request "who") end):wait()
    end)

    env.it("does not wait for a target that is down from the start while others are there", function()
      local at = place(env, 3)
      at.servers[1]:stop { grace = 0 }
      local fleet = at.fleet()
      local calls, seen = {}, {}
      for i = 1, 30 do calls[i] = echo.spawn(fleet.request, fleet, "who") end
      local since = echo.now()
      for i = 1, 30 do
        local who, err = calls[i]:wait()
        assert.truthy(who, tostring(err))
        seen[who] = (seen[who] or 0) + 1
      end
      assert.is_true(echo.now() - since < 2, echo.now() - since)
      assert.is_true(seen[2] >= 5 and seen[3] >= 5)
      assert.is_nil(seen[1])
      -- What says which target is meant, and a fleet without any, wait for it.
      local err = select(2, fleet:with({ target = "a", timeout = 1 }):request "who")
      assert.equal("unavailable", err.code)
      local alone = at.fleet { targets = { a = at.targets.a }, failover = 1 }
      local late = echo.spawn(alone.request, alone, "who")
      echo.sleep(3)
      at.up(1)
      assert.equal(1, (late:wait(25)))
    end)

    env.it("comes back to a target whose server came back", function()
      local at = place(env, 1)
      local fleet = at.fleet()
      assert.equal(1, fleet:request "who")
      at.servers[1]:stop { grace = 0 }
      echo.sleep(3)
      assert.equal(0, fleet:stats().a.open)
      local held = echo.spawn(function() return fleet:request "who" end)
      echo.sleep(1)
      at.up(1)
      assert.equal(1, held:wait(10))
      at.servers[1]:stop { grace = 0 }
      echo.sleep(1)
      local began = echo.now()
      local ok, err = fleet:with({ timeout = 0.5 }):request "who"
      assert.is_nil(ok)
      assert.equal("unavailable", err.code)
      assert.equal("no", err.processed)
      assert.is_true(echo.now() - began < 0.6)
    end)

    env.it("goes on to another target where that is safe", function(network)
      local at = place(env, 3, function(server, i)
        server:add_rpc("once", function() if i == 1 then echo.sleep(100) end return i end)
      end)
      local fleet = at.fleet { balance = function(candidates) return candidates[1] end, attempt_timeout = 0.5, outlier = false }
      ready(fleet, 3)
      network:path({ loss = 1 }, "10.0.0.1") -- it hears, and is not heard
      local began = echo.now()
      assert.equal(2, fleet:with({ idempotent = true, timeout = 5 }):request "who")
      assert.is_true(echo.now() - began < 0.6)
      local ok, err = fleet:with({ timeout = 0.7 }):request "once" -- nobody knows whether it ran
      assert.is_nil(ok)
      assert.equal("timeout", err.code)
      assert.equal("maybe", err.processed)
      assert.equal(0, at.served[2] - 1)
      network:path {}
      at.servers[2]:stop { grace = 0 }
      echo.sleep(1)
      assert.equal(3, fleet:with({ idempotent = true, timeout = 5 }):request("who") and 3)
      -- what the handler says is an answer, and no reason to ask somebody else
      local before = at.served[1] + at.served[3]
      ok, err = fleet:with({ idempotent = true }):request("fail", "not_found")
      assert.is_nil(ok)
      assert.equal("not_found", err.code)
      assert.equal(before + 1, at.served[1] + at.served[3])
    end)

    env.it("asks the same one again under the same id, so that nothing runs twice there", function(network)
      local runs = 0
      local server = env.server({ bind = "10.0.0.1:5000", dedupe = true }, function(s)
        s:add_rpc("count", function()
          runs = runs + 1
          echo.sleep(0.3)
          return runs
        end, { idempotent = true })
      end)
      local fleet = echo.fleet.new { targets = { server.address }, client = { pin = server.pin }, attempt_timeout = 0.2, failover = 100,
        outlier = false }
      table.insert(env.opened, fleet)
      ready(fleet, 1)
      assert.equal(1, fleet:with({ idempotent = true, timeout = 10 }):request "count") -- the second attempt joins the first
      assert.equal(1, runs)
      network:blackout(0.1, 40) -- and after its connection was lost, too
      local got
      repeat got = fleet:with({ idempotent = true, timeout = 100 }):request "count" until got
      assert.equal(2, got)
      assert.equal(2, runs)
    end)

    env.it("leaves out who fails too much, for longer each time, and never more than a share", function()
      local at = place(env, 4)
      local bad, told = { [1] = true }, {}
      for i, server in ipairs(at.servers) do
        server:add_rpc("work", function()
          at.served[i] = at.served[i] + 1
          if bad[i] then return nil, echo.error("unavailable", "broken") end
          return i
        end)
      end
      local fleet = at.fleet { balance = "round_robin", failover = 1, outlier = { consecutive = 3, base = 2 },
        on_change = function(target, what, detail) told[#told + 1] = { target, what, detail } end }
      ready(fleet, 4)
      for _ = 1, 12 do fleet:request "work" end
      assert.equal(3, at.served[1])
      assert.is_true(fleet:stats().a.ejected)
      for _ = 1, 30 do assert.truthy(fleet:request "work") end
      assert.equal(3, at.served[1])
      assert.same({ "a", "ejected", 2 }, told[1])
      echo.sleep(2.1) -- on trial: one failure is enough now
      for _ = 1, 8 do fleet:request "work" end
      assert.equal(4, at.served[1])
      assert.same({ "a", "ejected", 4 }, told[2])
      echo.sleep(4.1)
      bad[1] = nil
      for _ = 1, 8 do assert.truthy(fleet:request "work") end
      assert.equal(6, at.served[1])
      assert.is_false(fleet:stats().a.ejected)
      bad = { true, true, true, true } -- everybody: half of them stay
      for _ = 1, 40 do fleet:request "work" end
      local out = 0
      for _, one in pairs(fleet:stats()) do out = out + (one.ejected and 1 or 0) end
      assert.equal(2, out)
    end)

    env.it("goes to another address when the one it uses is gone or bad, and returns", function(network)
      local at = place(env, 2)
      local told = {}
      local fleet = at.fleet { targets = { only = { at.targets.a, at.targets.b } }, pool = { hold = 5, check = 0.5, silent = 1 },
        on_change = function(_, what) told[#told + 1] = what end }
      assert.equal(1, fleet:request "who")
      assert.equal(at.targets.a, fleet:stats().only.address)
      network:path({ loss = 1 }, "10.0.0.1")
      local began = echo.now()
      while fleet:with({ timeout = 0.5 }):request("who") ~= 2 do echo.sleep(0.1) end
      assert.is_true(echo.now() - began < 8, "it took " .. echo.now() - began)
      assert.equal(at.targets.b, fleet:stats().only.address)
      network:path {}
      echo.sleep(60)
      assert.equal(1, fleet:request "who") -- the first is the better one
      at.servers[1]:stop { grace = 0 }
      echo.sleep(1)
      assert.equal(2, fleet:with({ timeout = 15 }):request "who")
      assert.is_true(fleet:stats().only.switched >= 3)
      assert.truthy(table.concat(told, " "):find "bad")
    end)

    env.it("moves to another local path when quality falls", function(network)
      local at = place(env, 1)
      local fleet = at.fleet { pool = { check = 0.5, paths = { "10.3.0.2:0" } }, client = { pin = at.pins, bind = "10.3.0.1:0" } }
      assert.equal(1, fleet:request "who")
      network:path({ loss = 0.45 }, "10.3.0.1")
      network:path({ loss = 0.45 }, nil, "10.3.0.1")
      local ends = echo.now() + 60
      while fleet:stats().a.migrated == 0 and echo.now() < ends do
        fleet:with({ timeout = 2, idempotent = true }):request "who"
      end
      assert.equal(1, fleet:stats().a.migrated)
      assert.equal(1, fleet:stats().a.dialled) -- the connection is the same
      for _ = 1, 50 do assert.equal(1, fleet:request "who") end
    end)

    env.it("asks everybody, and is content with a quorum", function(network)
      local at = place(env, 3)
      local fleet = at.fleet { targets = { a = at.targets.a, b = at.targets.b, c = at.targets.c, d = "10.0.0.77:5000" } }
      ready(fleet, 3)
      local results, failed = fleet:with({ timeout = 1 }):request_all "who"
      assert.same({ a = 1, b = 2, c = 3 }, results)
      assert.equal("unavailable", failed.d.code)
      assert.is_nil(failed.a)
      local began = echo.now()
      results = fleet:with({ timeout = 1, quorum = 3 }):request_all "who"
      assert.same({ a = 1, b = 2, c = 3 }, results)
      assert.is_true(echo.now() - began < 0.5, "it does not wait for the fourth")
      network:path({ loss = 1 }, "10.0.0.1")
      local none, err = fleet:with({ timeout = 1, quorum = 3 }):request_all "who"
      assert.is_nil(none)
      assert.equal("unavailable", err.code)
      assert.same({ b = 2, c = 3 }, err.results)
      assert.truthy(err.failed.a or err.failed.d)
      network:path {}
      local called
      fleet:with({ timeout = 1 }):request_all("who", function(r) called = r end):wait()
      assert.equal(2, called.b)
    end)

    env.it("asks breakers", function()
      local at = place(env, 2)
      local records, open = {}, { a = true }
      local fleet = at.fleet { breaker = function(target)
        return { allow = function() return not open[target] end,
          record = function(_, ok, seconds) records[#records + 1] = { target, ok, seconds } end }
      end }
      ready(fleet, 2)
      for _ = 1, 5 do assert.equal(2, fleet:request "who") end
      assert.same({ "b", true }, { records[1][1], records[1][2] })
      assert.is_true(records[1][3] > 0)
      open.b = true
      local ok, err = fleet:request "who"
      assert.is_nil(ok)
      assert.equal("unavailable", err.code)
      assert.equal("no", err.processed)
    end)

    env.it("has breakers made by their options", function()
      local at = place(env, 1)
      local fleet = at.fleet { breaker = { min_calls = 3, open_for = 2 }, outlier = false }
      for _ = 1, 3 do
        local _, err = fleet:request("fail", "internal")
        assert.equal("internal", err.code)
      end
      local _, err = fleet:request "who"
      assert.matches("breaker", err.message)
      echo.sleep(2.1)
      assert.equal(1, fleet:request "who")
    end)

    env.it("says to its breakers which state of theirs a call belongs to", function()
      local at = place(env, 1)
      local fleet = at.fleet { breaker = { min_calls = 2, open_for = 1, probes = 1 }, outlier = false, failover = 1 }
      ready(fleet, 1)
      local late = echo.spawn(function() return fleet:with({ timeout = 3 }):request("slow", 60) end) -- will have timed out, later
      echo.sleep(0.1)
      for _ = 1, 2 do fleet:request("fail", "internal") end
      assert.matches("breaker", select(2, fleet:request "who").message)
      echo.sleep(1.1)
      assert.equal(1, fleet:request "who") -- the probe: closed again
      assert.equal("timeout", select(2, late:wait(5)).code)
      assert.equal("internal", select(2, fleet:request("fail", "internal")).code) -- one failure, and not the second
      assert.equal(1, fleet:request "who")
    end)

    env.it("pauses longer and longer between connections that are accepted and dropped", function()
      local drops, came = true, 0
      local at = place(env, 1, function(server)
        server:on_connect(function(session)
          came = came + 1
          if drops then echo.spawn(session.close, session, "not now") end
        end)
      end)
      local fleet = at.fleet { pool = { connect_timeout = 2 } }
      echo.sleep(30)
      assert.is_true(came >= 6 and came < 60, ("%d connections in 30 s"):format(came))
      local _, err = fleet:with({ timeout = 0.01 }):request "who"
      assert.truthy(err)
      drops = false
      ready(fleet, 1)
      assert.equal(1, fleet:request "who")
      local before = came
      echo.sleep(10)
      assert.equal(before, came)
      at.servers[1]:sessions()[1]:close() -- one that worked: the next pause is none again
      echo.sleep(0.5)
      assert.equal(before + 1, came)
    end)

    env.it("says what is wrong with a balance function's choice", function()
      local at = place(env, 2)
      local choice
      local fleet = at.fleet { balance = function() return choice end }
      for _, nonsense in ipairs { "a", 1, {} } do
        choice = nonsense
        local ok, raised = pcall(fleet.request, fleet, "who")
        assert.is_false(ok)
        assert.matches('"balance" wants to return one of its candidates', raised)
      end
      choice = nil
      assert.is_false(pcall(fleet.request, fleet, "who"))
    end)

    env.it("refuses retries of others: it has its own", function()
      local ok, raised = pcall(echo.fleet.new, { client = { retry = 3 } })
      assert.is_false(ok)
      assert.matches("client.retry.*failover", raised)
      local fleet = place(env, 1).fleet()
      ok, raised = pcall(fleet.with, fleet, { retry = 3 })
      assert.is_false(ok)
      assert.matches("retry.*failover", raised)
    end)

    env.it("is over when it is closed, and says what is wrong with its options", function()
      local at = place(env, 1)
      local fleet = at.fleet()
      local waiting = echo.spawn(function() return fleet:request("slow", 100) end)
      echo.sleep(1)
      assert.is_true(fleet:close())
      assert.is_true(fleet:close())
      local _, err = waiting:wait(1)
      assert.equal("connection_closed", err.code)
      assert.equal("connection_closed", select(2, fleet:request "who").code)
      assert.has_error(function() fleet:add("x", "10.0.0.1:1") end)
      local made, problem = pcall(echo.fleet.new, { targets = { "10.0.0.1" } })
      assert.is_false(made)
      assert.truthy(problem:find('"10.0.0.1" is not an address: there is no port', 1, true), problem)
      for name, opts in pairs {
        targets = { targets = { a = 1.5 } }, balance = { balance = "best" }, pool = { pool = { min = 3, max = 2 } },
        pinn = { client = { pinn = "x" } }, share = { outlier = { share = 2 } }, failover = { failover = 0 },
      } do
        local ok, raised = pcall(echo.fleet.new, opts)
        assert.is_false(ok)
        assert.matches(name == "targets" and "target" or name, raised)
      end
      local ok, raised = pcall(fleet.with, fleet, { quorum = 0 })
      assert.is_false(ok)
      assert.matches("quorum", raised)
    end)
  end)
end)

describe("the policies of balance", function()
  it("take two at random, and the less busy one of them", function()
    local busy = { in_flight = function() return 5 end }
    local idle = { in_flight = function() return 0 end }
    for _ = 1, 20 do assert.equal(idle, balance.policies.power_of_two { busy, idle }) end
    assert.equal(busy, balance.policies.power_of_two { busy })
    assert.has_error(function() balance.of("x", "best") end)
  end)
end)

describe("an outlier", function()
  it("is found by the share of failures in a window, too", function()
    local o = outlier.new { consecutive = 1000, rate = 0.5, minimum = 10, window = 10, base = 1, share = 1 }
    for i = 1, 9 do assert.is_nil(o:record("a", i % 2 == 0, 0, 1)) end
    assert.equal(1, o:record("a", false, 0, 1))
    assert.is_true(o:is_out("a", 0.9))
    assert.is_false(o:is_out("a", 1.1))
    assert.is_nil(o:record("a", true, 1.2, 1))
    for i = 1, 5 do assert.is_nil(o:record("a", false, 1.2 + i * 30, 1)) end -- long ago is forgotten
    o:forget "a"
    assert.is_false(o:is_out("a", 1))
  end)
end)

describe("the quality of a connection", function()
  local opts = { max_loss = 0.2, silent = 3, max_rtt = 1 }
  local function stats(sent, received, lost, rtt)
    return { packets_sent = sent, packets_received = received, packets_lost = lost, rtt_smoothed = rtt or 0.01 }
  end
  it("is bad when packets are lost, twice in a row", function()
    local watch = quality.new()
    assert.is_nil(quality.judge(watch, stats(100, 100, 0), 0, opts))
    assert.is_nil(quality.judge(watch, stats(200, 150, 50), 1, opts))
    assert.matches("50 %%", quality.judge(watch, stats(300, 200, 100), 2, opts))
  end)
  it("is bad when a round trip takes too long, or nothing is heard", function()
    local watch = quality.new()
    assert.is_nil(quality.judge(watch, stats(1, 1, 0, 2), 0, opts))
    assert.matches("round trip", quality.judge(watch, stats(2, 2, 0, 2), 1, opts))
    watch = quality.new()
    assert.is_nil(quality.judge(watch, stats(1, 1, 0), 0, opts))
    assert.is_nil(quality.judge(watch, stats(1, 1, 0), 100, opts)) -- nothing was asked
    assert.is_nil(quality.judge(watch, stats(2, 1, 0), 101, opts))
    assert.matches("nothing was heard", quality.judge(watch, stats(3, 1, 0), 104, opts))
  end)
end)
