-- One part of a tunnel as a process of its own, which ends with its parent:
--   tunnel_process.lua server                      says `ready ADDRESS PIN WEB`; one listener, everybody may register, all goes to the group web
--   tunnel_process.lua agent ADDRESS PIN BACKEND   says `ready`
--   tunnel_process.lua backend                     says `ready ADDRESS`: /small is "hello", anything else a download without an end

local core = require "echostream.tunnel.core"
local echo = require "echostream"
local tunnel = require "echostream.tunnel"

local role, address, pin, backend = ...

local function say(...)
  print(...)
  io.stdout:flush()
end

if role == "server" then
  local plugin = tunnel.server { agents = { { anyone = true } }, listen = { { bind = "127.0.0.1:0", name = "web" } }, rules = { { group = "web" } } }
  local server = echo.server { bind = "127.0.0.1:0", quiet = true, state_dir = require("spec.support.scratch").path ".state" }
  server:plugin(plugin)
  assert(server:start())
  say("ready " .. server.address .. " " .. server.pin .. " " .. plugin:addresses().web)
elseif role == "agent" then
  local agent = tunnel.agent { client_id = "a", group = "web", backend = backend, on_change = function(_, what)
    if what == "registered" then say "ready" end
  end }
  local client = echo.client { pin = pin, max_named_streams = 10000, transport = { max_streams_bidi = 10000 } }
  client:plugin(agent)
  assert(client:connect(address))
else
  local chunk = ("x"):rep(32768)
  local listener = assert(require("echostream.tunnel.engine").current():listen { ip = "127.0.0.1", port = 0, kind = "http",
    on_exchange = function(raw, head, fin)
      local x = require("echostream.tunnel.exchange").new(raw, fin)
      echo.spawn(function()
        if head.path == "/small" then
          if x:send_head(assert(core.head("response", { status = 200 }))) then x:write("hello", true) end
          return
        end
        x:send_head(assert(core.head("response", { status = 200 })))
        while x:write(chunk) do end
      end)
    end })
  say("ready http://" .. listener:address())
end

echo.run()
