-- RELIABILITY L5 in small: `make campaign-calls` runs a million calls.

local campaign = require "spec.campaigns.calls"

describe("of many calls of which 30 % time out, are cancelled or lose their connection", function()
  it("each ends once, what was begun is closed on both sides, and memory comes back", function()
    local tally = campaign.run { calls = 6000, seed = 3 }
    assert.equal(6000, tally.calls)
    assert.is_true(tally.outcomes.timeout == 600 and tally.outcomes.connection_closed == 600)
    assert.is_true(tally.outcomes.cancelled >= 600 and tally.outcomes.fast >= 3600)
    assert.is_true(tally.told > 500)
    -- Two looks only, and tables that may still grow: the campaign itself holds 1 %.
    assert.is_true(tally.lua_after < tally.lua_before * 1.1, ("Lua: %d -> %d"):format(tally.lua_before, tally.lua_after))
    assert.is_true(tally.core_after < tally.core_before * 1.05 + 131072)
  end)
end)
