-- Ctrl-C was heard only when the loop had nothing to do at once: a program with work for every moment could not be stopped with it.

local process = require "spec.support.process"

describe("Ctrl-C", function()
  it("ends what waits beside tasks that never rest", function()
    local dir = process.directory()
    process.write(dir .. "/busy.lua", [[
      local echo = require "echostream"
      echo.spawn(function()
        for i = 1, math.huge do
          if i == 10 then
            print "busy"
            io.stdout:flush()
          end
          echo.sleep(0)
        end
      end)
      print(pcall(echo.sleep, 50))
    ]])
    local busy = process.start(("lua5.4 %s/busy.lua"):format(dir))
    busy:expect "^busy$"
    local _, rest = busy:stop "INT"
    process.remove(dir)
    assert.matches("false\tinterrupted!", rest)
  end)
end)
