--- How a fleet makes a call: it chooses a target, sends, and goes on to another one where that is safe and makes sense; or it asks all of them.

local backoff = require "echostream.backoff"
local errors = require "echostream.errors"
local hooks = require "echostream.hooks"
local loop = require "echostream.loop"
local outgoing = require "echostream.session.out"
local task = require "echostream.task"

local core = require "echostream.core"

local M = {}

---@class echostream.options.fleet_call  of `fleet:with`, besides those of [calls](#options-of-calls)
---@field target? string  this one only
---@field key? any  what `consistent_hash` goes by: equal keys go to the same target
---@field quorum? integer  `request_all`: so many answers are enough

---@package
M.own_options = {
  target = { type = "string" },
  key = { type = { "string", "number", "boolean" } },
  quorum = { type = "integer", min = 1 },
}
---@package
M.schema = {}
for _, fields in ipairs { outgoing.call_options, M.own_options } do
  for name, field in pairs(fields) do
    M.schema[name] = field
  end
end
M.schema.retry = { refuse = 'is not for fleets: `failover` says how often a call is sent' }

---@package
--- The fleet's `on_change` is told of something.
function M.tell(self, name, what, detail)
  local fn = self._options.on_change
  if fn then
    task.spawn(hooks.call, "fleet.on_change", "internal", fn, name, what, detail)
  end
end

-- Choosing ----------------------------------------------------------------------------------------------------

---@package
--- An error of what certainly did not run.
function M.unsent(code, message)
  local err = errors.new(code, message)
  err.processed = "no"
  return err
end

local unsent = M.unsent

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
---@package
--- The breaker's era is what its `record` wants, nil when none was asked.
---@return table|nil target, echostream.error? err, integer? era
function M.choose(self, opts, tried)
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
    if not target.breaker then
      return target
    end
    local allowed, era = target.breaker:allow()
    if allowed then
      return target, nil, era
    end
    refused[target] = true
  end
end

local choose = M.choose

-- Calls -------------------------------------------------------------------------------------------------------

-- What says something about the target, and not about the call.
local faults = { unavailable = true, connection_closed = true, io = true, timeout = true, resource_exhausted = true, internal = true,
  data_loss = true, protocol = true }
-- After these another target may do better.
local passing = { unavailable = true, connection_closed = true, io = true, resource_exhausted = true, data_loss = true }

local function note(self, target, err, seconds, era)
  if err and err.code == "cancelled" then -- by the caller, most likely: that says nothing
    if target.breaker then
      target.breaker:record(nil, seconds, era)
    end
    return
  end
  local ok = not (err and faults[err.code])
  if target.breaker then
    target.breaker:record(ok, seconds, era)
  end
  if self._outlier and self._targets[target.name] == target then
    local out = self._outlier:record(target.name, ok, loop.now(), #self._order)
    if out then
      M.tell(self, target.name, "ejected", out)
    end
  end
end

-- One attempt. `timeout`: seconds; nil: none. An attempt that comes to a target again has the id it had there, so that the server can
-- tell (`dedupe`).
local function attempt(self, state, target, timeout, era)
  local began = loop.now()
  target.starting = target.starting + 1
  local client, err = target.pool:take(timeout)
  target.starting = target.starting - 1
  if not client then
    note(self, target, err, loop.now() - began, era)
    return { nil, err, n = 2 }, err
  end
  local given = {}
  for key, value in pairs(state.opts) do
    given[key] = not M.own_options[key] and value or nil
  end
  given.timeout = timeout and math.max(timeout - (loop.now() - began), 0.001) or false
  state.ids[target] = state.ids[target] or client._ud:request_id()
  given[1], given[2], given[3] = state.ids[target], state.n, state.uncertain
  local results = table.pack(outgoing.request(client, state.name, given, table.unpack(state.args, 1, state.args.n)))
  err = results[1] == nil and errors.is_error(results[2]) and results[2] or nil
  note(self, target, err, loop.now() - began, era)
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
  local target, err, era = choose(self, state.opts, state.tried)
  if target or state.n == 1 or #self._order == 0 then
    return target, err, era
  end
  state.round, state.tried = state.round + 1, {}
  local ok, cancelled = task.sleep(backoff.pause(ROUNDS, state.round))
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
local function settle(self, state, target, ends, era)
  while not state.opts.target and #self._order > 1 and not target.pool:is_ready() do
    local now = loop.now()
    local pause = math.min(ends and ends - now or math.huge, self._options.attempt_timeout or math.huge, HEAD_START)
    if pause <= 0 then
      return target, era
    end
    target.starting = target.starting + 1
    local client = target.pool:take(pause)
    target.starting = target.starting - 1
    if client then
      return target, era
    elseif another_is_ready(self, state.tried) then
      local other, _, others_era = choose(self, state.opts, state.tried)
      if other and target.breaker then
        target.breaker:record(nil, nil, era) -- it was not asked after all
      end
      if other then
        target, era = other, others_era
      end
      state.tried[target] = true
      return target, era
    elseif loop.now() - now < pause / 2 then
      return target, era -- the wait was cut short: we are cancelled, or the target was taken away
    end
  end
  return target, era
end

---@package
--- The body of `request`. In a task.
---@return any ...
function M.request(self, opts, name, ...)
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
    local target, err, era = next_target(self, state)
    if not target then
      last = last or { nil, err, n = 2 }
      break
    end
    state.tried[target] = true
    target, era = settle(self, state, target, ends, era)
    local left = ends and math.max(ends - loop.now(), 0)
    local limit = opts.idempotent and state.n < most and not opts.target and self._options.attempt_timeout
    local limited = limit and (not left or limit < left)
    last, err = attempt(self, state, target, limited and limit or left, era)
    local again = err and not opts.target and may_go_on(state, err, limited) and not (ends and loop.now() >= ends)
  until not again or state.n >= most
  if state.uncertain and errors.is_error(last[2]) and last[2].processed == "no" then
    last[2].processed = "maybe" -- an earlier attempt may have run
  end
  return table.unpack(last, 1, last.n)
end

---@package
--- The body of `request_all`. In a task.
function M.gather(self, opts, name, ...)
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
            return table.pack(M.request(self, copy, name, table.unpack(args, 1, args.n)))
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

return M
