--- A prompt inside a running server, for whoever attaches to it: `echostream attach`.
---
--- On this machine a server opens a unix socket, which only its user can connect to: it lies in a directory of mode 700, is of mode
--- 600 itself, and belongs to nobody else. `echostream serve` opens one unless told not to; a program of one's own says
---
---     local point = assert(require("echostream.attach").open { name = "chat" })

local core = require "echostream.core"
local directory = require "echostream.loop.directory"
local errors = require "echostream.errors"
local identity = require "echostream.tls.identity"
local options = require "echostream.options"
local serve = require "echostream.attach.serve"
local socket = require "echostream.loop.socket"

local M = {}

--- Where the sockets of this user lie. The runtime directory goes away with the user's last login; where there is none, it is the state
--- directory.
---@return string? path  nil: neither is known
function M.directory()
  local runtime = os.getenv("XDG_RUNTIME_DIR")
  if runtime and runtime:sub(1, 1) == "/" then
    return runtime .. "/echostream"
  end
  local state = identity.state_dir()
  return state and state .. "/attach"
end

-- Whoever makes or removes sockets of a directory has this lock meanwhile, so that what was found dead is not another's new one.
local function lock(dir)
  return core.lock_file(dir .. "/.lock")
end

-- Takes away the sockets at which nobody listens any more.
local function sweep(dir, dead)
  local held <close> = #dead > 0 and lock(dir) or nil
  if not held then
    return
  end
  for _, path in ipairs(dead) do
    if core.socket_answers(path) == false then
      os.remove(path)
    end
  end
end

local place = M.directory

--- The servers of this user that can be attached to: those that answer, wherever their processes are. Sockets that dead ones left are
--- removed.
---@return { name: string, pid: integer, path: string }[] list
---@return echostream.error? err  `failed_precondition`: others can get into the directory; the list is empty
function M.list()
  local dir = place()
  if not dir then
    return {}
  end
  local ok, problem = directory.is_private(dir)
  if not ok then
    return {}, problem and errors.new("failed_precondition", problem) or nil
  end
  local found, dead = {}, {}
  for _, file in ipairs(directory.names(dir)) do
    local name, pid = file:match("^(.+)%.(%d+)%.sock$")
    local path = dir .. "/" .. file
    local answers = name and core.socket_answers(path)
    if answers then
      found[#found + 1] = { name = name, pid = math.tointeger(pid) or 0, path = path }
    elseif answers == false and directory.kind(path) == "socket" then
      dead[#dead + 1] = path
    end
  end
  sweep(dir, dead)
  table.sort(found, function(a, b)
    return a.name == b.name and a.pid < b.pid or a.name < b.name
  end)
  return found
end

--- The socket of a server by its name, its process id or its path; without a word: of the only one.
---@param word? string
---@return string? path
---@return echostream.error? err  `not_found`; `failed_precondition`: several fit, or others can get into the sockets' directory
function M.find(word)
  if word ~= nil then
    options.argument("attach.find", "word", word, "string")
  end
  if word and word:find("/", 1, true) then
    return word
  end
  local list, problem = M.list()
  if problem then
    return nil, problem
  end
  local fits = {}
  for _, entry in ipairs(list) do
    if word == nil or entry.name == word or tostring(entry.pid) == word then
      fits[#fits + 1] = entry
    end
  end
  if #fits == 1 then
    return fits[1].path
  elseif #fits == 0 then
    return nil, errors.new("not_found", word
      and ("no server of the name or process id %s runs here (echostream attach --list shows those that do)"):format(word)
      or "no server of this user that can be attached to runs here (echostream serve makes one)")
  end
  local names = {}
  for i, entry in ipairs(fits) do
    names[i] = ("%s (%d)"):format(entry.name, entry.pid)
  end
  return nil, errors.new("failed_precondition", "several run here; say which by its process id: " .. table.concat(names, ", "))
end

---@class echostream.options.attach
---@field name? string    what `echostream attach NAME` finds it by (default: "lua")
---@field path? string    the socket, elsewhere: its directory must belong to this user and let nobody else in
---@field server? echostream.server  what `server` is at the prompt
---@field held? number    seconds that an input may compute without waiting, before it is interrupted (default: 5)
local schema = {
  name = { type = "string", default = "lua" },
  path = { type = "string" },
  server = { type = "table" },
  held = { type = "seconds", min = 0.01, default = 5 },
}

---@class echostream.attach.point
---@field path string
---@field close fun()  nobody attaches any more; those who did are cut off

-- Where the socket is to be; or nil, err.
local function path_of(path, name)
  if not path then
    local dir = place()
    if not dir then
      return nil, errors.new("failed_precondition", "neither XDG_RUNTIME_DIR nor HOME says where the socket could lie")
    end
    path = ("%s/%s.%d.sock"):format(dir, name, directory.own_pid())
  end
  local ok, problem = directory.make_private(path:match("^(.*)/[^/]*$") or ".")
  if not ok then
    return nil, errors.new("failed_precondition", tostring(problem))
  end
  return path
end

-- Listens at a path, in the place of a socket that a dead process left there.
local function listen(path, accept)
  local dir = path:match("^(.*)/[^/]*$") or "."
  local held <close>, problem = lock(dir) -- luacheck: ignore 211
  if not held then
    return nil, problem
  end
  local kind = directory.kind(path)
  if kind == "socket" and core.socket_answers(path) == false then
    os.remove(path)
  elseif kind and kind ~= "socket" then
    return nil, ("%s is there and is no socket"):format(path)
  end
  local listener, err = socket.listen({ path = path }, accept)
  return listener, not listener and ("%s: %s"):format(path, tostring(err)) or nil
end

--- Opens the socket on which this user can attach to this process. It does not keep the process alive. One that a dead process left at
--- this place is replaced, one at which somebody listens is not.
---@param opts? echostream.options.attach
---@return echostream.attach.point|nil point
---@return echostream.error? err  `failed_precondition`: the directory is not this user's alone, or none is known; `io`: among others, a
--- server that lives has the socket
function M.open(opts)
  local checked = options.check("attach.open", opts, schema)
  local name = checked.name:gsub("[^%w_-]+", "-"):sub(1, 30)
  local path, problem = path_of(checked.path, name)
  if not path then
    return nil, problem
  end
  if not checked.path then
    M.list() -- which removes what dead ones left
  end
  local open = setmetatable({}, { __mode = "k" })
  local about = {
    server = checked.server,
    held = checked.held,
    name = ("%s (echostream %s, process %d)"):format(name, core.version, directory.own_pid()),
  }
  local listener, err = listen(path, function(connection)
    open[connection] = true
    return serve.serve(connection, about)
  end)
  if not listener then
    return nil, errors.new("io", err)
  end
  local closed = false
  return {
    path = path,
    close = function()
      if closed then
        return
      end
      closed = true
      local held <close> = lock(path:match("^(.*)/[^/]*$") or ".") -- luacheck: ignore 211
      listener.close() -- the path goes too
      for connection in pairs(open) do
        connection:close()
      end
    end,
  }
end

return M
