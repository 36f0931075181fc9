--- Retries: a call that failed is sent again, when that is safe and makes sense.
---
---     local client = echo.connect("127.0.0.1:5000", { pin = pin, retry = { attempts = 4 } })
---     client:with{ idempotent = true }:request("user.get", 7)
---
--- Safe is what certainly did not run (`err.processed == "no"`), and what caller and method both call idempotent: the server
--- refuses to run a retry again that may have run, of a method that is not declared so. It makes sense for errors that pass (`on`),
--- within the attempts, the call's own deadline and the budget. Waiting grows exponentially and is spread at random.

local backoff = require "echostream.backoff"
local budget = require "echostream.retry.budget"
local errors = require "echostream.errors"
local hooks = require "echostream.hooks"
local latency = require "echostream.metrics.latency"
local loop = require "echostream.loop"
local metrics = require "echostream.metrics"
local options = require "echostream.options"
local task = require "echostream.task"
local view = require "echostream.view"

local core = require "echostream.core"

local M = {}

local is_error, pack, unpack = errors.is_error, table.pack, table.unpack

---@class echostream.options.retry
---@field attempts? integer  how often a call is sent at most, the first time included (default: 3)
---@field backoff? number  seconds before the second attempt (default: 0.05)
---@field factor? number  by which that grows with every further one (default: 2)
---@field cap? number  seconds: it grows no further (default: 5)
---@field jitter? number  the share of it that is random: 1, anything from nothing to all of it; 0, always all (default: 1)
---@field attempt_timeout? number  seconds for each attempt but the last of a call marked `idempotent` (default: the call's)
---@field adaptive? boolean|echostream.options.adaptive  such a time for each method from how long it took lately
---@field budget? boolean|echostream.options.budget  what keeps retries from making an outage worse; false: nothing (default: true)
---@field on? string[]|function  codes of errors after which it makes sense, or `fn(err, info)` that says so (nil: as usual);
--- `info` has `name` and `attempt` (default: `unavailable`, `connection_closed`, `io`, `resource_exhausted`, `data_loss`)
---@field random? fun(): number  0 to 1, for the jitter (default: at random; in a simulation by its seed)

---@class echostream.options.adaptive
---@field percentile? number  0 to 100: so many of the answers come within the time (default: 99)
---@field margin? number  times that (default: 1.5)
---@field floor? number  seconds: never less (default: 0.05)
---@field ceiling? number  seconds: never more; and as long as there are fewer than 20 answers (default: 10)

---@package
---@type table<string, echostream.options.field>
M.adaptive_schema = {
  percentile = { type = "number", min = 1, max = 100, default = 99 },
  margin = { type = "number", min = 1, max = 100, default = 1.5 },
  floor = { type = "seconds", min = 0.001, max = 1e6, default = 0.05 },
  ceiling = { type = "seconds", min = 0.001, max = 1e6, default = 10 },
}

---@package
---@type table<string, echostream.options.field>
M.schema = {
  attempts = { type = "integer", min = 1, max = 100, default = 3 },
  backoff = { type = "seconds", max = 1e6, default = 0.05 },
  factor = { type = "number", min = 1, max = 100, default = 2 },
  cap = { type = "seconds", max = 1e6, default = 5 },
  jitter = { type = "number", min = 0, max = 1, default = 1 },
  attempt_timeout = { type = "seconds", min = 0.001, max = 1e6 },
  adaptive = { type = { "boolean", "table" }, fields = M.adaptive_schema },
  budget = { type = { "boolean", "table" }, fields = budget.schema },
  on = { type = { "function", "strings" } },
  random = { type = "function" },
}

--- What `retry` may be as an option.
---@package
M.option = { type = { "boolean", "integer", "table" } }

local passing = { unavailable = true, connection_closed = true, io = true, resource_exhausted = true, data_loss = true }

-- Times are kept for so many methods; the others of a policy share one.
local METHODS <const>, ENOUGH <const> = 256, 20

---@class echostream.retry  a policy
---@field counters table<string, integer>  see `stats`
---@field budget echostream.budget?
local Policy = { __name = "echostream.retry" }
Policy.__index = Policy

local function codes_of(list)
  local set = {}
  for _, code in ipairs(list) do
    set[code] = true
  end
  return set
end

local function new(where, given, base, level)
  local wanted = {}
  for _, from in ipairs { base and base._given or {}, given } do
    for key, value in pairs(from) do
      wanted[key] = value
    end
  end
  local checked = options.check(where, wanted, M.schema, level + 1)
  local adaptive = checked.adaptive and options.check(where, checked.adaptive ~= true and checked.adaptive or nil,
    M.adaptive_schema, level + 1) or nil
  local tokens = base and given.budget == nil and base.budget or nil
  if not tokens and checked.budget ~= false then
    tokens = budget.new(type(checked.budget) == "table" and checked.budget or nil, where)
  end
  return setmetatable({
    _given = wanted,
    _attempts = checked.attempts,
    _pauses = { first = checked.backoff, factor = checked.factor, cap = checked.cap, jitter = checked.jitter, random = checked.random },
    _attempt_timeout = checked.attempt_timeout,
    _adaptive = adaptive,
    _times = base and given.adaptive == nil and base._times or { n = 0 },
    _codes = type(checked.on) == "table" and codes_of(checked.on) or passing,
    _judge = type(checked.on) == "function" and checked.on or nil,
    budget = tokens,
    counters = base and base.counters or { calls = 0, retries = 0, recovered = 0, failed = 0, unsafe = 0, exhausted = 0,
      too_late = 0, over_budget = 0 },
  }, Policy)
end

--- Makes a policy, which several clients may share: its budget, its counters and the times it has seen are then theirs together.
--- It can be given wherever the option `retry` is.
---@param opts? echostream.options.retry
---@return echostream.retry
function M.new(opts)
  return new("retry.new", opts or {}, nil, 2)
end

---@package
--- The policy that an option means. `base`: what it changes, whose budget and counters it shares.
---@param where string
---@param value boolean|integer|table|nil
---@param base? echostream.retry
---@param level? integer  for misuse
---@return echostream.retry?
function M.of(where, value, base, level)
  level = level or 2
  if value == nil or value == true then
    return base or value and new(where, {}, nil, level + 1) or nil
  elseif value == false then
    return nil
  elseif getmetatable(value) == Policy then
    return value
  elseif math.type(value) == "integer" then
    value = { attempts = value }
  end
  return new(where .. ".retry", value, base, level + 1)
end

--- Figures since it was made: `calls` that went through it, `retries` that were sent, `recovered` calls that a retry saved, `failed`
--- ones; and why no (other) retry was sent: `unsafe` (it may have run, and is not idempotent), `exhausted` (no attempts left),
--- `too_late` (the deadline comes first), `over_budget`. `tokens`: what the budget holds now.
---@return table<string, number>
function Policy:stats()
  local stats = {}
  for name, value in pairs(self.counters) do
    stats[name] = value
  end
  stats.tokens = self.budget and self.budget.tokens or nil
  return view.of(stats)
end

local retries = metrics.counter("echostream_retries_total", "Calls that were sent again.", { "method" })
local outcomes = metrics.counter("echostream_retry_outcomes_total",
  "What became of calls with a retry policy, and why no further retry was sent.", { "outcome" })

local function count(self, name)
  self.counters[name] = self.counters[name] + 1
  outcomes:inc(name)
end

-- Times -------------------------------------------------------------------------------------------------------

local function times_of(self, name)
  local times = self._times[name]
  if not times then
    if self._times.n >= METHODS then
      name = ""
    end
    times = self._times[name] or latency.new()
    self._times[name] = times
    self._times.n = self._times.n + 1
  end
  return times
end

--- What `adaptive` allows an attempt of a method now; nil when the policy has no such option.
---@param name string
---@return number? seconds
function Policy:expected(name)
  options.argument("policy:expected", "name", name, "string")
  local how = self._adaptive
  if not how then
    return nil
  end
  local times = times_of(self, name)
  if times.count < ENOUGH then
    return how.ceiling
  end
  return math.min(math.max(times:percentile(how.percentile) * how.margin, how.floor), how.ceiling)
end

-- An attempt that was given up counts as twice as long: else a server that became slower would never be seen to be.
local function observe(self, name, seconds, gave_up)
  if self._adaptive then
    times_of(self, name):add(gave_up and seconds * 2 or seconds)
  end
end

-- Deciding ----------------------------------------------------------------------------------------------------

local function host_of(owner)
  return owner.server_ctx and owner.server_ctx._host[1] or owner
end

-- Without a connection a retry makes sense only where another one will come: not for a session, and not for a client that does
-- nothing about it.
local function may_come_back(owner)
  return owner._ud:is_open() or owner.state ~= nil and owner.state ~= "closed"
end

local function makes_sense(self, run, err)
  if self._judge then
    local verdict = self._judge(err, { name = run.name, attempt = run.attempt })
    if verdict ~= nil then
      return verdict
    end
  end
  if err.code == "timeout" then
    return run.limited -- else it was the call's own
  elseif err.code == "already_exists" then
    return run.attempt > 1 and err.processed == "no" -- the server has not heard yet that we gave the last one up
  end
  return self._codes[err.code] == true
end

-- Seconds to wait before the next attempt; nil: there is none.
local function decide(self, run, err)
  if not makes_sense(self, run, err) or not may_come_back(run.owner) then
    return nil
  elseif err.processed ~= "no" and not run.idempotent then
    return count(self, "unsafe")
  elseif run.attempt >= self._attempts then
    return count(self, "exhausted")
  end
  local delay = backoff.pause(self._pauses, run.attempt) + (err.retry_after or 0)
  if run.ends and loop.now() + delay >= run.ends then
    return count(self, "too_late")
  elseif self.budget and not self.budget:withdraw() then
    return count(self, "over_budget")
  end
  return delay
end

-- Running -----------------------------------------------------------------------------------------------------

-- Whether the other side ran the handler, in an order.
local certainty = { no = 1, maybe = 2, yes = 3 }

-- What the caller gets: an earlier attempt may have run even if the last one did not.
local function report(run, err)
  local disagrees = run.attempt > 1 and err.code == "failed_precondition" and err.processed == "no"
  if disagrees and run.last_err then
    err = run.last_err -- the method is not idempotent there: this is what really happened
  end
  if run.attempt == 1 then
    return err
  end
  local copy = setmetatable({ attempts = run.attempt }, getmetatable(err))
  for key, value in pairs(err) do
    copy[key] = value
  end
  if (certainty[copy.processed] or 2) < run.certainty then
    copy.processed = run.certainty == 3 and "yes" or "maybe"
  end
  return copy
end

-- The options of the next attempt, in a table of its own: middleware may keep the call.
local function attempt_options(self, run)
  local opts = {}
  for key, value in pairs(run.opts or opts) do
    opts[key] = value
  end
  run.limited = false
  if run.ends then
    opts.timeout = math.max(run.ends - loop.now(), 0)
  end
  if run.idempotent and run.attempt < self._attempts then
    local limit = self._attempt_timeout or self:expected(run.name)
    if limit and (not run.ends or limit < opts.timeout) then
      opts.timeout, run.limited = limit, true
    end
  end
  -- While nothing can have run, it is a new request to the server. Else it has to see that it is not.
  local again = run.certainty > certainty.no
  if not again or not run.id then
    local owner = run.owner
    run.id = (owner._host or owner._ud):request_id() -- a client has one even while it is not connected
  end
  opts[1], opts[2], opts[3] = run.id, run.attempt, again
  return opts
end

local function send(run, opts)
  local args = run.args
  if run.inner then
    return run.inner(run.owner, "rpc", run.final, run.name, opts, unpack(args, 1, args.n))
  end
  return run.owner._ud:request(run.name, opts, unpack(args, 1, args.n))
end

-- When the call has to be over; nil: never. A handler's own deadline bounds the calls that it makes.
local function end_of(owner, opts)
  local timeout = opts and opts.timeout
  if timeout == nil then
    timeout = owner._timeout > 0 and owner._timeout
  end
  local ends = timeout and loop.now() + timeout or nil
  local serving = core.call_info()
  local bound = serving and serving.deadline
  return bound and (not ends or bound < ends) and bound or ends
end

local function run(self, inner, owner, final, name, opts, ...)
  local state = {
    inner = inner, owner = owner, final = final, name = name, opts = opts, args = pack(...),
    idempotent = opts and opts.idempotent or false,
    attempt = 1, id = nil, limited = false, certainty = 0, last_err = nil,
    ends = end_of(owner, opts),
  }
  count(self, "calls")
  if self.budget then
    self.budget:deposit()
  end
  while true do
    local began = loop.now()
    local results = pack(send(state, attempt_options(self, state)))
    local err = results[2]
    if results[1] ~= nil or not is_error(err) then
      observe(self, name, loop.now() - began)
      if state.attempt > 1 then
        count(self, "recovered")
      end
      return unpack(results, 1, results.n)
    end
    observe(self, name, loop.now() - began, state.limited and err.code == "timeout")
    local delay = decide(self, state, err)
    if not delay then
      count(self, "failed")
      return nil, report(state, err)
    end
    state.certainty = math.max(state.certainty, certainty[err.processed] or 2)
    state.last_err = err
    count(self, "retries")
    retries:inc(name)
    hooks.fire(host_of(owner), "retry", { name = name, attempt = state.attempt, err = err, delay = delay })
    local slept, cancelled = task.sleep(delay)
    if not slept then
      return nil, cancelled
    end
    state.attempt = state.attempt + 1
  end
end

---@package
--- Sends a call by a policy. `inner` is the outgoing middleware that each attempt goes through, or nil.
---@param self echostream.retry
---@param inner function?
---@return any ...
function M.request(self, inner, owner, final, name, opts, ...)
  return task.either(run, self, inner, owner, final, name, opts, ...)
end

---@package
--- What stands in the place of the outgoing middleware of requests where a host has a policy.
---@param self echostream.retry
---@param inner function?
---@return function
function M.chain(self, inner)
  return function(owner, _, final, name, opts, ...)
    return task.either(run, self, inner, owner, final, name, opts, ...)
  end
end

return M
