-- RELIABILITY O1 in small: `make campaign-kill` kills a thousand times.

local campaign = require "spec.campaigns.kill"
local echo = require "echostream"

describe("of a server that is killed under load", function()
  it("the clients come back by themselves, and nothing runs twice", function()
    local tally
    echo.spawn(function() tally = campaign.run { kills = 3, clients = 4, workers = 3 } end):wait()
    assert.is_true(tally.reconnects >= 4) -- all of them, from the last one at least
    assert.equal(16 - 4, #tally.back)
    assert.is_true(tally.ok > 0)
    assert.same({ 0, 0, 0 }, { tally.lost, tally.ran_although_refused, tally.twice })
  end)
end)
