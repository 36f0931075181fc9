--- Tells when files change. The kernel's notices about their directories make it quick; what counts is what the files look like, which
--- is looked at every other second as well, for file systems that give no notices. A change is told once the files have been still for
--- a moment: editors write in pieces, and rename.

local loop = require "echostream.loop"

local M = {}

---@class echostream.watch
local Watch = {}
Watch.__index = Watch
Watch.__name = "echostream.watch"

-- Seconds.
M.STILL, M.POLL = 0.1, 2

-- What a file looks like; nil while there is none.
local function look(path)
  local stat = loop.luv().fs_stat(path)
  return stat and ("%d %d %d %d %d %d"):format(stat.ino, stat.size, stat.mtime.sec, stat.mtime.nsec, stat.ctime.sec,
    stat.ctime.nsec)
end

-- The files that look otherwise than they did when somebody was told last. One that is gone may be about to come again.
local function changed(self)
  local list = {}
  for path, before in pairs(self._files) do
    local now = look(path)
    if now and now ~= before then
      list[#list + 1] = path
    end
  end
  table.sort(list)
  return list
end

-- The files that went since somebody was told last, and those that came back.
local function moved(self)
  local gone, back = {}, {}
  for path, before in pairs(self._files) do
    local there = look(path) ~= nil
    if there and self._gone[path] then
      back[#back + 1] = path
    elseif not there and not self._gone[path] and before ~= "" then
      gone[#gone + 1] = path
    end
  end
  table.sort(gone)
  table.sort(back)
  return gone, back
end

local watch_directory

local function directory_of(path)
  local directory = path:match "^(.*)/" or "."
  return directory == "" and "/" or directory
end

local function tell(self)
  local gone, back = moved(self)
  for _, path in ipairs(gone) do
    self._gone[path] = true
  end
  for _, path in ipairs(back) do
    self._gone[path] = nil
    watch_directory(self, directory_of(path)) -- it may be another directory of this name
  end
  for _, list in ipairs { gone, back } do
    for _, path in ipairs(self._fn and self._went and list or {}) do
      self._went(path, list == back)
    end
  end
  local list = changed(self)
  for _, path in ipairs(list) do
    self._files[path] = look(path)
  end
  if #list > 0 and self._fn then
    self._fn(list)
  end
end

-- Whether there is something to tell.
local function is_news(self)
  local gone, back = moved(self)
  return #gone > 0 or #back > 0 or #changed(self) > 0
end

-- Something may have happened: it is looked at when nothing more happens for a moment.
local function stir(self)
  if self._fn then
    self._timer:start(math.ceil(M.STILL * 1000), 0, loop.guard("a watch of files", function()
      if self._fn then
        tell(self)
      end
    end))
  end
end

function watch_directory(self, directory)
  local uv = loop.luv()
  if self._events[directory] then
    loop.close_handle(self._events[directory])
    self._events[directory] = nil
  end
  local event = uv.new_fs_event()
  local ok = event and event:start(directory, {}, loop.guard("a watch of files", function()
    stir(self)
  end))
  if ok then
    event:unref()
    self._events[directory] = event
  elseif event then
    loop.close_handle(event)
  end
end

--- Watches other files from now on; those that it watches already stay as they are.
---@param paths string[]
function Watch:update(paths)
  local files, directories, gone = {}, {}, {}
  for _, path in ipairs(paths) do
    files[path], gone[path] = self._files[path] or look(path) or "", self._gone[path]
    directories[directory_of(path)] = true
  end
  self._files, self._gone = files, gone
  for directory, event in pairs(self._events) do
    if not directories[directory] then
      self._events[directory] = nil
      loop.close_handle(event)
    end
  end
  for directory in pairs(directories) do
    if not self._events[directory] then
      watch_directory(self, directory)
    end
  end
end

--- Ends it. Harmless twice.
function Watch:stop()
  if self._fn then
    self._fn = nil
    for _, event in pairs(self._events) do
      loop.close_handle(event)
    end
    self._events = {}
    loop.close_handle(self._timer)
    loop.close_handle(self._poll)
  end
end

--- Calls `fn(paths)` with those of the files that changed, and `went(path, back)` when one is gone, and when it is back, which is a
--- change besides. Does not keep the loop running.
---@param paths string[]
---@param fn fun(paths: string[])
---@param went? fun(path: string, back: boolean)
---@return echostream.watch
function M.files(paths, fn, went)
  local uv = loop.luv()
  local self = setmetatable({ _files = {}, _gone = {}, _events = {}, _fn = fn, _went = went, _timer = uv.new_timer(), _poll = uv.new_timer() }, Watch)
  self._timer:unref()
  self._poll:unref()
  self:update(paths)
  local period = math.ceil(M.POLL * 1000)
  self._poll:start(period, period, loop.guard("a watch of files", function()
    if self._fn and not self._timer:is_active() and is_news(self) then
      stir(self)
    end
  end))
  return self
end

return M
