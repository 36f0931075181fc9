--- A server as a configuration file says: what `echostream tunnel server FILE` runs.

local access_log = require "echostream.tunnel.access_log"
local config = require "echostream.tunnel.config"
local core = require "echostream.core"
local errors = require "echostream.errors"
local inspector = require "echostream.tunnel.inspector"
local listeners = require "echostream.tunnel.server.listeners"
local metrics = require "echostream.metrics"
local options = require "echostream.options"
local parts = require "echostream.tunnel.operate.parts"
local task = require "echostream.task"
local tunnel_metrics = require "echostream.tunnel.metrics"

local M = {}

---@class echostream.tunnel.options.server_file  what the file of a server has beside the options of `tunnel.server`
---@field server? table  where agents come to, and with which certificate: the options of `echo.server` (default: { bind = "0.0.0.0:5000" })
---@field access_log? echostream.tunnel.options.access_log  (default: none)
---@field metrics? { bind?: string }  a page with what is counted, for Prometheus, such as { bind = "127.0.0.1:9464" } (default: none)
---@field inspector? echostream.tunnel.options.inspector  (default: none)

local own = {
  server = { type = "table" },
  access_log = { type = "table", fields = access_log.schema },
  metrics = { type = "table", fields = { bind = { type = "string", default = "127.0.0.1:9464" } } },
  inspector = { type = "table", fields = inspector.schema },
}
-- What a reload changes without a restart.
local LIVE <const> = { rules = true, shadow = true, groups = true, limits = true, config = true, config_version = true }

local function said(file, ...)
  return errors.new("invalid_argument", file:explain(...))
end

-- The rules' own words: "rules[3].path: …", with the line.
local function rules_problem(file, err)
  local field = err.field or tostring(err.message):match "rules%[[^%s:]*"
  return errors.new("invalid_argument", field and file:place(field) .. err.message or err.message:find("^[^%s:]+:%d+: ") and err.message
    or file:place "rules" .. err.message)
end

---@class echostream.tunnel.operated_server
---@field role "server"
---@field server echostream.server
---@field plugin echostream.tunnel.server
---@field access_log? echostream.tunnel.access_log
---@field metrics? echostream.metrics.endpoint
---@field inspector? echostream.tunnel.inspector
local Operated = { role = "server" }
Operated.__index = Operated
Operated.__name = "echostream.tunnel.operated_server"

-- Checks everything and makes what makes no sockets: the options of both, checked, the server and the plugin; or nil and an error.
local function judge(file)
  local mine = {}
  for name in pairs(own) do
    mine[name] = file.values[name]
  end
  local ok, checked = pcall(options.check, "server", mine, own)
  if not ok then
    return nil, said(file, checked, "server")
  end
  if checked.inspector then
    local fine, why = pcall(inspector.judge, checked.inspector)
    if not fine then
      return nil, said(file, why, "tunnel.inspector", "inspector")
    end
  end
  local rest = parts.without(file.values, own)
  if type(rest.rules) == "table" then
    local set, err = require("echostream.tunnel.rules").new(rest.rules, rest.shadow)
    if not set then
      return nil, rules_problem(file, err)
    end
  end
  local plugin
  ok, plugin = pcall(require("echostream.tunnel.server").new, rest)
  if not ok then
    return nil, said(file, plugin, "tunnel.server")
  end
  local given = { quiet = true }
  for name, value in pairs(checked.server or {}) do
    given[name] = value
  end
  given.bind = given.bind or "0.0.0.0:5000"
  local server
  ok, server = pcall(require("echostream.server").new, given)
  if not ok then
    return nil, said(file, server, "echo.server", "server")
  end
  return { own = checked, rest = rest, plugin = plugin, server = server }
end

--- Reads and checks the file of a server, and starts nothing.
---@param path string
---@return echostream.tunnel.config|nil file, echostream.error? err
function M.check(path)
  local file, err = config.read(path)
  if not file then
    return nil, err
  end
  local judged
  judged, err = judge(file)
  if not judged then
    return nil, err
  end
  -- Starting reads them itself, and says the same.
  for i, entry in ipairs(judged.rest.listen or {}) do
    if entry.tls then
      local certs, context
      certs, err = listeners.certs(entry.tls)
      if certs then
        context, err = require("echostream.tunnel.core").tls_server { certs = certs, alpn = { "http/1.1" } }
      end
      if not context then
        return nil, errors.new("invalid_argument", ("%slisten[%d].tls: %s"):format(file:place(("listen[%d].tls"):format(i)), i,
          errors.from(err).message))
      end
    end
  end
  return file
end

-- What the metrics show of now: by group.
local function figures(plugin, server)
  local sockets = require("echostream.tunnel.engine").current():stats()
  local out = { in_flight = {}, agents = {}, backends = {}, queued = server:stats().queued, buffered = sockets.memory, resets = sockets.resets,
    connections = sockets.sockets }
  for _, agent in ipairs(plugin:agents()) do
    local group = agent.group
    out.in_flight[group] = (out.in_flight[group] or 0) + (agent.in_flight or 0)
    local states = out.agents[group] or {}
    out.agents[group] = states
    states[agent.state] = (states[agent.state] or 0) + 1
    local backends = out.backends[group] or {}
    out.backends[group] = backends
    for _, backend in pairs(agent.backends or {}) do
      local state = backend.healthy and "healthy" or "unhealthy"
      backends[state] = (backends[state] or 0) + 1
    end
  end
  return out
end

local function close_all(self)
  for _, each in ipairs { "access_log", "inspector", "_counts" } do
    if self[each] then
      self[each]:close()
    end
  end
  if self.metrics then
    self.metrics.close()
  end
end

-- What sees exchanges from outside. An error: an address is in use, or a file cannot be written.
local function open_watchers(self, checked)
  local err
  if checked.access_log then
    self.access_log, err = access_log.new(checked.access_log)
    if not self.access_log then
      return nil, err
    end
  end
  if checked.inspector then
    self.inspector, err = inspector.new(checked.inspector, require("echostream.tunnel.inspector.again").for_plugin(self.plugin))
    if not self.inspector then
      return nil, err
    end
  end
  if checked.metrics then
    self._counts = tunnel_metrics.new(function()
      return figures(self.plugin, self.server)
    end)
    self.metrics, err = metrics.serve { bind = checked.metrics.bind }
    if not self.metrics then
      return nil, err
    end
  end
  local watchers = { self.access_log, self._counts }
  self.plugin:on("exchange", function(record)
    for _, watcher in pairs(watchers) do
      watcher:record(record)
    end
  end)
  if self.inspector then
    self.inspector:watch(self.plugin)
  end
  return true
end

--- Starts a server as the file says.
---@param path string
---@return echostream.tunnel.operated_server|nil server, echostream.error? err
function M.start(path)
  local file, err = config.read(path)
  if not file then
    return nil, err
  end
  local judged
  judged, err = judge(file)
  if not judged then
    return nil, err
  end
  local self = setmetatable({ server = judged.server, plugin = judged.plugin, _file = file, access_log = nil, metrics = nil, inspector = nil,
    _counts = nil }, Operated)
  local ok
  ok, err = open_watchers(self, judged.own)
  if ok then
    ok, err = self.server:plugin(self.plugin)
  end
  if ok then
    ok, err = self.server:start()
  end
  if not ok then
    close_all(self)
    return nil, errors.from(err)
  end
  return self
end

--- Lines for people about what was started.
---@return string[]
function Operated:lines()
  local lines = { ("agents %s"):format(self.server.address), ("pin %s"):format(self.server.pin) }
  local names, addresses = {}, self.plugin:addresses()
  for name in pairs(addresses) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    lines[#lines + 1] = ("visitors %s%s"):format(addresses[name], name ~= addresses[name] and (" (%s)"):format(name) or "")
  end
  if self.metrics then
    lines[#lines + 1] = ("metrics http://%s/metrics"):format(self.metrics.address)
  end
  if self.inspector then
    lines[#lines + 1] = "inspector " .. self.inspector.url
  end
  return lines
end

local function reload_rules(self, file, rest)
  if type(rest.rules) == "string" then
    local ok, err = self.plugin.rules:load(rest.rules)
    return ok, not ok and rules_problem(file, err) or nil
  elseif type(rest.rules) == "table" then
    local ok, err = self.plugin.rules:replace(rest.rules, rest.shadow)
    return ok, not ok and rules_problem(file, err) or nil
  end
  return true
end

--- Reads the file again, and rules, groups, limits and certificates: all of them are changed, or nothing is. The access log is opened anew
--- in any case. What
--- else is new in the file is named, and waits for a restart.
---@return { restart: string[] }|nil done, echostream.error? err  why everything stays as it is
function Operated:reload()
  local log_ok, log_err = true, nil
  if self.access_log then
    log_ok, log_err = self.access_log:reopen()
  end
  local file, err = config.read(self._file.path)
  local judged
  if file then
    judged, err = judge(file)
  end
  if not judged then
    return nil, err
  end
  local ok
  ok, err = self.plugin:renew()
  if ok then
    ok, err = reload_rules(self, file, judged.rest)
  end
  if not ok then
    return nil, err
  end
  local rest = judged.rest
  -- They were judged with the rest of the file. What is in flight counts on.
  self.plugin.groups:replace(rest.groups or {})
  self.plugin.limits:replace(rest.limits or {})
  if rest.config and not (parts.same(rest.config, self._file.values.config) and rest.config_version == self._file.values.config_version) then
    task.spawn(function()
      self.plugin:set_config(rest.config, rest.config_version or tostring(os.time()))
    end)
  end
  if not log_ok then
    return nil, log_err
  end
  local restart = parts.changed(self._file.values, file.values, LIVE)
  for name in pairs(LIVE) do
    self._file.values[name] = file.values[name]
  end
  return { restart = core.array(restart) }
end

-- JSON wants plain tables.
local function copy(value)
  if type(value) ~= "table" then
    return type(value) ~= "function" and value or nil
  end
  local out = {}
  for key, inner in pairs(value) do
    out[key] = copy(inner)
  end
  return out
end

--- What there is, for `echostream tunnel status`.
---@return table
function Operated:status()
  local agents = core.array {}
  for i, agent in ipairs(self.plugin:agents()) do
    agents[i] = copy(agent)
  end
  return { role = "server", lines = core.array(self:lines()), agents = agents, figures = copy(self.plugin:stats()),
    shadows = copy(self.plugin.rules.shadows) }
end

--- Why which rule would take a request, for `echostream tunnel explain --running`.
---@param asked table
---@return table|nil report, echostream.error? err
function Operated:explain(asked)
  local explain = require "echostream.tunnel.cli.explain"
  local request, err = explain.request(asked)
  if not request then
    return nil, err
  end
  return copy(explain.report(self.plugin.rules, request, { groups = self.plugin.groups, limits = self.plugin.limits,
    listen = self._file.values.listen }))
end

--- One agent gets nothing new: `echostream tunnel drain --agent`.
---@param id string  its client id
---@return table|nil done, echostream.error? err
---@package
function Operated:drain_agent(id)
  local ok, err = self.plugin:drain_agent(tostring(id))
  if not ok then
    return nil, err
  end
  return { draining = true }
end

--- Takes no more visitors and ends: what is under way has so many seconds.
---@param grace? number  seconds (default: the option grace)
---@return true|nil ok, echostream.error? err
function Operated:stop(grace)
  local all = self.plugin:drain { grace = grace }
  local ok, err = self.server:stop { grace = 2 }
  close_all(self)
  if not all then
    return nil, errors.new("timeout", "something was under way at the end, and was cut")
  end
  return ok, err
end

--- Waits until it was stopped.
---@return true|nil ok, echostream.error? err
function Operated:wait()
  return self.server:run()
end

return M
