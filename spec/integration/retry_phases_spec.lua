-- What a retry policy makes of a call whose connection is lost, at each phase of its life, for every agreement about its being
-- idempotent. In the simulator: what is lost, and when, is exact.

local echo = require "echostream"
local net = require "spec.support.net"

local dark = { loss = 1 }

-- Each breaks the connection of a call once. `arrange(world)` is run before the call, `handler(world)` in the handler's first run,
-- `meanwhile(world)` while the call is under way. `arrives`: the handler runs before the connection is lost.
local phases = {
  {
    name = "before the call",
    arrange = function(world)
      world.kill()
    end,
    certain = true, -- nothing was sent: everybody may try again
  },
  {
    name = "before the request arrives",
    arrange = function(world)
      world.net:path(dark)
    end,
    meanwhile = function(world)
      echo.sleep(10) -- both ends have found out
      world.net:path {}
    end,
  },
  {
    name = "while the handler runs",
    arrives = true,
    handler = function(world)
      while not world.go do
        local ok, err = echo.sleep(0.01)
        if not ok then
          return nil, err
        end
      end
    end,
    meanwhile = function(world)
      while world.runs == 0 do
        echo.sleep(0.01)
      end
      world.kill()
      echo.sleep(2)
      world.go = true
    end,
  },
  {
    name = "before the answer arrives",
    arrives = true,
    handler = function(world)
      world.net:path(dark)
    end,
    meanwhile = function(world)
      echo.sleep(10)
      world.net:path {}
    end,
  },
}

net.only("sim", function(env)
  local function new_world(network, phase, method_agrees, server_options)
    local world = { net = network, runs = 0, go = false }
    server_options.transport = { idle_timeout = 3 }
    world.server = env.server(server_options, function(server)
      server:add_rpc("work", function(_, x)
        world.runs = world.runs + 1
        if world.runs == 1 and phase.handler then
          local _, err = phase.handler(world)
          if err then
            return nil, err
          end
        end
        return x, world.runs
      end, { idempotent = method_agrees })
    end)
    function world.kill()
      for peer in pairs(world.server._sessions) do
        peer._ud:close(0x14, "killed")
      end
    end
    world.client = env.connect(world.server, {
      transport = { idle_timeout = 3 },
      skip_verification = true, -- the second server of a spec has another key
      reconnect = { first = 0.1, cap = 0.5 },
      retry = { attempts = 20, backoff = 0.5, factor = 1.5, cap = 2, budget = false },
    })
    return world
  end

  local function call(world, phase, caller_agrees)
    if phase.arrange then
      phase.arrange(world)
    end
    local calls = world.client:with { idempotent = caller_agrees, timeout = 60 }
    local under_way = echo.spawn(function()
      return table.pack(calls:request("work", "x"))
    end)
    if phase.meanwhile then
      phase.meanwhile(world)
    end
    return under_way:wait()
  end

  for _, phase in ipairs(phases) do
    for _, agreed in ipairs { "both", "caller", "method", "nobody" } do
      local caller, method = agreed == "both" or agreed == "caller", agreed == "both" or agreed == "method"
      local again = agreed == "both" or phase.certain
      -- Its caller marks it, and it did not run: the server still refuses, because it cannot know.
      env.it(("%s; idempotent says %s: %s"):format(phase.name, agreed, again and "it runs once" or "it fails"), function(network)
        local world = new_world(network, phase, method, { dedupe = true })
        local results = call(world, phase, caller)
        if again then
          assert.same({ "x", 1, n = 2 }, results)
          assert.equal(1, world.runs)
        else
          local err = results[2]
          assert.is_nil(results[1])
          assert.equal("connection_closed", err.code)
          assert.equal("maybe", err.processed)
          assert.equal(phase.arrives and 1 or 0, world.runs)
        end
      end)
    end
  end

  env.it("runs again where the server does not remember", function(network)
    local phase = phases[4]
    local world = new_world(network, phase, true, {})
    assert.same({ "x", 2, n = 2 }, call(world, phase, true))
  end)

  env.it("runs once in each server when the first was killed", function(network)
    local first = new_world(network, phases[3], true, { dedupe = true })
    local second
    local under_way = echo.spawn(function()
      return table.pack(first.client:with { idempotent = true, timeout = 60 }:request("work", "x"))
    end)
    env.eventually(function() return first.runs == 1 end)
    local address = first.server.address
    first.server:stop { grace = 0 }
    second = { runs = 0 }
    env.server({ bind = address, dedupe = true }, function(server)
      server:add_rpc("work", function(_, x)
        second.runs = second.runs + 1
        return x, "second"
      end, { idempotent = true })
    end)
    assert.same({ "x", "second", n = 2 }, under_way:wait())
    assert.equal(1, first.runs)
    assert.equal(1, second.runs)
  end)
end)
