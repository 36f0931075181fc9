-- How fast the simulator is: connections made and ended, calls, and datagrams, by second of real time on one core.
--   make && .ci/env lua5.4 bench/sim.lua [CONNECTIONS [CALLS]]      default: 3000 200000

local echo = require "echostream"

local connections, calls = tonumber(arg[1] or 3000), tonumber(arg[2] or 200000)

local function measure(what, n, opts, fn)
  local began = os.clock()
  local stats, virtual = echo.sim.run(opts, function(net)
    local server = echo.server { bind = "10.0.0.1:5000", quiet = true, max_calls = 1000 }
    server:add_rpc("double", function(_, x) return 2 * x end, { idempotent = true })
    assert(server:start())
    fn(server)
    return net:stats(), net:now()
  end)
  local took = os.clock() - began
  print(("%-34s %9.0f a second  %9.0f datagrams a second  %7.1f s of virtual time in %.2f s"):format(
    what, n / took, stats.sent / took, virtual, took))
end

local function side_by_side(n, at_once, fn)
  local next_one, tasks = 0, {}
  for i = 1, at_once do
    tasks[i] = echo.spawn(function()
      while next_one < n do
        next_one = next_one + 1
        fn(next_one)
      end
    end)
  end
  for _, task in ipairs(tasks) do
    task:wait()
  end
end

for _, loss in ipairs { 0, 0.05 } do
  measure(("connections, one call each, %g %%"):format(loss * 100), connections, { loss = loss }, function(server)
    side_by_side(connections, 64, function(i)
      local client = assert(echo.connect("10.0.0.1:5000", { pin = server.pin }))
      assert(client:request("double", i) == 2 * i)
      client:close()
    end)
  end)
end
for _, loss in ipairs { 0, 0.05 } do
  measure(("calls on one connection, %g %%"):format(loss * 100), calls, { loss = loss }, function(server)
    local client = assert(echo.connect("10.0.0.1:5000", { pin = server.pin }))
    side_by_side(calls, 64, function(i)
      assert(client:request("double", i) == 2 * i)
    end)
  end)
end
