-- How loss hurts, without a network: the same server and client over simulated paths, in virtual time.
--   lua5.4 examples/sim_loss.lua [SEED]
local echo = require "echostream"

local seed = math.tointeger(arg and arg[1] or 1)

local function measure(loss)
  return echo.sim.run({ seed = seed, loss = loss, delay = 0.02 }, function(net)
    local server = echo.server { bind = "10.0.0.1:5000", quiet = true }
    server:add_rpc("double", function(_, x)
      return 2 * x
    end, { idempotent = true })
    assert(server:start())
    local client = assert(echo.connect("10.0.0.1:5000", { pin = server.pin }))

    local times = {}
    local calls = {}
    for i = 1, 500 do
      calls[i] = echo.spawn(function()
        local began = echo.now()
        assert(client:request("double", i) == 2 * i)
        times[#times + 1] = echo.now() - began
      end)
      echo.sleep(0.01)
    end
    assert(echo.all(calls))
    table.sort(times)
    return #times, times[#times // 2], times[#times * 99 // 100], net:stats()
  end)
end

print "loss    calls   median ms   99 % ms   datagrams lost"
for _, loss in ipairs { 0, 0.01, 0.05, 0.2 } do
  local calls, median, slow, stats = measure(loss)
  print(("%3d %%   %5d   %9.1f   %7.1f   %d of %d"):format(loss * 100, calls, median * 1e3, slow * 1e3, stats.lost, stats.sent))
end
