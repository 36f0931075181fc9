-- The backends' side of a tunnel as a plugin of one's own client: serves a backend of this machine, and switches the public side to maintenance
-- and back by a call on the same session.
--   lua5.4 examples/tunnel_agent.lua ADDRESS PIN BACKEND [GROUP]     such as … 127.0.0.1:5000 sha256:… http://127.0.0.1:3000
-- Lines that are typed: "off", "on", "status"; the end of input takes leave. The secret is $TUNNEL_TOKEN.
local echo = require "echostream"
local tunnel = require "echostream.tunnel"

local address, pin, backend, group = table.unpack(arg)
local agent = tunnel.agent {
  token = assert(os.getenv "TUNNEL_TOKEN", "TUNNEL_TOKEN is the secret that the server knows"),
  group = group or "web",
  client_id = "example-" .. (group or "web"),
  backend = backend,
}
local client = echo.client { pin = pin }
client:plugin(agent)
assert(client:connect(address))
print "registered"
io.stdout:flush()

for line in io.lines() do
  if line == "off" or line == "on" then
    assert(client:request("maintenance", line == "off"))
    print(line == "off" and "under maintenance" or "open again")
  elseif line == "status" then
    local stats = agent:status().stats
    print(("%d requests served, %d under way"):format(stats.served, stats.in_flight))
  end
  io.stdout:flush()
end
agent:drain { grace = 5 }
client:close()
print "gone"
