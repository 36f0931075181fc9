-- Schemas: what they take, and what they say about what they do not take.

local echo = require "echostream"
local s = require "echostream.schema"

local function problem(schema, value)
  local ok, err = s.check(schema, value)
  if ok then
    return nil
  end
  assert.equal("invalid_argument", err.code)
  return err.message
end

local function misuse(pattern, fn, ...)
  local ok, raised = pcall(fn, ...)
  assert.is_false(ok)
  assert.matches(pattern, tostring(raised))
end

describe("a schema", function()
  it("of scalars takes its kind, within its limits", function()
    assert.is_nil(problem(s.string, ""))
    assert.equal("value: wants a string, got an integer", problem(s.string, 5))
    assert.equal("value: wants a string, got nothing", problem(s.string, nil))
    assert.equal("value: wants a string, got null", problem(s.string, echo.null))
    assert.is_nil(problem(s.string { min = 2, max = 3 }, "ab"))
    assert.equal("value: wants a string of 2 to 3 bytes, got one of 4 bytes", problem(s.string { min = 2, max = 3 }, "abcd"))
    assert.equal("value: wants a string of at least 2 bytes, got one of 1 bytes", problem(s.string { min = 2 }, "a"))
    assert.equal('value: wants a string that matches ^%d+$, got "x"', problem(s.string { pattern = "^%d+$" }, "x"))
    assert.is_nil(problem(s.integer, 1))
    assert.equal("value: wants an integer, got a float", problem(s.integer, 1.0))
    assert.equal("value: wants an integer of at least 1, got 0", problem(s.integer { min = 1 }, 0))
    assert.equal("value: wants an integer of 1 to 2, got 3", problem(s.integer { min = 1, max = 2 }, 3))
    assert.is_nil(problem(s.number, 1))
    assert.is_nil(problem(s.number { max = 2 }, 1.5))
    assert.equal("value: wants a number of at most 2, got 2.5", problem(s.number { max = 2 }, 2.5))
    assert.matches("wants a number, got %-?nan", problem(s.number, 0 / 0))
    assert.is_nil(problem(s.boolean, false))
    assert.equal("value: wants a boolean, got a string", problem(s.boolean, "true"))
    assert.is_nil(problem(s.any, {}))
    assert.equal("value: wants a value, got nothing", problem(s.any, nil))
  end)

  it("of choices takes one of them", function()
    local colour = s.enum { "red", "green", 3 }
    assert.is_nil(problem(colour, "green"))
    assert.is_nil(problem(colour, 3))
    assert.equal('value: wants one of "red", "green", 3, got "blue"', problem(colour, "blue"))
    assert.equal('value: wants one of "red", "green", 3, got nothing', problem(colour, nil))
    local id = s.union { s.integer, s.string { max = 3 } }
    assert.is_nil(problem(id, 7))
    assert.is_nil(problem(id, "abc"))
    assert.equal("value: wants an integer or a string of at most 3 bytes, got a boolean", problem(id, true))
    assert.is_nil(problem(s.optional(id), nil))
    assert.is_nil(problem(s.optional(id), echo.null))
    assert.equal("value: wants a string, got an integer", problem(s.optional(s.string), 5))
  end)

  it("of tables names the field that is wrong, however deep", function()
    local user = s.object { name = s.string { max = 80 }, address = { zip = s.string { max = 10 } }, age = s.optional(s.integer) }
    assert.is_nil(problem(user, { name = "ada", address = { zip = "1" } }))
    assert.equal("value.address.zip: wants a string of at most 10 bytes, got an integer",
      problem(user, { name = "ada", address = { zip = 1 } }))
    assert.equal("value.address: wants a table, got nothing", problem(user, { name = "ada" }))
    assert.equal("value.agge: there is no such field (did you mean age?)",
      problem(user, { name = "ada", address = { zip = "1" }, agge = 4 }))
    assert.equal("value[1]: there is no such field", problem(user, { name = "ada", address = { zip = "1" }, "x" }))
    assert.is_nil(problem(s.object({ a = s.any }, { open = true }), { a = 1, b = 2 }))
    local list = s.array(user, { min = 1, max = 2 })
    assert.equal("value[2].name: wants a string of at most 80 bytes, got a boolean",
      problem(list, { { name = "a", address = { zip = "" } }, { name = true, address = { zip = "" } } }))
    assert.equal("value: wants a list of 1 to 2 items, got one of 0 items", problem(list, {}))
    assert.equal("value: wants a list, got a table with other keys", problem(s.array(s.any), { 1, x = 2 }))
    assert.equal("value: wants a list, got a string", problem(s.array(s.any), "x"))
    local map = s.map(s.string { max = 3 }, s.integer, { max = 2 })
    assert.is_nil(problem(map, { abc = 1 }))
    assert.equal("value.abc: wants an integer, got a string", problem(map, { abc = "x" }))
    assert.equal("value.abcd: wants as a key a string of at most 3 bytes, got one of 4 bytes", problem(map, { abcd = 1 }))
    assert.equal("value: wants a map of at most 2 keys, got one of 3 keys", problem(map, { a = 1, b = 2, c = 3 }))
    assert.equal('value["a\\x0ab"]: wants an integer, got a string', problem(s.map(s.string, s.integer), { ["a\nb"] = "" }))
  end)

  it("tells where and what it wants beside the sentence", function()
    local _, err = s.check(s.object { a = s.array(s.integer) }, { a = { 1, "x" } }, "settings")
    assert.equal("settings.a[2]: wants an integer, got a string", err.message)
    assert.same({ path = "settings.a[2]", wants = "an integer" }, err.details)
  end)

  it("says of a union what the nearest of them misses", function()
    local shape = s.union { s.object { circle = s.number }, s.object { square = { side = s.number } } }
    assert.equal("value.square.side: wants a number, got a string", problem(shape, { square = { side = "x" } }))
  end)

  it("becomes JSON Schema", function()
    assert.same({ type = "string", maxLength = 5, ["x-max-bytes"] = 5, ["x-min-bytes"] = 1, ["x-lua-pattern"] = "%d" },
      s.json(s.string { min = 1, max = 5, pattern = "%d" }))
    assert.same({ type = "integer", minimum = 1 }, s.json(s.integer { min = 1 }))
    assert.same({ type = "object", properties = { a = { type = "boolean" }, b = { enum = { "x" } } }, required = { "a" },
      additionalProperties = false }, s.json(s.object { a = s.boolean, b = s.optional(s.enum { "x" }) }))
    assert.same({ type = "array", items = {}, maxItems = 3 }, s.json(s.array(s.any, { max = 3 })))
    assert.equal("{}", echo.codec.json.pack(s.json(s.any)))
    assert.same({ type = "object", additionalProperties = { type = "number" }, propertyNames = { type = "string" } },
      s.json(s.map(s.string, s.number)))
    assert.same({ anyOf = { { type = "integer" }, { type = "null" } } }, s.json(s.optional(s.integer)))
    assert.same({ anyOf = { { type = "integer" }, { type = "string" } } }, s.json(s.union { s.integer, s.string }))
    assert.equal("{a, b?}", tostring(s.object { a = s.any, b = s.optional(s.any) }))
    assert.is_true(s.is_schema(s.any))
    assert.is_false(s.is_schema({}))
  end)

  it("that makes no sense is refused where it is written", function()
    misuse('schema_spec.lua:%d+: schema.string: unknown option "maks"', function() return s.string { maks = 1 } end)
    misuse("schema.string: min is 3, above max, which is 2", s.string, { min = 3, max = 2 })
    misuse("schema.string: the pattern makes no sense", s.string, { pattern = "[" })
    misuse("schema: boolean takes nothing more", s.boolean, {})
    misuse("schema.array: wants a schema, got 5", s.array, 5)
    misuse("schema.object: zip: wants a schema, got \"x\"", s.object, { zip = "x" })
    misuse("schema.object: fields have names, got 1", s.object, { s.any })
    misuse("schema.enum: there is no value", s.enum, {})
    misuse("schema.enum: wants strings, numbers and booleans", s.enum, { {} })
    misuse("schema.union: there is no schema", s.union, {})
    misuse("schema.check: wants a schema, got 1", s.check, 1, 2)
    misuse("schema.json: wants a schema, got 1", s.json, 1)
  end)
end)
