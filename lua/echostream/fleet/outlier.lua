--- Outliers: targets that fail much more than they should get no calls for a while.
---
---     in ── failures in a row, or too many of the latest calls ──► out, for base * 2^(times - 1) seconds
---      ▲                                                            │
---      └── on trial: the first failure puts it out again ◄──────────┘
---
--- Never more than a share of all targets is out: when everybody fails, the fault is not theirs. Times are arguments, so that this
--- needs no clock.

local options = require "echostream.options"

local M = {}

---@class echostream.options.outlier  `outlier = { … }` of fleets
---@field consecutive? integer  failures in a row that put a target out (default: 5)
---@field rate? number  0 to 1: the share of failures among the calls of the window that does (default: 0.5)
---@field minimum? integer  calls in the window, below which the rate says nothing (default: 20)
---@field window? number  seconds (default: 10)
---@field base? number  seconds that the first ejection takes; each further one takes twice as long as the last (default: 5)
---@field cap? number  seconds that one takes at most (default: 300)
---@field share? number  0 to 1: of all targets, at most so many are out at a time (default: 0.5)

--- Fields of the option `outlier`.
---@type table<string, echostream.options.field>
M.fields = {
  consecutive = { type = "integer", min = 1, default = 5 },
  rate = { type = "number", min = 0, max = 1, default = 0.5 },
  minimum = { type = "integer", min = 1, default = 20 },
  window = { type = "seconds", min = 0.001, default = 10 },
  base = { type = "seconds", default = 5 },
  cap = { type = "seconds", default = 300 },
  share = { type = "number", min = 0, max = 1, default = 0.5 },
}

---@class echostream.outlier
local Outlier = {}
Outlier.__index = Outlier
Outlier.__name = "echostream.fleet.outlier"

---@package
---@param opts? echostream.options.outlier
---@return echostream.outlier
function M.new(opts)
  return setmetatable({ _options = options.check("outlier", opts, M.fields), _records = {} }, Outlier)
end

-- A window of two halves: the one that fills, and the one before.
local function record_of(self, name, now)
  local record = self._records[name]
  if not record then
    record = { row = 0, times = 0, until_ = nil, trial = false, began = now, calls = 0, failed = 0, calls_before = 0, failed_before = 0 }
    self._records[name] = record
  end
  local half = self._options.window / 2
  if now - record.began >= half then
    local stale = now - record.began >= 2 * half
    record.calls_before, record.failed_before = stale and 0 or record.calls, stale and 0 or record.failed
    record.calls, record.failed, record.began = 0, 0, now
  end
  return record
end

--- Whether a target gets no calls now.
---@param name string
---@param now number
---@return boolean
---@package
function Outlier:is_out(name, now)
  local record = self._records[name]
  if not record or not record.until_ then
    return false
  elseif now < record.until_ then
    return true
  end
  record.until_, record.trial = nil, true
  record.row, record.calls, record.failed, record.calls_before, record.failed_before = 0, 0, 0, 0, 0
  return false
end

local function out_now(self, now)
  local n = 0
  for name in pairs(self._records) do
    n = n + (self:is_out(name, now) and 1 or 0)
  end
  return n
end

local function too_many_failures(self, record)
  local opts = self._options
  if record.trial or record.row >= opts.consecutive then
    return true
  end
  local calls, failed = record.calls + record.calls_before, record.failed + record.failed_before
  return calls >= opts.minimum and failed / calls >= opts.rate and failed > 0
end

--- A call has ended. Says for how long the target is out when that was one too many.
---@param name string
---@param ok boolean
---@param now number
---@param all integer  targets that there are
---@return number? seconds
---@package
function Outlier:record(name, ok, now, all)
  if self:is_out(name, now) then
    return nil -- a call from before
  end
  local record = record_of(self, name, now)
  record.calls = record.calls + 1
  if ok then
    record.row = 0
    if record.trial then
      record.trial = false
    elseif record.times > 0 and record.out_since and now - record.out_since > self._options.window then
      record.times, record.out_since = record.times - 1, now -- it is forgiven step by step
    end
    return nil
  end
  record.failed, record.row = record.failed + 1, record.row + 1
  if not too_many_failures(self, record) or out_now(self, now) + 1 > self._options.share * all then
    return nil
  end
  local opts = self._options
  local seconds = math.min(opts.base * 2 ^ math.min(record.times, 40), opts.cap)
  record.times, record.until_, record.out_since = record.times + 1, now + seconds, now + seconds
  return seconds
end

--- Forgets a target.
---@param name string
---@package
function Outlier:forget(name)
  self._records[name] = nil
end

return M
