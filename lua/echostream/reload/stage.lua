--- Where the registrations of a file are gathered while it runs: a stand-in for the server that keeps them to itself, and then gives
--- them to the server in one step, in the place of those that the file made the last time.
---
--- A stage is the server with tables of its own for what is registered, so that everything that registers works on it as it is; whatever
--- else is asked of it, or set, is the server's. Once its registrations are handed over (`commit`) its own tables are gone, and it is
--- the server under another name, which the file's functions go on using.

local core = require "echostream.core"
local admission = require "echostream.tls.admission"
local alerts = require "echostream.metrics.alerts"
local errors = require "echostream.errors"
local event = require "echostream.handlers.event"
local http = require "echostream.http.face"
local middleware = require "echostream.middleware"

local M = {}

local kinds = { "rpc", "event", "stream" }
local hook_kinds = { "start", "stopping", "stop", "connect", "disconnect", "migrate", "unload" }

---@class echostream.reload.registrations  what a file made, as it was handed over
---@field handlers table<string, table<string, { fn: function, settings: table? }>>  by kind and name, as the core has them
---@field entries table<string, table<string, table>>  descriptions, by kind and name
---@field groups table<string, table<string, table>>
---@field services table<string, string[]>
---@field middleware table[]
---@field hooks table<string, function[]>
---@field listeners table<string, function[]>
---@field plugins table[]
---@field watchers table[]
---@field topics table<string, echostream.topic>
---@field auth table|false
---@field http table|false  routes and the like

local function by_kind()
  return { rpc = {}, event = {}, stream = {} }
end

--- What a server has on which nothing was loaded yet.
---@return echostream.reload.registrations
function M.nothing()
  local hooks = {}
  for _, kind in ipairs(hook_kinds) do
    hooks[kind] = {}
  end
  return { handlers = by_kind(), entries = by_kind(), groups = by_kind(), services = {}, middleware = {}, hooks = hooks,
    listeners = {}, plugins = {}, watchers = {}, topics = {}, auth = false, http = false }
end

-- The core's host of a stage. Another host, without sessions, checks names; nothing gets to the server's.
local function recorder(server, handlers)
  local scratch = core.host(server._rec.core, { hooks = { open = function() end } })
  local methods = {}
  function methods.add(_, kind, name, fn, settings)
    local ok, err = scratch:add(kind, name, fn, settings)
    if ok then
      handlers[kind][name] = { fn = fn, settings = settings }
    end
    return ok, err
  end
  function methods.replace(_, kind, name, fn)
    if handlers[kind][name] then
      handlers[kind][name].fn = fn
    end
    return handlers[kind][name] ~= nil
  end
  function methods.remove(_, kind, name)
    handlers[kind][name] = nil
    return scratch:remove(kind, name)
  end
  for _, name in ipairs { "set_wrapper", "early_open" } do
    methods[name] = function() end -- the server's are set when it gets all this
  end
  return setmetatable(methods, {
    __index = function(_, key) -- figures and the like
      return function(_, ...)
        return server._host[key](server._host, ...)
      end
    end,
  })
end

-- The fields of a stage's own, while there is one.
local fields = { "_host", "_catalog", "_groups", "_event_fns", "_event_waits", "_services", "_middleware", "_chains", "_hooks",
  "_listeners", "_plugins", "_watchers", "_topics", "_auth", "_http", "_inherited", "start", "run", "stop" }

local function mine(list)
  local set = {}
  for _, each in ipairs(list) do
    set[each] = true
  end
  return set
end

-- Those of a list that the file did not make.
local function others(list, own)
  local ours, rest = mine(own), {}
  for _, each in ipairs(list) do
    if not ours[each] then
      rest[#rest + 1] = each
    end
  end
  return rest
end

--- Makes a stage.
---@param server echostream.server
---@param before echostream.reload.registrations  what the file made the last time
---@return echostream.server
function M.new(server, before)
  local fresh = M.nothing()
  local plugins = {}
  for _, entry in ipairs(before.plugins) do
    plugins[entry.name] = entry.plugin
  end
  local stage = {
    _catalog = fresh.entries, _groups = fresh.groups, _event_fns = {}, _event_waits = {}, _services = fresh.services,
    _middleware = {}, _chains = {}, _hooks = fresh.hooks, _listeners = {}, _watchers = {}, _topics = {}, _auth = false, _http = false,
    _plugins = others(server._plugins, before.plugins),
    _inherited = { handlers = fresh.handlers, topics = before.topics, topic_options = {}, plugins = plugins },
    _host = recorder(server, fresh.handlers),
    _real = server, -- for what has to have the server itself
  }
  return setmetatable(stage, {
    __name = "echostream.server",
    __index = server,
    __newindex = server,
    __eq = function(a, b)
      return rawequal(a._real or a, b._real or b)
    end,
    __tostring = function()
      return tostring(server)
    end,
    __close = function()
      getmetatable(server).__close(server)
    end,
  })
end

-- What the stage has gathered.
local function gathered(stage, server, before)
  local inherited = rawget(stage, "_inherited")
  return {
    handlers = inherited.handlers, entries = stage._catalog, groups = stage._groups, services = stage._services,
    middleware = stage._middleware, hooks = stage._hooks, listeners = stage._listeners, watchers = stage._watchers,
    plugins = others(stage._plugins, others(server._plugins, before.plugins)), topics = stage._topics, auth = stage._auth,
    http = stage._http,
  }
end

-- Conflicts with what others registered on the server -----------------------------------------------------------------

local function conflict(server, before, after)
  for _, kind in ipairs(kinds) do
    for name in pairs(after.handlers[kind]) do
      if server._catalog[kind][name] and not before.entries[kind][name] then
        return ("add_%s: %s: there is a handler of that name already, which the file did not make"):format(kind, errors.show(name))
      end
    end
  end
  local function clash(one, other)
    for name, entry in pairs(after.entries[one]) do
      local there = server._catalog[other][name]
      if there and not before.entries[other][name] and (entry.stream or there.stream) then
        return ("add_%s: %s: there is a %s of that name already, which the file did not make"):format(one, errors.show(name), other)
      end
    end
  end
  for name in pairs(after.services) do
    if server._services[name] and not before.services[name] then
      return ("add_service: there is a service %s already, which the file did not make"):format(errors.show(name))
    end
  end
  return clash("rpc", "stream") or clash("stream", "rpc") or http.conflict(server, before.http, after.http)
end

-- Handing over ------------------------------------------------------------------------------------------------------

local function put(server, kind, name, handler, version)
  local ok, err
  if kind == "event" then
    ok, err = event.put(server, name, handler.fn, handler.settings, version)
  else
    ok, err = server._host:replace(kind, name, handler.fn, handler.settings, version)
    if ok == false then
      ok, err = server._host:add(kind, name, handler.fn, handler.settings)
      ok = ok and server._host:replace(kind, name, handler.fn, handler.settings, version)
    end
  end
  if not ok then
    error(errors.from(err), 0)
  end
end

local function take(server, kind, name)
  if kind == "event" then
    event.remove(server, name)
  else
    server._host:remove(kind, name)
  end
end

-- The core has the handlers of `to` instead of those of `from`.
local function swap(server, from, to, version)
  for _, kind in ipairs(kinds) do
    for name in pairs(from.handlers[kind]) do
      if not to.handlers[kind][name] then
        take(server, kind, name)
      end
    end
  end
  for _, kind in ipairs(kinds) do
    for name, handler in pairs(to.handlers[kind]) do
      put(server, kind, name, handler, version)
    end
  end
end

-- A list with those of `after` where those of `before` began, and the rest as it was.
local function merged(list, before, after)
  local ours, out, done = mine(before), {}, false
  local function insert()
    done = true
    table.move(after, 1, #after, #out + 1, out)
  end
  for _, each in ipairs(list) do
    if not ours[each] then
      out[#out + 1] = each
    elseif not done then
      insert()
    end
  end
  if not done then
    insert()
  end
  return out
end

local function merge_map(into, before, after)
  for name in pairs(before) do
    if after[name] == nil then
      into[name] = nil
    end
  end
  for name, value in pairs(after) do
    into[name] = value
  end
end

local function merge_topics(stage, server, before, after)
  local settings = rawget(stage, "_inherited").topic_options
  for name, topic in pairs(after.topics) do
    topic._host[1] = server
    topic._options = settings[name] or topic._options
  end
  merge_map(server._topics, before.topics, after.topics)
end

local function merge(stage, server, before, after)
  for _, kind in ipairs(kinds) do
    merge_map(server._catalog[kind], before.entries[kind], after.entries[kind])
    if server._groups[kind] then
      merge_map(server._groups[kind], before.groups[kind], after.groups[kind])
    end
  end
  merge_map(server._services, before.services, after.services)
  merge_topics(stage, server, before, after)
  server._middleware = merged(server._middleware, before.middleware, after.middleware)
  for _, kind in ipairs(hook_kinds) do
    server._hooks[kind] = merged(server._hooks[kind], before.hooks[kind], after.hooks[kind])
  end
  for _, listeners in ipairs { before.listeners, after.listeners } do
    for what in pairs(listeners) do
      server._listeners[what] = merged(server._listeners[what] or {}, before.listeners[what] or {}, after.listeners[what] or {})
    end
  end
  server._plugins = merged(server._plugins, before.plugins, after.plugins)
  for _, watcher in ipairs(after.watchers) do
    table.insert(server._watchers, watcher)
  end
  if after.auth or before.auth and server._auth == before.auth then
    server._auth = after.auth or nil
  end
  http.exchange(server, before.http, after.http)
  middleware.rebuild(server)
  admission.open_early(server)
end

local function become_server(stage)
  for _, field in ipairs(fields) do
    rawset(stage, field, nil)
  end
end

--- Gives the server what the stage has gathered, in the place of what the file made before: in one step, or not at all. Calls to
--- come get the new handlers; those under way and open streams go on with theirs.
---@param stage echostream.server
---@param server echostream.server
---@param before echostream.reload.registrations
---@param version integer
---@return echostream.reload.registrations|nil after, string? problem
function M.commit(stage, server, before, version)
  local after = gathered(stage, server, before)
  local problem = conflict(server, before, after)
  if problem then
    return nil, problem
  end
  local ok, err = pcall(swap, server, before, after, version)
  if not ok then -- no memory
    pcall(swap, server, after, before, math.max(version - 1, 1))
    return nil, tostring(err)
  end
  merge(stage, server, before, after)
  become_server(stage)
  return after
end

--- Drops what the stage has gathered: nothing of it happened.
---@param stage echostream.server
---@param server echostream.server
---@param before echostream.reload.registrations
---@return table[] plugins  that were installed on it
function M.discard(stage, server, before)
  alerts.stop(stage)
  return others(stage._plugins, others(server._plugins, before.plugins))
end

return M
