--- Fleets: many servers behind one object. Each target is a server, reachable under one or several addresses, with a pool of
--- connections; calls are spread over the targets, and targets that fail too much are left out for a while.
---
---     local fleet = echo.fleet.new {
---       targets = { a = "10.0.0.1:5000", b = { "10.0.0.2:5000", "10.9.0.2:5000" } },
---       client = { pin = pins }, balance = "power_of_two",
---     }
---     fleet:request("user.get", 7)
---     fleet:with{ key = "ann", idempotent = true }:request("cart.get", "ann")
---     local by_target, failed = fleet:request_all("stats")

local address = require "echostream.address"
local balance = require "echostream.fleet.balance"
local breaker = require "echostream.breaker"
local errors = require "echostream.errors"
local fleet_calls = require "echostream.fleet.calls"
local loop = require "echostream.loop"
local options = require "echostream.options"
local outlier = require "echostream.fleet.outlier"
local pool = require "echostream.fleet.pool"
local task = require "echostream.task"
local view = require "echostream.view"

local M = {}

local choose, tell, unsent = fleet_calls.choose, fleet_calls.tell, fleet_calls.unsent

---@class echostream.options.fleet  of `echo.fleet.new`
---@field targets? table<string, string|string[]>|string[]  addresses by name, best first; a list of addresses: each is a target of that name
---@field client? table  options of every client, as of `echo.client`: whom it trusts …; not `reconnect`, pools dial again
--- by themselves, and not `retry`, see `failover`
---@field prepare? function  `fn(client, target)` registers handlers, middleware and hooks on every new client
---@field balance? string|function  [which](#balancing): "round_robin", "least_in_flight", "power_of_two", "consistent_hash" (default: power of two)
---@field pool? table  [connections to each target](#pools)
---@field outlier? boolean|table  [which targets are left out](#outliers); false: none (default: true)
---@field breaker? table|function  a [breaker](#breakers) for each target: its options, or `fn(target)` that makes one
---@field failover? integer  times that a call is sent at most, to one target after the other, where that is safe (default: 3)
---@field attempt_timeout? number  seconds for each of these times but the last, of a call marked `idempotent` (default: the call's)
---@field timeout? number  seconds; the deadline of calls that do not say otherwise (default: 30)
---@field on_change? function  `fn(target, what, detail)` is told: "ejected" seconds, "address", "bad", "migrate"

local schema = {
  targets = { type = "table" },
  client = { type = "table" },
  prepare = { type = "function" },
  balance = { type = { "string", "function" }, default = "power_of_two" },
  pool = { type = "table", fields = pool.fields },
  outlier = { type = { "boolean", "table" }, fields = outlier.fields },
  breaker = { type = { "table", "function" } },
  failover = { type = "integer", min = 1, default = 3 },
  attempt_timeout = { type = "seconds", min = 0.001 },
  timeout = { type = "seconds", default = 30 },
  on_change = { type = "function" },
}

---@class echostream.fleet
local Fleet = {}
Fleet.__index = Fleet
Fleet.__name = "echostream.fleet"

Fleet.__tostring = function(self)
  return ("echostream.fleet (%d targets)"):format(#self._order)
end

-- What makes a target's breaker, if there is to be one.
local function maker_of(given)
  if type(given) ~= "table" then
    return given
  end
  breaker.new(given) -- what is wrong with it is said now
  return function(name)
    local opts = {}
    for key, value in pairs(given) do
      opts[key] = value
    end
    opts.name = opts.name or name
    return breaker.new(opts)
  end
end

-- Targets -----------------------------------------------------------------------------------------------------

local Target = {}
Target.__index = Target

function Target:in_flight()
  return self.pool:in_flight() + self.starting
end

local function addresses_of(where, name, given, level)
  local list = type(given) == "table" and given or { given }
  for i = 1, math.max(#list, 1) do
    if type(list[i]) ~= "string" and math.type(list[i]) ~= "integer" then
      error(("%s: target %s wants an address or a list of them, got %s"):format(where, errors.show(name), errors.show(list[i])), level + 1)
    end
    local ok, problem, port = pcall(address.parse, where, list[i], "127.0.0.1")
    if not ok or port == 0 then
      error(ok and ("%s: target %s: port 0 is no port to connect to"):format(where, errors.show(name)) or problem, level + 1)
    end
  end
  return table.move(list, 1, #list, 1, {})
end

local add_schema = {
  pin = { type = { "string", "strings" } },
}

-- The options of a target's clients: of the fleet, and whom to trust when that does not say it.
local function client_options(self, pin)
  local given = self._options.client or {}
  local transport = type(given.transport) == "table" and given.transport or {}
  if not pin or given.pin or given.ca or given.skip_verification or transport.skip_verification then
    return given
  end
  local own = { pin = pin }
  for key, value in pairs(given) do
    own[key] = value
  end
  return own
end

--- Adds a target; its pool begins to connect.
---@param name string
---@param addresses string|string[]  best first
---@param opts? { pin?: string|string[] }  of this target: whom to trust, where the fleet's option `client` says nothing of that
---@return echostream.fleet self
function Fleet:add(name, addresses, opts)
  options.argument("fleet:add", "name", name, "string")
  opts = options.check("fleet:add", opts, add_schema)
  if self._closed then
    error("fleet:add: the fleet is closed", 2)
  elseif self._targets[name] then
    error(("fleet:add: there is a target %s already"):format(errors.show(name)), 2)
  end
  local list = addresses_of("fleet:add", name, addresses, 2)
  local own, of_clients = self._options, client_options(self, opts.pin)
  if opts.pin then
    require("echostream.client").new(of_clients) -- what is wrong with it is said now
  end
  local target = setmetatable({
    name = name, starting = 0, breaker = own.breaker and own.breaker(name) or nil,
    pool = pool.new(name, list, own.pool, of_clients, {
      prepare = own.prepare,
      changed = function(what, detail)
        tell(self, name, what, detail)
      end,
    }),
  }, Target)
  self._targets[name] = target
  self._order[#self._order + 1] = target
  target.pool:start()
  return self
end

--- Takes a target away; its connections are closed once what is queued on them has been acknowledged.
---@param name string
---@return boolean
function Fleet:remove(name)
  options.argument("fleet:remove", "name", name, "string")
  local target = self._targets[name]
  if not target then
    return false
  end
  self._targets[name] = nil
  for i, other in ipairs(self._order) do
    if other == target then
      table.remove(self._order, i)
      break
    end
  end
  if self._outlier then
    self._outlier:forget(name)
  end
  task.spawn(target.pool.close, target.pool)
  return true
end

--- Makes a fleet; the pools begin to connect at once. It keeps running until `close`.
---@param opts echostream.options.fleet
---@return echostream.fleet
function M.new(opts)
  opts = options.check("fleet.new", opts, schema)
  opts.breaker = maker_of(opts.breaker)
  opts.pool = options.check("fleet.new.pool", opts.pool, pool.fields)
  for _, path in ipairs(opts.pool.paths or {}) do
    local ok, problem = pcall(address.parse, "fleet.new", path, "0.0.0.0")
    if not ok then
      error(problem, 2)
    end
  end
  if opts.pool.max < opts.pool.min then
    error('fleet.new: option "pool.max" wants at least "min"', 2)
  end
  local self = setmetatable({
    _options = opts, _targets = {}, _order = {}, _closed = false, _state = {},
    _balance = balance.of("fleet.new", opts.balance, 2),
    _outlier = opts.outlier ~= false and outlier.new(opts.outlier ~= true and opts.outlier or nil) or nil,
    _rec = loop.current(),
  }, Fleet)
  local seen = {}
  for key, given in pairs(opts.targets or {}) do
    local name = type(key) == "string" and key or given
    addresses_of("fleet.new", name, given, 2)
    if type(name) ~= "string" or seen[name] then
      error(("fleet.new: targets want names, or to be a list of addresses, got %s"):format(errors.show(name)), 2)
    end
    seen[name] = given
  end
  if opts.client and opts.client.reconnect then
    error('fleet.new: option "client.reconnect" is not for fleets: pools dial again by themselves', 2)
  elseif opts.client and opts.client.retry then
    error('fleet.new: option "client.retry" is not for fleets: `failover` says how often a call is sent', 2)
  end
  require("echostream.client").new(opts.client) -- what is wrong with these is said now
  local names = {}
  for name in pairs(seen) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    self:add(name, seen[name])
  end
  return self
end

--- The names of the targets, in order.
---@return string[]
function Fleet:targets()
  local names = {}
  for i, target in ipairs(self._order) do
    names[i] = target.name
  end
  table.sort(names)
  return names
end

-- Calls -------------------------------------------------------------------------------------------------------

local function request(self, opts, name, ...)
  options.argument("fleet:request", "name", name, "string", 3)
  if self._closed then
    return nil, unsent("connection_closed", "the fleet was closed")
  end
  return task.either(fleet_calls.request, self, opts, name, ...)
end

--- Calls a method on one of the targets. What certainly did not run, and what is marked `idempotent`, goes on to another target when
--- one fails (see `failover`). A function as the last argument is the callback.
---@param name string
---@param ... any
---@return any ...  as of `session:request`
function Fleet:request(name, ...)
  return request(self, {}, name, ...)
end

local function request_all(self, opts, name, ...)
  options.argument("fleet:request_all", "name", name, "string", 3)
  if self._closed then
    return nil, unsent("connection_closed", "the fleet was closed")
  end
  return task.either(fleet_calls.gather, self, opts, name, ...)
end

--- Calls a method on every target at the same time.
---@param name string
---@param ... any
---@return table<string, any>|nil results  the first result of each that answered, by target (`echo.null` for nil)
---@return table<string, echostream.error>|echostream.error failed  the errors of the others, by target. With a `quorum` that was not
--- reached: nil, err, where `err.results` and `err.failed` are these. With one that was, those that were not awaited are in neither
function Fleet:request_all(name, ...)
  return request_all(self, {}, name, ...)
end

---@class echostream.fleet_calls  what `fleet:with` returns
local FleetCalls = {}
FleetCalls.__index = FleetCalls
FleetCalls.__name = "echostream.fleet.calls"

--- The same calls with other options: `request` and `request_all`.
---@param opts echostream.options.fleet_call
---@return echostream.fleet_calls
function Fleet:with(opts)
  local checked = options.check("fleet:with", opts, fleet_calls.schema)
  if checked.timeout == true then
    checked.timeout = nil
  end
  return setmetatable({ _fleet = self, _options = checked }, FleetCalls)
end

function FleetCalls:request(name, ...)
  return request(self._fleet, self._options, name, ...)
end

function FleetCalls:request_all(name, ...)
  return request_all(self._fleet, self._options, name, ...)
end

-- The rest ----------------------------------------------------------------------------------------------------

local function take(self, opts)
  local target, err = choose(self, opts, {})
  if not target then
    return nil, err
  end
  local timeout = opts.timeout
  if timeout == nil then
    timeout = self._options.timeout
  end
  return target.pool:take(timeout or nil)
end

--- A connection to one of the targets, for what is more than a call: streams, events, several calls in a row. It belongs to its
--- pool: do not close it, and take another one for the next piece of work.
---@param opts? echostream.options.fleet_call  `target`, `key`, `timeout`
---@param callback? fun(client: echostream.client?, err: echostream.error?)  instead of waiting
---@return echostream.client|nil client, echostream.error? err
function Fleet:client(opts, callback)
  if type(opts) == "function" then
    opts, callback = nil, opts
  end
  opts = options.check("fleet:client", opts, fleet_calls.schema)
  return task.wait_or_call_back("fleet:client", callback, take, self, opts)
end

--- What there is, by target: `open` connections, calls `in_flight`, `address`, `ejected` (now), `dialled`, `lost`, `switched` and
--- `migrated` connections.
---@return table<string, table>
function Fleet:stats()
  local stats, now = {}, loop.now()
  for _, target in ipairs(self._order) do
    local one = target.pool:stats()
    one.ejected = self._outlier ~= nil and self._outlier:is_out(target.name, now)
    stats[target.name] = one
  end
  return view.of(stats)
end

local function close(self)
  local tasks = {}
  for i, target in ipairs(self._order) do
    tasks[i] = task.spawn(target.pool.close, target.pool)
  end
  for _, one in ipairs(tasks) do
    one:wait()
  end
  return true
end

--- Closes every connection. Harmless twice.
---@param callback? fun(ok: true)
---@return true|nil ok, echostream.error? err
function Fleet:close(callback)
  local before = self._closed
  self._closed = true
  if callback ~= nil then
    options.argument("fleet:close", "callback", callback, "function")
    return task.call_back(callback, close, self)
  elseif before then
    return true
  elseif task.can_wait() then
    return task.block(close, self)
  end
  task.spawn(close, self)
  return true
end

Fleet.__close = function(self)
  self:close()
end

return M
