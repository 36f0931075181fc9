local backoff = require "echostream.backoff"
local echo = require "echostream"

describe("pauses before trying again", function()
  it("grow at random up to the cap, as the simulation's seed says", function()
    local function run()
      local longest, all = {}, {}
      for n = 1, 10 do
        for _ = 1, 200 do
          local pauses = backoff.pause({ first = 0.1, factor = 2, cap = 5, jitter = 1 }, n)
          longest[n], all[#all + 1] = math.max(longest[n] or 0, pauses), pauses
        end
        assert.is_true(longest[n] <= math.min(5, 0.1 * 2 ^ (n - 1)))
        assert.is_true(longest[n] > 0.9 * math.min(5, 0.1 * 2 ^ (n - 1)))
      end
      return all
    end
    local first, again, other = echo.sim.run({ seed = 3 }, run), echo.sim.run({ seed = 3 }, run), echo.sim.run({ seed = 4 }, run)
    assert.same(first, again)
    assert.not_same(first, other)
  end)

  it("are told one after the other, and are short again when it worked for a while", function()
    local pauses = echo.backoff.new { first = 0.1, factor = 3, cap = 2, jitter = 0 }
    local function close(want, got) assert.near(want, got, 1e-9) end
    close(0.1, pauses:next())
    close(0.3, pauses:next())
    close(0.9, pauses:next())
    close(2, pauses:next())
    assert.equal(4, pauses.attempts)
    assert.is_false(pauses:worked(0.2)) -- that was nothing
    close(2, pauses:next())
    assert.is_true(pauses:worked(0.21))
    assert.equal(0, pauses.attempts)
    close(0.1, pauses:next())
    local patient = echo.backoff.new { first = 0.1, stable = 30, jitter = 0 }
    patient:next()
    assert.is_false(patient:worked(29))
    close(0.2, patient:next())
    assert.is_true(patient:worked(31))
    close(0.1, patient:next())
    assert.is_true(pauses:worked())
    close(0.1, pauses:next())
  end)

  it("have a random part of the size that is asked for, from a source that may be given", function()
    local pauses = backoff.new { first = 1, jitter = 0.25, random = function() return 1 end }
    assert.near(0.75, pauses:next(), 1e-9)
    assert.near(1.5, pauses:next(), 1e-9)
    for _ = 1, 2000 do
      assert.is_true(pauses:next() <= 5)
    end
  end)

  it("want options that make sense", function()
    for _, opts in ipairs { { first = -1 }, { factor = 0.5 }, { jitter = 2 }, { cap = "5" }, { attempts = 3 } } do
      assert.has_error(function() backoff.new(opts) end)
    end
    assert.has_error(function() backoff.new():worked "long" end)
  end)
end)
