--- Agents: what runs beside the backends. A plugin of an echostream client, which registers with the server of each session, and serves
--- the streams that the server opens.

local config = require "echostream.tunnel.agent.config"
local control = require "echostream.tunnel.agent.control"
local backends = require "echostream.tunnel.agent.backends"
local echo_errors = require "echostream.errors"
local engines = require "echostream.tunnel.engine"
local health = require "echostream.tunnel.agent.health"
local log = require "echostream.log"
local local_rules = require "echostream.tunnel.agent.local_rules"
local loop = require "echostream.loop"
local options = require "echostream.options"
local proxy = require "echostream.tunnel.agent.proxy"
local relay = require "echostream.tunnel.agent.relay"
local task = require "echostream.task"
local tcp = require "echostream.tunnel.agent.tcp"
local watch = require "echostream.tunnel.watch"

local M = {}
---@class echostream.tunnel.options.agent
---@field client_id? string  who this agent is; a second one of the same id takes its place (default: "agent-" and a number, new with every start)
---@field group? string  whose requests it serves (default: "default")
---@field token? string  the secret of the group: it is proved, never sent
---@field version? string  of the backends, for rules and people (default: "")
---@field labels? table<string, string>  for rules and people
---@field weight? integer  its part of the group's requests, from 1 (default: 1)
---@field services? table<string, string|string[]|echostream.tunnel.options.service>  what it serves, by name
---@field backend? string|string[]  the same as `services = { default = … }`
---@field rules? (echostream.tunnel.options.rule|function)[]|string  own rules, or a file of them (watched): they choose a service, rewrite, answer
---@field remote? boolean  the server may say which services there are (default: only when neither `services` nor `backend` is given)
---@field state? string  a file that keeps the server's last good configuration; it is used until the server says something else
---@field drain_grace? number  seconds that what is under way has at the end (default: 30)
---@field on_change? function  `fn(agent, what, detail)` is told: "registered" link, "refused" err, "lost" err, "config" version, "config_error" why,
--- "draining" link

local schema = {
  client_id = { type = "string" },
  group = { type = "string", default = "default" },
  token = { type = "string" },
  version = { type = "string", default = "" },
  labels = { type = "table", default = {} },
  weight = { type = "integer", min = 1, max = 1000, default = 1 },
  services = { type = "table" },
  backend = { type = { "string", "strings" } },
  rules = { type = { "table", "string" } },
  remote = { type = "boolean" },
  state = { type = "string" },
  drain_grace = { type = "seconds", default = 30 },
  on_change = { type = "function" },
}

---@class echostream.tunnel.agent: echostream.plugin
---@field options echostream.tunnel.options.agent  with every default
---@field backends echostream.tunnel.agent.backends
---@field stats { in_flight: integer, served: integer, errors: integer, retries: integer, tunnels: integer, bytes_in: integer, bytes_out: integer }
---@field config_version? integer|string  of the server's configuration that is applied
---@field config_error? string  why the last one was refused
---@field refusal? echostream.error  what the last server said that did not take this agent
local Agent = {}
Agent.__index = Agent
Agent.__name = "echostream.tunnel.agent"

-- A prompt shows this, and not the token.
function Agent:__tostring()
  return ("%s %s of group %s (%d servers)"):format(Agent.__name, self.options.client_id, self.options.group, #self:links())
end

-- Checks, with the blame for the user's line.
local function checked(where, given)
  local opts = options.check(where, given, schema, 3)
  local services = opts.services
  if opts.backend then
    if services then
      error(where .. ': options "services" and "backend" exclude each other', options.users_level(3))
    end
    services = { default = opts.backend }
  end
  if opts.remote == nil then
    opts.remote = services == nil
  end
  if opts.token == "" then
    error(where .. ': option "token" is empty', options.users_level(3))
  end
  local ok, result = pcall(config.check_services, where .. ".services", services or {})
  if not ok then
    error((tostring(result):gsub("^[^\n:]*:%d+: ", "")), options.users_level(3))
  end
  opts.services, opts.backend = result, nil
  local set, why
  if opts.rules then
    set, why = local_rules.new(opts.rules)
    if not set then
      error(("%s: %s"):format(where, why), options.users_level(3))
    end
  end
  for name, value in pairs(opts.labels) do
    if type(name) ~= "string" or type(value) ~= "string" then
      error(where .. ': option "labels" wants strings by name', options.users_level(3))
    end
  end
  opts.client_id = opts.client_id or ("agent-%012x"):format(math.floor(loop.random() * (1 << 47)))
  return opts, set
end

--- Makes the plugin of an agent. It may be installed on several clients, one for each server; their sessions share backends and figures.
---@param given? echostream.tunnel.options.agent
---@param engine? table  whose connections are used (default: the loop's engine)
---@return echostream.tunnel.agent
function M.new(given, engine)
  local opts, set = checked("tunnel.agent", given)
  local self = setmetatable({
    name = "tunnel.agent",
    options = opts,
    backends = nil,
    stats = { in_flight = 0, served = 0, errors = 0, retries = 0, tunnels = 0, bytes_in = 0, bytes_out = 0 },
    config_version = nil,
    config_error = nil,
    refusal = nil,
    _links = {}, -- session → link
    _hosts = 0,
    _rules = set,
    _watch = nil,
    _up = {}, -- clients that are connected
    _engine = engine,
    _idle_waiters = {},
    _listeners = {},
  }, Agent)
  if opts.on_change then
    self:listen(opts.on_change)
  end
  return self
end

function Agent:_tell(what, detail)
  for fn in pairs(self._listeners) do
    task.spawn(fn, self, what, detail)
  end
end

--- `fn(agent, what, detail)` is told what happens, in a task of its own, as option `on_change` is.
---@param fn fun(agent: echostream.tunnel.agent, what: string, detail: any)
function Agent:listen(fn)
  self._listeners[fn] = true
end

--- Ends that.
---@param fn function
function Agent:unlisten(fn)
  self._listeners[fn] = nil
end

-- Configuration -------------------------------------------------------------------------------------------------

--- Applies a configuration of the server, whole or not at all.
---@param version integer|string
---@param given table
---@return true|nil ok, echostream.error? err  `failed_precondition`, why the old one stays
function Agent:apply_config(version, given)
  local checked_config, why = config.check_remote(given)
  if checked_config and checked_config.services and not self.options.remote then
    checked_config, why = nil, "this agent has services of its own, and takes none from the server (option remote)"
  end
  if checked_config and checked_config.services then
    local ok, problem = pcall(self.backends.apply, self.backends, checked_config.services)
    if not ok then
      checked_config, why = nil, tostring(problem)
    end
  end
  if not checked_config then
    self.config_error = why
    self:_tell("config_error", why)
    return nil, echo_errors.new("failed_precondition", why)
  end
  self.config_version, self.config_error = version, nil
  if self.options.state then
    local ok, problem = config.save(self.options.state, version, given)
    if not ok then
      log.write("warn", ("the configuration cannot be kept in %s: %s"):format(self.options.state, tostring(problem)))
    end
  end
  self:_tell("config", version)
  return true
end

--- Replaces the agent's own services, whole or not at all.
---@param services table<string, string|string[]|echostream.tunnel.options.service>
---@return true|nil ok, string? why
function Agent:set_services(services)
  local ok, result = pcall(config.check_services, "services", services)
  if ok then
    ok, result = pcall(self.backends.apply, self.backends, result)
  end
  if not ok then
    return nil, (tostring(result):gsub("^[^\n:]*:%d+: ", ""))
  end
  return true
end

local function load_state(self)
  local path = self.options.state
  if not path or not self.options.remote then
    return
  end
  local saved, why = config.load(path)
  if saved then
    local ok, err = self:apply_config(saved.version, saved.config)
    why = not ok and err.message or nil
  end
  if why then
    log.write("warn", ("the last configuration is not used: %s"):format(why))
  end
end

-- Beginning and end ---------------------------------------------------------------------------------------------

local function begin(self)
  local engine = self._engine or engines.current()
  self._engine = engine
  self.backends = backends.new(engine)
  self.backends:apply(self.options.services)
  load_state(self)
  self._watch = watch.new(relay.check)
end

-- A client is connected, or is over: what goes on by itself does so while one is.
local function connected(self, host, is_up)
  self._up[host] = is_up or nil
  if next(self._up) then
    self.backends:start(health.new(self._engine))
  else
    self.backends:stop()
    self._watch:stop()
  end
end

local function registered(self, session)
  local link, err = control.register(self, session)
  if not link then
    log.write("warn", ("the server at %s does not take this agent: %s"):format(session.peer_addr, err.message))
    self.refusal = err
    self:_tell("refused", err)
    return nil, err
  end
  self._links[session] = link
  log.write("info", ("registered with the server at %s as %s of group %s"):format(session.peer_addr, self.options.client_id, self.options.group))
  self:_tell("registered", link)
  return true
end

local function lost(self, session, err)
  local link = self._links[session]
  if link then
    self._links[session] = nil
    link:close()
    if not link.leaving then
      log.write("info", ("the session with the server at %s is over%s"):format(session.peer_addr, err and ": " .. err.message or ""))
    end
    self:_tell("lost", err)
  end
end

---@package
--- Called by `client:plugin`.
---@param host echostream.plugin.host
function Agent:install(host)
  if type(host.connect) ~= "function" then
    return nil, "it is for clients"
  end
  if self._hosts == 0 then
    begin(self)
  end
  self._hosts = self._hosts + 1
  local flow = { backends = self.backends, stats = self.stats, rules = self._rules, watch = self._watch, on_idle = function()
    self:_idle()
  end }
  host:add_stream("tunnel.http", proxy.handler(flow))
  host:add_stream("tunnel.tcp", tcp.handler(flow))
  host:add_rpc("tunnel.config", function(session, pushed)
    if type(pushed) ~= "table" or pushed.version == nil then
      return nil, echo_errors.new("invalid_argument", "a configuration has a version")
    elseif not self._links[session] then
      return nil, echo_errors.new("failed_precondition", "not registered")
    end
    local ok, err = self:apply_config(pushed.version, pushed.config)
    if not ok then
      return nil, err
    end
    return { applied = true }
  end)
  host:add_rpc("tunnel.drain", function(session)
    local link = self._links[session]
    if link then
      link.draining = true
      log.write("info", ("the server at %s sends nothing new: it stops, or this agent is to drain"):format(session.peer_addr))
      self:_tell("draining", link)
    end
    return { draining = true }
  end)
  host:on_connect(function(session)
    return registered(self, session)
  end)
  host:on_disconnect(function(session, err)
    lost(self, session, err)
  end)
  host:on_start(function()
    connected(self, host, true)
  end)
  host:on_stop(function()
    connected(self, host, false)
  end)
end

---@package
--- Called by `client:remove_plugin`: the servers are told, what is under way goes on.
---@param host echostream.plugin.host
function Agent:uninstall(host)
  self._hosts = self._hosts - 1
  connected(self, host, false)
  if self._hosts > 0 then
    return
  end
  for _, link in pairs(self._links) do
    if link.session:is_open() then
      task.spawn(link.unregister, link)
    end
  end
  self._links = {}
  if self._rules then
    self._rules:stop_watching()
  end
  self.backends:close()
end

--- The sessions that are registered now.
---@return echostream.tunnel.agent.link[]
function Agent:links()
  local list = {}
  for _, link in pairs(self._links) do
    list[#list + 1] = link
  end
  table.sort(list, function(a, b)
    return a.session.id < b.session.id
  end)
  return list
end

function Agent:_idle()
  local waiters = self._idle_waiters
  self._idle_waiters = {}
  for resume in pairs(waiters) do
    resume(true)
  end
end

--- Waits until nothing is under way.
---@param timeout number  seconds
---@return true|nil ok, echostream.error? err  `timeout`
function Agent:wait_idle(timeout)
  local ends = loop.now() + timeout
  while self.stats.in_flight > 0 do
    local ok, err = task.await(function(resume)
      self._idle_waiters[resume] = true
      return function()
        self._idle_waiters[resume] = nil
      end
    end, math.max(ends - loop.now(), 0))
    if not ok then
      return nil, err
    end
  end
  return true
end

--- Takes leave: the servers send nothing new, what is under way ends, within the grace; then the agent unregisters. Waits for it.
---@param given? { grace?: number }  seconds (default: option drain_grace)
---@return true|nil ok, echostream.error? err  `timeout`: something was under way at the end, and is cut when the session closes
function Agent:drain(given)
  local grace = options.check("agent:drain", given, { grace = { type = "seconds" } }).grace or self.options.drain_grace
  local ends, all = loop.now() + grace, {}
  local links = self:links()
  for i, link in ipairs(links) do
    link.leaving = true
    all[i] = task.spawn(link.drain, link, grace)
  end
  for _, one in ipairs(all) do
    one:wait()
  end
  local ok, err = self:wait_idle(math.max(ends - loop.now(), 0))
  for i, link in ipairs(links) do
    all[i] = task.spawn(link.unregister, link)
  end
  for _, one in ipairs(all) do
    one:wait()
  end
  return ok, err
end

--- What there is, for people.
---@return table
function Agent:status()
  local links = {}
  for i, link in ipairs(self:links()) do
    links[i] = { server = link.session.peer_addr, server_id = link.server_id, draining = link.draining }
  end
  local figures = {}
  for name, value in pairs(self.stats) do
    figures[name] = value
  end
  return { client_id = self.options.client_id, group = self.options.group, links = links, stats = figures,
    services = self.backends and self.backends:list() or {}, backends = self.backends and self.backends:report() or {},
    config_version = self.config_version, config_error = self.config_error }
end

return M
