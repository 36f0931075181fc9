--- The reverse tunnel: visitors of a public server reach backends that only agents can reach. Both roles are plugins.
---
---     local tunnel = require "echostream.tunnel"
---     local server = echo.server { bind = "0.0.0.0:5000" }
---     server:plugin(tunnel.server {
---       agents = { { token = os.getenv "TUNNEL_TOKEN" } },
---       listen = { { bind = "0.0.0.0:8080" } },
---       rules = { { group = "web" } },
---     })
---     server:run()

local M = {}

--- Makes the public side: a plugin for an `echo.server`.
---@param options echostream.tunnel.options.server
---@return echostream.tunnel.server
function M.server(options)
  local plugin = require("echostream.tunnel.server").new(options)
  return plugin
end

--- Makes the side of the backends: a plugin for an `echo.client`.
---@param options echostream.tunnel.options.agent
---@return echostream.tunnel.agent
function M.agent(options)
  local plugin = require("echostream.tunnel.agent").new(options)
  return plugin
end

--- Runs an agent with clients of its own, one for each of its servers, that come back whenever they are lost.
---@param options echostream.tunnel.options.run_agent
---@return echostream.tunnel.running_agent
function M.run_agent(options)
  local running = require("echostream.tunnel.agent.run").run(options)
  return running
end

-- Parts that are of use by themselves, loaded when they are asked for.
local parts = {
  rules = true, groups = true, limits = true, errors = true, forwarded = true, ids = true, priority = true, config = true,
  access_log = true, metrics = true, inspector = true,
}

return setmetatable(M, {
  __index = function(t, name)
    if parts[name] then
      local part = require("echostream.tunnel." .. name)
      rawset(t, name, part)
      return part
    end
  end,
})
