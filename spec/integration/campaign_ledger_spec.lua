-- The campaign of retries (make campaign-retries), in small.

local echo = require "echostream"
local ledger = require "spec.campaigns.ledger"

describe("calls that are retried while servers come and go", function()
  setup(function() echo.set_log(function() end) end) -- of clients that trust anybody
  teardown(function() echo.set_log(nil) end)

  for seed = 1, 4 do
    it("run as often as their callers were told, seed " .. seed, function()
      local tally = ledger.run(seed, 8)
      assert.is_true(tally.calls > 100, tally.calls)
      assert.is_true(tally.ok > tally.calls / 2, tally.ok)
    end)
  end
end)
