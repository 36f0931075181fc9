--- Whether a handler changed from one version of a file to the next: its code, what it refers to and its options are written down and
--- compared. For the log only; nothing depends on it.

local M = {}

local home = debug.getinfo(1, "S").source:match "^(.*)reload/print%.lua$"

-- So much of one handler is looked at.
local DEPTH <const>, PARTS <const> = 6, 2000

local walk

local function walk_function(state, fn, depth)
  local info = debug.getinfo(fn, "S")
  local ours = home and info.source:sub(1, #home) == home
  if info.what == "C" then
    state:put(tostring(fn))
    return
  elseif not ours then
    state:put(string.dump(fn, true))
  end
  for i = 1, 255 do
    local name, value = debug.getupvalue(fn, i)
    if not name then
      break
    elseif type(value) == "function" or not ours then
      walk(state, value, depth + 1)
    end
  end
end

local function walk_table(state, value, depth)
  local keys = {}
  for key in next, value do
    if type(key) == "string" or type(key) == "number" then
      keys[#keys + 1] = key
    end
  end
  table.sort(keys, function(a, b)
    if type(a) == type(b) then
      return a < b
    end
    return type(a) == "number"
  end)
  for _, key in ipairs(keys) do
    state:put(tostring(key))
    walk(state, rawget(value, key), depth + 1)
  end
end

function walk(state, value, depth)
  local kind = type(value)
  state:put(kind)
  if kind == "string" or kind == "number" or kind == "boolean" then
    state:put(tostring(value))
  elseif (kind == "function" or kind == "table") and not state.seen[value] and depth < DEPTH and #state < PARTS then
    state.seen[value] = true
    if kind == "function" then
      walk_function(state, value, depth)
    elseif not state.foreign[value] and getmetatable(value) == nil then
      walk_table(state, value, depth)
    end
  end
end

local State = {}
State.__index = State

function State:put(text)
  self[#self + 1] = text
end

local function print_of(handler, entry, foreign)
  local state = setmetatable({ seen = {}, foreign = foreign }, State)
  walk(state, handler.fn, 0)
  walk(state, entry or {}, 0)
  return table.concat(state, "\0")
end

-- What is none of the file's, so that it is not looked into.
local function others(modules)
  local foreign = { [_G] = true }
  for name, module in pairs(package.loaded) do
    if type(module) == "table" and not modules[name] then
      foreign[module] = true
    end
  end
  return foreign
end

--- The print of any value.
---@param value any
---@param modules table<string, any>  names of the modules that belong to the file
---@return string
function M.of(value, modules)
  local state = setmetatable({ seen = {}, foreign = others(modules) }, State)
  walk(state, value, 0)
  return table.concat(state, "\0")
end

--- The names of the fields that are other ones in one table of options than in another.
---@param before table<string, string>  prints of the values
---@param after table<string, string>
---@return string[]  sorted
function M.differing(before, after)
  local names = {}
  for name, print in pairs(after) do
    if before[name] ~= print then
      names[#names + 1] = tostring(name)
    end
  end
  for name in pairs(before) do
    if after[name] == nil then
      names[#names + 1] = tostring(name)
    end
  end
  table.sort(names)
  return names
end

--- The prints of what a file registered, and how many handlers are other ones than before.
---@param before table<string, string>   what this returned the last time
---@param registered echostream.reload.registrations
---@param modules table<string, any>      names of the modules that belong to the file
---@return table<string, string> prints, { changed: integer, new: integer, gone: integer } summary
function M.compare(before, registered, modules)
  local foreign = others(modules)
  local prints, summary = {}, { changed = 0, new = 0, gone = 0 }
  for kind, handlers in pairs(registered.handlers) do
    for name, handler in pairs(handlers) do
      local key = kind .. " " .. name
      prints[key] = print_of(handler, registered.entries[kind][name], foreign)
      if before[key] == nil then
        summary.new = summary.new + 1
      elseif before[key] ~= prints[key] then
        summary.changed = summary.changed + 1
      end
    end
  end
  for key in pairs(before) do
    if not prints[key] then
      summary.gone = summary.gone + 1
    end
  end
  return prints, summary
end

return M
