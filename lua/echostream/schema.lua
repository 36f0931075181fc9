--- Schemas: what the arguments and results of a handler have to look like. They are checked before the handler runs, and the
--- error that the caller gets names the field.
---
---     local s = echo.schema
---     server:add_rpc("user.add", add, {
---       arguments = { { "user", s.object { name = s.string { max = 80 }, age = s.optional(s.integer { min = 0 }) } } },
---       results = { { "id", s.integer } },
---     })
---     -- argument 1 (user).name: wants a string of at most 80 bytes, got one of 200 bytes
---
--- A handler without schemas costs what it cost before.

local core = require "echostream.core"
local errors = require "echostream.errors"
local options = require "echostream.options"

local M = {}

local function misuse(...)
  error(string.format(...), options.users_level(2))
end

---@class echostream.schema
---@field wants string  what it takes, in words: "a string of at most 10 bytes"
---@field name string   the same as a type's name: "string"
---@field package _check fun(value: any): table?  nil, or what is wrong: { path = ".a[1]", wants =, got = } or { path =, unknown = }
---@field package _json fun(): table
---@field package _optional boolean?
local Schema = { __name = "echostream.schema" }
Schema.__index = Schema

local function make(fields)
  return setmetatable(fields, Schema)
end

--- Whether a value is a schema.
---@param value any
---@return boolean
function M.is_schema(value)
  return getmetatable(value) == Schema
end

Schema.__tostring = function(self)
  return self.name
end

-- What came, in words that say no more of it than has to be known.
local function kind_of(value)
  if value == nil then
    return "nothing"
  elseif value == core.null then
    return "null"
  elseif type(value) == "number" then
    return math.type(value) == "integer" and "an integer" or "a float"
  end
  return (type(value):find "^[aeiou]" and "an " or "a ") .. type(value)
end

-- The error for a value that the message calls `name`.
local function failure(code, name, problem)
  local path = name .. problem.path
  local text = problem.unknown and ("%s: there is no such field%s"):format(path, problem.unknown)
    or ("%s: wants %s, got %s"):format(path, problem.wants, problem.got)
  return errors.new(code, text, { path = path, wants = problem.wants })
end

local function wrong(self, got)
  return { path = "", wants = self.wants, got = got }
end

-- Of something inside: the path gets a piece in front.
local function inside(problem, key)
  if problem then
    local piece = type(key) == "string" and (key:find "^[%a_][%w_]*$" and "." .. key or "[" .. errors.show(key) .. "]")
      or "[" .. (type(key) == "number" and tostring(key) or kind_of(key)) .. "]"
    problem.path = piece .. problem.path
  end
  return problem
end

-- The items of a list, whatever a metatable of its own has under other keys.
local function items(list)
  local out = {}
  for i = 1, rawlen(list) do
    out[i] = rawget(list, i)
  end
  return out
end

-- A table inside an object may be written without its constructor.
local function schema_of(where, value)
  if M.is_schema(value) then
    return value
  elseif type(value) == "table" then
    return M.object(value)
  end
  misuse("%s: wants a schema, got %s", where, errors.show(value))
end

-- Scalars: usable as they are (`s.integer`) and with limits (`s.integer { min = 1 }`).
local makers = setmetatable({}, { __mode = "k" })

Schema.__call = function(self, limits)
  local maker = makers[self]
  if not maker then
    misuse("schema: %s takes nothing more", self.name)
  end
  return maker(limits)
end

local function scalar(maker)
  local plain = maker(nil)
  makers[plain] = maker
  return plain
end

local function limits_text(limits, unit)
  local min, max = limits.min, limits.max
  if min and max then
    return min == max and (" of %s%s"):format(min, unit) or (" of %s to %s%s"):format(min, max, unit)
  elseif min then
    return (" of at least %s%s"):format(min, unit)
  elseif max then
    return (" of at most %s%s"):format(max, unit)
  end
  return ""
end

local function check_order(where, limits)
  if limits.min and limits.max and limits.min > limits.max then
    misuse("%s: min is %s, above max, which is %s", where, limits.min, limits.max)
  end
  return limits
end

local size = { type = "integer", min = 0 }

--- A string: of `min` to `max` bytes, and (a part of) it matching the Lua pattern `pattern`.
---@type echostream.schema|fun(limits?: { min?: integer, max?: integer, pattern?: string }): echostream.schema
M.string = scalar(function(limits)
  limits = check_order("schema.string", options.check("schema.string", limits,
    { min = size, max = size, pattern = { type = "string" } }, 2))
  if limits.pattern then
    local ok, problem = pcall(string.find, "", limits.pattern)
    if not ok then
      misuse("schema.string: the pattern makes no sense: %s", tostring(problem))
    end
  end
  local self = make { name = "string" }
  self.wants = "a string" .. limits_text(limits, " bytes") .. (limits.pattern and " that matches " .. limits.pattern or "")
  function self._check(value)
    if type(value) ~= "string" then
      return wrong(self, kind_of(value))
    elseif (limits.min and #value < limits.min) or (limits.max and #value > limits.max) then
      return wrong(self, ("one of %d bytes"):format(#value))
    elseif limits.pattern and not value:find(limits.pattern) then
      return wrong(self, errors.show(value))
    end
  end
  function self._json() -- JSON Schema counts characters, and has other patterns: what holds there too goes by its names
    return { type = "string", maxLength = limits.max, ["x-min-bytes"] = limits.min, ["x-max-bytes"] = limits.max,
      ["x-lua-pattern"] = limits.pattern }
  end
  return self
end)

local function numeric(name, article, fits)
  local bound = { type = name == "integer" and "integer" or "number" }
  return scalar(function(limits)
    limits = check_order("schema." .. name, options.check("schema." .. name, limits, { min = bound, max = bound }, 2))
    local self = make { name = name }
    self.wants = article .. name .. limits_text(limits, "")
    function self._check(value)
      if not fits(value) then
        return wrong(self, kind_of(value))
      elseif value ~= value or (limits.min and value < limits.min) or (limits.max and value > limits.max) then
        return wrong(self, tostring(value))
      end
    end
    function self._json()
      return { type = name, minimum = limits.min, maximum = limits.max }
    end
    return self
  end)
end

--- An integer, from `min` to `max`. A float is none, even 1.0.
---@type echostream.schema|fun(limits?: { min?: integer, max?: integer }): echostream.schema
M.integer = numeric("integer", "an ", function(value)
  return math.type(value) == "integer"
end)

--- An integer or a float, from `min` to `max`; never NaN.
---@type echostream.schema|fun(limits?: { min?: number, max?: number }): echostream.schema
M.number = numeric("number", "a ", function(value)
  return type(value) == "number"
end)

--- true or false.
---@type echostream.schema
M.boolean = make { name = "boolean", wants = "a boolean" }
function M.boolean._check(value)
  return type(value) ~= "boolean" and wrong(M.boolean, kind_of(value)) or nil
end
function M.boolean._json()
  return { type = "boolean" }
end

--- Anything but nil.
---@type echostream.schema
M.any = make { name = "any", wants = "a value" }
function M.any._check(value)
  return value == nil and wrong(M.any, "nothing") or nil
end
function M.any._json()
  return core.map {}
end

--- One of these strings, numbers or booleans.
---@param values any[]
---@return echostream.schema
function M.enum(values)
  options.argument("schema.enum", "values", values, "table")
  values = items(values)
  local known, shown = {}, {}
  for i, value in ipairs(values) do
    if type(value) ~= "string" and type(value) ~= "number" and type(value) ~= "boolean" then
      misuse("schema.enum: wants strings, numbers and booleans, got %s", errors.show(value))
    end
    known[value], shown[i] = true, errors.show(value)
  end
  if #shown == 0 then
    misuse("schema.enum: there is no value to choose")
  end
  local list = core.array { table.unpack(values) }
  local self = make { name = table.concat(shown, "|"), wants = "one of " .. table.concat(shown, ", ") }
  function self._check(value)
    if value == nil or not known[value] then
      return wrong(self, type(value) == "table" and "a table" or value == nil and "nothing" or errors.show(value))
    end
  end
  function self._json()
    return { enum = list }
  end
  return self
end

--- What may be left out: nil or null, or what the schema inside takes.
---@param of echostream.schema|table
---@return echostream.schema
function M.optional(of)
  of = schema_of("schema.optional", of)
  local self = make { name = of.name .. "?", wants = of.wants .. " or nothing", _optional = true, _of = of }
  function self._check(value)
    if value == nil or value == core.null then
      return nil
    end
    return of._check(value)
  end
  function self._json()
    return { anyOf = core.array { of._json(), { type = "null" } } }
  end
  return self
end

--- What one of several schemas takes.
---@param schemas echostream.schema[]
---@return echostream.schema
function M.union(schemas)
  options.argument("schema.union", "schemas", schemas, "table")
  local list, names, wants = {}, {}, {}
  for i, each in ipairs(items(schemas)) do
    list[i] = schema_of("schema.union", each)
    names[i], wants[i] = list[i].name, list[i].wants
  end
  if #list == 0 then
    misuse("schema.union: there is no schema to choose")
  end
  local self = make { name = table.concat(names, "|"), wants = table.concat(wants, " or ") }
  function self._check(value)
    local deepest
    for _, each in ipairs(list) do
      local problem = each._check(value)
      if not problem then
        return nil
      elseif problem.path ~= "" and (not deepest or #problem.path > #deepest.path) then
        deepest = problem -- it was nearly that one
      end
    end
    return deepest or wrong(self, kind_of(value))
  end
  function self._json()
    local all = {}
    for i, each in ipairs(list) do
      all[i] = each._json()
    end
    return { anyOf = core.array(all) }
  end
  return self
end

--- A list, of `min` to `max` items.
---@param of echostream.schema|table  of each item
---@param limits? { min?: integer, max?: integer }
---@return echostream.schema
function M.array(of, limits)
  of = schema_of("schema.array", of)
  limits = check_order("schema.array", options.check("schema.array", limits, { min = size, max = size }))
  local self = make { name = "array of " .. of.name, wants = "a list" .. limits_text(limits, " items") }
  function self._check(value)
    if type(value) ~= "table" then
      return wrong(self, kind_of(value))
    end
    local n, keys = #value, 0
    for _ in pairs(value) do
      keys = keys + 1
    end
    if keys ~= n then
      return wrong(self, "a table with other keys")
    elseif (limits.min and n < limits.min) or (limits.max and n > limits.max) then
      return wrong(self, ("one of %d items"):format(n))
    end
    for i = 1, n do
      local problem = inside(of._check(value[i]), i)
      if problem then
        return problem
      end
    end
  end
  function self._json()
    return { type = "array", items = of._json(), minItems = limits.min, maxItems = limits.max }
  end
  return self
end

--- A table whose keys and values are of one kind each, with `min` to `max` of them.
---@param key echostream.schema
---@param value echostream.schema|table
---@param limits? { min?: integer, max?: integer }
---@return echostream.schema
function M.map(key, value, limits)
  key, value = schema_of("schema.map", key), schema_of("schema.map", value)
  limits = check_order("schema.map", options.check("schema.map", limits, { min = size, max = size }))
  local self = make { name = ("map of %s to %s"):format(key.name, value.name), wants = "a map" .. limits_text(limits, " keys") }
  function self._check(given)
    if type(given) ~= "table" then
      return wrong(self, kind_of(given))
    end
    local n = 0
    for k, v in pairs(given) do
      n = n + 1
      local problem = key._check(k)
      if problem then
        problem.wants = "as a key " .. problem.wants
      end
      problem = inside(problem or value._check(v), k)
      if problem then
        return problem
      end
    end
    if (limits.min and n < limits.min) or (limits.max and n > limits.max) then
      return wrong(self, ("one of %d keys"):format(n))
    end
  end
  function self._json()
    return { type = "object", additionalProperties = value._json(), propertyNames = key.name == "string" and key._json() or nil,
      minProperties = limits.min, maxProperties = limits.max }
  end
  return self
end

local function sorted(fields)
  local names = {}
  for name in pairs(fields) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

--- A table with these fields. Those it does not know are refused, unless it is `open`; those that may be missing are
--- `schema.optional`. A table among the fields is an object inside.
---@param fields table<string, echostream.schema|table>
---@param opts? { open?: boolean }
---@return echostream.schema
function M.object(fields, opts)
  options.argument("schema.object", "fields", fields, "table")
  local open = options.check("schema.object", opts, { open = { type = "boolean" } }).open
  local known = {}
  for name, field in pairs(fields) do
    if type(name) ~= "string" then
      misuse("schema.object: fields have names, got %s", errors.show(name))
    end
    known[name] = schema_of("schema.object: " .. name, field)
  end
  local names, shown = sorted(known), {}
  for i, name in ipairs(names) do
    shown[i] = name .. (known[name]._optional and "?" or "")
  end
  local self = make { name = "{" .. table.concat(shown, ", ") .. "}", wants = "a table" }
  function self._check(value)
    if type(value) ~= "table" then
      return wrong(self, kind_of(value))
    end
    for _, name in ipairs(names) do -- in an order, so that the first of two mistakes is always the same
      local problem = known[name]._check(value[name])
      if problem then
        return inside(problem, name)
      end
    end
    for name in pairs(open and known or value) do
      if not known[name] then
        local guess = type(name) == "string" and options.nearest(name, known)
        return inside({ path = "", unknown = guess and (" (did you mean %s?)"):format(guess) or "" }, name)
      end
    end
  end
  function self._json()
    local properties, required = core.map {}, core.array {}
    for _, name in ipairs(names) do
      properties[name] = (known[name]._optional and known[name]._of or known[name])._json()
      if not known[name]._optional then
        required[#required + 1] = name
      end
    end
    return { type = "object", properties = properties, required = #required > 0 and required or nil,
      additionalProperties = open and true or false }
  end
  return self
end

-- Use ---------------------------------------------------------------------------------------------------------

--- Checks a value.
---@param schema echostream.schema
---@param value any
---@param name? string  what the message begins with (default: "value")
---@return true|nil ok, echostream.error? err  `invalid_argument`; `err.details` has `path` and `wants`
function M.check(schema, value, name)
  if not M.is_schema(schema) then
    misuse("schema.check: wants a schema, got %s", errors.show(schema))
  end
  local problem = schema._check(value)
  if not problem then
    return true
  end
  return nil, failure("invalid_argument", name or "value", problem)
end

--- The schema as JSON Schema (draft 2020-12), for other tools. Lengths in bytes and Lua patterns, which it does not know, are in
--- `x-min-bytes`, `x-max-bytes` and `x-lua-pattern`.
---@param schema echostream.schema
---@return table
function M.json(schema)
  if not M.is_schema(schema) then
    misuse("schema.json: wants a schema, got %s", errors.show(schema))
  end
  return schema._json()
end

-- Lists of arguments and of results ---------------------------------------------------------------------------

-- What one value of a list is called: "argument 2 (user)".
local function label(what, i, name)
  return name and ("%s %d (%s)"):format(what, i, name) or ("%s %d"):format(what, i)
end

--- A function that checks a list of values, made from `{ { name =, schema =, optional = } … }`; nil when no entry has a schema.
--- The last entry may be named "...": any number of values like it. It returns nil when all is well, else an error object.
---@param what "argument"|"result"
---@param entries table[]
---@param code string  of the errors
---@return (fun(...): echostream.error?)?
---@package
function M.checker(what, entries, code)
  local any, rest = false, nil
  for i, entry in ipairs(entries) do
    any = any or entry.schema ~= nil
    if entry.name == "..." and i == #entries then
      rest = entry
    end
  end
  if not any then
    return nil
  end
  local fixed = rest and #entries - 1 or #entries
  return function(...)
    local n = select("#", ...)
    for i = 1, math.max(fixed, rest and n or 0) do
      local entry = entries[i] and i <= fixed and entries[i] or rest
      local value = (select(i, ...)) -- nil beyond the last
      local missing = value == nil or value == core.null
      if entry.schema and not (missing and entry.optional) then
        local problem = entry.schema._check(value)
        if problem then
          return failure(code, label(what, i, entry.name), problem)
        end
      end
    end
    if not rest and n > fixed then
      return failure(code, what .. "s", { path = "", wants = fixed == 1 and "1 value" or fixed .. " values", got = tostring(n) })
    end
  end
end

return M
