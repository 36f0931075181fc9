-- Who computes and never waits: lua/echostream/held.lua.

local echo = require "echostream"
local held = require "echostream.held"

describe("code that computes", function()
  local clock, ahead = os.clock, 0

  before_each(function()
    ahead = 0
    os.clock = function() return ahead end -- luacheck: ignore 122
  end)

  after_each(function()
    os.clock = clock -- luacheck: ignore 122
  end)

  it("is told when it has not waited for so long", function()
    local seen = {}
    local task = echo.spawn(function()
      local too_long = held.watch(5)
      for i = 1, 4 do
        seen[i] = too_long()
        ahead = ahead + 2
      end
    end)
    assert(task:wait())
    assert.same({ false, false, false, "it computed for 5 s without waiting, and nothing else runs here meanwhile" }, seen)
  end)

  it("begins anew whenever it has waited", function()
    local seen = {}
    local task = echo.spawn(function()
      local too_long = held.watch(5)
      for i = 1, 8 do
        seen[i] = too_long()
        ahead = ahead + 4
        echo.sleep(0)
        seen[i] = seen[i] or too_long()
      end
    end)
    assert(task:wait())
    for i = 1, 8 do assert.is_false(seen[i]) end
  end)

  it("is told in a simulation too", function()
    local said
    echo.sim.run({ seed = 1 }, function()
      local too_long = held.watch(1)
      too_long()
      echo.sleep(10)
      said = too_long() or "nothing"
      ahead = ahead + 2
      said = said .. ", then " .. tostring(too_long())
    end)
    assert.matches("^nothing, then it computed for 1 s", said)
  end)
end)
