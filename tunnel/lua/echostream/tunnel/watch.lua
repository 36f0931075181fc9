--- Time limits of exchanges under way: one look at all of them a few times a second, instead of a timer for each wait.

local loop = require "echostream.loop"
local task = require "echostream.task"

local M = {}

local INTERVAL <const> = 0.25
local IDLE_ROUNDS <const> = 20 -- so often nobody is there before the task ends

---@class echostream.tunnel.watch
---@field now number  seconds, as of the last look: good enough for "when something came last"
local Watch = { __name = "echostream.tunnel.watch" }
Watch.__index = Watch

---@param check fun(run: any, now: number)  is called for each of those who are watched
---@return echostream.tunnel.watch
function M.new(check)
  return setmetatable({ now = loop.now(), _check = check, _runs = {}, _task = nil, _stopped = false }, Watch)
end

local function watch(self)
  local idle = 0
  local me = self._task
  while idle < IDLE_ROUNDS and task.sleep(INTERVAL) do
    self.now = loop.now()
    if next(self._runs) == nil then
      idle = idle + 1
    else
      idle = 0
      local due = {}
      for run in pairs(self._runs) do -- the check may take others out
        due[#due + 1] = run
      end
      for _, run in ipairs(due) do
        self._check(run, self.now)
      end
    end
  end
  if self._task == me then
    self._task = nil
  end
  if next(self._runs) ~= nil and not self._task and not self._stopped then -- somebody came at the last moment
    self:_start()
  end
end

function Watch:_start()
  if not self._task then
    self._stopped = false
    self.now = loop.now()
    self._task = task.spawn(watch, self)
  end
end

---@param run any
function Watch:add(run)
  self._runs[run] = true
  if not self._task then
    self:_start()
  end
end

--- Ends its task, so that nothing is alive any more. Who is added later begins another.
function Watch:stop()
  self._stopped = true
  if self._task then
    self._task:cancel()
    self._task = nil
  end
end

---@param run any
function Watch:remove(run)
  self._runs[run] = nil
end

return M
