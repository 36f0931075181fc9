--- What the options of a handler say about it: its description, for the other side, and the checks that its schemas ask for.

local core = require "echostream.core"
local errors = require "echostream.errors"
local options = require "echostream.options"
local schema = require "echostream.schema"

local M = {}

local function misuse(...)
  error(string.format(...), options.users_level(2))
end

local value_fields = {
  name = { type = "string" },
  type = { type = { "string", "table" } },
  doc = { type = "string" },
  optional = { type = "boolean" },
  [1] = { type = "string" },
  [2] = { type = { "string", "table" } },
}

local function check_field(where, option, i, name, value)
  local field = value_fields[name]
  if not field then
    misuse('%s: option "%s": entry %d has an unknown field %s', where, option, i, errors.show(name))
  end
  for _, kind in ipairs(type(field.type) == "table" and field.type or { field.type }) do
    if type(value) == kind and (kind ~= "table" or schema.is_schema(value)) then
      return
    end
  end
  misuse('%s: option "%s": entry %d: %s wants %s, got %s', where, option, i, errors.show(name),
    type(field.type) == "table" and "text or a schema" or field.type, errors.show(value))
end

-- "a: a number", "a" or a sentence.
local function from_text(text)
  local name, doc = text:match "^([%a_][%w_]*)%s*:%s*(.+)$"
  if name then
    return { name = name, doc = doc }
  elseif text:find "^[%a_][%w_]*$" or text == "..." then
    return { name = text }
  end
  return { doc = text }
end

local function from_entry(where, option, i, given)
  if type(given) == "string" then
    return from_text(given)
  elseif schema.is_schema(given) then
    return { schema = given }
  elseif type(given) ~= "table" then
    misuse('%s: option "%s": entry %d wants text, a schema or { "name", schema, doc = … }, got %s', where, option, i,
      errors.show(given))
  end
  for name, value in pairs(given) do
    check_field(where, option, i, name, value)
  end
  local kind = given.type or given[2]
  return { name = given.name or given[1], doc = given.doc, optional = given.optional or nil,
    schema = schema.is_schema(kind) and kind or nil, type = type(kind) == "string" and kind or nil }
end

-- The list of what a handler takes or gives, every entry { name, type, doc, optional, schema }.
local function values_of(where, option, given)
  if type(given) == "string" or schema.is_schema(given) then
    given = { given }
  end
  local list = {}
  for key in pairs(given) do
    if math.type(key) ~= "integer" or key < 1 or key > rawlen(given) then
      misuse('%s: option "%s" wants a list, and has a field %s', where, option, errors.show(key))
    end
  end
  for i = 1, rawlen(given) do -- raw: a metatable may have something under every key, without an end
    list[i] = from_entry(where, option, i, rawget(given, i))
    if list[i].schema and list[i].schema._optional then
      list[i].optional = true
    end
  end
  return list
end

-- The same for the other side: what it can be sent.
local function public(list)
  local out = {}
  for i, entry in ipairs(list) do
    out[i] = { name = entry.name, type = entry.type or entry.schema and entry.schema.name, doc = entry.doc,
      optional = entry.optional, schema = entry.schema and schema.json(entry.schema) }
  end
  return core.array(out)
end

local function examples_of(where, given)
  if type(given) == "string" or rawget(given, "arguments") or rawget(given, "results") or rawget(given, "doc") then
    given = { given }
  end
  local list = {}
  for i = 1, rawlen(given) do
    local each = rawget(given, i)
    if type(each) == "string" then
      each = { doc = each }
    elseif type(each) ~= "table" then
      misuse('%s: option "examples": entry %d wants text or { arguments = …, results = …, doc = … }, got %s', where, i,
        errors.show(each))
    end
    local example = options.check(where .. ".examples", each, { arguments = { type = "table" }, results = { type = "table" },
      doc = { type = "string" } })
    example.arguments = example.arguments and core.array(table.move(example.arguments, 1, #example.arguments, 1, {}))
    example.results = example.results and core.array(table.move(example.results, 1, #example.results, 1, {}))
    list[i] = example
  end
  return core.array(list)
end

-- An example that the schemas would refuse helps nobody.
local function check_examples(where, examples, checks)
  for i, example in ipairs(examples) do
    for _, option in ipairs { "arguments", "results" } do
      local err = example[option] and checks[option] and checks[option](table.unpack(example[option]))
      if err then
        misuse("%s: example %d: %s", where, i, err.message)
      end
    end
  end
end

local copied = { "doc", "version", "deprecated", "max_calls", "idempotent", "secret", "priority", "stream", "concurrent", "codec" }

--- What `rpc.describe` says about a handler, and the checks that its schemas ask for. Raises on misuse.
---@param where string  for messages: "add_rpc"
---@param kind "rpc"|"event"|"stream"
---@param name string
---@param opts table   its options, checked
---@return echostream.description entry
---@return { arguments: function?, results: function? } checks
---@package
function M.entry(where, kind, name, opts)
  local entry, checks = { name = name, kind = kind, deadline = opts.timeout }, {}
  for _, field in ipairs(copied) do
    entry[field] = opts[field]
  end
  for option, code in pairs { arguments = "invalid_argument", results = "internal" } do
    if opts[option] ~= nil then
      local list = values_of(where, option, opts[option])
      entry[option] = public(list)
      checks[option] = schema.checker(option == "arguments" and "argument" or "result", list, code)
    end
  end
  if kind == "stream" and checks.arguments then
    misuse('%s: option "arguments": a stream has none that could be checked', where)
  end
  if opts.examples ~= nil then
    entry.examples = examples_of(where, opts.examples)
    check_examples(where, entry.examples, checks)
    local bytes, problem = core.codec.msgpack.pack(entry.examples)
    if not bytes then
      misuse('%s: option "examples" cannot be sent: %s', where, problem.message)
    end
  end
  return entry, checks
end

return M
