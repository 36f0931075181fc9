-- Servers that are found without an address.  lua5.4 examples/discovery.lua serve NAME [INTERFACE…]
--                                             lua5.4 examples/discovery.lua find NAME [INTERFACE…]
--                                             lua5.4 examples/discovery.lua watch [INTERFACE…]     until Ctrl-C
-- Without interfaces: all networks that this machine is in.

local echo = require "echostream"

local function interfaces(first)
  return arg[first] and table.move(arg, first, #arg, 1, {}) or nil
end

local roles = {}

function roles.serve()
  local name, only = assert(arg[2], "say its name"), interfaces(3)
  -- On the loopback alone nobody else needs to reach it.
  local server = echo.server { bind = only and only[1] == "lo" and "127.0.0.1:0" or "0.0.0.0:0", quiet = true }
  server:add_rpc("greet", function(_, who) return ("%s greets %s"):format(name, who) end)
  assert(server:start())
  local guard <close> = assert(echo.discovery.advertise { name = name, server = server, interfaces = only, type = "greeter" })
  print(("serving as %s via %s"):format(guard.name, guard.via))
  io.stdout:flush()
  server:run()
end

function roles.find()
  local name = assert(arg[2], "say whom to find")
  local found = assert(echo.discovery.discover({ name = name, type = "greeter", interfaces = interfaces(3) }, 30))
  print(("found %s at %s"):format(found.name, found.address))
  -- The pin came from the network, too: it says that this is the server that was found, not whose it is.
  local client = assert(echo.connect(found))
  print(client:request("greet", "you"))
  client:close()
end

function roles.watch()
  local browser <close> = assert(echo.discovery.browse { type = "greeter", interfaces = interfaces(2) })
  for what, found in browser:changes() do
    print(what, found.name, found.address)
    io.stdout:flush()
  end
end

local role = roles[arg[1] or ""]
if not role then
  io.stderr:write("usage: discovery.lua serve NAME [INTERFACE…] | find NAME [INTERFACE…] | watch [INTERFACE…]\n")
  os.exit(2)
end
role()
