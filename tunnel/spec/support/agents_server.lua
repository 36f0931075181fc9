-- A server that agents register with, and nothing else, as a process of its own: agents_server.lua ADDRESS STATE_DIR. It says `ready ADDRESS PIN`,
-- then a line `session SECONDS` for each connection and `agent SECONDS ID` for each registration, by the loop's clock.

local admission = require "echostream.tunnel.server.admission"
local child = require "spec.support.child"
local control = require "echostream.tunnel.server.control"
local echo = require "echostream"
local registry = require "echostream.tunnel.server.registry"

local address, state_dir = ...

local function say(...)
  print((...):format(select(2, ...)))
  io.stdout:flush()
end

local server = echo.server { bind = address, state_dir = state_dir, quiet = true }
local controls = control.new {
  registry = registry.new(10000), entries = admission.check("agents", { { anyone = true } }), server_id = "s", heartbeat = 10, replace_grace = 1,
  on_change = function(member, what)
    if what == "registered" then say("agent %.6f %s", echo.now(), member.id) end
  end,
}
server:plugin { name = "tunnel", install = function(_, host)
  host:on_connect(function() say("session %.6f", echo.now()) end)
  controls:install(host)
end }
child.serve(server)
