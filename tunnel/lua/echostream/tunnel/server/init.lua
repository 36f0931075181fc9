--- The public side of the tunnel, as a plugin: registers agents, takes visitors, and forwards what they ask for.

local admission = require "echostream.tunnel.server.admission"
local control = require "echostream.tunnel.server.control"
local core = require "echostream.core"
local errors = require "echostream.errors"
local forwarded = require "echostream.tunnel.forwarded"
local groups = require "echostream.tunnel.groups"
local http3 = require "echostream.tunnel.server.http3"
local ingress = require "echostream.tunnel.server.ingress"
local limits = require "echostream.tunnel.limits"
local log = require "echostream.log"
local loop = require "echostream.loop"
local options = require "echostream.options"
local registry = require "echostream.tunnel.server.registry"
local rules = require "echostream.tunnel.rules"
local task = require "echostream.task"
local view = require "echostream.view"

local M = {}

---@class echostream.tunnel.options.server
---@field agents echostream.tunnel.options.agent_entry[]  who may register
---@field listen? echostream.tunnel.options.listen[]      where visitors come
---@field http3? boolean|{ name: string?, alt_svc: string? }  the host's own port takes visitors of HTTP/3, too: `name` of the listener, in rules
--- and logs ("h3"); `alt_svc`: the field Alt-Svc of the answers to others, such as `h3=":443"; ma=86400`. WebSockets want the host's option
--- `http = { connect = true }` (default: false)
---@field rules? table[]|string      the list of rules, or the path of a file with them (default: none, so that everything is 404)
---@field shadow? table[]            a second list, which is only compared
---@field groups? table              options of groups: how members are chosen
---@field limits? table              options of limits
---@field trusted? string[]          networks of proxies in front, whose X-Forwarded-For and ids are believed
---@field timeouts? { headers: number?, idle: number?, tunnel_idle: number? }  seconds: until a response begins (60), without a byte of one
--- (300), of a WebSocket or CONNECT (3600). A rule can say others
---@field retries? integer           agents that are tried after the first, where that is safe (1)
---@field max_body? integer          bytes of a request's body; a rule can say less or more (default: any)
---@field config? table|fun(member: echostream.tunnel.member): table?  what agents get as their configuration
---@field config_version? string     names it: an agent that has this version is sent nothing
---@field heartbeat? number          seconds between those of agents (10)
---@field replace_grace? number      seconds that an agent has to finish when another session with its client id has come (10)
---@field max_agents? integer        10000
---@field server_id? string          how agents know it (default: made up)
---@field grace? number              seconds for what is under way when the server stops (30)
---@field name? string               the plugin's (default: "tunnel"); two in one server need two names, and only one can be registered with
---@field on_agent? fun(member: echostream.tunnel.member, what: string, more: any)  as `plugin:on("agent", fn)`
---@field on_exchange? fun(record: table)  as `plugin:on("exchange", fn)`

local seconds_of = {
  headers = { type = "seconds", default = 60 }, idle = { type = "seconds", default = 300 }, tunnel_idle = { type = "seconds", default = 3600 },
}

local schema = {
  agents = { type = "table", required = true },
  listen = { type = "table" },
  http3 = { type = { "boolean", "table" }, fields = { name = { type = "string", default = "h3" }, alt_svc = { type = "string" } } },
  rules = { type = { "table", "string" } },
  shadow = { type = "table" },
  groups = { type = "table" },
  limits = { type = "table" },
  trusted = { type = "strings" },
  timeouts = { type = "table", fields = seconds_of },
  retries = { type = "integer", min = 0, max = 10, default = 1 },
  max_body = { type = "integer", min = 0 },
  config = { type = { "table", "function" } },
  config_version = { type = "string" },
  heartbeat = { type = "seconds", min = 0.1, default = 10 },
  replace_grace = { type = "seconds", default = 10 },
  max_agents = { type = "integer", min = 1, default = 10000 },
  server_id = { type = "string" },
  grace = { type = "seconds", default = 30 },
  name = { type = "string", default = "tunnel" },
  on_agent = { type = "function" },
  on_exchange = { type = "function" },
}

---@class echostream.tunnel.server: echostream.plugin
---@field rules echostream.tunnel.rules    what is in place: `rules:replace(list)`, `rules:load(path)`
---@field groups table                     the agents that can be picked
---@field limits table                     what stands before them
---@field registry echostream.tunnel.registry
local Server = { __name = "echostream.tunnel.server" }
Server.__index = Server

-- A prompt shows this, and not the tokens.
function Server:__tostring()
  return ("%s (%d agents)"):format(Server.__name, self.registry:count())
end

-- Events of agents --------------------------------------------------------------------------------------------

-- A listener's error is its own affair.
local function tell(self, kind, ...)
  for _, fn in ipairs(self._listeners[kind]) do
    local ok, raised = pcall(fn, ...)
    if not ok then
      log.write("error", ("tunnel: a listener of %ss failed: %s"):format(kind, errors.from(raised).message))
    end
  end
end

local said = { registered = "info", replaced = "info", draining = "info", unregistered = "info", lost = "warn", refused = "warn" }

local function say(member, what, more)
  if said[what] then
    local who = member and (member.id or member.client_id)
    log.write(said[what], ("tunnel: agent %s of group %s: %s%s"):format(who or "?", member and member.group or "?", what,
      more and ": " .. errors.from(more).message or ""))
  end
end

local function agent_changed(self, member, what, more)
  say(member, what, more)
  local all = self.groups
  if what == "registered" then
    all:add(member)
  elseif what == "replaced" or what == "draining" then
    all:drain(member)
  elseif what == "unregistered" or what == "lost" then
    all:remove(member)
  elseif what == "heartbeat" then
    local all_down, why = next(member.backends) ~= nil, nil
    for name, backend in pairs(member.backends) do
      all_down = all_down and not backend.healthy
      why = ("backend %s is not healthy"):format(name)
    end
    all:health(member, not all_down, all_down and why or nil)
  end
  tell(self, "agent", member, what, more)
end

-- Making --------------------------------------------------------------------------------------------------------

-- Raises, with the blame for the user's line.
local function need(made, err)
  if not made then
    error("tunnel.server: " .. errors.from(err).message, options.users_level(3))
  end
  return made
end

local function rules_of(checked)
  local given = checked.rules
  local set = need(rules.new(type(given) == "table" and given or {}, checked.shadow))
  if type(given) == "string" then
    need(set:load(given))
  end
  return set
end

---@package
--- The body of `tunnel.server`.
---@param opts echostream.tunnel.options.server
---@return echostream.tunnel.server
function M.new(opts)
  local checked = options.check("tunnel.server", opts, schema)
  checked.timeouts = checked.timeouts or options.check("tunnel.server.timeouts", {}, seconds_of)
  local self = setmetatable({
    name = checked.name,
    registry = registry.new(checked.max_agents),
    rules = rules_of(checked),
    groups = need(groups.new(checked.groups)),
    limits = need(limits.new(checked.limits)),
    _options = checked,
    _listeners = { agent = { checked.on_agent }, exchange = { checked.on_exchange } },
    _control = nil, _ingress = nil,
  }, Server)
  self._control = control.new {
    registry = self.registry, entries = admission.check("tunnel.server", checked.agents), heartbeat = checked.heartbeat,
    server_id = checked.server_id or (core.random(8):gsub(".", function(c) return ("%02x"):format(c:byte()) end)),
    replace_grace = checked.replace_grace, config = checked.config, config_version = checked.config_version,
    on_change = function(member, what, more)
      agent_changed(self, member, what, more)
    end,
  }
  self._ingress = ingress.new(checked, {
    rules = self.rules, groups = self.groups, limits = self.limits, forwarded = need(forwarded.new { trusted = checked.trusted }),
    done = function(record)
      tell(self, "exchange", record)
    end,
  })
  return self
end

-- The plugin ---------------------------------------------------------------------------------------------------

-- Visitors of HTTP/3 come to the host's port.
local function take_http3(self, host, opts)
  local listener = { name = opts.name or "h3", port = nil }
  http3.attach(host, function(exchange, head, _, fin)
    listener.port = listener.port or tonumber(host.address:match ":(%d+)$")
    self._ingress:serve(listener, exchange, head, fin)
  end, {})
end

function Server:install(host)
  self._control:install(host)
  if self._options.http3 then
    take_http3(self, host, self._options.http3 == true and {} or self._options.http3)
  end
  host:on_start(function() return self:_open() end)
  host:on_stopping(function(_, grace) self:drain { grace = grace } end)
  host:on_stop(function() self:_close() end)
  if host.state == "running" then
    return self:_open()
  end
end

function Server:_open()
  if type(self._options.rules) == "string" then
    self.rules:watch(self._options.rules)
  end
  self._control.draining = false
  return self._ingress:open()
end

function Server:_close()
  self.rules:stop_watching()
  self._ingress:close()
end

function Server:uninstall()
  self:_close()
  for _, member in ipairs(self.registry:members()) do
    self._control:lost(member.session)
  end
end

-- Operation ----------------------------------------------------------------------------------------------------

--- Calls `fn` whenever something happened; it must not wait, and what it raises is logged.
---
--- - `agent`: `fn(member, what, more)`, where `what` is "registered", "replaced", "draining", "unregistered", "lost", "heartbeat", "config" or
---   "refused" (then `member` is what was asked for, or nil, and `more` the error);
--- - `exchange`: `fn(record)` for each exchange that is over (tunnel/DESIGN.md has its fields).
---@param what "agent"|"exchange"
---@param fn function
---@return self
function Server:on(what, fn)
  options.argument("tunnel:on", "function", fn, "function")
  local list = self._listeners[what]
  if not list then
    error(("tunnel:on: what is \"agent\" or \"exchange\", got %s"):format(errors.show(what)), 2)
  end
  local longer = table.move(list, 1, #list, 1, {})
  longer[#longer + 1] = fn
  self._listeners[what] = longer
  return self
end

--- Lets `fn(exchange, head, record, fin)` look at every exchange when it comes, before any rule: it may copy the head, which rules rewrite
--- later, and give another exchange that passes everything on. It must not wait.
---@param fn? fun(exchange: table, head: echostream.tunnel.head, record: table, fin: boolean): table?  nil: no longer
---@return self
function Server:tap(fn)
  self._ingress.tap = fn
  return self
end

--- Serves an exchange that did not come by a listener: through rules, limits, a group and an agent. Waits until it is over.
---@param listener { name: string, port: integer }  what rules and logs see
---@param exchange table  as forward sees it (tunnel/DESIGN.md)
---@param head echostream.tunnel.head
---@param fin boolean  there is no body
function Server:serve(listener, exchange, head, fin)
  self._ingress:serve(listener, exchange, head, fin)
end

--- The agents: plain tables, sorted by id.
---@return table[]
function Server:agents()
  return self.registry:list(loop.now())
end

--- The addresses of the listeners, by their names.
---@return table<string, string>
function Server:addresses()
  return self._ingress:addresses()
end

--- What is under way and was: `agents`, `registered`, `replaced`, `lost`, `in_flight`, `exchanges`, `refused`, and by listener.
---@return table
function Server:stats()
  local stats = self._ingress:stats()
  stats.agents = self.registry:count()
  stats.registered, stats.replaced, stats.lost = self.registry.registered, self.registry.replaced, self.registry.lost
  return view.of(stats)
end

--- Gives agents a new configuration: those who are there, and those who come. Waits for their answers.
---@param config table|fun(member: echostream.tunnel.member): table?
---@param version string
---@return { id: string, applied: boolean, error: echostream.error? }[] results
function Server:set_config(config, version)
  options.argument("tunnel:set_config", "config", config, { "table", "function" })
  options.argument("tunnel:set_config", "version", version, "string")
  return task.block(self._control.push, self._control, config, version)
end

--- Reads the certificates of the listeners again. They are watched too: this is for who does not want to wait.
---@return true|nil ok, echostream.error? err  the old ones stay
function Server:renew()
  return self._ingress:renew()
end

--- One agent gets nothing new from now on; what it is doing it finishes. Until it registers again.
---@param id string  its client id
---@return true|nil ok, echostream.error? err  `not_found`
function Server:drain_agent(id)
  options.argument("tunnel:drain_agent", "id", id, "string")
  local member = self.registry:get(id)
  if not member then
    return nil, errors.new("not_found", ("no agent has the client id %s"):format(errors.show(id)))
  end
  self._control:drain_one(member)
  return true
end

--- Stops taking visitors and lets what is under way end: no new connections, GOAWAY and "Connection: close" to those there, WebSockets until
--- the end of the grace time. Agents are told, so that they connect elsewhere meanwhile. Waits for it. `server:stop` does this first.
---@param opts? { grace?: number }  seconds (default: the option `grace`)
---@param callback? fun(ok: true)
---@return boolean|nil all  whether everything ended by itself
---@return echostream.error? err
function Server:drain(opts, callback)
  local grace = options.check("tunnel:drain", opts, { grace = { type = "seconds" } }).grace or self._options.grace
  return task.wait_or_call_back("tunnel:drain", callback, function()
    task.spawn(self._control.say_drain, self._control, grace)
    return self._ingress:drain(grace)
  end)
end

return M
