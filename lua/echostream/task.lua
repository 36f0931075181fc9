--- Tasks: the only Lua file that yields. Everything that waits goes through here.
---
--- | caller                                  | what happens                                                        |
--- |-----------------------------------------|---------------------------------------------------------------------|
--- | a task (handlers, `echo.spawn`)         | yields, is resumed with the results                                 |
--- | a generator made by `echo.wrap`         | hands the waiting to whoever runs the generator                     |
--- | the main thread, loop not running       | a task does the work, the main thread pumps the loop until it ended |
--- | a bare luv callback, a foreign coroutine| raises: wrap it in `echo.spawn`                                     |

local core = require "echostream.core"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local options = require "echostream.options"

local M = {}

---@class echostream.task: echostream.core.task
---@field wait fun(self: echostream.task, timeout?: number): any ...  its results, or `nil, err` (`timeout`: it goes on)
---@field cancel fun(self: echostream.task): boolean  asks it to end: what it waits for returns nil, err `cancelled`
---@field status fun(self: echostream.task): string    ready, running, suspended, done, failed or cancelled
---@field result fun(self: echostream.task): boolean?, any ...  without waiting: nil; `true, ...`; `false, err`

local current, prepare, park, wake = core.current, core.prepare, core.park, core.wake
local is_yieldable, running, yield = coroutine.isyieldable, coroutine.running, coroutine.yield
local pack, unpack = table.pack, table.unpack

--- The running task, or nil.
---@return echostream.task?
M.current = current

local no_yield = "this code cannot wait: it runs inside a callback of a C function (string.gsub, table.sort, an "
  .. "iterator of the standard library …). Collect the work first and wait after it returned; for generators use echo.wrap"

-- Generators made by echo.wrap whose waiting is done by whoever resumes them: coroutine -> true.
local carriers = setmetatable({}, { __mode = "k" })

-- What a carrier yields to say "do this for me": CALL, fn, ...
local CALL = {}

-- Waiting -----------------------------------------------------------------------------------------------------

local function finish(state, ...)
  if state.timer then
    state.timer:stop()
  end
  if not state.woken and state.undo then
    state.undo()
  end
  return ...
end

-- Runs in a task. `start(resume)` begins something; it may return a function that undoes it.
local function await_in_task(start, timeout)
  if not is_yieldable() then
    error(no_yield, 0)
  end
  local me, ticket = prepare()
  local state = { woken = false }
  local function resume(...)
    if wake(me, ticket, ...) then
      state.woken = true
      return true
    end
    return false
  end
  state.undo = start(resume)
  if timeout and not state.woken then
    state.timer = loop.current().core:timer(timeout, function()
      if wake(me, ticket, nil, errors.new("timeout", ("nothing happened within %g s"):format(timeout))) then
        if state.undo then
          state.undo()
          state.undo = nil
        end
      end
    end)
  end
  return finish(state, park(ticket))
end

local function protected(fn, ...)
  return pcall(fn, ...)
end

local function settle_block(ok, ...)
  if not ok then
    error((...), 0)
  end
  return ...
end

local function result_of(_, ...)
  return settle_block(...)
end

--- Runs `fn(...)`, which may wait, for any caller (see the table above), and returns its results. What it raises is raised.
---@param fn function
---@return any ...
function M.block(fn, ...)
  if current() then
    if not is_yieldable() then
      error(no_yield, 0)
    end
    return fn(...)
  end
  local co, main = running()
  if not main and carriers[co] then
    return settle_block(yield(CALL, fn, ...))
  end
  local may, reason = loop.can_pump()
  if not may then
    error(reason, 0)
  end
  local task = core.spawn(loop.current().core, protected, fn, ...)
  local done = false
  task:on_end(function()
    done = true
  end)
  local ok, pumped, err = pcall(loop.pump, function()
    return done
  end)
  if not ok then -- interrupted: what was waited for is given up, everything else stays as it is
    task:cancel()
    error(pumped, 0)
  elseif not pumped then
    task:cancel()
    return nil, err
  end
  return result_of(task:result())
end

local block = M.block

--- Whether the caller may use calls that wait.
---@return boolean
function M.can_wait()
  if current() then
    return is_yieldable()
  end
  local co, main = running()
  return not main and carriers[co] or loop.can_pump() == true
end

--- The primitive under everything that waits. `start(resume)` begins something and arranges that `resume(...)` is called
--- once, from anywhere; its arguments are what `await` returns. `start` may return a function that undoes it: it is called
--- when the wait ends otherwise (timeout, cancellation).
---@param start fun(resume: fun(...): boolean): function?
---@param timeout? number seconds; after it: nil, err `timeout`
---@return any ...
function M.await(start, timeout)
  if type(start) ~= "function" then
    options.argument("echo.await", "start", start, "function")
  elseif timeout ~= nil and not (type(timeout) == "number" and timeout >= 0) then
    options.argument("echo.await", "timeout", timeout, "seconds")
  end
  return block(await_in_task, start, timeout)
end

-- Tasks -------------------------------------------------------------------------------------------------------

local function wait_in_task(task, timeout)
  local status = task:status()
  if status == "ready" or status == "running" or status == "suspended" then
    if current() == task then
      error("task:wait: a task cannot wait for itself", 0)
    end
    local ended, err = await_in_task(function(resume)
      task:on_end(function()
        resume(true)
      end)
    end, timeout)
    if not ended then
      return nil, err
    end
  end
end

local function outcome(ok, ...)
  if ok == nil then
    return nil, errors.new("internal", "the task has not ended")
  elseif not ok then
    return nil, errors.from((...))
  elseif select("#", ...) == 0 then
    return true
  end
  return ...
end

-- task:wait([seconds]): the results of its function (true when it returned nothing). nil, err when it raised, was
-- cancelled, or does not end in time (it goes on then).
local function wait(task, timeout)
  if timeout ~= nil then
    options.argument("task:wait", "timeout", timeout, "seconds")
  end
  if task:result() == nil then
    local _, err = block(wait_in_task, task, timeout)
    if err then
      return nil, err
    end
  end
  return outcome(task:result())
end

-- The core's tasks get the one method that needs Lua.
local methods_added = false
local function add_methods(task)
  local methods = debug.getmetatable(task).__index
  methods.wait = wait
  methods_added = true
end

local function spawn_on(rec, fn, ...)
  local task = core.spawn(rec.core, fn, ...)
  if not methods_added then
    add_methods(task)
  end
  if not rec.stepping then
    loop.note(rec)
  end
  return task
end

local spawned -- nil, or what trace.lua wants to do with a new task

--- For trace.lua: `fn(task)` runs for each task that is spawned, in whoever spawns it.
---@param fn fun(task: echostream.task)
---@private
function M.on_spawn(fn)
  spawned = fn
end

--- Runs `fn(...)` as a task, which may use every call that waits. It starts with the loop's next step. What it raises is
--- logged and ends only the task.
---@param fn function
---@return echostream.task
function M.spawn(fn, ...)
  if type(fn) ~= "function" then
    local callable = fn
    local mt = getmetatable(callable)
    if type(mt) ~= "table" or type(mt.__call) ~= "function" then
      options.argument("echo.spawn", "function", fn, "function")
    end
    fn = function(...) -- such as the functions of client:service
      return callable(...)
    end
  end
  if spawned then
    local task = spawn_on(loop.current(), fn, ...)
    spawned(task)
    return task
  end
  return spawn_on(loop.current(), fn, ...)
end

-- The callback form of a call that waits: callback(results...) runs in the task.
local function then_call(callback, ...)
  callback(...)
  return ...
end

local function run_then_call(callback, fn, ...)
  return then_call(callback, fn(...))
end

--- Runs `fn(...)` in a task, then `callback` with its results. Returns the task: `wait` gives the same results.
---@param callback function
---@param fn function
---@return echostream.task
function M.call_back(callback, fn, ...)
  if type(callback) ~= "function" then
    error("the callback wants to be a function, got " .. errors.show(callback), 3)
  end
  return spawn_on(loop.current(), run_then_call, callback, fn, ...)
end

--- What a call ends with that waits, or takes a callback instead: `fn(...)` as `block` runs it, or as `call_back` does.
---@param where string  its name, for who gives something else as the callback
---@param callback any  nil: wait
---@param fn function
---@return any ...
function M.wait_or_call_back(where, callback, fn, ...)
  if callback == nil then
    return block(fn, ...)
  end
  options.argument(where, "callback", callback, "function")
  return spawn_on(loop.current(), run_then_call, callback, fn, ...)
end

--- Splits arguments whose last may be a callback and runs `fn` accordingly: blocking, or as a task with the callback.
---@param fn function
---@return any ...
function M.either(fn, ...)
  local n = select("#", ...)
  if n > 0 and type((select(n, ...))) == "function" then
    local arguments = pack(...)
    local callback = arguments[n]
    return M.call_back(callback, fn, unpack(arguments, 1, n - 1))
  end
  return block(fn, ...)
end

local function wait_for_all(tasks, timeout)
  local deadline = timeout and loop.now() + timeout
  local results = { n = #tasks }
  for i = 1, #tasks do
    local task = tasks[i]
    local left = deadline and math.max(deadline - loop.now(), 0)
    if task:result() == nil then
      local _, err = block(wait_in_task, task, left)
      if err then
        return nil, err
      end
    end
    local ok, value = task:result()
    if not ok then
      return nil, errors.from(value)
    end
    results[i] = value
  end
  return results
end

--- Waits until every task has ended.
---@param tasks echostream.task[]
---@param timeout? number seconds for all together
---@param callback? fun(results: table?, err: echostream.error?)  instead of waiting
---@return table|nil results  the first result of each task, in order (`n` is their number); `task:wait()` gives the others
---@return echostream.error? err  of the first task in the list that failed; the others go on. Or `timeout`
function M.all(tasks, timeout, callback)
  if type(timeout) == "function" then
    timeout, callback = nil, timeout
  end
  options.argument("echo.all", "tasks", tasks, "table")
  if timeout ~= nil then
    options.argument("echo.all", "timeout", timeout, "seconds")
  end
  for i = 1, #tasks do
    local mt = debug.getmetatable(tasks[i])
    if type(tasks[i]) ~= "userdata" or mt == nil or mt.__name ~= "echostream.task" then
      error(("echo.all: tasks[%d] wants a task, got %s"):format(i, errors.show(tasks[i])), 2)
    end
  end
  if callback then
    return M.call_back(callback, wait_for_all, tasks, timeout)
  end
  return wait_for_all(tasks, timeout)
end

local function sleep_in_task(seconds)
  return await_in_task(function(resume)
    local timer = loop.current().core:timer(seconds, function()
      resume(true)
    end)
    return function()
      timer:stop()
    end
  end)
end

--- Waits.
---@param seconds number
---@param callback? fun(ok: boolean?, err: echostream.error?)
---@return true|nil ok, echostream.error? err  `cancelled`; with a callback: the task
function M.sleep(seconds, callback)
  options.argument("echo.sleep", "seconds", seconds, "seconds")
  return M.wait_or_call_back("echo.sleep", callback, sleep_in_task, seconds)
end

-- Generators --------------------------------------------------------------------------------------------------

local resume_carrier

-- What the generator yielded or returned. A request to wait is carried out here, by the caller of the generator.
local function carry(co, ok, first, ...)
  if not ok then
    local raised = first
    if type(raised) == "string" and coroutine.status(co) == "dead" then
      raised = debug.traceback(co, raised)
    end
    error(raised, 0)
  elseif rawequal(first, CALL) then
    return resume_carrier(co, pcall(block, ...))
  end
  return first, ...
end

function resume_carrier(co, ...)
  return carry(co, coroutine.resume(co, ...))
end

--- `coroutine.wrap` for generators whose body waits (requests, `recv`, `echo.sleep`): inside a handler a bare
--- coroutine cannot, because its yields go to the wrong resumer. The body uses `coroutine.yield` as always.
---
---     for row in echo.wrap(function() for id = 1, 3 do coroutine.yield(client:request("row", id)) end end) do … end
---@param fn function
---@return fun(...): any ...
function M.wrap(fn)
  options.argument("echo.wrap", "function", fn, "function")
  local co = coroutine.create(fn)
  carriers[co] = true
  return function(...)
    return resume_carrier(co, ...)
  end
end

-- Running -----------------------------------------------------------------------------------------------------

--- Runs the loop from the main thread: `seconds` long, or until `echo.stop()`, or until nothing is left to do. Ctrl-C
--- and SIGTERM stop the started servers gracefully first; a second one ends the process at once.
---@param seconds? number
---@return true|nil ok, echostream.error? err
function M.run(seconds)
  if seconds ~= nil then
    options.argument("echo.run", "seconds", seconds, "seconds")
  end
  if current() then
    error("echo.run: the loop runs already; a task waits with echo.sleep, task:wait or server:run", 2)
  end
  local rec = loop.current()
  local over = false
  rec.stop_asked = false
  local timer = seconds and rec.core:timer(seconds, function()
    over = true
  end)
  local ok, err = loop.pump(function()
    return over or rec.stop_asked
  end, function()
    M.spawn(function()
      for thing in pairs(rec.anchors) do
        if thing.stop then
          thing:stop()
        end
      end
      over = true
    end)
  end)
  if timer then
    timer:stop()
  end
  if not ok and err.code == "deadlock" then
    return true -- nothing is left to do
  end
  return ok, err
end

return M
