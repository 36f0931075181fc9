-- What probes tell about two clocks. Delays are drawn here, so the truth is known; the same seed draws the same ones.

local estimate = require "echostream.clock.estimate"

local function random_of(seed)
  local state = seed
  return function() -- 0 up to 1
    state = (state * 6364136223846793005 + 1442695040888963407) & 0x7fffffffffffffff
    return (state >> 20) / (1 << 43)
  end
end

-- Probes of a clock that is `offset` ahead at 0 and drifts: `count` of them, `every` so many seconds. `check` learns after each how far off it is.
local function play(known, draw, how, check)
  for i = 1, how.count do
    local at = (how.from or 0) + i * how.every
    local there, back = how.delay + draw() * how.jitter, how.delay + draw() * how.jitter
    local truth = how.offset + how.drift * at
    known:add(at, truth + (there - back) / 2, there + back)
    if check then
      check(math.abs(known.offset - truth))
    end
  end
  return known
end

describe("the estimate of a clock", function()
  it("is the middle of what one probe allows, and as wrong as half of its round trip at most", function()
    local known = estimate.new()
    assert.same({ 0, math.huge }, { known.samples, known.error })
    known:add(5, 100, 0.08)
    assert.near(100, known.offset, 1e-9)
    assert.near(0.04, known.error, 1e-4)
    assert.is_true(known.jitter >= 0.04) -- nothing is known about how delays vary
    assert.same({ 1, 0, 0.08 }, { known.samples, known.steps, known.rtt })
  end)

  it("goes by the fastest way there and the fastest way back, of different probes", function()
    local known = estimate.new()
    known:add(0, 7 + (0.010 - 0.090) / 2, 0.100) -- fast there
    known:add(0, 7 + (0.090 - 0.010) / 2, 0.100) -- fast back, at the same time
    known:add(0, 7 + (0.070 - 0.020) / 2, 0.090)
    assert.near(7, known.offset, 1e-9)
    assert.near(0.010, known.error, 1e-4)
    assert.equal(0.090, known.rtt)
  end)

  it("never is further off than it says, whatever the drift, and finds the drift", function()
    for seed, drift in ipairs { 0, 199e-6, -199e-6, 60e-6, -20e-6 } do
      local known = play(estimate.new(), random_of(seed), { count = 150, every = 4, delay = 0.03, jitter = 0.04, offset = -4, drift = drift },
        function(off)
          assert.is_true(off <= 0.0201) -- the ways differ by 40 ms at most
        end)
      assert.is_true(math.abs(known.offset - (-4 + drift * 600)) < 0.003)
      assert.near(drift, known.drift, 15e-6)
      assert.is_true(known.error > 0.029 and known.error < 0.05)
      assert.equal(0, known.steps)
    end
  end)

  it("says how far off it is likely to be: less with more probes, little where delays are the same", function()
    local noisy, quiet = estimate.new(), estimate.new()
    local how = { count = 20, every = 0.02, delay = 0.03, jitter = 0.04, offset = 1, drift = 0 }
    local early = play(noisy, random_of(1), how).jitter
    how.from, how.count = 1, 200
    assert.is_true(play(noisy, random_of(2), how).jitter < early / 3)
    assert.is_true(play(quiet, random_of(1), { count = 20, every = 0.02, delay = 50e-6, jitter = 1e-6, offset = 1, drift = 0 }).jitter < 50e-6)
  end)

  it("keeps little, loses nothing by that, and forgets what is old", function()
    local draw, known = random_of(3), estimate.new()
    local highest, lowest, seen = math.huge, -math.huge, {}
    play(known, draw, { count = 500, every = 1, delay = 0.03, jitter = 0.04, offset = 2, drift = 0 })
    draw = random_of(3)
    for i = 1, 500 do -- the bounds of all of them, as if none was hidden
      local there, back = 0.03 + draw() * 0.04, 0.03 + draw() * 0.04
      highest = math.min(highest, 2 + there + estimate.TOLERANCE * (500 - i))
      lowest = math.max(lowest, 2 - back - estimate.TOLERANCE * (500 - i))
      seen[i] = there + back
    end
    assert.near(math.max(highest - known.offset, known.offset - lowest), known.error, 2.1e-5)
    assert.equal(math.min(table.unpack(seen)), known.rtt)
    assert.equal(500, known.samples)
    local kept = 0
    for _, hull in ipairs(known._hulls) do
      kept = kept + #hull.above / 2 + #hull.below / 2
    end
    assert.is_true(kept < 100)
    play(known, draw, { from = 500, count = 900, every = 1, delay = 0.03, jitter = 0.04, offset = 2, drift = 0 })
    assert.is_true(known.samples >= 600 and known.samples <= 760)
    assert.is_true(#known._hulls <= 5)
  end)

  it("keeps the last ones however old they are", function()
    local known = play(estimate.new(), random_of(4), { count = 40, every = 1000, delay = 0.01, jitter = 0, offset = 2, drift = 10e-6 })
    assert.is_true(known.samples >= 8 and known.samples < 20)
    assert.equal(0, known.steps)
  end)

  it("begins anew when somebody set a clock", function()
    local known = play(estimate.new(), random_of(5), { count = 50, every = 1, delay = 0.01, jitter = 0.01, offset = 2, drift = 0 })
    known:add(51, 3, 0.02)
    assert.same({ 1, 1 }, { known.steps, known.samples })
    assert.near(3, known.offset, 1e-9)
  end)
end)
