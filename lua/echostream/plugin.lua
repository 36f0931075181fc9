--- Plugins: handlers, middleware, hooks and timers that are installed and taken away as one.
---
---     server:plugin {
---       name = "clock",
---       install = function(self, host)
---         host:add_rpc("clock.now", function() return os.time() end)
---         host:every(60, function() host:broadcast("clock.tick", os.time()) end)
---       end,
---     }
---
--- `host` is the server or client with a memory: what is registered through it is undone when the plugin goes, or when its
--- installation fails.

local errors = require "echostream.errors"
local hooks = require "echostream.hooks"
local log = require "echostream.log"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

---@class echostream.plugin
---@field name string          no two of one server or client have the same
---@field install fun(self: echostream.plugin, host: echostream.plugin.host): any, any  may fail: raise, or `return nil, err`
---@field uninstall? fun(self: echostream.plugin, host: echostream.plugin.host)  for what the host does not know of
---@field requires? string[]   plugins that have to be there before it
---@field adopt? fun(self: echostream.plugin, old: echostream.plugin)  before `install`, when a file that was loaded again installs it in
--- the place of another of its name: what is to last, such as a socket that listens, goes over. `old` may have to go on with it

---@class echostream.plugin.host: echostream.host  what `install` is given
---@field every fun(self, seconds: number, fn: function, ...): echostream.task  runs it again and again, until the plugin goes; errors are logged
---@field after fun(self, seconds: number, fn: function, ...): echostream.task  runs it once
---@field itself fun(self): echostream.host  the server or client without the memory: for what takes one (`echo.metrics.prometheus`), to compare
--- it, and for what shall stay when the plugin goes

-- What runs when the plugin goes, by the name of what was called: fn(real, results, arguments...) makes it.
local undoing = {}

for _, kind in ipairs { "rpc", "event", "stream", "service" } do
  undoing["add_" .. kind] = function(real, _, name, handler)
    return function()
      real["remove_" .. kind](real, name, handler) -- of several handlers of that name, its own
    end
  end
end
undoing.once = undoing.add_event

for _, kind in ipairs { "start", "stopping", "stop", "connect", "disconnect", "migrate", "unload" } do
  undoing["on_" .. kind] = function(real, _, fn)
    return function()
      hooks.remove(real, kind, fn)
    end
  end
end

function undoing.middleware(real, _, given)
  return function()
    real:remove_middleware(given)
  end
end

function undoing.auth(real)
  local mine = real._auth
  return function()
    if real._auth == mine then
      real:auth(nil)
    end
  end
end

function undoing.set_reconnect(real, results)
  return function()
    real:set_reconnect(results[1])
  end
end

function undoing.plugin(real, _, plugin)
  return function()
    real:remove_plugin(plugin.name)
  end
end

function undoing.on(real, _, what, fn)
  return function()
    real:off(what, fn)
  end
end

function undoing.tap(real, _, name, fn)
  return function()
    real:untap(name, fn)
  end
end

function undoing.route(real, _, method, pattern)
  return function()
    real:remove_route(method, pattern)
  end
end

function undoing.static(real, _, prefix)
  return function()
    require("echostream.http.face").remove_static(real, prefix)
  end
end

function undoing.http(real, _, fn)
  return function()
    require("echostream.http.face").remove_fallback(real, fn)
  end
end

function undoing.on_http(real, _, fn)
  return function()
    require("echostream.http.face").remove_end(real, fn)
  end
end

function undoing.http_middleware(real, _, fn)
  return function()
    real:remove_http_middleware(fn)
  end
end

function undoing.topic(_, results)
  return function()
    results[1]:close()
  end
end

function undoing.alert(_, results)
  return function()
    results[1]:stop()
  end
end

-- Timers ------------------------------------------------------------------------------------------------------

-- One record for what user code raised while nobody waits for it.
local function report(entry, what, raised)
  log.write("error", ("plugin %s: %s: %s"):format(errors.show(entry.name), what, errors.from(raised.value).message),
    { traceback = raised.traceback })
end

local function traced(raised)
  return { value = raised, traceback = debug.traceback(nil, 2) }
end

-- fn(...) in a protected call; false when it failed, which is logged.
local function try(entry, what, fn, ...)
  local ok, raised = xpcall(fn, traced, ...)
  if not ok then
    report(entry, what, type(raised) == "table" and raised or { value = raised }) -- a string: Lua is out of memory
  end
end

local function run_timer(entry, seconds, again, fn, ...)
  repeat
    if not task.sleep(seconds) then
      break
    end
    -- In a task of its own: a stray coroutine.yield ends that one only.
    local running = task.spawn(function(...)
      if entry.undo then -- it may have been removed since the time was over
        try(entry, "a timer failed", fn, ...)
      end
    end, ...)
    running:wait()
    if running:result() == nil then -- we were cancelled
      running:cancel()
      break
    end
  until not again
end

-- Only a plugin's host has these.
local extra = {}

local function timer(where, again)
  return function(entry, seconds, fn, ...)
    options.argument("host:" .. where, "seconds", seconds, "seconds", 3)
    options.argument("host:" .. where, "function", fn, "function", 3)
    if again and seconds == 0 then
      error("host:every: the seconds are 0; it would do nothing else", 3)
    end
    local running = task.spawn(run_timer, entry, seconds, again, fn, ...)
    entry.tasks[running] = true
    running:on_end(function()
      entry.tasks[running] = nil
    end)
    return running
  end
end

extra.every = timer("every", true)
extra.after = timer("after", false)

function extra.itself(entry)
  return entry.real._real or entry.real -- which may be a stand-in for it, while a file is loaded
end

-- The host that remembers -------------------------------------------------------------------------------------

local function face_of(real, entry)
  local face = {}

  local function through(key, method)
    local undo_of = undoing[key]
    return function(_, ...)
      if undo_of and not entry.undo then
        error(("host:%s: plugin %s was removed"):format(key, errors.show(entry.name)), 2)
      end
      local results = table.pack(method(real, ...))
      if undo_of then
        table.insert(entry.undo, undo_of(real, results, ...))
      end
      for i = 1, results.n do
        if rawequal(results[i], real) then
          results[i] = face -- so that calls can be chained
        end
      end
      return table.unpack(results, 1, results.n)
    end
  end

  return setmetatable(face, {
    __name = "echostream.plugin.host",
    __index = function(_, key)
      local value = real[key]
      if extra[key] then
        value = function(_, ...)
          if not entry.undo then
            error(("host:%s: plugin %s was removed"):format(key, errors.show(entry.name)), 2)
          end
          return extra[key](entry, ...)
        end
        rawset(face, key, value)
      elseif type(value) == "function" then
        value = through(key, value)
        rawset(face, key, value)
      end
      return value
    end,
    __newindex = function(_, key)
      error(("the host of a plugin has no field to set: %s"):format(errors.show(key)), 2)
    end,
    __tostring = function()
      return tostring(real) .. " for plugin " .. entry.name
    end,
  })
end

-- Undoes in reverse order. What fails is logged; the rest is undone all the same.
local function roll_back(entry)
  local undo = entry.undo
  entry.undo = nil
  for running in pairs(entry.tasks) do
    running:cancel()
  end
  for i = #undo, 1, -1 do
    try(entry, "it could not be removed altogether", undo[i])
  end
end

local function find(self, name)
  for i, entry in ipairs(self._plugins) do
    if entry.name == name then
      return entry, i
    end
  end
end

-- Registration ------------------------------------------------------------------------------------------------

---@class echostream.plugin.methods  of servers and clients
local Host = {}
M.methods = Host

local function check(self, plugin)
  options.argument("plugin", "plugin", plugin, "table", 3)
  options.argument("plugin", "name", plugin.name, "string", 3)
  options.argument("plugin", "install", plugin.install, "function", 3)
  if plugin.uninstall ~= nil then
    options.argument("plugin", "uninstall", plugin.uninstall, "function", 3)
  end
  if find(self, plugin.name) then
    error(("plugin: there is a plugin %s already; a second one needs another name"):format(errors.show(plugin.name)), 3)
  end
  for _, name in ipairs(plugin.requires or {}) do
    if not find(self, name) then
      error(("plugin: %s requires plugin %s, which is not installed"):format(errors.show(plugin.name), errors.show(name)), 3)
    end
  end
end

--- Installs a plugin: `plugin:install(host)` registers what it likes through `host`, which is this server or client with a
--- memory and has `host:every(seconds, fn)` and `host:after(seconds, fn)` besides. If it fails, everything it registered is
--- undone and an error that names the plugin is raised.
---@param plugin echostream.plugin
---@return self
function Host:plugin(plugin)
  check(self, plugin)
  local entry = { name = plugin.name, plugin = plugin, real = self, undo = {}, tasks = {} }
  entry.face = face_of(self, entry)
  table.insert(self._plugins, entry) -- before it is installed: one that waits must not be installed twice
  local old = self._inherited and self._inherited.plugins[plugin.name]
  local ok, value, err = pcall(function()
    if old and plugin.adopt then
      plugin:adopt(old)
    end
    return plugin:install(entry.face)
  end)
  if ok and (value ~= nil or err == nil) then
    return self
  end
  local why = ok and err or value
  local _, at = find(self, plugin.name)
  table.remove(self._plugins, at)
  roll_back(entry)
  error(("plugin %s could not be installed: %s"):format(errors.show(plugin.name), errors.from(why).message), 2)
end

--- Takes a plugin away: its `uninstall` runs, then everything it registered is undone, the last first. Calls under way go on.
---@param name string
---@return boolean|nil removed  false when there was none
---@return echostream.error? err  `failed_precondition`: another plugin requires it
function Host:remove_plugin(name)
  options.argument("remove_plugin", "name", name, "string")
  local entry, at = find(self, name)
  if not entry then
    return false
  end
  for _, other in ipairs(self._plugins) do
    for _, needed in ipairs(other.plugin.requires or {}) do
      if needed == name then
        return nil, errors.new("failed_precondition", ("plugin %s requires it"):format(errors.show(other.name)))
      end
    end
  end
  table.remove(self._plugins, at)
  if entry.plugin.uninstall then
    try(entry, "uninstall failed", entry.plugin.uninstall, entry.plugin, entry.face)
  end
  roll_back(entry)
  return true
end

--- A plugin goes whose registrations were taken away already, or are somebody else's now.
---@param entry table
---@package
function M.retire(entry)
  if entry.plugin.uninstall then
    try(entry, "uninstall failed", entry.plugin.uninstall, entry.plugin, entry.face)
  end
  entry.undo = nil
  for running in pairs(entry.tasks) do
    running:cancel()
  end
end

--- The names of the plugins that are installed, in the order of their installation.
---@return string[]
function Host:plugins()
  local names = {}
  for i, entry in ipairs(self._plugins) do
    names[i] = entry.name
  end
  return names
end

return M
