-- RELIABILITY T5: peers that take nothing of what they asked for. What they do to others is measured in virtual time, where the
-- figures repeat to the nanosecond; what they cost in CPU, `make hostile` measures.

local echo = require "echostream"

local SLOW, CALLS = 30, 300

-- The 99th percentile of an honest client's calls, in seconds, beside `slow` peers.
local function p99(slow)
  local result
  echo.sim.run({ seed = 3, delay = 0.01, limit = 600 }, function(net)
    local server = echo.server { bind = "10.0.0.1:5000", quiet = true }
    server:add_rpc("add", function(_, a, b) return a + b end)
    server:add_rpc("bytes", function(_, n) return ("x"):rep(n) end)
    server:add_stream("endless", function(_, stream)
      repeat until not stream:send(("y"):rep(10000))
    end)
    assert(server:start())
    local others = {}
    for i = 1, slow do
      local host = "10.0.1." .. i
      local other = echo.client { pin = server.pin, bind = host .. ":0" }
      assert(other:connect(server.address))
      others[i] = other
      local stream = assert(other:create_stream("endless")) -- never read
      stream:send("begin")
      net:path({ rate = 20000, queue = 5 }, "10.0.0.1", host) -- and a line that 4 MB do not get through
      other:request("bytes", 4000000, function() end)
    end
    echo.sleep(5)
    local client = assert(echo.connect(server.address, { pin = server.pin }))
    local times = {}
    for i = 1, CALLS do
      local from = echo.now()
      assert.equal(i + 1, client:request("add", i, 1))
      times[i] = echo.now() - from
    end
    assert.equal(slow + 1, #server:sessions()) -- none of them was cut, none got out of the way
    table.sort(times)
    result = times[math.ceil(0.99 * CALLS)]
    client:close()
    assert.equal(slow, #others) -- and they were held until now
    server:stop { grace = 0 }
  end)
  return result
end

describe("peers that take nothing", function()
  it("leave the 99th percentile of others within 20 %", function()
    local idle, beside = p99(0), p99(SLOW)
    assert.is_true(beside <= 1.2 * idle, ("%.3f ms, idle %.3f ms"):format(beside * 1000, idle * 1000))
  end)
end)
