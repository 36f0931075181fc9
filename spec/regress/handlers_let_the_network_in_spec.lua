-- All calls that had come were handled before any answer went out and before the network was read again: the transport took the
-- handlers' time for the path's, its pacer got its turn too rarely, answers piled up, and calls whose deadline had passed still ran.

local echo = require "echostream"
local net = require "spec.support.net"

local CALLS = 90

local function hold(seconds)
  local ends = os.clock() + seconds
  while os.clock() < ends do end
end

-- In the simulator a handler takes no time. One process plays both sides here: what counts is the order, not how fast it is.
net.only("quic", function(env)
  env.it("answers go out while other handlers have yet to run", function()
    local ran, sent = 0, {}
    local _, client = env.pair(function(s)
      s:add_rpc("work", function(session)
        ran = ran + 1
        sent[ran] = session:stats().packets_sent
        hold(0.004)
        return true
      end)
    end)
    local tasks = {}
    for i = 1, CALLS do
      tasks[i] = echo.spawn(function() assert(client:request "work") end)
    end
    echo.all(tasks)
    assert.equal(CALLS, ran)
    assert.is_true(sent[CALLS // 2] > sent[1], "nothing was sent while half of the handlers ran")
    assert.is_true(sent[CALLS] > sent[CALLS // 2], "nothing was sent while the other half ran")
  end)

  env.it("a call whose deadline passed in the queue does not run", function()
    local ran, late = 0, 0
    local _, client = env.pair(function(s)
      s:add_rpc("work", function()
        ran = ran + 1
        hold(0.01)
      end)
    end)
    local calls = client:with { timeout = 0.2 }
    local tasks = {}
    for i = 1, CALLS do
      tasks[i] = echo.spawn(function()
        local ok, err = calls:request "work"
        if not ok then
          assert.equal("timeout", err.code)
          late = late + 1
        end
      end)
    end
    echo.all(tasks)
    client:request "work" -- behind all the others: they have ended
    assert.is_true(ran < CALLS / 2, ("%d of %d ran"):format(ran, CALLS))
    assert.is_true(late >= CALLS / 2)
  end)
end)
