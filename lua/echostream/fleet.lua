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
local balance = require "echostream.balance"
local breaker = require "echostream.breaker"
local errors = require "echostream.errors"
local hooks = require "echostream.hooks"
local loop = require "echostream.loop"
local options = require "echostream.options"
local outgoing = require "echostream.session_out"
local outlier = require "echostream.outlier"
local pool = require "echostream.pool"
local reconnect = require "echostream.reconnect"
local task = require "echostream.task"
local view = require "echostream.view"

local core = require "echostream.core"

local M = {}

---@class echostream.options.fleet  of `echo.fleet.new`
---@field targets? table<string, string|string[]>|string[]  addresses by name, best first; a list of addresses: each is a target of that name
---@field client? table  options of every client, as of `echo.client`: whom it trusts, `retry` …; not `reconnect`: pools dial again themselves
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

---@class echostream.options.fleet_call  of `fleet:with`, besides those of [calls](#options-of-calls)
---@field target? string  this one only
---@field key? any  what `consistent_hash` goes by: equal keys go to the same target
---@field quorum? integer  `request_all`: so many answers are enough

local own_call_options = {
  target = { type = "string" },
  key = { type = { "string", "number", "boolean" } },
  quorum = { type = "integer", min = 1 },
}
local call_schema = {}
for _, fields in ipairs { outgoing.call_options, own_call_options } do
  for name, field in pairs(fields) do
    call_schema[name] = field
  end
end

---@class echostream.fleet
local Fleet = {}
Fleet.__index = Fleet
Fleet.__name = "echostream.fleet"

Fleet.__tostring = function(self)
  return ("echostream.fleet (%d targets)"):format(#self._order)
end

local function tell(self, name, what, detail)
  local fn = self._options.on_change
  if fn then
    task.spawn(hooks.call, "fleet.on_change", "internal", fn, name, what, detail)
  end
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

--- Adds a target; its pool begins to connect.
---@param name string
---@param addresses string|string[]  best first
---@return echostream.fleet self
function Fleet:add(name, addresses)
  options.argument("fleet:add", "name", name, "string")
  if self._closed then
    error("fleet:add: the fleet is closed", 2)
  elseif self._targets[name] then
    error(("fleet:add: there is a target %s already"):format(errors.show(name)), 2)
  end
  local list = addresses_of("fleet:add", name, addresses, 2)
  local opts = self._options
  local target = setmetatable({
    name = name, starting = 0, breaker = opts.breaker and opts.breaker(name) or nil,
    pool = pool.new(name, list, opts.pool, opts.client or {}, {
      prepare = opts.prepare,
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

-- Choosing ----------------------------------------------------------------------------------------------------

local function unsent(code, message)
  local err = errors.new(code, message)
  err.processed = "no"
  return err
end

-- Those that may be chosen: the ones with a connection that are not out; else, so that there is an answer at all, the ones that
-- have none yet; else those that are out.
local function candidates_of(self, tried)
  local now, ready, rest, out = loop.now(), {}, {}, {}
  for _, target in ipairs(self._order) do
    if not tried[target] then
      if self._outlier and self._outlier:is_out(target.name, now) then
        out[#out + 1] = target
      elseif target.pool:is_ready() then
        ready[#ready + 1] = target
      else
        rest[#rest + 1] = target
      end
    end
  end
  return #ready > 0 and ready or #rest > 0 and rest or out
end

-- The next target for a call; breakers have a say.
local function choose(self, opts, tried)
  if opts.target then
    local target = self._targets[opts.target]
    if not target then
      return nil, unsent("not_found", ("the fleet has no target %s"):format(errors.show(opts.target)))
    end
    return target
  end
  local refused = {}
  while true do
    local skip = next(refused) and setmetatable(refused, { __index = tried }) or tried
    local candidates = candidates_of(self, skip)
    if #candidates == 0 then
      return nil, next(refused) and unsent("unavailable", "the breakers of all targets are open")
        or unsent("unavailable", "the fleet has no target left to try")
    end
    local target = self._balance(candidates, self._state, opts.key)
    if not target or not target.breaker or target.breaker:allow() then
      return target or candidates[1]
    end
    refused[target] = true
  end
end

-- Calls -------------------------------------------------------------------------------------------------------

-- What says something about the target, and not about the call.
local faults = { unavailable = true, connection_closed = true, io = true, timeout = true, resource_exhausted = true, internal = true,
  data_loss = true, protocol = true }
-- After these another target may do better.
local passing = { unavailable = true, connection_closed = true, io = true, resource_exhausted = true, data_loss = true }

local function note(self, target, err, seconds)
  if err and err.code == "cancelled" then -- by the caller, most likely: that says nothing
    if target.breaker then
      target.breaker:record(nil, seconds)
    end
    return
  end
  local ok = not (err and faults[err.code])
  if target.breaker then
    target.breaker:record(ok, seconds)
  end
  if self._outlier and self._targets[target.name] == target then
    local out = self._outlier:record(target.name, ok, loop.now(), #self._order)
    if out then
      tell(self, target.name, "ejected", out)
    end
  end
end

-- One attempt. `timeout`: seconds; nil: none. An attempt that comes to a target again has the id it had there, so that the server can
-- tell (`dedupe`).
local function attempt(self, state, target, timeout)
  local began = loop.now()
  target.starting = target.starting + 1
  local client, err = target.pool:take(timeout)
  target.starting = target.starting - 1
  if not client then
    note(self, target, err, loop.now() - began)
    return { nil, err, n = 2 }, err
  end
  local given = {}
  for key, value in pairs(state.opts) do
    given[key] = not own_call_options[key] and value or nil
  end
  given.timeout = timeout and math.max(timeout - (loop.now() - began), 0.001) or false
  state.ids[target] = state.ids[target] or client._ud:request_id()
  given[1], given[2], given[3] = state.ids[target], state.n, state.uncertain
  local results = table.pack(outgoing.request(client, state.name, given, table.unpack(state.args, 1, state.args.n)))
  err = results[1] == nil and errors.is_error(results[2]) and results[2] or nil
  note(self, target, err, loop.now() - began)
  if err and err.processed ~= "no" then
    state.uncertain = true
  end
  return results, err
end

-- Whether a failed call may go to another target, and makes sense there.
local function may_go_on(state, err, limited)
  if err.code == "already_exists" then -- the server has not heard yet that we gave the last attempt up
    return state.uncertain and err.processed == "no"
  end
  return (passing[err.code] or err.code == "timeout" and limited) and (err.processed == "no" or state.opts.idempotent == true)
end

-- Pauses before everybody is asked again.
local ROUNDS = { first = 0.1, factor = 2, cap = 2, jitter = 1 }

-- The next target; when all have been tried, they are tried again after a pause.
local function next_target(self, state)
  local target, err = choose(self, state.opts, state.tried)
  if target or state.n == 1 or #self._order == 0 then
    return target, err
  end
  state.round, state.tried = state.round + 1, {}
  local ok, cancelled = task.sleep(reconnect.pause(ROUNDS, state.round))
  if not ok then
    return nil, cancelled
  end
  return choose(self, state.opts, state.tried)
end

-- So many seconds a call waits for the connection to the target that was chosen for it, when another target has one.
local HEAD_START <const> = 0.5

local function another_is_ready(self, tried)
  for _, target in ipairs(self._order) do
    if not tried[target] and target.pool:is_ready() and not (self._outlier and self._outlier:is_out(target.name, loop.now())) then
      return true
    end
  end
  return false
end

-- A target without a connection was chosen because no other had one either: the fleet is new, or everything was away. Waits for it, so
-- that calls are spread from the beginning, but not for one that is down while others are there by now.
local function settle(self, state, target, ends)
  while not state.opts.target and #self._order > 1 and not target.pool:is_ready() do
    local now = loop.now()
    local pause = math.min(ends and ends - now or math.huge, self._options.attempt_timeout or math.huge, HEAD_START)
    if pause <= 0 then
      return target
    end
    target.starting = target.starting + 1
    local client = target.pool:take(pause)
    target.starting = target.starting - 1
    if client then
      return target
    elseif another_is_ready(self, state.tried) then
      target = choose(self, state.opts, state.tried) or target
      state.tried[target] = true
      return target
    elseif loop.now() - now < pause / 2 then
      return target -- the wait was cut short: we are cancelled, or the target was taken away
    end
  end
  return target
end

local function run(self, opts, name, ...)
  local state = { opts = opts, name = name, args = table.pack(...), tried = {}, ids = {}, n = 0, round = 0, uncertain = false }
  local timeout = opts.timeout
  if timeout == nil then
    timeout = self._options.timeout
  end
  local serving = core.call_info()
  if serving and serving.deadline then
    timeout = math.min(timeout or math.huge, math.max(serving.deadline - loop.now(), 0))
  end
  local ends, most = timeout and loop.now() + timeout, self._options.failover
  local last
  repeat
    state.n = state.n + 1
    local target, err = next_target(self, state)
    if not target then
      last = last or { nil, err, n = 2 }
      break
    end
    state.tried[target] = true
    target = settle(self, state, target, ends)
    local left = ends and math.max(ends - loop.now(), 0)
    local limit = opts.idempotent and state.n < most and not opts.target and self._options.attempt_timeout
    local limited = limit and (not left or limit < left)
    last, err = attempt(self, state, target, limited and limit or left)
    local again = err and not opts.target and may_go_on(state, err, limited) and not (ends and loop.now() >= ends)
  until not again or state.n >= most
  if state.uncertain and errors.is_error(last[2]) and last[2].processed == "no" then
    last[2].processed = "maybe" -- an earlier attempt may have run
  end
  return table.unpack(last, 1, last.n)
end

local function request(self, opts, name, ...)
  options.argument("fleet:request", "name", name, "string", 3)
  if self._closed then
    return nil, unsent("connection_closed", "the fleet was closed")
  end
  return task.either(run, self, opts, name, ...)
end

--- Calls a method on one of the targets. What certainly did not run, and what is marked `idempotent`, goes on to another target when
--- one fails (see `failover`). A function as the last argument is the callback.
---@param name string
---@param ... any
---@return any ...  as of `session:request`
function Fleet:request(name, ...)
  return request(self, {}, name, ...)
end

local function gather(self, opts, name, ...)
  local targets = table.move(self._order, 1, #self._order, 1, {})
  local results, failed, tasks = {}, {}, {}
  local good, left, wanted = 0, #targets, opts.quorum or #targets
  local args, raised = table.pack(...), nil
  local function enough()
    return left == 0 or raised or opts.quorum and (good >= wanted or good + left < wanted)
  end
  local ok, cancelled = true, nil
  if not enough() then
    ok, cancelled = task.await(function(resume)
      for i, target in ipairs(targets) do
        tasks[i] = task.spawn(function()
          local copy = {}
          for key, value in pairs(opts) do
            copy[key] = value
          end
          copy.target = target.name
          local fine, values = pcall(function()
            return table.pack(run(self, copy, name, table.unpack(args, 1, args.n)))
          end)
          local err = fine and values[2]
          left = left - 1
          if not fine then
            raised = raised or { values } -- misuse: the caller's
          elseif values[1] == nil and errors.is_error(err) then
            failed[target.name] = err
          else
            good = good + 1
            results[target.name] = values[1] == nil and core.null or values[1]
          end
          if enough() then
            resume(true)
          end
        end)
      end
    end)
  end
  for _, one in ipairs(tasks) do
    one:cancel()
  end
  if raised then
    error(raised[1], 0)
  elseif not ok then
    return nil, cancelled
  elseif opts.quorum and good < wanted then
    local err = errors.new("unavailable", ("%d of %d targets answered; the quorum is %d"):format(good, #targets, wanted))
    err.results, err.failed = results, failed
    return nil, err
  end
  return results, failed
end

local function request_all(self, opts, name, ...)
  options.argument("fleet:request_all", "name", name, "string", 3)
  if self._closed then
    return nil, unsent("connection_closed", "the fleet was closed")
  end
  return task.either(gather, self, opts, name, ...)
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
FleetCalls.__name = "echostream.fleet_calls"

--- The same calls with other options: `request` and `request_all`.
---@param opts echostream.options.fleet_call
---@return echostream.fleet_calls
function Fleet:with(opts)
  local checked = options.check("fleet:with", opts, call_schema)
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
  opts = options.check("fleet:client", opts, call_schema)
  if callback ~= nil then
    options.argument("fleet:client", "callback", callback, "function")
    return task.call_back(callback, take, self, opts)
  end
  return task.block(take, self, opts)
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
