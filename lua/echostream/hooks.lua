--- Hooks: functions that run when a server or client starts and stops, and when sessions come and go.

local errors = require "echostream.errors"
local log = require "echostream.log"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

local function traced(raised)
  if errors.is_error(raised) then
    return raised
  end
  return { message = errors.from(raised).message, traceback = debug.traceback(nil, 2) }
end

--- Runs one function of the user's. What it raises is logged once and becomes `internal`; a refusal is `nil, err`, where an
--- `err` that is no error object becomes one with the code `otherwise`.
---@param what string       for the log: "on_connect"
---@param otherwise string  a code
---@param fn function
---@return any value, echostream.error? err
function M.call(what, otherwise, fn, ...)
  -- In a task of its own: a stray coroutine.yield ends that one, and not what the hook is part of.
  local running = task.spawn(xpcall, fn, traced, ...)
  local ok, value, err = running:wait()
  if ok == nil then
    if running:result() == nil then -- we were cancelled
      running:cancel()
      return nil, value
    end
    return nil, errors.new("internal", "a hook failed") -- the core has logged it
  elseif not ok then
    if not errors.is_error(value) then
      if type(value) ~= "table" then -- Lua ran out of memory: nobody could look at the stack
        value = { message = errors.from(value).message }
      end
      log.write("error", value.message, { traceback = value.traceback, method = what })
      value = errors.new("internal", "a hook failed")
    end
    return nil, value
  elseif (value == nil or value == false) and err ~= nil then
    return nil, errors.is_error(err) and err or errors.new(otherwise, tostring(err))
  end
  return value
end

--- Runs the hooks of one kind in order. The first that fails, by `nil, err` or by raising, ends it.
---@param self echostream.host
---@param kind "start"|"stopping"|"stop"|"connect"|"disconnect"|"migrate"
---@return true|nil ok, echostream.error? err
function M.run(self, kind, ...)
  for _, hook in ipairs(self._hooks[kind]) do
    local _, err = M.call("on_" .. kind, "permission_denied", hook, ...)
    if err ~= nil then
      return nil, err
    end
  end
  return true
end

-- The lists are replaced, never changed: one may be running.
local function add(self, kind, fn)
  options.argument("on_" .. kind, "function", fn, "function", 3)
  local hooks = table.move(self._hooks[kind], 1, #self._hooks[kind], 1, {})
  hooks[#hooks + 1] = fn
  self._hooks[kind] = hooks
  return self
end

--- Takes the last registration of a hook away.
---@param self echostream.host
---@param kind "start"|"stopping"|"stop"|"connect"|"disconnect"|"migrate"|"unload"
---@param fn function
function M.remove(self, kind, fn)
  local hooks = table.move(self._hooks[kind], 1, #self._hooks[kind], 1, {})
  for i = #hooks, 1, -1 do
    if hooks[i] == fn then
      table.remove(hooks, i)
      self._hooks[kind] = hooks
      return
    end
  end
end

-- What policies tell of. Whoever adds a kind adds its line to `Host:on`.
M.events = { retry = true, breaker = true }

--- Tells those who asked by `host:on` that something happened; each in a task of its own, so that nobody is held up by them.
---@param self echostream.host?
---@param what string
function M.fire(self, what, ...)
  local listeners = self and self._listeners[what]
  for _, fn in ipairs(listeners or {}) do
    task.spawn(fn, ...)
  end
end

---@class echostream.hooks.methods  of servers and clients
local Host = {}
M.methods = Host

--- Calls `fn(info)`, in a task of its own, whenever a policy did something:
---
--- - `retry`: a call failed and will be sent again: `name`, `attempt` (the number of the one that failed), `err`, `delay` (seconds);
--- - `breaker`: a [breaker](#breakers) changed its state: `name`, `from`, `to`, `breaker`.
---@param what "retry"|"breaker"
---@param fn fun(info: table)
---@return self
function Host:on(what, fn)
  options.argument("on", "event", what, "string")
  options.argument("on", "function", fn, "function")
  if not M.events[what] then
    local guess = options.nearest(what, M.events)
    error(("on: nothing of the name %s is told of%s"):format(errors.show(what),
      guess and (" (did you mean \"%s\"?)"):format(guess) or ""), 2)
  end
  local list = table.move(self._listeners[what] or {}, 1, #(self._listeners[what] or {}), 1, {})
  list[#list + 1] = fn
  self._listeners[what] = list
  return self
end

--- Takes the last registration of `on` away.
---@param what "retry"|"breaker"
---@param fn function
---@return boolean  false when there was none
function Host:off(what, fn)
  local list = table.move(self._listeners[what] or {}, 1, #(self._listeners[what] or {}), 1, {})
  for i = #list, 1, -1 do
    if list[i] == fn then
      table.remove(list, i)
      self._listeners[what] = list
      return true
    end
  end
  return false
end

--- `fn(context)` runs when the server listens or the client is connected.
---@param fn fun(context: echostream.context)
---@return self
function Host:on_start(fn)
  return add(self, "start", fn)
end

--- `fn(context, grace)` runs when a server begins to stop, before its peers are told: for what else brings it work, such as a listener for
--- another protocol, to take no more and to end what is under way. It may wait; `grace` is how many seconds there are for everything, and what
--- it uses is gone for the peers. Then it is cancelled. Clients do not call it.
---@param fn fun(context: echostream.context, grace: number)
---@return self
function Host:on_stopping(fn)
  return add(self, "stopping", fn)
end

--- `fn(context)` runs when it stops.
---@param fn fun(context: echostream.context)
---@return self
function Host:on_stop(fn)
  return add(self, "stop", fn)
end

--- `fn(context)` runs when a server's file was loaded again (`server:reload`) and another version of it has taken over: for what the old
--- one began and the server does not know of, such as tasks. Calls that it serves may still be under way.
---@param fn fun(context: echostream.context)
---@return self
function Host:on_unload(fn)
  return add(self, "unload", fn)
end

--- `fn(session)` runs for every new session before the peer's calls are let in. It may wait, and refuse the session by
--- `return nil, echo.error("unauthenticated", "…")`: the peer's calls fail with that error.
---@param fn fun(session: echostream.session): any, any
---@return self
function Host:on_connect(fn)
  if self._host then
    self._host:early_open(false) -- it may count, or mind otherwise being asked twice
  end
  return add(self, "connect", fn)
end

--- `fn(session, err)` runs when a session that was accepted is over; `err` says why.
---@param fn fun(session: echostream.session, err: echostream.error)
---@return self
function Host:on_disconnect(fn)
  return add(self, "disconnect", fn)
end

--- `fn(session, old, new, of_the_peer)` runs when the path of a session changed: the peer's address (`of_the_peer` true), as
--- when a phone leaves its Wi-Fi or a NAT forgets, or ours after `migrate`. Only validated addresses are told (RFC 9000,
--- section 9): nobody can pretend to be elsewhere. `session.peer_addr` is the new one already.
---@param fn fun(session: echostream.session, old: string, new: string, of_the_peer: boolean)
---@return self
function Host:on_migrate(fn)
  return add(self, "migrate", fn)
end

return M
