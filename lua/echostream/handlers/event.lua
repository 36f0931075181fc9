--- Events beyond `add_event`: handlers for one event only, waiting for one, and hearing those that somebody else handles.

local errors = require "echostream.errors"
local log = require "echostream.log"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

---@class echostream.events.methods  of servers and clients
local Host = {}
M.methods = Host

--- Handles the next event of a name, whoever sends it, and no other: the handler is taken away before it runs, so it may call
--- `once` again. `remove_event` takes back what has not happened yet.
---@param name string
---@param fn fun(session: echostream.session, ...)
---@param opts? echostream.handler_options  as of `add_event`
---@return self
function Host:once(name, fn, opts)
  options.argument("once", "name", name, "string")
  options.argument("once", "handler", fn, "function")
  local over = false
  return (self:add_event(name, function(...)
    if not over then -- others may be under way when the handler allows several at once
      over = true
      self:remove_event(name)
      return fn(...)
    end
  end, opts))
end

-- Waiting for an event -----------------------------------------------------------------------------------------

-- The core has one function for each name. While somebody waits it is one that tells them and then runs the user's handler, if
-- there is one. `_event_fns`: the user's handlers by name; `_event_waits`: who waits, by name: a set of { peer =, resume = }, and
-- who hears all of them: { every = function }.

local function traced(raised)
  return { message = errors.from(raised).message, traceback = debug.traceback(nil, 2) }
end

local function tell(name, waits, peer, ...)
  local there, told = {}, 0
  for wait in pairs(waits) do
    if wait.every or wait.peer == peer then
      there[#there + 1] = wait
    end
  end
  for _, wait in ipairs(there) do
    if wait.every then
      local ok, raised = xpcall(wait.every, traced, peer, ...)
      if not ok then
        raised = type(raised) == "table" and raised or traced(raised) -- a string: Lua is out of memory
        log.write("error", raised.message, { traceback = raised.traceback, method = name, session = peer })
      end
    else
      waits[wait], told = nil, told + 1
      wait.resume(true, ...)
    end
  end
  return told
end

local function standing_in(host, name, waits)
  local weak = setmetatable({ host }, { __mode = "v" }) -- the core keeps this function as long as the host lives
  return function(peer, ...)
    local told = tell(name, waits, peer, ...)
    local fn = weak[1] and weak[1]._event_fns[name]
    if told > 0 and weak[1] then
      M.settle(weak[1], name)
    end
    if fn then
      return fn(peer, ...)
    end
  end
end

--- Nobody waits for the name any more: the core gets the user's handler back.
---@param host echostream.host
---@param name string
function M.settle(host, name)
  local waits = host._event_waits[name]
  if waits and next(waits) == nil then
    host._event_waits[name] = nil
    local fn = host._event_fns[name]
    if fn then
      host._host:replace("event", name, fn)
    else
      host._host:remove("event", name)
    end
  end
end

--- Registers the handler of an event.
---@param host echostream.host
---@param name string
---@param fn function
---@param opts table  for the core
---@return true|nil ok, echostream.error? err
function M.add(host, name, fn, opts)
  local waits = host._event_waits[name]
  if waits and not host._event_fns[name] then
    if opts.concurrent then -- which cannot be changed under events that are being handled
      host._host:remove("event", name)
      host._host:add("event", name, standing_in(host, name, waits), opts)
    end
    host._event_fns[name] = fn
    return true
  end
  local ok, err = host._host:add("event", name, fn, opts)
  if ok then
    host._event_fns[name] = fn
  end
  return ok, err
end

--- Registers the handler of an event, or puts another one in its place, as a version of its own.
---@param host echostream.host
---@param name string
---@param fn function
---@param opts table  for the core
---@param version integer
---@return true|nil ok, echostream.error? err
function M.put(host, name, fn, opts, version)
  local waits = host._event_waits[name]
  local acting = waits and standing_in(host, name, waits) or fn
  local ok, err = host._host:replace("event", name, acting, opts, version)
  if ok == false then
    ok, err = host._host:add("event", name, acting, opts)
    ok = ok and host._host:replace("event", name, acting, opts, version)
  end
  if ok then
    host._event_fns[name] = fn
  end
  return ok, err
end

--- Takes the handler of an event away.
---@param host echostream.host
---@param name string
---@return boolean
function M.remove(host, name)
  local had = host._event_fns[name] ~= nil
  host._event_fns[name] = nil
  if not host._event_waits[name] then
    return host._host:remove("event", name)
  end
  return had
end

-- Who waits for events of the name; the core's function is ours from now on.
local function waits_of(host, name)
  local waits = host._event_waits[name]
  if not waits then
    waits = {}
    local fn = standing_in(host, name, waits)
    if host._event_fns[name] then
      host._host:replace("event", name, fn)
    else
      host._host:add("event", name, fn)
    end
    host._event_waits[name] = waits
  end
  return waits
end

local function check_name(where, name)
  options.argument(where, "name", name, "string", 4)
  if not name:find "^[%w._/:-]+$" or #name > 256 then
    error(where .. ": a name is 1 to 256 characters of A-Z a-z 0-9 . _ / : -, got " .. errors.show(name), 4)
  end
end

--- Hears every event of a name beside its handler, if it has one, now or later: `fn(session, ...)` runs before the handler, in the
--- same task, with the same arguments. What it raises is logged, and the handler runs all the same. Middleware goes before both.
---@param name string
---@param fn fun(session: echostream.session, ...)
---@return self
function Host:tap(name, fn)
  check_name("tap", name)
  options.argument("tap", "function", fn, "function")
  waits_of(self, name)[{ every = fn }] = true
  return self
end

--- Takes a `tap` away.
---@param name string
---@param fn function
---@return boolean  false when it was not there
function Host:untap(name, fn)
  for entry in pairs(self._event_waits[name] or {}) do
    if entry.every == fn then
      self._event_waits[name][entry] = nil
      M.settle(self, name)
      return true
    end
  end
  return false
end

local function wait(host, peer, name, timeout)
  local function outcome(ok, ...)
    if ok == true then
      if select("#", ...) == 0 then
        return true
      end
      return ...
    end
    return nil, (...)
  end
  return outcome(task.await(function(resume)
    local waits = waits_of(host, name)
    local entry = { peer = peer, resume = resume }
    waits[entry] = true
    return function()
      waits[entry] = nil
      M.settle(host, name)
    end
  end, timeout))
end

--- The next event of a name from one session: its arguments.
---@param peer echostream.session?  nil: a client that is not connected
---@param name string
---@param timeout? number
---@param callback? function
---@return any ...
function M.wait(peer, name, timeout, callback)
  if type(timeout) == "function" then
    timeout, callback = nil, timeout
  end
  check_name("wait_event", name)
  if timeout ~= nil then
    options.argument("wait_event", "timeout", timeout, "seconds", 3)
  end
  if callback ~= nil then
    options.argument("wait_event", "callback", callback, "function", 3)
  end
  local function begin()
    local host = peer and peer.server_ctx._host[1]
    if not host or peer.closed_by then
      return nil, peer and peer.closed_by or errors.new("unavailable", "not connected")
    end
    return wait(host, peer, name, timeout)
  end
  if callback then
    return task.call_back(callback, begin)
  end
  return task.block(begin)
end

--- A session is over: who waits for its events learns why.
---@param host echostream.host
---@param peer echostream.session
function M.closed(host, peer)
  local names = {}
  for name in pairs(host._event_waits) do
    names[#names + 1] = name
  end
  for _, name in ipairs(names) do
    local waits = host._event_waits[name]
    for entry in pairs(waits or {}) do
      if entry.peer == peer then
        waits[entry] = nil
        entry.resume(nil, peer.closed_by)
      end
    end
    M.settle(host, name)
  end
end

--- Makes what a host needs for it.
---@param self table
function M.init(self)
  self._event_fns, self._event_waits = {}, {}
end

return M
