--- What Tab offers at a prompt: globals, fields, methods, commands, and the names that the other side of a session has.
---
--- Nothing is called to find out: fields are read raw, along `__index` tables (and `__methods`, the table of a class whose
--- `__index` is a function). Only names of remote methods are asked for, in a task, and kept for some seconds.

local loop = require "echostream.loop"
local pretty = require "echostream.pretty"
local task = require "echostream.task"

local M = {}

local KEPT = 5 -- seconds that a list of remote names is good for
local PATIENCE = 2

-- Looking at values -------------------------------------------------------------------------------------------

local function methods_of(value)
  local mt = debug.getmetatable(value)
  if type(mt) ~= "table" then
    return nil
  end
  local index = rawget(mt, "__index")
  if type(index) ~= "table" then
    index = rawget(mt, "__methods")
  end
  return type(index) == "table" and index or nil
end

local function field(value, key)
  for _ = 1, 20 do
    if type(value) == "table" then
      local found = rawget(value, key)
      if found ~= nil then
        return found
      end
    end
    value = methods_of(value)
    if value == nil then
      return nil
    end
  end
end

-- The names that a value has: name -> what is there.
local function names_of(value)
  local names, n = {}, 0
  for _ = 1, 20 do
    if type(value) == "table" then
      for key, found in next, value do
        if type(key) == "string" and names[key] == nil and pretty.is_name(key) and n < 5000 then
          names[key], n = found, n + 1
        end
      end
    end
    value = methods_of(value)
    if value == nil then
      break
    end
  end
  return names
end

-- Follows `a.b[1]["c"]`; nil when it leads nowhere.
local function follow(env, path)
  local name, rest = path:match("^([%a_][%w_]*)(.*)$")
  if not name then
    return nil
  end
  local value = field(env, name)
  while rest ~= "" and value ~= nil do
    local key, after = rest:match("^%.([%a_][%w_]*)(.*)$")
    if not key then
      key, after = rest:match("^%[(%d+)%](.*)$")
      key = math.tointeger(key)
    end
    if not key then
      local _
      _, key, after = rest:match("^%[([\"'])([^\"'\\]*)%1%](.*)$")
    end
    if not key then
      return nil
    end
    local lookup = type(value) == "table" and rawget(debug.getmetatable(value) or {}, "__lookup")
    if lookup then
      value = lookup(value, key)
    else
      value = field(value, key)
    end
    rest = after
  end
  return value
end

-- Remote names ------------------------------------------------------------------------------------------------

-- Methods whose first argument is a name of the other side, and the kind of it.
local takes = {
  request = "rpc", stream = "rpc", describe = "any", emit = "event", try_emit = "event", create_stream = "stream", service = "service",
}

local known = setmetatable({}, { __mode = "k" }) -- client or session -> { names, when }

-- `done(list)` with { name, kind } of what the other side offers; nil when it does not say.
local function remote_names(peer, done)
  local kept = known[peer]
  if kept and loop.now() - kept.at < KEPT then
    return done(kept.list)
  end
  task.spawn(function()
    local ok, list = pcall(function()
      return (peer:with({ timeout = PATIENCE }):request("rpc.list"))
    end)
    list = ok and type(list) == "table" and list or nil
    if list then
      known[peer] = { list = list, at = loop.now() }
    end
    done(list)
  end)
end

local function is_peer(value)
  return type(value) == "table" and type(field(value, "request")) == "function" and type(field(value, "with")) == "function"
end

-- Putting it together -----------------------------------------------------------------------------------------

local function sorted(set)
  local list = {}
  for word in pairs(set) do
    list[#list + 1] = word
  end
  table.sort(list)
  return list
end

local PATH = "([%a_][%w_%.%[%]\"']*)"

-- Whether a name of an entry's kind may stand there; a service is the part before the last dot.
local function name_for(entry, kind)
  if type(entry) ~= "table" or type(entry.name) ~= "string" then
    return nil
  elseif kind == "service" then
    return entry.kind == "rpc" and entry.name:match("^(.*)%.[^.]*$") or nil
  end
  return (kind == "any" or entry.kind == kind) and entry.name or nil
end

local function complete_remote(env, before, done)
  local path, method, quote, typed = before:match(PATH .. "%s*:%s*([%a_]+)%s*%(?%s*([\"'])([%w%._/:-]*)$")
  local kind = path and takes[method]
  local peer = kind and follow(env, path)
  if is_peer(peer) then
    remote_names(peer, function(list)
      local words = {}
      for _, entry in ipairs(list or {}) do
        local name = name_for(entry, kind)
        if name and name:sub(1, #typed) == typed then
          words[name] = true
        end
      end
      local found = sorted(words)
      if #found == 1 then
        found[1] = found[1] .. quote
      end
      done(#before - #typed + 1, found)
    end)
    return true
  end
  -- client:service("math").ad
  local service
  path, service, typed = before:match(PATH .. "%s*:%s*service%s*%(?%s*[\"']([%w%._/-]+)[\"']%s*%)?%s*%.([%w_%.]*)$")
  peer = path and follow(env, path)
  if is_peer(peer) then
    local prefix = service .. "." .. typed
    remote_names(peer, function(list)
      local words = {}
      for _, entry in ipairs(list or {}) do
        local name = name_for(entry, "rpc")
        if name and name:sub(1, #prefix) == prefix then
          words[name:sub(#service + 2)] = true
        end
      end
      done(#before - #typed + 1, sorted(words))
    end)
    return true
  end
  return false
end

local keywords = {}
for word in ("and break do else elseif end false for function goto if in local nil not or repeat return then true until while"):gmatch "%a+" do
  keywords[word] = true
end

local function in_a_string(before)
  local rest = before:gsub("\\.", ""):gsub("\"[^\"]*\"", ""):gsub("'[^']*'", "")
  return rest:find("[\"']") ~= nil
end

local function complete_names(env, before, done)
  if in_a_string(before) then
    return done(#before + 1, {})
  end
  local path, mark, typed = before:match(PATH .. "([.:])([%a_]?[%w_]*)$")
  local names
  if path then
    local value = follow(env, path)
    if value == nil then
      return done(#before + 1, {})
    end
    names = names_of(type(value) == "string" and string or value)
  elseif before:find("[%w_%)%]\"'][.:][%w_]*$") then
    return done(#before + 1, {}) -- the field of something that would have to be called first
  else
    typed = before:match("[%a_]?[%w_]*$")
    if before:sub(1, #before - #typed):find("[%d]$") or typed == "" and before ~= "" and before:find("[%w_]$") then
      return done(#before + 1, {})
    end
    names = names_of(env)
    for word in pairs(keywords) do
      names[word] = names[word] or true
    end
  end
  local words = {}
  for name, value in pairs(names) do
    if name:sub(1, #typed) == typed and (name:sub(1, 1) ~= "_" or typed ~= "") and (mark ~= ":" or type(value) == "function") then
      words[name] = true
    end
  end
  local found = sorted(words)
  if #found == 1 and type(names[found[1]]) == "function" then
    found[1] = found[1] .. "("
  end
  done(#before - #typed + 1, found)
end

--- Words that may stand at the end of `before`.
---@param repl echostream.repl
---@param before string
---@param done fun(from: integer, words: string[])  `from`: the byte at which they begin
function M.words(repl, before, done)
  local command = before:match("^%s*%.(%a*)$")
  if command then
    local words = {}
    for name in pairs(require("echostream.repl.commands").list) do
      if name:sub(1, #command) == command then
        words[name .. " "] = true
      end
    end
    return done(#before - #command + 1, sorted(words))
  end
  if #before > 4096 then
    return done(#before + 1, {})
  end
  if not complete_remote(repl.env, before, done) then
    complete_names(repl.env, before, done)
  end
end

return M
