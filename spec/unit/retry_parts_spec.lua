local budget = require "echostream.retry.budget"
local echo = require "echostream"
local latency = require "echostream.metrics.latency"

describe("a budget", function()
  it("lets so many retries pass as calls and time have paid for", function()
    echo.sim.run(function()
      local tokens = budget.new { ratio = 0.5, per_second = 2, burst = 3 }
      for _ = 1, 3 do
        assert.is_true(tokens:withdraw())
      end
      assert.is_false(tokens:withdraw())
      tokens:deposit()
      assert.is_false(tokens:withdraw())
      tokens:deposit()
      assert.is_true(tokens:withdraw())
      echo.sleep(1)
      assert.is_true(tokens:withdraw())
      assert.is_true(tokens:withdraw())
      assert.is_false(tokens:withdraw())
      echo.sleep(100)
      tokens:deposit()
      assert.is_true(tokens:withdraw())
      assert.equal(2, tokens.tokens)
    end)
  end)
end)

describe("observed times", function()
  it("have percentiles that are at most a bucket too high", function()
    local times = latency.new(1e6)
    assert.is_nil(times:percentile(50))
    for i = 1, 1000 do
      times:add(i / 1000)
    end
    for _, percent in ipairs { 1, 10, 50, 95, 99, 100 } do
      local exact, said = percent / 100, times:percentile(percent)
      assert.is_true(said >= exact and said <= exact * 1.1, ("%g: %g"):format(percent, said))
    end
  end)

  it("forget what was long ago, and bear any number", function()
    local times = latency.new(64)
    for _ = 1, 64 do
      times:add(1)
    end
    for _ = 1, 300 do
      times:add(0.001)
    end
    assert.is_true(times:percentile(99) < 0.01)
    times:add(0)
    times:add(1e9)
    times:add(-1)
    assert.is_true(times.count > 0)
  end)
end)
