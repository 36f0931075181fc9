--- One checker for every option table: it names the field, what it wants and what it got. An unknown option is an error,
--- with a guess at what was meant.

local errors = require "echostream.errors"

local M = {}

---@class echostream.options.field
---@field type? string|string[]   Lua types, or "integer", "seconds" (a number >= 0), "strings" (a list of them, which is copied)
---@field one_of? any[]           the values allowed
---@field min? number
---@field max? number
---@field default? any
---@field required? boolean
---@field fields? table<string, echostream.options.field>  schema of a table inside
---@field refuse? string          the option is known but cannot be given: why

-- Whom to blame: the line of the user that called us. A number of levels does not say which that is, for calls are handed on by tail
-- calls, with which our own functions leave the stack. So it is the first Lua function that does not lie in our folder.
local home = debug.getinfo(1, "S").source:match("^(.*)options%.lua$") or "@echostream/"

---@package
--- The level for an `error` of the function that calls this.
---@param otherwise integer  as for error(): without a function of the user's on the stack
---@return integer
function M.users_level(otherwise)
  local level = 2
  while true do
    local info = debug.getinfo(level, "Sl")
    if not info then
      return otherwise
    elseif info.currentline > 0 and info.source:sub(1, #home) ~= home then
      return level - 1
    end
    level = level + 1
  end
end
local users_level = M.users_level

-- Levenshtein distance, for short names only.
local function distance(a, b)
  local row = {}
  for j = 0, #b do
    row[j] = j
  end
  for i = 1, #a do
    local diagonal = row[0]
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      local value = math.min(row[j] + 1, row[j - 1] + 1, diagonal + cost)
      diagonal, row[j] = row[j], value
    end
  end
  return row[#b]
end

--- The name among `names` (keys of a table) that looks most like `word`, or nil when none is near.
---@param word string
---@param names table<string, any>
---@return string?
function M.nearest(word, names)
  local best, best_distance
  local most = math.max(1, #word // 3)
  for name in pairs(names) do
    -- Names may be a peer's: one that is too long to be near costs nothing.
    local d = math.abs(#name - #word) <= most and distance(word:lower(), name) or most + 1
    if d <= most and (not best or d < best_distance or d == best_distance and name < best) then
      best, best_distance = name, d
    end
  end
  return best
end

local function matches(value, wanted)
  if wanted == "integer" then
    return math.type(value) == "integer"
  elseif wanted == "seconds" then
    return type(value) == "number" and value >= 0
  elseif wanted == "strings" then
    for i = 1, type(value) == "table" and rawlen(value) or 0 do
      if type(rawget(value, i)) ~= "string" then
        return false
      end
    end
    return type(value) == "table"
  end
  return type(value) == wanted
end

local in_words = { seconds = "a number of seconds", strings = "a list of strings" }

local function wants(field)
  local kinds = type(field.type) == "table" and field.type or { field.type }
  local words = {}
  for i, kind in ipairs(kinds) do
    words[i] = in_words[kind] or (kind:find("^[aeiou]") and "an " or "a ") .. kind
  end
  return table.concat(words, " or ")
end

local function list(values)
  local words = {}
  for i, value in ipairs(values) do
    words[i] = errors.show(value)
  end
  return table.concat(words, ", ")
end

local function fail(level, where, name, wanted, got)
  error(("%s: option \"%s\" wants %s, got %s"):format(where, name, wanted, errors.show(got)), users_level(level + 1))
end

local function check_value(where, name, field, value, level)
  if field.refuse then
    error(("%s: option \"%s\" %s"):format(where, name, field.refuse), users_level(level + 1))
  end
  if field.type then
    local ok = false
    for _, kind in ipairs(type(field.type) == "table" and field.type or { field.type }) do
      if not ok and matches(value, kind) then
        ok = true
        if kind == "strings" then
          value = table.move(value, 1, rawlen(value), 1, {})
        end
      end
    end
    if not ok then
      fail(level + 1, where, name, wants(field), value)
    end
  end
  if field.one_of then
    local ok = false
    for _, allowed in ipairs(field.one_of) do
      ok = ok or allowed == value
    end
    if not ok then
      fail(level + 1, where, name, "one of " .. list(field.one_of), value)
    end
  end
  if type(value) == "number" then
    if value ~= value then
      fail(level + 1, where, name, "a number", value)
    end
    if field.min and value < field.min then
      fail(level + 1, where, name, "at least " .. field.min, value)
    end
    if field.max and value > field.max then
      fail(level + 1, where, name, "at most " .. field.max, value)
    end
  end
  if field.fields and type(value) == "table" then
    return M.check(where .. "." .. name, value, field.fields, level + 1)
  end
  return value
end

--- Checks an option table against a schema and returns a copy with the defaults filled in. Raises on anything wrong, at the
--- place of the caller's caller.
---@param where string  for the message, such as "echo.server"
---@param opts table?   what the user gave; nil means {}
---@param schema table<string, echostream.options.field>
---@param level? integer  as for error(); default 2, the function that called the caller
---@return table
function M.check(where, opts, schema, level)
  level = (level or 2) + 1
  if opts == nil then
    opts = {}
  elseif type(opts) ~= "table" then
    error(("%s: wants a table of options, got %s"):format(where, errors.show(opts)), users_level(level))
  end
  local out = {}
  for name, value in pairs(opts) do
    local field = schema[name]
    if not field then
      if type(name) ~= "string" then
        error(("%s: options have names, got %s"):format(where, errors.show(name)), users_level(level))
      end
      local guess = M.nearest(name, schema)
      error(("%s: unknown option %s%s"):format(where, errors.show(name),
        guess and (" (did you mean \"%s\"?)"):format(guess) or ""), users_level(level))
    end
    out[name] = check_value(where, name, field, value, level)
  end
  for name, field in pairs(schema) do
    if out[name] == nil then
      if field.required then
        error(("%s: option \"%s\" is missing; it wants %s"):format(where, name, wants(field)), users_level(level))
      end
      out[name] = field.default
    end
  end
  return out
end

-- Whether our method that raises was called with a dot, so that what should be the object is its first argument: says what helps.
local function hint_of_colon(where)
  for level = 3, 6 do
    local info = debug.getinfo(level, "S")
    if not info or info.source:sub(1, #home) ~= home then
      return ""
    end
    local name, value = debug.getlocal(level, 1)
    if name == "self" and type(value) ~= "table" then
      return (" (call it with a colon: object:%s)"):format(where:match "[%w_]+$")
    end
  end
  return ""
end

---@package
--- Raises that a method was called with a dot instead of a colon.
---@param where string
---@param level? integer
function M.colon(where, level)
  error(("%s is a method: call it with a colon, object:%s(…)"):format(where, where:match "[%w_]+$"), users_level((level or 2) + 1))
end

--- Checks one argument of a function. Raises "where: name wants …, got …".
---@param where string
---@param name string
---@param value any
---@param wanted string|string[] a type as in `echostream.options.field.type`
---@param level? integer default 2
function M.argument(where, name, value, wanted, level)
  for _, kind in ipairs(type(wanted) == "table" and wanted or { wanted }) do
    if matches(value, kind) then
      return
    end
  end
  error(("%s: %s wants %s, got %s%s"):format(where, name, wants({ type = wanted }), errors.show(value), hint_of_colon(where)),
    users_level((level or 2) + 1))
end

return M
