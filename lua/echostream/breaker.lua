--- Circuit breakers: where calls keep failing, they fail at once for a while, which spares the caller the waiting and the other side
--- the load.
---
---     closed ---- too many failures, or slow calls ----> open
---       ^                                               |   ^
---       | so many probes succeeded       `open_for` is over  | one failed
---       +------------------- half_open <----------------+---+
---
--- A group has one for each target and method, and a middleware that asks them:
---
---     client:middleware(echo.breaker.group{ failure_rate = 0.3 }.middleware)
---
--- `echo.breaker.new` makes one alone: ask `allow`, do it, and say by `record` what became of it.

local hooks = require "echostream.hooks"
local log = require "echostream.log"
local loop = require "echostream.loop"
local metrics = require "echostream.metrics"
local middleware = require "echostream.middleware"
local options = require "echostream.options"
local view = require "echostream.view"

local M = {}

---@class echostream.options.breaker
---@field window? number  seconds that are looked at (default: 10)
---@field min_calls? integer  with fewer calls in the window it stays closed (default: 10)
---@field failure_rate? number  0 to 1: it opens when so many of them failed (default: 0.5)
---@field slow_call? number  seconds from which on a call counts as slow (default: none does)
---@field slow_rate? number  0 to 1: it opens when so many of them were slow (default: 0.8)
---@field open_for? number  seconds before it lets probes through (default: 5)
---@field probes? integer  calls that are let through then, and have to succeed (default: 3)
---@field failures? string[]|function  codes of errors that count, or `fn(err)` that says so
--- (default: `unavailable`, `connection_closed`, `io`, `timeout`, `resource_exhausted`, `internal`, `protocol`, `data_loss`)
---@field on_change? fun(info: table)  is told of every change: `name`, `from`, `to`, `breaker`
---@field name? string  for messages

---@package
---@type table<string, echostream.options.field>
M.schema = {
  window = { type = "seconds", min = 0.01, max = 1e6, default = 10 },
  min_calls = { type = "integer", min = 1, default = 10 },
  failure_rate = { type = "number", min = 0.001, max = 1, default = 0.5 },
  slow_call = { type = "seconds", min = 0.000001, max = 1e6 },
  slow_rate = { type = "number", min = 0.001, max = 1, default = 0.8 },
  open_for = { type = "seconds", min = 0.001, max = 1e6, default = 5 },
  probes = { type = "integer", min = 1, max = 1000, default = 3 },
  failures = { type = { "function", "strings" } },
  on_change = { type = "function" },
  name = { type = "string" },
}

local counted = { unavailable = true, connection_closed = true, io = true, timeout = true, resource_exhausted = true,
  internal = true, protocol = true, data_loss = true }

-- The window slides by tenths of itself.
local SLICES <const> = 10

---@class echostream.breaker
---@field name string
---@field state "closed"|"open"|"half_open"  an open one becomes half open when somebody asks after `open_for`
---@field opened integer  how often it opened
---@field refused integer  how often it refused
local Breaker = { __name = "echostream.breaker" }
Breaker.__index = Breaker

local function judge_of(failures)
  if type(failures) == "function" then
    return failures
  end
  local set = counted
  if failures then
    set = {}
    for _, code in ipairs(failures) do
      set[code] = true
    end
  end
  return function(err)
    return set[err.code] == true
  end
end

-- Those that live, for who shows them (the dashboard).
local living = setmetatable({}, { __mode = "k" })

local function make(opts, name, tell)
  local made = setmetatable({
    name = name,
    state = "closed",
    opened = 0,
    refused = 0,
    _opts = opts,
    _judge = judge_of(opts.failures),
    _tell = tell,
    _slices = {}, -- by number of the slice of time: { calls, failed, slow }
    _era = 1,     -- of the state: what began in an earlier one says nothing about this
    _since = 0,   -- when it opened, or the last probe was let through
    _probing = 0, -- probes under way
    _passed = 0,  -- probes that succeeded
  }, Breaker)
  living[made] = true
  return made
end

---@package
--- The breakers of this process that are in use, by name.
---@return echostream.breaker[]
function M.living()
  local list = {}
  for breaker in pairs(living) do
    list[#list + 1] = breaker
  end
  table.sort(list, function(a, b)
    return a.name < b.name
  end)
  return list
end

--- Makes a breaker, closed.
---@param opts? echostream.options.breaker
---@return echostream.breaker
function M.new(opts)
  local checked = options.check("breaker.new", opts, M.schema)
  return make(checked, checked.name or "", function(info)
    if checked.on_change then
      hooks.call("on_change", "internal", checked.on_change, info)
    end
  end)
end

local changes = metrics.counter("echostream_breaker_changes_total", "Changes of circuit breakers.", { "breaker", "to" })
local refusals = metrics.counter("echostream_breaker_refused_total", "Calls that a circuit breaker refused.", { "breaker" })

local function change(self, to)
  changes:inc(self.name, to)
  local from = self.state
  self.state, self._era, self._probing, self._passed = to, self._era + 1, 0, 0
  if to == "open" then
    self._since = loop.now()
    self.opened = self.opened + 1
  elseif to == "closed" then
    self._slices = {}
  end
  self._tell { name = self.name, from = from, to = to, breaker = self }
end

local function totals(self, now)
  local calls, failed, slow = 0, 0, 0
  local oldest = now * SLICES // self._opts.window - SLICES
  for number, slice in pairs(self._slices) do
    if number <= oldest or number > oldest + SLICES then
      self._slices[number] = nil
    else
      calls, failed, slow = calls + slice.calls, failed + slice.failed, slow + slice.slow
    end
  end
  return calls, failed, slow
end

--- May a call be made now? Whoever is allowed to says by `record` what became of it.
---@return boolean allowed
---@return integer|number era_or_wait  allowed: to be given to `record`; else: seconds after which asking again makes sense
function Breaker:allow()
  if self.state == "closed" then
    return true, self._era
  end
  local now, opts = loop.now(), self._opts
  local left = self._since + opts.open_for - now
  if self.state == "open" and left <= 0 then
    change(self, "half_open")
  elseif self.state == "half_open" and left <= 0 then
    self._probing = 0 -- of some the end was never said: others may try
  end
  if self.state == "half_open" and self._probing + self._passed < opts.probes then
    self._probing = self._probing + 1
    self._since = now
    return true, self._era
  end
  self.refused = self.refused + 1
  refusals:inc(self.name)
  return false, math.max(self._since + opts.open_for - now, 0)
end

local function record_probe(self, ok, slow)
  self._probing = math.max(self._probing - 1, 0)
  if ok == nil then
    return
  elseif not ok or slow then
    change(self, "open")
    return
  end
  self._passed = self._passed + 1
  if self._passed >= self._opts.probes then
    change(self, "closed")
  end
end

local function record_call(self, ok, slow)
  if ok == nil then
    return
  end
  local now, opts = loop.now(), self._opts
  local number = now * SLICES // opts.window
  local slice = self._slices[number]
  if not slice then
    slice = { calls = 0, failed = 0, slow = 0 }
    self._slices[number] = slice
  end
  slice.calls = slice.calls + 1
  slice.failed = slice.failed + (ok and 0 or 1)
  slice.slow = slice.slow + (slow and 1 or 0)
  if ok and not slow then
    return
  end
  local calls, failures, slow_ones = totals(self, now)
  if calls >= opts.min_calls and (failures >= opts.failure_rate * calls or slow_ones >= opts.slow_rate * calls) then
    change(self, "open")
  end
end

--- What became of a call that was allowed.
---@param ok boolean?      nil: it says nothing, as when it was cancelled
---@param seconds? number  how long it took
---@param era? integer     what `allow` gave: a call from before the last change does not count
function Breaker:record(ok, seconds, era)
  if seconds ~= nil then
    options.argument("breaker:record", "seconds", seconds, "number")
  end
  if era and era ~= self._era then
    return
  end
  local slow = self._opts.slow_call and seconds and seconds >= self._opts.slow_call or false
  if self.state == "half_open" then
    record_probe(self, ok, slow)
  elseif self.state == "closed" then
    record_call(self, ok, slow)
  end
end

--- Whether an error counts as a failure, by the option `failures`: a wrong argument says nothing about the other side's health.
---@param err echostream.error
---@return boolean
function Breaker:counts(err)
  options.argument("breaker:counts", "err", err, "table")
  return self._judge(err) and true or false
end

--- Figures: `state`, `calls`, `failed` and `slow` in the window, `opened` and `refused` in all.
---@return table
function Breaker:stats()
  local calls, failed, slow = totals(self, loop.now())
  return view.of { state = self.state, calls = calls, failed = failed, slow = slow, opened = self.opened, refused = self.refused }
end

--- Opens it by hand, as before work on the other side.
function Breaker:open()
  if self.state ~= "open" then
    change(self, "open")
  end
end

--- Closes it by hand and forgets what was.
function Breaker:close()
  if self.state ~= "closed" then
    change(self, "closed")
  end
  self._slices = {}
end

-- As a middleware ---------------------------------------------------------------------------------------------

-- So many targets and methods have a breaker of their own; the others share one.
local MOST <const> = 1000

local function target_of(call, owner)
  local session = call.session
  return session and session.peer_addr or owner.address or ""
end

local function refuse(call, breaker, wait)
  local response = call:reject("unavailable", ("%s fails too often: not tried"):format(breaker.name),
    { breaker = breaker.name, state = breaker.state })
  response.err.processed = "no"
  response.err.retry_after = wait > 0 and wait or nil
  return response
end

---@class echostream.breakers  what `breaker.group` makes
---@field all table<string, echostream.breaker>  by "target method", such as "127.0.0.1:5000 user.get"
---@field middleware fun(call: echostream.middleware.call, next: function): any  for `client:middleware`
local Breakers = { __name = "echostream.breakers" }
Breakers.__index = Breakers

local function find(self, call)
  local owner = middleware.owner_of(call)
  local key = target_of(call, owner) .. " " .. call.name
  local breaker = self.all[key]
  if breaker then
    return breaker
  end
  if self._n >= MOST then
    key = "(other)"
    if self.all[key] then
      return self.all[key]
    end
  end
  local on_change = self._opts.on_change
  local host = setmetatable({ owner.server_ctx and owner.server_ctx._host[1] or owner }, { __mode = "v" })
  breaker = make(self._opts, key, function(info)
    log.write(info.to == "closed" and "info" or "warn", ("the breaker of %s is %s"):format(key, info.to), { method = call.name })
    hooks.fire(host[1], "breaker", info)
    if on_change then
      hooks.call("on_change", "internal", on_change, info)
    end
  end)
  self.all[key], self._n = breaker, self._n + 1
  return breaker
end

local function process(self, call, proceed)
  if call.direction ~= "out" or call.kind ~= "rpc" then
    return proceed(call)
  end
  local breaker = find(self, call)
  local allowed, era = breaker:allow()
  if not allowed then
    return refuse(call, breaker, era)
  end
  local began, verdict = loop.now(), nil
  local _ <close> = setmetatable({}, { __close = function()
    breaker:record(verdict, loop.now() - began, era)
  end })
  local response = proceed(call)
  if response.ok then
    verdict = true
  elseif response.err.code ~= "cancelled" then
    verdict = not breaker:counts(response.err)
  end
  return response
end

--- Makes a group: breakers for each target and method, at most 1,000, and the middleware that asks them. What it refuses is
--- `unavailable`, certainly not processed, with `details.breaker` (its name) and `retry_after`. Changes are logged, and told to
--- `client:on("breaker", fn)`. Middleware whose refusals are not the other side's fault belongs before it; a retry policy always is.
---@param opts? echostream.options.breaker  of each of them
---@return echostream.breakers
function M.group(opts)
  local checked = options.check("breaker.group", opts, M.schema)
  local self = setmetatable({ all = {}, _n = 0, _opts = checked }, Breakers)
  self.middleware = function(call, proceed)
    return process(self, call, proceed)
  end
  return self
end

return M
