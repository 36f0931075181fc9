--- Directories of this user's own, and who this process is.

local files = require "echostream.loop.files"
local loop = require "echostream.loop"

local M = {}

--- Whether a directory is this user's and nobody else's.
---@param path string
---@return true|nil ok, string? problem  nil, nil: there is none
function M.is_private(path)
  local uv = loop.luv()
  local stat, err, name = uv.fs_lstat(path)
  if not stat then
    return nil, name ~= "ENOENT" and tostring(err) or nil
  elseif stat.type ~= "directory" then
    return nil, path .. " is no directory"
  elseif stat.uid ~= uv.getuid() then
    return nil, path .. " belongs to somebody else"
  elseif stat.mode & 63 ~= 0 then -- 077
    return nil, ("others can get into %s; run: chmod 700 %s"):format(path, path)
  end
  return true
end

--- Makes a directory for this user only; or checks that one that is there is so.
---@param path string
---@return true|nil ok, string? problem
function M.make_private(path)
  local ok, err = files.make_directories(path)
  if not ok then
    return nil, ("%s: %s"):format(path, tostring(err))
  end
  ok, err = M.is_private(path)
  return ok, not ok and (err or path .. " is gone") or nil
end

--- What there is at a path, not following a link: "file", "directory", "link", "socket" …; nil: nothing.
---@param path string
---@return string?
function M.kind(path)
  local stat = loop.luv().fs_lstat(path)
  return stat and stat.type
end

--- The names in a directory; none where there is none.
---@param path string
---@return string[]
function M.names(path)
  local uv = loop.luv()
  local request = uv.fs_scandir(path)
  local names = {}
  while request do
    local name = uv.fs_scandir_next(request)
    if not name then
      break
    end
    names[#names + 1] = name
  end
  return names
end

--- The number of this process.
---@return integer
function M.own_pid()
  return (math.tointeger(loop.luv().os_getpid())) -- luv gives a float
end

return M
