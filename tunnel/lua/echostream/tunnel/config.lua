--- The two configuration files, of `echostream tunnel server` and `echostream tunnel agent`: a Lua file that returns a table, or the same as
--- JSON. Secrets are not written into them: a value may come from a file or the environment.
---
---     return {                                   -- Lua                          the same in JSON
---       token = file "agents.token",            -- a file beside this one       {"file": "agents.token"}
---       pin = env "TUNNEL_PIN",                  -- a variable                   {"env": "TUNNEL_PIN"}
---       cert = here "certs/site.pem",           -- the path of a file beside    {"here": "certs/site.pem"}
---     }

local core = require "echostream.core"
local errors = require "echostream.errors"
local lines = require "echostream.tunnel.config.lines"
local options = require "echostream.options"

local M = {}

---@class echostream.tunnel.config  a file that was read
---@field path string
---@field values table<string, any>
---@field used string[]  the other files that were read for it
---@field package _lines table<string, integer>
local Config = {}
Config.__index = Config
Config.__name = "echostream.tunnel.config"

--- "server.lua:12: " for a value of the file: whatever is wrong with it.
---@param path? string  "listen[2].bind"
---@return string
function Config:place(path)
  local line = path and lines.find(self._lines, path)
  return line and ("%s:%d: "):format(self.path, line) or self.path .. ": "
end

-- Where an option check says that it was: 'echo.server.http: option "bind" wants …', 'unknown option "x"', "listen[2].bind: …".
local function split(message)
  local where, name, rest = message:match '^([%w_.%[%]]*): option "([^"]*)"(.*)$'
  if where then
    return where, name, name .. rest
  end
  where, name = message:match '^([%w_.%[%]]*): unknown option "([^"]*)"'
  if where then
    return where, name, message:sub(#where + 3)
  end
  where, rest = message:match '^([%w_.]*[%w_]%[?%d*%]?[%w_.%[%]]*): (.*)$'
  return where, nil, rest or message
end

-- Where Lua says that something was raised: a file, the installed command (which has no ending), a chunk of a prompt.
local POSITIONS <const> = { "^[^%s:]+%.lua:%d+: ", "^[^%s:]*echostream:%d+: ", "^input:%d+: ", "^%[string [^\n]-%]:%d+: " }

--- What an option check raised, as a sentence with the file and the line of the value.
---@param raised any
---@param base? string  the beginning of the check's names that stands for the file's table: "tunnel.server"
---@param at? string    where in the file that table is
---@return string
function Config:explain(raised, base, at)
  local message = tostring(errors.is_error(raised) and raised.message or raised)
  for _, position in ipairs(POSITIONS) do
    message = message:gsub(position, "")
  end
  local where, name, text = split(message)
  if where and where == base and not name then -- "tunnel.server: agents[1]: token wants …"
    message = text
    where, name, text = split(text)
  end
  local path = at or ""
  if where then
    local inner = base and where:sub(1, #base) == base and where:sub(#base + 1):gsub("^%.", "") or nil
    if not inner and lines.find(self._lines, where) then
      inner = where -- it names the value itself
    elseif not inner then
      text = message
    end
    for _, part in ipairs { inner or "", name or "" } do
      if part ~= "" then
        path = path == "" and part or part:sub(1, 1) == "[" and path .. part or path .. "." .. part
      end
    end
    if path ~= "" and inner and inner ~= "" and not text:find(inner, 1, true) then
      text = ("%s: %s"):format(inner, text)
    end
  end
  return self:place(path) .. text
end

-- Reading -----------------------------------------------------------------------------------------------------

local function directory_of(path)
  return path:match "^(.*/)[^/]*$" or ""
end

local function beside(path, name)
  return name:sub(1, 1) == "/" and name or directory_of(path) .. name
end

local function read(path)
  local file, err = io.open(path, "rb")
  local text = file and file:read "a"
  if file then
    file:close()
  end
  if not text then
    return nil, err or path .. ": is not a file"
  end
  return text
end

-- The functions that a file may call; what they read is noted.
local function helpers(path, used)
  local function check(where, name)
    if type(name) ~= "string" or name == "" then
      error(("%s wants a name, got %s"):format(where, errors.show(name)), 3)
    end
  end
  return {
    env = function(name, default)
      check("env", name)
      local value = os.getenv(name)
      if value == nil and default == nil then
        error(("the environment has no variable %s"):format(name), 2)
      end
      return value or default
    end,
    file = function(name)
      check("file", name)
      local where = beside(path, name)
      local text, err = read(where)
      if not text then
        error(err, 2)
      end
      used[#used + 1] = where
      return (text:gsub("%s+$", ""))
    end,
    here = function(name)
      check("here", name)
      return beside(path, name)
    end,
  }
end

local function environment(functions)
  local env = { os = { time = os.time, date = os.date, getenv = os.getenv } }
  for _, name in ipairs { "assert", "error", "ipairs", "math", "next", "pairs", "pcall", "print", "select", "string", "table", "tonumber",
    "tostring", "type", "utf8" } do
    env[name] = _G[name]
  end
  for name, fn in pairs(functions) do
    env[name] = fn
  end
  return env
end

-- {"env": "NAME"} and the like, anywhere in a JSON file.
local function resolve(value, functions)
  if type(value) ~= "table" then
    return value
  end
  local name, argument = next(value)
  if functions[name] and next(value, name) == nil and type(argument) == "string" then
    return functions[name](argument)
  end
  for key, inner in pairs(value) do
    value[key] = resolve(inner, functions)
  end
  return value
end

local function evaluate(path, text, functions)
  if text:find "^%s*[{%[]" then
    local value, err = core.codec.json.unpack(text)
    if value == nil then
      return nil, ("%s: is no JSON: %s"):format(path, tostring(errors.is_error(err) and err.message or err))
    end
    local ok, resolved = pcall(resolve, value, functions)
    if not ok then
      return nil, ("%s: %s"):format(path, (tostring(resolved):gsub("^[^%s:]+%.lua:%d+: ", "")))
    end
    return resolved
  end
  local chunk, err = load(text, "@" .. path, "t", environment(functions))
  if not chunk then
    return nil, err
  end
  local ok, value = pcall(chunk)
  if not ok then
    return nil, errors.is_error(value) and value.message or tostring(value)
  end
  return value
end

--- Reads a file. Nothing is checked yet beyond that it gives a table.
---@param path string
---@return echostream.tunnel.config|nil config, echostream.error? err  `io`: it cannot be read; `invalid_argument`: it is no Lua, no JSON or
---gives no table; the message has the file and the line
function M.read(path)
  options.argument("tunnel.config.read", "path", path, "string")
  local text, err = read(path)
  if not text then
    local failed = errors.new("io", err)
    failed.reading = true -- beside `io` of what is opened because the file says so
    return nil, failed
  end
  local used = {}
  local values, problem = evaluate(path, text, helpers(path, used))
  if values == nil and problem then
    return nil, errors.new("invalid_argument", problem)
  elseif type(values) ~= "table" then
    return nil, errors.new("invalid_argument", ("%s: wants to return a table, got %s"):format(path, errors.show(values)))
  end
  return setmetatable({ path = path, values = values, used = used, _lines = lines.of(text) }, Config)
end

return M
