--- Files that hold secrets, and the directories for them.

local core = require "echostream.core"
local loop = require "echostream.loop"

local M = {}

--- Makes a directory and those above it, for this user only.
---@param path string
---@return true|nil, string?
function M.make_directories(path)
  local uv = loop.luv()
  if uv.fs_stat(path) then
    return true
  end
  local parent = path:match("^(.+)/[^/]+/*$")
  if parent then
    local ok, err = M.make_directories(parent)
    if not ok then
      return nil, err
    end
  end
  local ok, err, name = uv.fs_mkdir(path, 448) -- 0700
  if not ok and name ~= "EEXIST" then
    return nil, err
  end
  return true
end

--- Writes a secret to a new file of mode 600. The file appears whole or not at all, and an existing one stays.
---@param path string
---@param data string
---@return true|nil ok, string? err  "exists" when somebody else was faster
function M.write_secret(path, data)
  local uv = loop.luv()
  local suffix = core.random(8):gsub(".", function(c)
    return ("%02x"):format(c:byte())
  end)
  local temporary = path .. "." .. suffix
  local fd, err = uv.fs_open(temporary, "wx", 384) -- 0600
  if not fd then
    return nil, err
  end
  local written, problem = uv.fs_write(fd, data, 0)
  uv.fs_close(fd)
  local ok, name
  if written == #data then
    ok, problem, name = uv.fs_link(temporary, path)
    if not ok and name ~= "EEXIST" and not uv.fs_stat(path) then -- a file system without hard links
      ok, problem, name = uv.fs_rename(temporary, path)
    end
  end
  uv.fs_unlink(temporary)
  if not ok then
    return nil, name == "EEXIST" and "exists" or problem
  end
  return true
end

--- Writes a file of mode 600 whole, also over one that is there.
---@param path string
---@param data string
---@return true|nil ok, string? err
function M.replace_secret(path, data)
  local uv = loop.luv()
  local suffix = core.random(8):gsub(".", function(c)
    return ("%02x"):format(c:byte())
  end)
  local temporary = path .. "." .. suffix
  local ok, err = M.write_secret(temporary, data)
  if ok then
    ok, err = uv.fs_rename(temporary, path)
  end
  if not ok then
    uv.fs_unlink(temporary)
    return nil, err
  end
  return true
end

--- The permissions of a file.
---@param path string
---@return integer? mode, string? err  nil, nil when there is none
function M.mode(path)
  local stat, err, name = loop.luv().fs_stat(path)
  if not stat then
    return nil, name ~= "ENOENT" and err or nil
  end
  return stat.mode & 511 -- 0777
end

--- The absolute path of a file or directory, without links; nil when there is none.
---@param path string
---@return string?
function M.real_path(path)
  return (loop.luv().fs_realpath(path))
end

--- Reads a file that only its owner may read.
---@param path string
---@return string? data, string? err  nil, nil when there is none
function M.read_secret(path)
  local uv = loop.luv()
  local stat, err, name = uv.fs_stat(path)
  if not stat then
    return nil, name ~= "ENOENT" and err or nil
  end
  if stat.mode & 63 ~= 0 then -- 077
    return nil, ("%s may be read by others; run: chmod 600 %s"):format(path, path)
  end
  local file, problem = io.open(path, "rb")
  if not file then
    return nil, problem
  end
  local data = file:read("a")
  file:close()
  return data
end

return M
