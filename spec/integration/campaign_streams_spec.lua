-- Streaming calls of every kind on bad networks, in small: `make campaign-streams` runs 10,000 seeds.

local campaign = require "spec.campaigns.streams"
local echo = require "echostream"

describe("streaming calls on networks that lose, double, reorder and corrupt", function()
  it("deliver what was sent, in order, and end once in the one right way", function()
    echo.set_log(function() end) -- handlers that were given up are logged
    local ok, total = pcall(campaign.run, 1, 40)
    echo.set_log(nil)
    assert.is_true(ok, total)
    assert.equal(40, total.seeds)
    assert.is_true(total.calls > 400 and total.messages > 5000 and total.lost > 300)
  end)
end)
