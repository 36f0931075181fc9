-- The public side of a tunnel as a plugin of one's own server, with rules that are Lua: who is in the canary group, and a switch for maintenance
-- that agents turn by an ordinary call on the very session that carries their requests.
--   lua5.4 examples/tunnel_server.lua [VISITORS [AGENTS]]        default 127.0.0.1:8080 127.0.0.1:5000; the secret is $TUNNEL_TOKEN
local echo = require "echostream"
local tunnel = require "echostream.tunnel"

local maintenance = false

local public = tunnel.server {
  agents = { { token = assert(os.getenv "TUNNEL_TOKEN", "TUNNEL_TOKEN is the secret that agents know") } },
  listen = { { bind = arg[1] or "127.0.0.1:8080", name = "web" } },
  rules = {
    { name = "maintenance", when = function() return maintenance end,
      respond = { status = 503, headers = { ["retry-after"] = "60" }, body = "back in a minute\n" } },
    function(request) -- everybody who asks for it, and a tenth of the others by their address
      local last = tonumber(request.client_ip:match "(%d+)$") or 0
      if request.head:get "x-canary" or last % 10 == 9 then
        return { group = "canary" }
      end
    end,
    { name = "everybody", group = "web" },
  },
}

public:on("exchange", function(record)
  print(("%s %s%s -> %s by %s in %.1f ms"):format(record.method or "?", record.host or "?", record.path or "", record.status or record.cause,
    record.agent or record.rule or "nobody", record.duration * 1000))
  io.stdout:flush()
end)
public:on("agent", function(member, what)
  if what == "registered" or what == "lost" then
    print(("agent %s of group %s: %s"):format(member.id, member.group, what))
    io.stdout:flush()
  end
end)

local server = echo.server { bind = arg[2] or "127.0.0.1:5000", quiet = true }
server:plugin(public)
server:add_rpc("maintenance", function(_, on) maintenance = on == true end)
server:on_start(function()
  echo.spawn(function() -- the listeners are opened by the start, too
    print("listening on " .. server.address)
    print("pin " .. server.pin)
    print("visitors on " .. public:addresses().web)
    io.stdout:flush()
  end)
end)
server:run()
