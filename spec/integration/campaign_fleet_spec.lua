-- Fleets and clients that reconnect under everything at once, in small: `make campaign-fleet` runs hundreds of seeds.

local campaign = require "spec.campaigns.fleet"

describe("of calls of a fleet, and of a client that reconnects, while servers stop and start and networks go", function()
  it("none fails, and none runs twice in one life of a server", function()
    local tally = campaign.run(1, 3)
    assert.equal(4500, tally.calls)
    assert.same({ 0, 0 }, { tally.failed, tally.twice }, tally.last)
  end)
end)
