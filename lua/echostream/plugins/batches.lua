--- A bounded queue of things that go out in batches, in the background, and again when that failed.

local backoff = require "echostream.backoff"
local errors = require "echostream.errors"
local log = require "echostream.log"
local task = require "echostream.task"

local M = {}

---@class echostream.batches.options
---@field send fun(items: any[]): true|nil, echostream.error?, boolean?  in a task; the third result: the same must not be sent again
---@field what string         the things, for the log
---@field batch integer       things that go together at most; from so many on they do not wait
---@field interval number     seconds that they wait
---@field max_queue integer   things that wait; more are dropped and counted
---@field attempts integer    for one batch

---@class echostream.batches
---@field exported integer
---@field dropped integer  that there was no room for
---@field failed integer   for good
---@field retried integer  batches, each time that one was sent again
local Batches = { __name = "echostream.batches" }
Batches.__index = Batches

-- Between attempts. Who takes them may ask for more.
local PAUSES <const> = { first = 1, factor = 2, cap = 30, jitter = 0.5 }
local LONGEST <const> = 300

-- Waits before another attempt, but not when there will be no time for it.
local function pause(self, seconds)
  if not self._over then
    task.await(function(resume)
      self._hurry = resume
    end, seconds)
    self._hurry = nil
  end
end

-- One batch. Once it is over there is one more attempt, at once.
local function send(self, items)
  local pauses = backoff.of(PAUSES)
  for attempt = 1, self._opts.attempts do
    local was_over = self._over
    local fine, ok, err, final = pcall(self._opts.send, items)
    if fine and ok then
      return true
    end
    err = errors.from(fine and err or ok)
    if not fine or final or was_over or attempt == self._opts.attempts then
      return nil, err
    end
    self.retried = self.retried + 1
    pause(self, math.max(pauses:next(), math.min(err.retry_after or 0, LONGEST)))
  end
end

local function run(self)
  while #self._queue > 0 do
    local n = math.min(#self._queue, self._opts.batch)
    local items = table.move(self._queue, 1, n, 1, {})
    self._queue = table.move(self._queue, n + 1, #self._queue, 1, {})
    local ok, err = send(self, items)
    self.exported, self.failed = self.exported + (ok and n or 0), self.failed + (ok and 0 or n)
    if not ok then
      log.write("warn", ("%d %s could not be exported: %s"):format(n, self._opts.what, tostring(err)))
    end
  end
end

-- The task that sends, one at a time; nil when nothing waits.
local function begin(self)
  if not self._busy and #self._queue > 0 then
    local running = task.spawn(run, self)
    self._busy = running
    running:on_end(function()
      self._busy = nil
    end)
  end
  return self._busy
end

---@package
--- Something more, which never waits.
---@param item any
function Batches:add(item)
  if #self._queue >= self._opts.max_queue then
    self.dropped = self.dropped + 1
    return
  end
  self._queue[#self._queue + 1] = item
  if self._busy then -- which goes on as long as there is something
    return
  elseif #self._queue >= self._opts.batch or self._over then
    begin(self)
  elseif not self._timer then -- only while something waits: it keeps the process alive
    self._timer = task.spawn(function()
      if task.sleep(self._opts.interval) then
        self._timer = nil
        begin(self)
      end
    end)
  end
end

---@package
--- Sends what waits, and waits until that is done or has failed for good. In a task.
function Batches:flush()
  local running = begin(self)
  if running then
    running:wait()
  end
end

---@package
--- The same, and from now on nothing waits, for other attempts neither. In a task.
function Batches:finish()
  self._over = true
  if self._timer then
    self._timer:cancel()
    self._timer = nil
  end
  if self._hurry then
    self._hurry(true)
  end
  self:flush()
end

---@package
--- Things may wait again.
function Batches:reopen()
  self._over = false
end

--- Makes an empty one.
---@param opts echostream.batches.options
---@return echostream.batches
function M.new(opts)
  return setmetatable({ exported = 0, dropped = 0, failed = 0, retried = 0, _opts = opts, _queue = {}, _busy = nil,
    _over = false, _timer = nil, _hurry = nil }, Batches)
end

return M
