local echo = require "echostream"
local retry = require "echostream.retry"
local net = require "spec.support.net"

-- Fails so often, then works. Counts how often it ran.
local function flaky(failures, code, retry_after)
  local runs = { n = 0 }
  return runs, function()
    runs.n = runs.n + 1
    if runs.n <= failures then
      local err = echo.error(code or "unavailable", "not yet")
      err.retry_after = retry_after
      return nil, err
    end
    return runs.n
  end
end

local half = function() return 0.5 end

net.each(function(env)
  env.it("sends an idempotent call again until it succeeds", function()
    local runs, handler = flaky(2)
    local attempts = {}
    local _, client = env.pair(function(server)
      server:add_rpc("try", function()
        attempts[#attempts + 1] = echo.call().attempt
        return handler()
      end, { idempotent = true })
    end, nil, { retry = { backoff = 0.001 } })
    local before = echo.metrics.counter("echostream_retries_total", "…", { "method" }):value "try"
    assert.equal(3, client:with { idempotent = true }:request "try")
    assert.equal(3, runs.n)
    assert.same({ 1, 2, 2 }, attempts)
    assert.equal(before + 2, echo.metrics.counter("echostream_retries_total", "…", { "method" }):value "try")
  end)

  env.it("does not send again what may have run and is not idempotent", function()
    local runs, handler = flaky(2)
    local _, client = env.pair(function(server)
      server:add_rpc("try", handler, { idempotent = true })
    end, nil, { retry = { backoff = 0.001 } })
    local _, err = client:request "try"
    assert.equal("unavailable", err.code)
    assert.equal(1, runs.n)
  end)

  env.it("does so when the server does not agree that it is idempotent", function()
    local runs, handler = flaky(2)
    local _, client = env.pair(function(server)
      server:add_rpc("try", handler)
    end, nil, { retry = { backoff = 0.001 } })
    local _, err = client:with { idempotent = true }:request "try"
    assert.equal("unavailable", err.code)
    assert.equal("not yet", err.message)
    assert.equal("yes", err.processed)
    assert.equal(2, err.attempts)
    assert.equal(1, runs.n)
  end)

  env.it("sends any call again that certainly did not run", function()
    local go, running = false, 0
    local _, client = env.pair(function(server)
      server:add_rpc("slow", function()
        running = running + 1
        while not go do
          echo.sleep(0.005)
        end
        return "done"
      end, { max_calls = 1 })
    end)
    local first = echo.spawn(function() return client:request "slow" end)
    env.eventually(function() return running == 1 end)
    local _, err = client:with { retry = { attempts = 2, backoff = 0.001 } }:request "slow"
    assert.equal("resource_exhausted", err.code)
    assert.equal("no", err.processed)
    assert.equal(2, err.attempts)
    local told = {}
    client:on("retry", function(info) told[#told + 1] = info; go = true end)
    assert.equal("done", client:with { retry = { attempts = 50, backoff = 0.02, factor = 1, budget = false } }:request "slow")
    assert.equal("done", first:wait())
    assert.equal("slow", told[1].name)
    assert.equal(1, told[1].attempt)
    assert.equal("resource_exhausted", told[1].err.code)
  end)

  env.it("goes through the middleware with every attempt", function()
    local _, handler = flaky(2)
    local seen = {}
    local _, client = env.pair(function(server)
      server:add_rpc("try", handler, { idempotent = true })
    end, nil, { retry = { backoff = 0.001 } })
    client:middleware(function(call, next)
      local response = next(call)
      seen[#seen + 1] = call.name .. call.attempt .. tostring(response.ok)
      return response
    end)
    assert.equal(3, client:with { idempotent = true, metadata = { a = "b" } }:request "try")
    assert.same({ "try1false", "try2false", "try3true" }, seen)
    assert.is_true(client:emit "nobody")
  end)

  env.it("works with a callback, from the main task and through services", function()
    local _, handler = flaky(1)
    local _, again = flaky(1)
    local _, client = env.pair(function(server)
      server:add_rpc("a.b", handler, { idempotent = true })
      server:add_rpc("a.c", again, { idempotent = true })
    end, nil, { retry = { backoff = 0.001 } })
    local got
    local task = client:with { idempotent = true }:request("a.b", function(value) got = value end)
    assert.equal(2, task:wait())
    assert.equal(2, got)
    assert.equal(2, client:service("a"):with { idempotent = true }.c())
  end)

  env.it("can be turned off and changed by `with`", function()
    local runs, handler = flaky(100)
    local _, client = env.pair(function(server)
      server:add_rpc("try", handler, { idempotent = true })
    end, nil, { retry = { attempts = 2, backoff = 0.001, budget = false } })
    local calls = client:with { idempotent = true }
    assert.is_nil((calls:request "try"))
    assert.equal(2, runs.n)
    assert.is_nil((calls:with { retry = false }:request "try"))
    assert.equal(3, runs.n)
    assert.is_nil((calls:with { retry = 4 }:request "try"))
    assert.equal(7, runs.n)
    assert.is_nil((calls:with { retry = 4 }:with { timeout = 5 }:request "try"))
    assert.equal(11, runs.n)
  end)

  env.it("asks a function after which errors it makes sense", function()
    local runs, handler = flaky(2, "my.code")
    local asked = {}
    local _, client = env.pair(function(server)
      server:add_rpc("try", handler, { idempotent = true })
    end, nil, { retry = { backoff = 0.001, on = function(err, info)
      asked[#asked + 1] = err.code .. info.name .. info.attempt
      return true
    end } })
    assert.equal(3, client:with { idempotent = true }:request "try")
    assert.same({ "my.codetry1", "my.codetry2" }, asked)
    runs.n = 0
    local _, err = client:with { idempotent = true, retry = { on = { "aborted" } } }:request "try"
    assert.equal("my.code", err.code)
    assert.equal(1, runs.n)
  end)

  env.it("ends when its task is cancelled, and does not retry without a connection that comes back", function()
    local _, handler = flaky(1000)
    local server, client = env.pair(function(server)
      server:add_rpc("try", handler, { idempotent = true })
    end, nil, { retry = { backoff = 100, cap = 100, jitter = 0 } })
    local err
    local task = echo.spawn(function()
      local _
      _, err = client:with { idempotent = true, timeout = 1000 }:request "try"
    end)
    env.eventually(function() return handler ~= nil and client:is_open() and task:status() == "suspended" end)
    echo.sleep(0.05)
    task:cancel()
    task:wait()
    assert.equal("cancelled", err.code)
    server:stop { grace = 0 }
    env.eventually(function() return not client:is_open() end)
    local _, closed = client:with { idempotent = true }:request "try"
    assert.equal("no", closed.processed)
    assert.is_nil(closed.attempts)
  end)
end)

net.only("sim", function(env)
  local function pair(handler, policy, opts)
    return select(2, env.pair(function(server)
      server:add_rpc("try", handler, { idempotent = true })
    end, nil, { retry = policy })):with(opts or { idempotent = true })
  end

  local function took(fn)
    local began = echo.now()
    fn()
    return echo.now() - began
  end

  -- The time of one call that succeeds: what a round trip and handling cost.
  local function near(expected, seconds)
    assert.is_true(seconds >= expected and seconds < expected + 0.2, ("%g, not %g"):format(seconds, expected))
  end

  env.it("waits exponentially longer, to a cap", function()
    local _, handler = flaky(4)
    local calls = pair(handler, { attempts = 5, backoff = 1, factor = 3, cap = 5, jitter = 0 })
    near(1 + 3 + 5 + 5, took(function() assert.equal(5, calls:request "try") end))
  end)

  env.it("spreads what it waits over all of it, or a part", function()
    local _, handler = flaky(2)
    near(0.5 * (1 + 2), took(function()
      assert.equal(3, pair(handler, { backoff = 1, random = half }):request "try")
    end))
    _, handler = flaky(2)
    near(0.875 * (1 + 2), took(function()
      assert.equal(3, pair(handler, { backoff = 1, jitter = 0.25, random = half }):request "try")
    end))
  end)

  env.it("waits as long as the server says", function()
    local _, handler = flaky(1, "resource_exhausted", 3)
    near(3.5, took(function()
      assert.equal(2, pair(handler, { backoff = 1, random = half }):request "try")
    end))
  end)

  env.it("does not wait beyond the deadline, which all attempts share", function()
    local runs, handler = flaky(100)
    local policy = retry.new { attempts = 100, backoff = 1, factor = 1, jitter = 0, budget = false }
    local calls = pair(handler, policy, { idempotent = true, timeout = 3.5 })
    local err
    local seconds = took(function() err = select(2, calls:request "try") end)
    near(3, seconds)
    assert.equal("unavailable", err.code)
    assert.equal(4, err.attempts)
    assert.equal(4, runs.n)
    assert.equal(1, policy:stats().too_late)
  end)

  env.it("gives an attempt less time than the call has", function()
    local runs = 0
    local calls = pair(function()
      runs = runs + 1
      if runs < 3 then
        echo.sleep(100)
      end
      return runs
    end, { attempts = 3, backoff = 0, attempt_timeout = 2 })
    near(4, took(function() assert.equal(3, calls:request "try") end))
  end)

  env.it("learns how long an attempt may take", function()
    local slow = false
    local policy = retry.new { backoff = 0, adaptive = { floor = 0.01, ceiling = 7 } }
    local runs = 0
    local calls = pair(function()
      runs = runs + 1
      if slow then
        slow = false
        echo.sleep(100)
      end
      return "done"
    end, policy)
    assert.equal(7, policy:expected "try")
    for _ = 1, 30 do
      calls:request "try"
    end
    local limit = policy:expected "try"
    assert.is_true(limit < 1, limit)
    slow = true
    near(limit, took(function() assert.equal("done", calls:request "try") end))
    assert.equal(32, runs)
    assert.is_true(policy:expected "try" > limit) -- it did see that it was too short
  end)

  env.it("gives attempts as many times what is usual as it was told", function()
    local policies = { retry.new { adaptive = { floor = 0.001, margin = 2 } }, retry.new { adaptive = { floor = 0.001, margin = 8 } } }
    local expected = {}
    for i, policy in ipairs(policies) do
      local calls = pair(function()
        echo.sleep(0.1)
        return true
      end, policy)
      for _ = 1, 30 do
        calls:request "try"
      end
      expected[i] = policy:expected "try"
    end
    assert.is_true(expected[1] > 0.19, expected[1])
    assert.is_true(expected[2] / expected[1] > 3 and expected[2] / expected[1] < 5, expected[2] / expected[1])
  end)

  env.it("stops retrying when the budget is used up, and goes on when calls have filled it", function()
    local _, handler = flaky(1e9)
    local policy = retry.new { attempts = 2, backoff = 0, budget = { ratio = 0.1, per_second = 0, burst = 5 } }
    local calls = pair(handler, policy)
    for _ = 1, 105 do
      calls:request "try"
    end
    local stats = policy:stats()
    assert.equal(105, stats.calls)
    assert.is_true(stats.retries >= 14 and stats.retries <= 16, stats.retries) -- 5 and a tenth of the calls
    assert.equal(105 - stats.retries, stats.over_budget)
    assert.equal(stats.retries, stats.exhausted)
    assert.equal(105, stats.failed)
    assert.is_true(stats.tokens < 1)
  end)
end)

describe("retry policies", function()
  it("are checked", function()
    local function refused(opts, text)
      local ok, err = pcall(echo.client, { skip_verification = true, retry = opts })
      assert.is_false(ok)
      assert.matches(text, err, 1, true)
    end
    refused({ atempts = 3 }, 'echo.client.retry: unknown option "atempts" (did you mean "attempts"?)')
    refused({ attempts = 0 }, 'option "attempts" wants at least 1')
    refused({ jitter = 2 }, 'option "jitter" wants at most 1')
    refused({ adaptive = { flor = 1 } }, 'unknown option "flor"')
    refused({ budget = { ratio = -1 } }, 'option "ratio" wants at least 0')
    refused("often", "retry")
    local client = echo.client { skip_verification = true, retry = true }
    assert.has_error(function() client:on("retri", print) end)
    client:on("retry", print)
    assert.is_true(client:off("retry", print))
    assert.is_false(client:off("retry", print))
  end)
end)
