--- Files that are read piece by piece, beside the loop: a slow disk holds up nobody but who waits for it.

local errors = require "echostream.errors"
local loop = require "echostream.loop"
local task = require "echostream.task"

local M = {}

local O_RDONLY_NONBLOCK = 2048 -- a pipe without a writer would hold up whoever opens it; nothing else is changed for files

---@class echostream.reader  an open file, or a directory (of which only this is known)
---@field kind "file"|"directory"
---@field path string   where it really lies, without links
---@field size integer  bytes, when it was opened
---@field mtime integer seconds since 1970
---@field mtime_nsec integer
---@field private _fd integer?
---@field private _reading boolean
---@field private _closing boolean?
local Reader = {}
Reader.__index = Reader
Reader.__name = "echostream.reader"

local denied = { EACCES = true, EPERM = true }
local busy = { EMFILE = true, ENFILE = true, EIO = true, ENOMEM = true }

local function why(name)
  return denied[name] and "denied" or busy[name] and "io" or "not_found"
end

-- Where the open file is. Asked after it was opened, so that nobody can put a link in between.
local function path_of(uv, fd, path, stat)
  local found = uv.fs_readlink("/proc/self/fd/" .. fd)
  if found and found:sub(1, 1) == "/" then
    return found
  end
  found = uv.fs_realpath(path) -- a system without /proc
  local there = found and uv.fs_lstat(found)
  return there and there.ino == stat.ino and there.dev == stat.dev and found or nil
end

--- Opens a file, or looks at a directory. Pipes, devices and sockets are not found.
---@param path string
---@return echostream.reader? reader, "not_found"|"denied"|"io"|nil why
function M.open(path)
  local uv = loop.luv()
  if path:find("\0", 1, true) then
    return nil, "not_found"
  end
  local stat, _, name = uv.fs_stat(path)
  if not stat then
    return nil, why(name)
  elseif stat.type == "directory" then
    local real = uv.fs_realpath(path)
    if not real then
      return nil, "not_found"
    end
    return setmetatable({ kind = "directory", path = real, size = 0, mtime = stat.mtime.sec, mtime_nsec = stat.mtime.nsec },
      Reader)
  elseif stat.type ~= "file" then
    return nil, "not_found"
  end
  local fd
  fd, _, name = uv.fs_open(path, O_RDONLY_NONBLOCK, 0)
  if not fd then
    return nil, why(name)
  end
  stat = uv.fs_fstat(fd)
  local real = stat and stat.type == "file" and path_of(uv, fd, path, stat)
  if not real then
    uv.fs_close(fd)
    return nil, "not_found"
  end
  return setmetatable({
    kind = "file",
    path = real,
    size = stat.size,
    mtime = stat.mtime.sec,
    mtime_nsec = stat.mtime.nsec,
    _fd = fd,
    _reading = false,
  }, Reader)
end

--- The path without links; nil when there is nothing.
---@param path string
---@return string?
function M.real_path(path)
  return (loop.luv().fs_realpath(path))
end

--- Reads. Waits, in a simulation it does not: its clock stands still while a disk works.
---@param offset integer
---@param n integer  bytes at most
---@return string? data, echostream.error? err  "" at the file's end; `io`, or `cancelled`
function Reader:read(offset, n)
  if not self._fd then
    return nil, errors.new("io", "the file is closed")
  elseif self._reading then
    return nil, errors.new("io", "the file is being read")
  elseif loop.current().sim then
    local data, problem = loop.luv().fs_read(self._fd, n, offset)
    return data, not data and errors.new("io", tostring(problem)) or nil
  end
  self._reading = true
  return task.await(function(resume)
    local ended = loop.guard("reading a file", function(problem, bytes)
      self._reading = false
      if self._closing then
        self:close()
      end
      resume(bytes, problem and errors.new("io", tostring(problem)) or nil)
    end)
    local ok, problem = loop.luv().fs_read(self._fd, n, offset, ended)
    if not ok then
      ended(problem)
    end
  end)
end

--- Closes the file. While it is being read that happens afterwards: the descriptor could be another file's by then. Harmless twice.
function Reader:close()
  if self._reading then
    self._closing = true
  elseif self._fd then
    loop.luv().fs_close(self._fd)
    self._fd = nil
  end
end
Reader.__gc = Reader.close

return M
