-- A process that looks like a tunnel to the commands of `echostream tunnel`: fake_role.lua [refuse]
local echo = require "echostream"
local errors = require "echostream.errors"

local over
local role = { server = nil }

function role.lines() return { "fake role" } end

function role.status()
  return { role = "agent", client_id = "a1", group = "g", links = { { server = "127.0.0.1:5000", server_id = "s", draining = false } },
    stats = { served = 3 }, backends = { web = { healthy = true, in_flight = 1 } }, config_error = "bad\27[31m" }
end

function role.reload()
  if arg[1] == "refuse" then return nil, errors.new("invalid_argument", "file.lua:3: no") end
  return { restart = echo.array { "listen" } }
end

function role.drain_agent(_, id)
  if id == "nobody" then return nil, errors.new("not_found", "there is no agent nobody") end
  return { draining = true }
end

function role.stop(_, grace)
  print("stopping " .. tostring(grace))
  io.stdout:flush()
  echo.sleep(0.01)
  over = true
  return true
end

function role.wait()
  while not over do echo.sleep(0.01) end
  return true
end

os.exit(require("echostream.tunnel.cli.run").run(role, "tunnel-fake", { grace = 7 }), true)
