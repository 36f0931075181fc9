-- Clocks over paths of 50 ms, give or take 20, in small: `make campaign-clock` runs 2,000 seeds.

local campaign = require "spec.campaigns.clock"

describe("clocks over paths whose delays vary by 20 ms about 50 ms", function()
  it("are within 10 ms of the truth in each second, and never further off than they say", function()
    local got = campaign.run(1, 20, 120)
    assert.equal(2400, got.answers)
    assert.equal(0, got.crossings)
    assert.is_true(got.median < 0.001 and got.p99 < 0.004)
    assert.is_true(got.likely > 0.6)
  end)
end)
