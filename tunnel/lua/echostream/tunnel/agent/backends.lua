--- Services and their backends while they run: which backend is next, how it fares, and its connections.

local dial = require "echostream.tunnel.agent.dial"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local pool = require "echostream.tunnel.agent.pool"
local task = require "echostream.task"
local core = require "echostream.tunnel.core"

local M = {}

-- Backends ------------------------------------------------------------------------------------------------------

---@class echostream.tunnel.agent.backend
---@field name string       "web 127.0.0.1:8080", for messages
---@field url string
---@field options table      of check_service
---@field healthy boolean    as active checks say; true without them
---@field reason? string     why it is not
---@field in_flight integer
---@field served integer
---@field failures integer   connections that failed, in a row
---@field latency? number    seconds to the head of a response, a moving average
local Backend = {}
Backend.__index = Backend
Backend.__name = "echostream.tunnel.agent.backend"

local PING = { interval = 30, timeout = 10 }

local function read_pem(what, value)
  if value == nil or value:find("-----BEGIN", 1, true) then
    return value
  end
  local file, err = io.open(value, "rb")
  if not file then
    error(("tls.%s: %s"):format(what, err), 0)
  end
  local text = file:read "a"
  file:close()
  return text
end

-- The TLS context for the protocols that may be agreed on. Raises what is wrong with files and texts.
local function tls_context(tls, alpn)
  local context, err = core.tls_client {
    ca = read_pem("ca", tls.ca),
    pin = tls.pin,
    verify = not tls.skip_verification,
    cert = read_pem("cert", tls.cert),
    key = read_pem("key", tls.key),
    alpn = alpn,
  }
  if not context then
    error("tls: " .. err.message, 0)
  end
  return context
end

local alpns = { ["http/1.1"] = { "http/1.1" }, h2 = { "h2" }, auto = { "h2", "http/1.1" } }

local function new_backend(engine, service, options)
  local self = setmetatable({
    name = ("%s %s"):format(service.name, dial.name(options.place)),
    url = options.url,
    options = options,
    service = service,
    engine = engine,
    healthy = true,
    reason = nil,
    in_flight = 0,
    served = 0,
    failures = 0,
    latency = nil,
    open_until = nil, -- it is left alone until then, after connections that failed
    current = 0, -- of the smooth round robin
    _pools = {},
    _tls = {},
    _closed = false,
  }, Backend)
  if options.scheme == "https" then -- now: a wrong file is an error of the configuration
    self:tls(options.protocol == "auto" and "auto" or options.protocol)
  end
  return self
end

--- The TLS context for one codec, nil without TLS.
---@param codec "http/1.1"|"h2"|"auto"
---@return echostream.tunnel.tls_client?
function Backend:tls(codec)
  if self.options.scheme ~= "https" then
    return nil
  end
  self._tls[codec] = self._tls[codec] or tls_context(self.options.tls, alpns[codec])
  return self._tls[codec]
end

--- Which codec a request gets. What is no HTTP/2 to everybody is HTTP/1.1 for WebSockets: few servers take them otherwise.
---@param kind "http"|"grpc"|"tunnel"
---@return "http/1.1"|"h2"|"auto"
function Backend:codec(kind)
  local protocol = self.options.protocol
  if protocol == "h2c" or protocol == "h2" then
    return "h2"
  elseif protocol == "http/1.1" or kind == "tunnel" then
    return "http/1.1"
  elseif self.options.scheme == "https" then
    return "auto"
  end
  return kind == "grpc" and "h2" or "http/1.1"
end

--- Name to ask for in TLS, and to verify.
---@return string?
function Backend:server_name()
  local tls = self.options.tls
  return tls and (tls.name or self.options.place.host) or nil
end

--- The pool for a kind of request.
---@param kind "http"|"grpc"|"tunnel"
---@return echostream.tunnel.pool
function Backend:pool(kind)
  local codec = self:codec(kind)
  local found = self._pools[codec]
  if not found then
    local service = self.service.options
    found = pool.new(self.engine, {
      place = self.options.place,
      codec = codec,
      tls = self:tls(codec),
      name = self:server_name(),
      connect_timeout = service.connect_timeout,
      max_connections = service.max_connections,
      max_waiting = service.max_waiting,
      max_idle = service.keepalive,
      idle_timeout = service.keepalive_timeout,
      limits = {
        ping_interval = PING.interval,
        ping_timeout = PING.timeout,
        idle_timeout = service.keepalive_timeout + 5, -- the pool's own comes first
        body_timeout = math.max(service.idle_timeout, service.websocket_timeout),
      },
    })
    if self._closed then
      found:close()
    end
    self._pools[codec] = found
  end
  return found
end

--- Whether it may be asked now, and why not.
---@return boolean ok, string? why
function Backend:available()
  if not self.healthy then
    return false, self.reason or "it is unhealthy"
  elseif self.open_until then
    if loop.now() < self.open_until then
      return false, ("%d connections in a row failed, the last: %s"):format(self.failures, self.reason or "?")
    end
    self.open_until = nil
  end
  return true
end

--- A connection could not be had.
---@param err echostream.error
function Backend:connect_failed(err)
  self.failures = self.failures + 1
  local options = self.service.options
  if options.max_failures > 0 and self.failures >= options.max_failures then
    self.open_until = loop.now() + options.failure_pause
    self.reason = err.message
  end
end

--- One could.
function Backend:connected()
  self.failures, self.open_until = 0, nil
end

--- A response began so many seconds after its request.
---@param seconds number
function Backend:responded(seconds)
  self.latency = self.latency and self.latency + (seconds - self.latency) / 8 or seconds
end

--- What an active check found out; `why` when it is unhealthy.
---@param healthy boolean
---@param why? string
function Backend:set_health(healthy, why)
  self.healthy, self.reason = healthy, why
end

function Backend:close()
  self._closed = true
  for _, one in pairs(self._pools) do
    one:close()
  end
end

-- Services ------------------------------------------------------------------------------------------------------

---@class echostream.tunnel.agent.service
---@field name string
---@field options table
---@field backends echostream.tunnel.agent.backend[]
local Service = {}
Service.__index = Service
Service.__name = "echostream.tunnel.agent.service"

--- The next backend. Those in `tried` only when there are no others.
---@param tried? table<echostream.tunnel.agent.backend, true>
---@return echostream.tunnel.agent.backend? backend, string? why  each backend that cannot be asked, and why
function Service:pick(tried)
  local list = self.backends
  if #list == 1 then
    local only = list[1]
    if tried and tried[only] then
      return nil, "no other backend"
    end
    local ok, why = only:available()
    if ok then
      return only
    end
    return nil, ("%s: %s"):format(only.name, why)
  end
  local best, total, reasons = nil, 0, nil
  local least = self.options.balance == "least_in_flight"
  for _, backend in ipairs(list) do
    if not (tried and tried[backend]) then
      local ok, why = backend:available()
      if ok then
        local weight = backend.options.weight
        total = total + weight
        backend.current = backend.current + weight
        if not best then
          best = backend
        elseif least then
          local a, b = backend.in_flight * best.options.weight, best.in_flight * weight
          if a < b or a == b and backend.current > best.current then
            best = backend
          end
        elseif backend.current > best.current then
          best = backend
        end
      else
        reasons = (reasons and reasons .. "; " or "") .. ("%s: %s"):format(backend.name, why)
      end
    end
  end
  if not best then
    return nil, reasons or "no other backend"
  end
  best.current = best.current - total
  return best
end

-- All of them ---------------------------------------------------------------------------------------------------

---@class echostream.tunnel.agent.backends
---@field services table<string, echostream.tunnel.agent.service>
local Backends = {}
Backends.__index = Backends
Backends.__name = "echostream.tunnel.agent.backends"

-- Seconds between looks at connections that may have been idle for too long.
local SWEEP = 1

--- Makes an empty set.
---@param engine table  of the tunnel's module
---@return echostream.tunnel.agent.backends
function M.new(engine)
  return setmetatable({ services = {}, _engine = engine, _sweeper = nil, _health = nil }, Backends)
end

local function same(a, b)
  if type(a) ~= type(b) then
    return false
  elseif type(a) ~= "table" then
    return a == b or type(a) == "function"
  end
  for key, value in pairs(a) do
    if not same(value, b[key]) then
      return false
    end
  end
  for key in pairs(b) do
    if a[key] == nil then
      return false
    end
  end
  return true
end

--- Replaces all services at once by checked ones. Those that did not change stay as they are, with their connections;
--- requests under way on the others come to their end. Raises, with nothing changed, when one cannot be made.
---@param checked table<string, table>  of config.check_services
function Backends:apply(checked)
  local fresh, old = {}, self.services
  local ok, problem = pcall(function()
    for name, options in pairs(checked) do
      local before = old[name]
      if before and same(before.options, options) then
        fresh[name] = before
      else
        local service = setmetatable({ name = name, options = options, backends = {} }, Service)
        for i, one in ipairs(options.backends) do
          service.backends[i] = new_backend(self._engine, service, one)
        end
        fresh[name] = service
      end
    end
  end)
  if not ok then
    error(problem, 0)
  end
  self.services = fresh
  for name, service in pairs(old) do
    if fresh[name] ~= service then
      if self._health then
        self._health:forget(service)
      end
      for _, backend in ipairs(service.backends) do
        backend:close()
      end
    end
  end
  if self._health then
    for name, service in pairs(fresh) do
      if old[name] ~= service then
        self._health:watch(service)
      end
    end
  end
end

--- Begins to look after connections, and after the health of backends that are to be checked. Nothing when it has begun.
---@param health { watch: function, forget: function, close: function }
function Backends:start(health)
  if self._health then
    return
  end
  self._health = health
  for _, service in pairs(self.services) do
    health:watch(service)
  end
  self._sweeper = self._sweeper or task.spawn(function()
    while task.sleep(SWEEP) do
      self:sweep(loop.now())
    end
  end)
end

--- Ends connections that were idle for too long.
---@param now number
function Backends:sweep(now)
  for _, service in pairs(self.services) do
    for _, backend in ipairs(service.backends) do
      for _, one in pairs(backend._pools) do
        one:sweep(now)
      end
    end
  end
end

--- Ends that; connections that have nothing to do end as well. Requests may be begun all the same.
function Backends:stop()
  if not self._health then
    return
  end
  self._health:close()
  self._health = nil
  self._sweeper:cancel()
  self._sweeper = nil
  for _, service in pairs(self.services) do
    for _, backend in ipairs(service.backends) do
      for _, one in pairs(backend._pools) do
        one:flush()
      end
    end
  end
end

--- Ends it for good: no more requests begin, connections end with theirs.
function Backends:close()
  self:stop()
  self:apply {}
end

--- The service that a request is for.
---@param name? string  nil: the only one of the kind, or "default"
---@param kind "http"|"tcp"
---@return echostream.tunnel.agent.service? service, string? why
function Backends:find(name, kind)
  local found
  if name then
    found = self.services[name]
    if not found then
      return nil, ("this agent has no service %s"):format(errors.show(name))
    elseif found.options.kind ~= kind then
      return nil, ("service %s is of kind %s, not %s"):format(errors.show(name), found.options.kind, kind)
    end
    return found
  end
  for _, service in pairs(self.services) do
    if service.options.kind == kind then
      if found then
        found = self.services.default
        if found and found.options.kind == kind then
          return found
        end
        return nil, ("this agent has several services of kind %s, and none of the name default"):format(kind)
      end
      found = service
    end
  end
  if not found then
    return nil, ("this agent has no service of kind %s"):format(kind)
  end
  return found
end

--- What the registration says.
---@return { name: string, kind: string }[]
function Backends:list()
  local list = {}
  for name, service in pairs(self.services) do
    list[#list + 1] = { name = name, kind = service.options.kind }
  end
  table.sort(list, function(a, b)
    return a.name < b.name
  end)
  return list
end

--- What heartbeats say of each backend, by its name.
---@return table<string, { healthy: boolean, in_flight: integer, latency: number?, reason: string? }>
function Backends:report()
  local report = {}
  for _, service in pairs(self.services) do
    for _, backend in ipairs(service.backends) do
      local ok, why = backend:available()
      report[backend.name] = { healthy = ok, reason = why, in_flight = backend.in_flight, served = backend.served,
        latency = backend.latency }
    end
  end
  return report
end

return M
