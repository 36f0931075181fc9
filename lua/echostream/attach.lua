--- A prompt inside a running server, for whoever attaches to it: `echostream attach`.
---
--- On this machine a server opens a unix socket, which only its user can connect to: it lies in a directory of mode 700, is of mode
--- 600 itself, and belongs to nobody else. `echostream serve` opens one unless told not to; a program of one's own says
---
---     local point = assert(require("echostream.attach").open { name = "chat" })
---
--- **The protocol**, the same over the socket and over a stream (plugins/attach.lua). Messages in both directions are a head line
--- `KIND LENGTH\n` and LENGTH bytes of body (at most 1 MiB; KIND is lower-case letters). Whoever breaks that is cut off.
---
--- | from whom attaches | body |
--- |---|---|
--- | `hello` | `COLUMNS COLOUR`, COLOUR being 0 or 1; the first message, and again when the window changes |
--- | `line` | a line of input; only after `ready` |
--- | `interrupt` | empty: Ctrl-C |
--- | `complete` | `NUMBER` and a line end, then the input up to the cursor |
---
--- | from the server | body |
--- |---|---|
--- | `hello` | what it is, for people |
--- | `ready` | how many inputs failed so far, a space, the prompt to show |
--- | `out` | output |
--- | `words` | `NUMBER FROM` and then words, each behind a line end: FROM is the byte at which they may stand |
--- | `leave` | empty: `.exit` was typed |
---
--- Either side ends it by closing. What then still runs is cancelled. Output that whoever attached does not read is left out once
--- 1 MiB of it waits, and that is said.

local core = require "echostream.core"
local directory = require "echostream.loop.directory"
local identity = require "echostream.identity"
local errors = require "echostream.errors"
local options = require "echostream.options"
local repl = require "echostream.repl"
local socket = require "echostream.loop.socket"

local M = {}

local BODY, HEAD = 1 << 20, 64
local QUEUED = 1 << 20

-- Messages ----------------------------------------------------------------------------------------------------

---@package
--- One message.
---@param kind string
---@param body? string
---@return string bytes
function M.encode(kind, body)
  return ("%s %d\n%s"):format(kind, #(body or ""), body or "")
end

---@package
--- Takes messages out of bytes as they come.
---@param take fun(kind: string, body: string)
---@return fun(bytes: string): boolean feed  false: that is not the protocol
function M.decoder(take)
  local buffer, broken = "", false
  return function(bytes)
    buffer = buffer .. bytes
    while not broken do
      local kind, length, start = buffer:match("^(%l+) (%d+)\n()")
      if not kind then
        local head = buffer:find("\n", 1, true)
        broken = head ~= nil or #buffer > HEAD
        break
      end
      length = #length <= 7 and math.tointeger(length) or BODY + 1
      if length > BODY then
        broken = true
      elseif #buffer < start + length - 1 then
        break
      else
        local body = buffer:sub(start, start + length - 1)
        buffer = buffer:sub(start + length)
        take(kind, body)
      end
    end
    return not broken
  end
end

-- The sessions of this process, by number ---------------------------------------------------------------------

local function hosts()
  return require("echostream.metrics").hosts()
end

local function session_by_id(_, id)
  for _, host in ipairs(hosts()) do
    for _, session in ipairs(host:sessions()) do
      if session.id == id then
        return session
      end
    end
  end
end

local function all_sessions()
  local all = {}
  for _, host in ipairs(hosts()) do
    for _, session in ipairs(host:sessions()) do
      all[#all + 1] = session
    end
  end
  return all
end

local sessions = setmetatable({}, {
  __index = session_by_id,
  __lookup = session_by_id, -- for the prompt's completion
  __len = function()
    return #all_sessions()
  end,
  __pairs = function()
    local list, i = all_sessions(), 0
    return function()
      i = i + 1
      if list[i] then
        return list[i].id, list[i]
      end
    end
  end,
  __tostring = function()
    local lines = {}
    for i, session in ipairs(all_sessions()) do
      lines[i] = tostring(session)
    end
    return #lines > 0 and table.concat(lines, "\n") or "no sessions"
  end,
})

local function environment(server)
  local mt = { __index = _G, __methods = _G }
  return setmetatable({ server = server, sessions = sessions, echo = require "echostream" }, mt)
end

-- One who attached --------------------------------------------------------------------------------------------

-- Takes output, and leaves out what is too much.
local function output_of(connection)
  local left_out = 0
  return function(text)
    if left_out > 0 and connection:queued() < QUEUED // 2 then
      text, left_out = ("(%d bytes of output were left out)\n"):format(left_out) .. text, 0
    end
    if left_out > 0 or connection:queued() > QUEUED then
      left_out = left_out + #text
      return
    end
    for from = 1, #text, BODY do
      connection:send(M.encode("out", text:sub(from, from + BODY - 1)))
    end
  end
end

-- Whether code computes and never waits (as a sentence): the clock's ticks, which the loop serves, do not come.
local function watch(connection, most)
  local ticks, seen, since = 0, -1, 0
  local function tick()
    ticks = ticks + 1
    connection:after(most / 5, tick)
  end
  tick()
  return function()
    local now = os.clock()
    if ticks ~= seen then
      seen, since = ticks, now
    end
    return now - since > most and ("it computed for %g s without waiting, and nothing else runs here meanwhile"):format(most)
  end
end

--- Serves a prompt to somebody who attached.
---@param connection { send: fun(self, data: string), queued: fun(self): integer, close: fun(self), after: fun(self, seconds: number, fn: function) }
---@param about { server: echostream.server?, name: string, held: number? }
---@return fun(data: string?) take  bytes of theirs; nil: they are gone
function M.serve(connection, about)
  local width, wanted, closed = 80, false, false
  local engine

  local function close()
    if not closed then
      closed = true
      if engine then
        engine:close()
      end
      connection:close()
    end
  end

  local takes = {}

  function takes.hello(body)
    local columns, colour = body:match("^(%d+) ([01])$")
    width = math.max(math.min(math.tointeger(columns) or 80, 10000), 20)
    if engine then
      return
    end
    local env = environment(about.server)
    engine = repl.new {
      env = env,
      write = output_of(connection),
      ready = function(prompt)
        wanted = true
        connection:send(M.encode("ready", ("%d %s"):format(engine.failed, prompt)))
      end,
      leave = function()
        connection:send(M.encode("leave"))
      end,
      colour = colour == "1",
      width = function()
        return width
      end,
      busy = watch(connection, about.held or 5),
    }
    env.print = function(...)
      engine:print(...)
    end
    connection:send(M.encode("hello", about.name))
    engine:start()
  end

  function takes.line(body)
    if engine and wanted and not body:find("\n", 1, true) then
      wanted = false
      engine:line(body)
    else
      close()
    end
  end

  function takes.interrupt()
    if engine then
      engine:interrupt()
    end
  end

  function takes.complete(body)
    local number, before = body:match("^(%d+)\n(.*)$")
    if engine and number then
      engine:complete(before, function(from, words)
        if not closed then
          connection:send(M.encode("words", table.concat({ ("%s %d"):format(number, from), table.unpack(words, 1, math.min(#words, 1000)) }, "\n")))
        end
      end)
    end
  end

  local feed = M.decoder(function(kind, body)
    if takes[kind] and not closed then
      takes[kind](body)
    end
  end)
  return function(data)
    if closed then
      return
    elseif not data or not feed(data) then
      close()
    end
  end
end

-- Sockets -----------------------------------------------------------------------------------------------------

-- Where they lie: the runtime directory goes away with the user's last login; where there is none, the state directory.
local function place()
  local runtime = os.getenv("XDG_RUNTIME_DIR")
  if runtime and runtime:sub(1, 1) == "/" then
    return runtime .. "/echostream"
  end
  local state = identity.state_dir()
  return state and state .. "/attach"
end

--- The servers of this user that can be attached to. Sockets that dead processes left are removed.
---@return { name: string, pid: integer, path: string }[]
function M.list()
  local dir = place()
  local found = {}
  for _, file in ipairs(dir and directory.names(dir) or {}) do
    local name, pid = file:match("^(.+)%.(%d+)%.sock$")
    pid = math.tointeger(pid)
    if pid and directory.is_running(pid) then
      found[#found + 1] = { name = name, pid = pid, path = dir .. "/" .. file }
    elseif pid then
      os.remove(dir .. "/" .. file)
    end
  end
  table.sort(found, function(a, b)
    return a.name == b.name and a.pid < b.pid or a.name < b.name
  end)
  return found
end

--- The socket of a server by its name, its process id or its path; without a word: of the only one.
---@param word? string
---@return string? path, echostream.error? err  `not_found`; `failed_precondition`: several fit
function M.find(word)
  if word ~= nil then
    options.argument("attach.find", "word", word, "string")
  end
  if word and word:find("/", 1, true) then
    return word
  end
  local fits = {}
  for _, entry in ipairs(M.list()) do
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

local ours = {} -- paths of the sockets that this process has open

--- Opens the socket on which this user can attach to this process. It does not keep the process alive.
---@param opts? echostream.options.attach
---@return echostream.attach.point|nil point
---@return echostream.error? err  `failed_precondition`: the directory is not this user's alone, or none is known; `io`
function M.open(opts)
  local checked = options.check("attach.open", opts, schema)
  local path = checked.path
  local name = checked.name:gsub("[^%w_-]+", "-"):sub(1, 30)
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
  if not checked.path then
    M.list() -- which removes what dead ones left
    if not ours[path] then -- one of our number did, which in a container all may have
      os.remove(path)
    end
  end
  local open = setmetatable({}, { __mode = "k" })
  local about = {
    server = checked.server,
    held = checked.held,
    name = ("%s (echostream %s, process %d)"):format(name, core.version, directory.own_pid()),
  }
  local listener, err = socket.listen({ path = path }, function(connection)
    open[connection] = true
    return M.serve(connection, about)
  end)
  if not listener then
    return nil, errors.new("io", ("%s: %s"):format(path, tostring(err)))
  end
  ours[path] = true
  return {
    path = path,
    close = function()
      ours[path] = nil
      listener.close()
      for connection in pairs(open) do
        connection:close()
      end
      os.remove(path)
    end,
  }
end

return M
