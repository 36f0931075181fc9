--- Errors by kind: how many there were, whether they become more, and functions that are called when there are too many.
---
--- The core counts how every call and stream ended. What is here reads its counters a few times in a window: calls pay nothing.

local errors = require "echostream.errors"
local hooks = require "echostream.hooks"
local loop = require "echostream.loop"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

-- A window is looked at in so many steps.
local STEPS <const> = 10

---@class echostream.options.alert
---@field fn fun(info: echostream.alert.info)  is called, in a task, once each time that the threshold is reached
---@field kind? string|string[]  codes of errors; they are counted by gRPC's status, so `connection_closed` and `io` as `unavailable`
--- (default: every one but `cancelled`)
---@field threshold? integer  so many errors within the window (default: 1, or none where `share` is given)
---@field share? number  0 to 1: so many of the calls that ended within the window
---@field min_calls? integer  with fewer calls in the window the share says nothing (default: 10)
---@field window? number  seconds (default: 60)
---@field direction? "in"|"out"  only calls that come in, or only those that go out (default: both)
---@field recovered? fun(info: echostream.alert.info)  is called once when it is under the threshold again

---@class echostream.alert.info
---@field kinds string[]   codes
---@field count integer    errors of these kinds within the window
---@field calls integer    calls and streams that ended within it
---@field window number    seconds

---@type table<string, echostream.options.field>
M.schema = {
  fn = { type = "function", required = true },
  kind = { type = { "string", "strings" } },
  threshold = { type = "integer", min = 1 },
  share = { type = "number", min = 0.000001, max = 1 },
  min_calls = { type = "integer", min = 1, default = 10 },
  window = { type = "seconds", min = 0.01, max = 1e6, default = 60 },
  direction = { type = "string", one_of = { "in", "out" } },
  recovered = { type = "function" },
}

local function kinds_of(where, kind)
  local list, set = {}, {}
  if kind == nil then
    for code in pairs(errors.codes) do
      local name = errors.counted_as(code)
      set[name] = name ~= "cancelled" or nil
    end
  else
    for _, code in ipairs(type(kind) == "table" and kind or { kind }) do
      if not errors.codes[code] then
        local guess = options.nearest(code, errors.codes)
        error(("%s: option \"kind\" wants codes of errors, got %s%s"):format(where, errors.show(code),
          guess and (" (did you mean \"%s\"?)"):format(guess) or ""), 4)
      end
      set[errors.counted_as(code)] = true
    end
  end
  for name in pairs(set) do
    list[#list + 1] = name
  end
  table.sort(list)
  return list
end

-- Looking -----------------------------------------------------------------------------------------------------

-- What a host counted so far, of one direction or both: { ok = n, timeout = n, … }.
local function outcomes(host, direction)
  local incoming, outgoing = host._host:outcomes()
  if direction then
    return direction == "in" and incoming or outgoing
  end
  for code, n in pairs(outgoing) do
    incoming[code] = (incoming[code] or 0) + n
  end
  return incoming
end

local function difference(now, before)
  local out = {}
  for code, n in pairs(now) do
    local more = n - (before[code] or 0)
    out[code] = more > 0 and more or nil -- a method that was removed took its counts along
  end
  return out
end

local function sum(counts, kinds)
  local total = 0
  for _, code in ipairs(kinds) do
    total = total + (counts[code] or 0)
  end
  return total
end

local function all(counts)
  local total = 0
  for _, n in pairs(counts) do
    total = total + n
  end
  return total
end

local function is_running(host)
  local state = host.state
  return state == "running" or state == "connected" or state == "reconnecting"
end

-- Something that looks every `step` seconds while the host runs.
local function watch(host, step, look)
  local watcher = { over = false }
  local weak = setmetatable({ host }, { __mode = "v" })
  local function tick()
    watcher.timer = nil
    local self = weak[1]
    if not watcher.over and self and is_running(self) then
      look()
      watcher.timer = self._rec.core:timer(step, tick)
    end
  end
  function watcher.start()
    if not watcher.timer and not watcher.over then
      watcher.timer = host._rec.core:timer(step, tick)
    end
  end
  function watcher.stop()
    if watcher.timer then
      watcher.timer:stop()
      watcher.timer = nil
    end
  end
  function watcher.forget()
    watcher.over = true
    local self = weak[1]
    for i, one in ipairs(self and self._watchers or {}) do
      if one == watcher then
        table.remove(self._watchers, i)
        hooks.remove(self, "start", watcher.start)
        break
      end
    end
  end
  host:on_start(watcher.start)
  host._watchers[#host._watchers + 1] = watcher
  if is_running(host) then
    watcher.start()
  end
  return watcher
end

---@package
--- The alerts of a host that were set off and are not over.
---@param host table
---@return echostream.alert[]
function M.firing(host)
  local list = {}
  for _, watcher in ipairs(host._watchers) do
    if watcher.alert and watcher.alert.over then
      list[#list + 1] = watcher.alert
    end
  end
  return list
end

--- The host is over, whatever its hooks say: nothing of this may keep the loop alive.
---@param host table
function M.stop(host)
  for _, watcher in ipairs(host._watchers) do
    watcher.stop()
  end
end

---@class echostream.alert
---@field over boolean  the threshold was reached and the count has not fallen since
---@field since number?  when it was reached, on the loop's clock
---@field info echostream.alert.info?  what was last seen
local Alert = { __name = "echostream.alert" }
Alert.__index = Alert

local function look(self, host)
  local opts = self._opts
  local now = outcomes(host, opts.direction)
  local samples = self._samples
  samples[#samples + 1] = now
  if #samples > STEPS + 1 then
    table.remove(samples, 1)
  end
  local lately = difference(now, samples[1])
  local info = { kinds = self._kinds, count = sum(lately, self._kinds), calls = all(lately), window = opts.window }
  local over = opts.threshold ~= nil and info.count >= opts.threshold
    or opts.share ~= nil and info.calls >= opts.min_calls and info.count >= opts.share * info.calls
  self.info = info
  if over and not self.over then
    self.over, self.since = true, loop.now()
    task.spawn(opts.fn, info)
  elseif not over and self.over then
    self.over = false
    if opts.recovered then
      task.spawn(opts.recovered, info)
    end
  end
end

--- Ends it.
function Alert:stop()
  self._watcher.stop()
  self._watcher.forget()
  self.over = false
end

-- Trends ------------------------------------------------------------------------------------------------------

-- What `errors` compares: the last minute with the one before.
local TREND <const> = 60

local function trend_of(host)
  local trend = host._trend
  if not trend then
    trend = { samples = { { at = loop.now(), host._host:outcomes() } } }
    host._trend = trend
    local weak = setmetatable({ host }, { __mode = "v" })
    trend.watcher = watch(host, TREND / STEPS, function()
      local samples = trend.samples
      samples[#samples + 1] = { at = loop.now(), weak[1]._host:outcomes() }
      if #samples > 2 * STEPS + 1 then
        table.remove(samples, 1)
      end
    end)
  end
  return trend
end

-- The newest sample that is at least so old; else the oldest.
local function sample_before(samples, at)
  local found = samples[1]
  for _, sample in ipairs(samples) do
    if sample.at <= at then
      found = sample
    end
  end
  return found
end

local function by_kind(total, recent, before)
  local out = {}
  for code, n in pairs(total) do
    if code ~= "ok" then
      local lately, earlier = recent[code] or 0, before[code] or 0
      out[code] = {
        total = n,
        recent = lately,
        before = earlier,
        trend = lately > earlier and "rising" or lately < earlier and "falling" or "steady",
      }
    end
  end
  return out
end

---@class echostream.alerts.methods  of servers and clients
local Host = {}
M.methods = Host

--- Calls a function when there are too many errors: once when the threshold is reached, and again when that happens after it was
--- under it. The window is looked at in ten steps, while the server or client runs.
---
---     server:alert{ kind = "timeout", threshold = 100, window = 60, fn = function(info) page("timeouts: " .. info.count) end }
---@param opts echostream.options.alert
---@return echostream.alert alert  `alert:stop()` ends it
function Host:alert(opts)
  local checked = options.check("alert", opts, M.schema)
  if not checked.threshold and not checked.share then
    checked.threshold = 1
  end
  local alert = setmetatable({ over = false, _opts = checked, _kinds = kinds_of("alert", checked.kind), _watcher = nil,
    _samples = { outcomes(self, checked.direction) } }, Alert)
  local weak = setmetatable({ self }, { __mode = "v" })
  alert._watcher = watch(self, checked.window / STEPS, function()
    look(alert, weak[1])
  end)
  alert._watcher.alert = alert
  return alert
end

--- Errors by kind, of `incoming` and `outgoing` calls and streams: { total, recent, before, trend } for each code. `recent` are those of the
--- last minute and `before` those of the minute before it; `trend` is "rising", "falling" or "steady". Minutes are counted from the first
--- use on. Codes are gRPC's: `connection_closed` and `io` count as `unavailable`.
---@return { incoming: table<string, table>, outgoing: table<string, table> }
function Host:errors()
  local samples = trend_of(self).samples
  local now = loop.now()
  local middle, first = sample_before(samples, now - TREND), sample_before(samples, now - 2 * TREND)
  local incoming, outgoing = self._host:outcomes()
  return {
    incoming = by_kind(incoming, difference(incoming, middle[1]), difference(middle[1], first[1])),
    outgoing = by_kind(outgoing, difference(outgoing, middle[2]), difference(middle[2], first[2])),
  }
end

return M
