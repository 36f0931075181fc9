local echo = require "echostream"
local watch = require "echostream.tunnel.watch"

describe("the watch over time limits", function()
  it("looks at all who are there, again and again, and lets its task end", function()
    echo.sim.run({ seed = 1, limit = 100 }, function()
      local seen = {}
      local w = watch.new(function(run, now) seen[#seen + 1] = { run, now } end)
      w:add "one"
      echo.sleep(0.3)
      assert.equal(1, #seen)
      assert.equal("one", seen[1][1])
      w:add "two"
      echo.sleep(0.25)
      assert.equal(3, #seen)
      assert.is_true(seen[3][2] > seen[1][2])
      w:remove "one"
      w:remove "two"
      echo.sleep(10) -- the task has ended
      assert.equal(3, #seen)
      w:add "three"
      echo.sleep(0.3)
      assert.equal("three", seen[4][1])
      w:stop()
      echo.sleep(1)
      assert.equal(4, #seen)
      w:add "four"
      echo.sleep(0.3)
      assert.is_true(#seen >= 5)
      w:stop()
    end)
  end)

  it("may take out whom it looks at", function()
    echo.sim.run({ seed = 1, limit = 100 }, function()
      local n = 0
      local w
      w = watch.new(function(run)
        n = n + 1
        w:remove(run)
      end)
      for i = 1, 5 do w:add(i) end
      echo.sleep(2)
      assert.equal(5, n)
      w:stop()
    end)
  end)
end)
