-- The long run of RELIABILITY N5: a NAT that gives the client another port, or another address, each second for a minute.
--   lua5.4 spec/campaign/rebinding.lua [SEEDS] [SECONDS]
-- In the simulator for every seed, without loss and at 2 % loss; then once over sockets for each kind. Exit status 1: a call failed.

package.path = "./?.lua;" .. package.path

local echo = require "echostream"
local impair = require "spec.support.impair"
local rebinding = require "spec.support.rebinding"

local seeds, seconds = tonumber(arg[1]) or 25, tonumber(arg[2]) or 60
local failed = 0

local function report(what, figures, moves)
  failed = failed + figures.failed
  print(("%-34s %6d calls, %d failed, %d rebinds, %d moves validated, slowest %.2f s%s"):format(what, figures.calls, figures.failed,
    figures.rebinds, moves, figures.slowest, figures.error and ": " .. figures.error or ""))
end

local function merge(sum, figures)
  for _, name in ipairs { "calls", "failed", "rebinds" } do
    sum[name] = (sum[name] or 0) + figures[name]
  end
  sum.slowest = math.max(sum.slowest or 0, figures.slowest)
  sum.error = sum.error or figures.error
end

local function simulated(seed, kind, loss)
  return echo.sim.run({ seed = seed, limit = seconds * 4 + 60, delay = 0.02, loss = loss }, function(net)
    local server = echo.server { bind = "10.0.0.1:5000", quiet = true }
    local moves = rebinding.prepare(server)
    assert(server:start())
    local client = assert(echo.connect("10.0.0.1:5000", { pin = server.pin }))
    local figures = rebinding.run { client = client, seconds = seconds, rebind = function(n)
      assert(net:rebind(client, kind == "address" and ("10.7.%d.%d:0"):format(n // 200, n % 200 + 1) or nil))
    end }
    if not client:is_open() then
      figures.failed, figures.error = figures.failed + 1, figures.error or "the connection was lost"
    end
    client:close()
    server:stop { grace = 0 }
    return figures, #moves
  end)
end

for _, kind in ipairs { "port", "address" } do
  for _, loss in ipairs { 0, 0.02 } do
    local sum, moves = {}, 0
    for seed = 1, seeds do
      local figures, n = simulated(seed, kind, loss)
      merge(sum, figures)
      moves = moves + n
    end
    report(("simulated, %s, %d %% loss, %d seeds"):format(kind, loss * 100, seeds), sum, moves)
  end
end

echo.spawn(function()
  for _, kind in ipairs { "port", "address" } do
    local server = echo.server { bind = "127.0.0.1:0", quiet = true }
    local moves = rebinding.prepare(server)
    assert(server:start())
    local between = impair.new { to = server.address, rebind_address = kind == "address" and 1 or 0 }
    local client = assert(echo.connect(between.address, { pin = server.pin }))
    local figures = rebinding.run { client = client, seconds = seconds, rebind = function()
      between:rebind()
    end }
    report(("over sockets, %s"):format(kind), figures, #moves)
    client:close()
    server:stop { grace = 0 }
    between:close()
  end
end):wait()
os.exit(failed == 0 and 0 or 1, true)
