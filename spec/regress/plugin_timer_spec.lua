-- A plugin's timer whose time was over when the plugin was removed, and whose function had not begun, ran once more.

local busted = require "busted"
local echo = require "echostream"

busted.describe("a timer of a plugin that was removed", function()
  busted.it("does not run any more, even if its time was over", function()
    echo.sim.run({ seed = 1, limit = 60 }, function()
      local server = echo.server { bind = "10.0.0.1:1", quiet = true }
      local removed, late = false, 0
      server:plugin {
        name = "timer",
        install = function(_, host)
          host:every(1, function() late = late + (removed and 1 or 0) end)
        end,
      }
      echo.sleep(0)
      echo.sleep(1) -- woken in the same turn of the loop as the timer, behind it
      server:remove_plugin "timer"
      removed = true
      echo.sleep(5)
      assert.equal(0, late)
    end)
  end)
end)
