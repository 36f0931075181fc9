-- The backends' side of a tunnel as a plugin of one's own client: serves a backend of this machine until it is told to end.
--   lua5.4 examples/tunnel_agent.lua ADDRESS PIN BACKEND [GROUP]     such as … 127.0.0.1:5000 sha256:… http://127.0.0.1:3000
--   lua5.4 examples/tunnel_agent.lua ADDRESS PIN close|open          no agent: asks the public side to close for maintenance, by an ordinary call
-- The secret is $TUNNEL_TOKEN.
local echo = require "echostream"
local tunnel = require "echostream.tunnel"

local address, pin, what, group = table.unpack(arg)
local client = echo.client { pin = pin }

if what == "close" or what == "open" then
  assert(client:connect(address))
  assert(client:request("maintenance", what == "close"))
  client:close()
  print("visitors find it " .. (what == "close" and "closed" or "open"))
  return
end

local agent = tunnel.agent {
  token = assert(os.getenv "TUNNEL_TOKEN", "TUNNEL_TOKEN is the secret that the server knows"),
  group = group or "web",
  client_id = "example-" .. (group or "web"),
  backend = what,
}
client:plugin(agent)
assert(client:connect(address))
print("registered, serving " .. what)
io.stdout:flush()
echo.run() -- until Ctrl-C or SIGTERM
agent:drain { grace = 5 }
client:close()
print(("%d requests were served"):format(agent:status().stats.served))
