--- Changing a server's code while it runs: `server:load("app.lua")` runs a file that registers handlers, `server:reload()` runs it
--- again and puts what it registers now in the place of what it registered before.
---
--- The file is called with the server (and further arguments), or makes one and returns it. Calls to come get the new code; calls
--- under way and open streams go on with theirs until they end. A file that fails changes nothing. What has to last is kept in
--- contexts: `server.context`, `session.context`.

local errors = require "echostream.errors"
local files = require "echostream.loop.files"
local held = require "echostream.held"
local hooks = require "echostream.hooks"
local log = require "echostream.log"
local plugin = require "echostream.plugin"
local print_of = require "echostream.reload.print"
local stages = require "echostream.reload.stage"
local server_module = require "echostream.server"
local task = require "echostream.task"

local M = {}

---@class echostream.reload.unit  a file and what it registered
---@field path string
---@field arguments table
---@field server echostream.server?  once it is known
---@field version integer            of what the server has; 0 before the first time
local Unit = {}
Unit.__index = Unit

-- Modules of the project ------------------------------------------------------------------------------------------

-- Our own, wherever we are installed: they are no project's.
local home = debug.getinfo(1, "S").source:match "^@(.*)reload%.lua$"

local function module_file(name)
  return type(name) == "string" and not name:find "^echostream%f[\0.]" and package.searchpath(name, package.path) or nil
end

-- The modules that are loaded and whose files lie in the project's directory: name -> file.
local function project_modules(self)
  local found = {}
  for name in pairs(self.directory and package.loaded or found) do
    local file = module_file(name)
    local real = file and files.real_path(file)
    if real and real:sub(1, #self.directory) == self.directory and not (self.home and real:sub(1, #self.home) == self.home) then
      found[name] = real
    end
  end
  return found
end

--- The files whose change means that the code changed: the file itself and the modules of its directory that are loaded.
---@return string[]
---@package
function Unit:files()
  local list = { self.real_path or self.path }
  for _, file in pairs(project_modules(self)) do
    list[#list + 1] = file
  end
  table.sort(list)
  return list
end

-- Takes the project's modules out of package.loaded; what it returns puts them back.
local function forget_modules(self)
  local before = {}
  for name in pairs(project_modules(self)) do
    before[name], package.loaded[name] = package.loaded[name], nil
  end
  return function()
    for name in pairs(project_modules(self)) do
      package.loaded[name] = nil
    end
    for name, module in pairs(before) do
      package.loaded[name] = module
    end
  end
end

-- Running the file -----------------------------------------------------------------------------------------------

-- The traceback ends with the file: what is below it is ours.
local function traced(raised)
  local text = type(raised) == "string" and debug.traceback(nil, 2) or nil
  return { value = raised, traceback = text and text:gsub("(\n\t[^\n]* in main chunk)\n\t%[C%]: in function 'xpcall'.*$", "%1") }
end

local function text_of(raised)
  return type(raised) == "table" and raised.value ~= nil and errors.from(raised.value).message or tostring(raised)
end

-- A stage for the server, which the file may start or run as well: that is when it is ready the first time.
local function stage_of(self, server, again)
  local stage = stages.new(server, self.owned)
  local function ready()
    if rawget(stage, "_host") then
      local before, problem = self:_hand_over(stage, server)
      if not before then
        error(problem, 0)
      end
    end
  end
  for _, name in ipairs { "start", "run" } do
    rawset(stage, name, function(_, ...)
      if again then
        return name == "run" or stage -- it runs already
      end
      ready()
      return server[name](server, ...)
    end)
  end
  rawset(stage, "stop", function(_, ...)
    if again then
      error("the file stops the server while it is loaded again", 2)
    end
    return server:stop(...)
  end)
  self.stages[stage] = server
  return stage
end

-- A file that computes forever must not stop the server that runs: looked at every so many instructions, of the file's coroutine alone.
local LOOK, LONGEST = 1000000, 5

local function limit()
  if debug.gethook() then
    return function() end -- somebody debugs
  end
  local too_long = held.watch(LONGEST)
  debug.sethook(function()
    local why = too_long()
    if why then
      debug.sethook()
      error(why, 0)
    end
  end, "", LOOK)
  return debug.sethook
end

-- Prints of the options that a server is made with.
local function prints_of_options(self, opts)
  local prints, modules = {}, project_modules(self)
  for name, value in pairs(type(opts) == "table" and opts or {}) do
    prints[name] = print_of.of(value, modules)
  end
  return prints
end

-- What counts only when a server is started: options, and hooks that ran already. Names of what is another than when it was.
local function put_off(self, before, after)
  local names = self.asked_now and print_of.differing(self.asked[self.own] or {}, self.asked_now) or {}
  local modules = project_modules(self)
  if self.server.state == "running" and print_of.of(before.hooks.start, modules) ~= print_of.of(after.hooks.start, modules) then
    names[#names + 1] = "on_start"
  end
  return names[1] and names or nil
end

local function run_chunk(self, chunk, again)
  local made = 0
  local co = coroutine.running()
  -- What the file makes itself is gathered as well. Of several servers the one it returns is loaded again.
  server_module.intercept(co, function(make, opts)
    made = made + 1
    if again and made == self.own then
      self.asked_now = prints_of_options(self, opts)
      return stage_of(self, self.server, true)
    end
    local server = make(opts)
    if again then
      return server
    end
    local stage = stage_of(self, server, false)
    self.made[stage], self.asked[made] = made, prints_of_options(self, opts)
    return stage
  end)
  local given = self.given
  if given and not self.own then
    given = stage_of(self, given, again)
  end
  local unlimited = again and limit() or function() end
  local results = table.pack(xpcall(chunk, traced, given, table.unpack(self.arguments, 1, self.arguments.n)))
  unlimited()
  server_module.intercept(co, nil)
  if not results[1] then
    return nil, text_of(results[2]), type(results[2]) == "table" and results[2].traceback or nil
  end
  local returned = results[2]
  if returned == nil then
    returned = given
  end
  if not (type(returned) == "table" and self.stages[returned]) then
    return nil, ("%s: returns %s; it may return a server, or nothing"):format(self.path,
      returned == nil and "no server" or errors.show(returned))
  elseif again and self.stages[returned] ~= self.server then
    return nil, ("%s: returns another server than it did at first"):format(self.path)
  end
  return returned
end

-- Handing over ---------------------------------------------------------------------------------------------------

function Unit:_hand_over(stage, server)
  local before = self.owned
  local owned, problem = stages.commit(stage, server, before, self.version + 1)
  if not owned then
    return nil, problem
  end
  self.version, self.owned, self.stage, self.server = self.version + 1, owned, stage, server
  if self.version == 1 and self.loaded then
    self.server._unit = self
    self.loaded(server)
  end
  self.own, self.stages[stage] = self.own or self.made[stage], server
  server._unit = self
  local summary
  self.prints, summary = print_of.compare(self.prints, owned, project_modules(self))
  summary.restart = self.version > 1 and put_off(self, before, owned) or nil
  return before, summary
end

-- What was there before goes: its hooks, plugins, alerts and topics. Each in a task, for they may wait, and may fail.
local function retire(self, before)
  for _, fn in ipairs(before.hooks.unload) do
    task.spawn(hooks.call, "on_unload", "unknown", fn, self.server.context)
  end
  for i = #before.plugins, 1, -1 do
    plugin.retire(before.plugins[i])
  end
  for _, watcher in ipairs(before.watchers) do
    watcher.stop()
    watcher.forget()
  end
  for name, topic in pairs(before.topics) do
    if self.owned.topics[name] ~= topic then
      topic:close()
    end
  end
end

local function discard(self)
  for stage, server in pairs(self.stages) do
    if rawget(stage, "_host") then
      for _, entry in ipairs(stages.discard(stage, server, self.owned)) do
        plugin.retire(entry)
      end
    end
  end
end

local function load_chunk(self)
  if self.text then
    return load(self.text, "=stdin", "t")
  end
  return loadfile(self.path, "t")
end

local function failed(message, traceback)
  local err = errors.new("failed_precondition", message)
  err.traceback = traceback
  return err
end

-- Runs the file and hands over what it registered. Nothing of it stays when it fails.
local function run(self, again)
  local chunk, problem = load_chunk(self)
  if not chunk then
    return nil, failed(problem)
  end
  self.stages, self.made, self.asked_now = {}, {}, nil
  local put_back = again and forget_modules(self)
  local kept, co = false, coroutine.running()
  -- Also when this is never gone on with: a stray coroutine.yield in the file ends the task.
  local _ <close> = setmetatable({}, { __close = function()
    server_module.intercept(co, nil)
    if not kept then
      discard(self)
      if put_back then
        put_back()
      end
    end
  end })
  local stage, traceback
  stage, problem, traceback = run_chunk(self, chunk, again)
  local before, summary
  if stage and rawget(stage, "_host") then
    before, summary = self:_hand_over(stage, self.stages[stage])
    if not before then
      stage, problem = nil, summary
    end
  end
  if stage and not again then -- the other servers it made, which will not be loaded again
    for other, server in pairs(self.stages) do
      if rawget(other, "_host") then
        stages.commit(other, server, stages.nothing(), 1)
      end
    end
  end
  if not stage then
    return nil, failed(problem, traceback)
  end
  kept = true
  self.stages, self.made = nil, nil
  return before or self.owned, summary
end

-- The server may also be given later: the file makes it.
local function open(path, server, arguments, text)
  local real = not text and files.real_path(path) or nil
  local directory = real and real:match "^(.*/)"
  return setmetatable({ path = path, real_path = real, directory = directory, home = home and files.real_path(home) or home,
    given = server, arguments = arguments, text = text, version = 0, owned = stages.nothing(), prints = {}, own = nil,
    asked = {}, asked_now = nil, busy = false }, Unit)
end

-- What the file requires lies beside it, wherever it is started from. Not where anybody could put a module.
local function find_beside(self)
  if self.directory and (files.mode(self.directory) or 2) & 2 == 0 then
    local beside = self.directory .. "?.lua;" .. self.directory .. "?/init.lua"
    if not (";" .. package.path .. ";"):find(";" .. beside .. ";", 1, true) then
      package.path = package.path:gsub(";*$", ";") .. beside
    end
  end
end

--- Runs a file that sets up a server: for `echostream serve`.
---@param path string
---@param opts { server: echostream.server?, arguments: table, text: string?, loaded: fun(server: echostream.server)? }  the server it is
--- called with; `text`: instead of reading it; `loaded` runs once the server has its handlers, which the file may run itself then
---@return echostream.server|nil server, echostream.error? err
---@package
function M.open(path, opts)
  local self = open(path, opts.server, opts.arguments, opts.text)
  self.loaded = opts.loaded
  find_beside(self)
  local ok, err = run(self, false)
  if not ok then
    return nil, err
  end
  return self.server
end

local function short(path)
  return path:match "[^/]+$" or path
end

--- Loads the file again: `server:reload`.
---@return table|nil summary, echostream.error? err
---@package
function Unit:reload()
  if self.text then
    return nil, errors.new("failed_precondition", "what was read from standard input cannot be read again")
  elseif self.busy then
    return nil, errors.new("aborted", "the file is being loaded already")
  end
  self.busy = true
  local ran, before, summary
  do
    local _ <close> = setmetatable({}, { __close = function() -- as in run
      self.busy = false
    end })
    ran, before, summary = xpcall(run, traced, self, true)
  end
  local err = not ran and failed(text_of(before)) or not before and summary or nil
  if err then
    log.write("error", ("%s was not loaded again, v%d stays: %s"):format(short(self.path), self.version, err.message),
      { traceback = err.traceback })
    err.traceback = nil
    return nil, err
  end
  retire(self, before)
  log.write("info", ("reloaded %s: v%d (%d %s changed, %d new, %d gone)"):format(short(self.path), self.version, summary.changed,
    summary.changed == 1 and "handler" or "handlers", summary.new, summary.gone))
  if summary.restart then
    log.write("warn", ("%s: what changed of %s counts only when the server is started anew"):format(short(self.path),
      table.concat(summary.restart, ", ")))
  end
  summary.version = self.version
  return summary
end

return M
