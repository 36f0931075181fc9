--- Puts load on a server and measures what becomes of it: a number of callers that call again and again (closed loop), or calls at a
--- rate of their own, whether the answers keep up or not (open loop).

local core = require "echostream.core"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local task = require "echostream.task"

local M = {}

-- After the time is over, calls under way may take so long.
local PATIENCE = 2
-- How often an open loop looks how many calls are due, in seconds.
local TICK = 0.001

---@class echostream.cli.load
---@field calls echostream.calls[]  one for each connection
---@field method string
---@field arguments table           with `n`
---@field concurrency integer       callers; with a rate: calls under way at most
---@field duration number           seconds
---@field rate? number              calls a second
---@field latency echostream.core.histogram  ns of all that were answered; with a rate: since they were due
---@field answered integer          in time
---@field failed integer            of them
---@field succeeded integer         in time or late
---@field late integer              answered after the time was over, and not counted otherwise
---@field skipped integer           with a rate: not sent, since too many were under way
---@field codes table<string, integer>  of those that failed
---@field under_way integer
---@field seconds number            how long it went
---@field cpu number                share of one processor that this process used

local function count(load, began, ok, err)
  local now = loop.now()
  load.latency:add((now - began) * 1e9)
  local in_time = now <= load.ends
  if in_time then
    load.answered = load.answered + 1
  else
    load.late = load.late + 1
  end
  if not (ok == nil and errors.is_error(err)) then
    load.succeeded = load.succeeded + 1
    return nil
  elseif in_time then
    load.failed = load.failed + 1
    load.codes[err.code] = (load.codes[err.code] or 0) + 1
  end
  return err
end

-- Whoever calls it has counted the call as under way: it may start later.
local function once(load, calls, since)
  local ok, err = calls:request(load.method, table.unpack(load.arguments, 1, load.arguments.n))
  load.under_way = load.under_way - 1
  return count(load, since, ok, err)
end

-- A caller that calls until the time is over. One whose connection is gone ends: it would fail as fast as it can.
local function caller(load, calls)
  while loop.now() < load.ends do
    load.under_way = load.under_way + 1
    local err = once(load, calls, loop.now())
    if err and err.fatal then
      return
    end
  end
end

local function closed_loop(load)
  local callers = {}
  for i = 1, load.concurrency do
    callers[i] = task.spawn(caller, load, load.calls[(i - 1) % #load.calls + 1])
  end
  return callers
end

-- Calls that are due are made, however many are under way, up to the limit: a server that gets slow gets no fewer, and every call's time
-- counts from when it was due.
local function open_loop(load)
  local due = 0
  while true do
    local now = loop.now()
    local elapsed = now >= load.ends and load.duration or now - load.began
    local wanted = math.floor(elapsed * load.rate + 1e-6)
    while due < wanted do
      due = due + 1
      if load.under_way >= load.concurrency then
        load.skipped = load.skipped + 1
      else
        local calls = load.calls[due % #load.calls + 1]
        load.under_way = load.under_way + 1
        task.spawn(once, load, calls, load.began + due / load.rate)
      end
    end
    if now >= load.ends or not task.sleep(TICK) then
      return
    end
  end
end

local function wait_for_the_rest(load)
  local until_when = loop.now() + PATIENCE
  while load.under_way > 0 and loop.now() < until_when and task.sleep(0.01) do
    -- what is answered counts itself
  end
end

--- Prepares a run.
---@param opts { calls: echostream.calls[], method: string, arguments: table, concurrency: integer, duration: number, rate?: number }
---@return echostream.cli.load
function M.new(opts)
  local load = { answered = 0, late = 0, failed = 0, succeeded = 0, skipped = 0, under_way = 0, codes = {}, latency = core.histogram(), seconds = 0,
    cpu = 0 }
  for name, value in pairs(opts) do
    load[name] = value
  end
  return load
end

--- Runs it. In a task.
---@param load echostream.cli.load
function M.run(load)
  local cpu = os.clock()
  load.began = loop.now()
  load.ends = load.began + load.duration
  if load.rate then
    open_loop(load)
  else
    local callers = closed_loop(load)
    local left = true
    -- They may all end early: the connections are gone.
    while left and loop.now() < load.ends and task.sleep(math.min(0.05, load.ends - loop.now())) do
      left = false
      for _, each in ipairs(callers) do
        local status = each:status()
        left = left or status ~= "done" and status ~= "failed"
      end
    end
  end
  load.seconds = math.min(loop.now() - load.began, load.duration)
  load.cpu = (os.clock() - cpu) / math.max(loop.now() - load.began, 1e-9)
  wait_for_the_rest(load)
end

--- Ends it early: no more calls.
---@param load echostream.cli.load
function M.stop(load)
  local now = loop.now()
  load.duration = math.min(load.duration, now - load.began)
  load.ends = math.min(load.ends, now)
end

--- What was measured so far, in seconds.
---@param load echostream.cli.load
---@return table
function M.figures(load)
  local n, sum, max = load.latency:totals()
  local function quantile(share)
    return n > 0 and load.latency:quantile(share) / 1e9 or 0
  end
  local seconds = load.seconds > 0 and load.seconds or load.began and math.min(loop.now() - load.began, load.duration) or 0
  return {
    requests = load.answered,
    seconds = seconds,
    rate = seconds > 0 and load.answered / seconds or 0,
    failed = load.failed,
    codes = load.codes,
    late = load.late,
    unanswered = load.under_way,
    skipped = load.skipped,
    cpu = load.cpu,
    latency = {
      mean = n > 0 and sum / n / 1e9 or 0,
      p50 = quantile(0.5),
      p90 = quantile(0.9),
      p99 = quantile(0.99),
      p999 = quantile(0.999),
      max = max / 1e9,
    },
  }
end

--- How the times are spread: the count of answers for each power of two of nanoseconds, without what is empty at both ends.
---@param histogram echostream.core.histogram
---@return { upto: number, count: integer }[]  upto: seconds
function M.spread(histogram)
  local total = histogram:totals()
  local rows, before = {}, 0
  for k = 10, 40 do
    local upto = histogram:at_most(1 << k)
    if upto > 0 and before < total then
      rows[#rows + 1] = { upto = (1 << k) / 1e9, count = upto - before }
    end
    before = upto
  end
  return rows
end

return M
