--- Active checks of backends: a request or a connection now and then; after some bad ones in a row a backend is left alone, after
--- some good ones it is used again.

local dial = require "echostream.tunnel.agent.dial"
local core = require "echostream.tunnel.core"
local log = require "echostream.log"
local loop = require "echostream.loop"
local waiter = require "echostream.tunnel.waiter"
local task = require "echostream.task"

local M = {}

---@class echostream.tunnel.agent.health
local Health = {}
Health.__index = Health
Health.__name = "echostream.tunnel.agent.health"

--- Makes one that watches nothing.
---@param engine table
---@return echostream.tunnel.agent.health
function M.new(engine)
  return setmetatable({ _engine = engine, _tasks = {} }, Health)
end

-- Waits for a status. nil, why
local function ask(x, woken, ends)
  while true do
    local head = x:head()
    while head and head.status < 200 do
      head = x:head()
    end
    if head then
      return head.status
    end
    local why, text = x:failure()
    if why then
      return nil, text and text ~= "" and text or why
    end
    local left = ends - loop.now()
    if left <= 0 or not woken:wait(left) then
      return nil, "no answer in time"
    end
  end
end

local function check_http(backend, options)
  local head = assert(core.head("request", {
    method = "GET",
    scheme = backend.options.scheme,
    authority = options.host or backend.service.options.host or backend.options.authority,
    path = options.path,
    { "user-agent", "echostream-tunnel health check" },
  }))
  local woken, ends = waiter.new(), loop.now() + options.timeout
  local x, err = backend:pool("http"):request({ head = head, fin = true, notify = function()
    woken:wake()
  end }, options.timeout)
  if not x then
    return false, err.message
  end
  local status, why = ask(x, woken, ends)
  if status then
    local bytes, over
    repeat -- the rest is read, so that the connection can be used again
      bytes, over = x:read()
    until over or not bytes and (x:failure() or loop.now() >= ends or not woken:wait(ends - loop.now()))
    if not over then
      x:reset "cancel"
    end
  else
    x:reset "cancel"
  end
  if not status then
    return false, why
  elseif not options.good(status) then
    return false, ("status %d is not of %s"):format(status, options.status)
  end
  return true
end

local function check_tcp(engine, backend, options)
  local c, err = task.await(function(resume)
    dial.dial(engine, backend.options.place, {
      timeout = options.timeout,
      codec = "raw",
      on_open = function(c)
        if not resume(c) then
          c:close()
        end
      end,
      on_failed = function(err)
        resume(nil, err)
      end,
      on_closed = function() end,
    })
  end, options.timeout)
  if not c then
    return false, err.message
  end
  c:close()
  return true
end

--- One check of one backend.
---@param engine table
---@param backend echostream.tunnel.agent.backend
---@param options table  the service's `health`
---@return boolean good, string? why
function M.check(engine, backend, options)
  if options.path then
    return check_http(backend, options)
  end
  return check_tcp(engine, backend, options)
end

-- Checks in a row, in `state`, until they say something else than before.
local function judge(backend, options, state, good, why)
  state.good, state.bad = good and state.good + 1 or 0, good and 0 or state.bad + 1
  if backend.healthy and state.bad >= options.fall then
    backend:set_health(false, why)
    log.write("warn", ("backend %s is unhealthy: %s"):format(backend.name, why))
  elseif not backend.healthy and state.good >= options.rise then
    backend:set_health(true)
    log.write("info", ("backend %s is healthy again"):format(backend.name))
  end
end

local function run(engine, backend, options)
  local state = { good = 0, bad = 0 }
  if not task.sleep(options.interval * loop.random()) then -- not all at once
    return
  end
  repeat
    local ok, good, why = pcall(M.check, engine, backend, options)
    if ok then
      judge(backend, options, state, good, why)
    else
      log.write("error", ("the health check of backend %s failed: %s"):format(backend.name, tostring(good)))
    end
  until not task.sleep(options.interval * (0.9 + 0.2 * loop.random()))
end

--- Begins to check the backends of a service, if it has checks.
---@param service echostream.tunnel.agent.service
function Health:watch(service)
  local options = service.options.health
  if not options or self._tasks[service] then
    return
  end
  local tasks = {}
  for i, backend in ipairs(service.backends) do
    tasks[i] = task.spawn(run, self._engine, backend, options)
  end
  self._tasks[service] = tasks
end

--- Ends that.
---@param service echostream.tunnel.agent.service
function Health:forget(service)
  for _, running in ipairs(self._tasks[service] or {}) do
    running:cancel()
  end
  self._tasks[service] = nil
end

--- Ends all checks.
function Health:close()
  for service in pairs(self._tasks) do
    self:forget(service)
  end
end

return M
