--- An agent as a configuration file says: what `echostream tunnel agent FILE` runs.

local config = require "echostream.tunnel.config"
local core = require "echostream.core"
local errors = require "echostream.errors"
local metrics = require "echostream.metrics"
local options = require "echostream.options"
local parts = require "echostream.tunnel.operate.parts"

local M = {}

---@class echostream.tunnel.options.agent_file  what the file of an agent has beside the options of `tunnel.run_agent`
---@field metrics? { bind?: string }  a page with what it counts, for Prometheus, such as { bind = "127.0.0.1:9465" } (default: none)

local own = {
  metrics = { type = "table", fields = { bind = { type = "string", default = "127.0.0.1:9465" } } },
}
-- What a reload changes without a restart.
local LIVE <const> = { services = true, backend = true }

local function run()
  return require "echostream.tunnel.agent.run"
end

-- The options for run(), checked; or nil and an error with the place.
local function judge(file)
  local ok, checked = pcall(options.check, "agent", { metrics = file.values.metrics }, own)
  if not ok then
    return nil, errors.new("invalid_argument", file:explain(checked, "agent"))
  end
  local rest = parts.without(file.values, own)
  if rest.servers == nil then
    return nil, errors.new("invalid_argument", file:place() .. "servers is missing: where the tunnel's server is")
  end
  local plugin, why = pcall(require("echostream.tunnel.agent").new, parts.without(rest, { servers = true, client = true }))
  if not plugin then
    if rest.backend then -- it is the service "default"
      why = tostring(why):gsub("tunnel%.agent%.services%.default", "tunnel.agent.backend")
    end
    return nil, errors.new("invalid_argument", file:explain(why, "tunnel.agent"))
  end
  local client
  client, why = pcall(require("echostream.client").new, rest.client)
  if not client then
    return nil, errors.new("invalid_argument", file:explain(why, "echo.client", "client"))
  end
  return rest, nil, checked
end

--- Reads and checks the file of an agent, and starts nothing.
---@param path string
---@return echostream.tunnel.config|nil file, echostream.error? err
function M.check(path)
  local file, err = config.read(path)
  if not file then
    return nil, err
  end
  local rest
  rest, err = judge(file)
  if not rest then
    return nil, err
  end
  return file
end

---@class echostream.tunnel.operated_agent
---@field role "agent"
---@field running echostream.tunnel.running_agent
---@field metrics? echostream.metrics.endpoint
local Operated = { role = "agent" }
Operated.__index = Operated
Operated.__name = "echostream.tunnel.operated_agent"

--- Starts an agent as the file says. It dials in the background.
---@param path string
---@return echostream.tunnel.operated_agent|nil agent, echostream.error? err
function M.start(path)
  local file, err = config.read(path)
  if not file then
    return nil, err
  end
  local rest, problem, checked = judge(file)
  if not rest then
    return nil, problem
  end
  local endpoint
  if checked.metrics then
    endpoint, err = metrics.serve { bind = checked.metrics.bind }
    if not endpoint then
      return nil, err
    end
  end
  local ok, running = pcall(run().run, rest)
  if not ok then
    if endpoint then
      endpoint.close()
    end
    return nil, errors.new("invalid_argument", file:explain(running, "tunnel.run_agent"))
  end
  return setmetatable({ running = running, metrics = endpoint, _file = file }, Operated)
end

--- Lines for people about what was started.
---@return string[]
function Operated:lines()
  local agent = self.running.agent
  local lines = { ("agent %s of group %s"):format(agent.options.client_id, agent.options.group) }
  if self.metrics then
    lines[2] = ("metrics http://%s/metrics"):format(self.metrics.address)
  end
  return lines
end

--- Reads the file again: its services are changed whole or not at all; what else is new in it is named, and waits for a restart.
---@return { restart: string[] }|nil done, echostream.error? err  why everything stays as it is
function Operated:reload()
  local file, err = config.read(self._file.path)
  local rest
  if file then
    rest, err = judge(file)
  end
  if not rest then
    return nil, err
  end
  if not parts.same(rest.services, self._file.values.services) or not parts.same(rest.backend, self._file.values.backend) then
    local ok, why = self.running.agent:set_services(rest.services or rest.backend and { default = rest.backend } or {})
    if not ok then
      return nil, errors.new("invalid_argument", file:explain(why, "services", rest.services and "services" or "backend"))
    end
  end
  local restart = parts.changed(self._file.values, file.values, LIVE)
  self._file.values.services, self._file.values.backend = rest.services, rest.backend
  return { restart = core.array(restart) }
end

--- What there is, for `echostream tunnel status`.
---@return table
function Operated:status()
  local status = self.running.agent:status()
  status.role = "agent"
  status.absent = core.array(self.running:absent())
  return status
end

--- Takes leave and ends: nothing new comes, what is under way has so many seconds.
---@param grace? number  seconds (default: the option drain_grace)
---@return true|nil ok, echostream.error? err
function Operated:stop(grace)
  local ok, err = self.running:stop { grace = grace }
  if self.metrics then
    self.metrics.close()
  end
  return ok, err
end

--- Waits until it was stopped, or every server refused it for good.
---@return true|nil ok, echostream.error? err
function Operated:wait()
  return self.running:wait()
end

return M
