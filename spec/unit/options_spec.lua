local options = require "echostream.options"

local schema = {
  bind = { type = "string", required = true },
  timeout = { type = "seconds", default = 30 },
  size = { type = "integer", min = 1, max = 10 },
  mode = { type = "string", one_of = { "fast", "slow" } },
  either = { type = { "string", "boolean" } },
  later = { refuse = "comes with a later version" },
  inner = { type = "table", fields = { depth = { type = "integer", default = 2 } } },
}

local function check(opts)
  return options.check("f", opts, schema, 1)
end

local function message(opts)
  local ok, err = pcall(check, opts)
  assert.is_false(ok)
  return err
end

describe("options", function()
  it("get their defaults in a copy", function()
    local given = { bind = "x" }
    local got = check(given)
    assert.same({ bind = "x", timeout = 30 }, got)
    assert.same({ bind = "x" }, given)
  end)

  it("name the field, what it wants and what it got", function()
    assert.matches('f: option "timeout" wants a number of seconds, got "soon"', message { bind = "x", timeout = "soon" }, 1, true)
    assert.matches('f: option "timeout" wants a number of seconds, got %-1', message { bind = "x", timeout = -1 })
    assert.matches('f: option "size" wants an integer, got 1.5', message { bind = "x", size = 1.5 }, 1, true)
    assert.matches('f: option "size" wants at least 1, got 0', message { bind = "x", size = 0 }, 1, true)
    assert.matches('f: option "size" wants at most 10, got 11', message { bind = "x", size = 11 }, 1, true)
    assert.matches('f: option "mode" wants one of "fast", "slow", got "medium"', message { bind = "x", mode = "medium" }, 1, true)
    assert.matches('f: option "either" wants a string or a boolean, got 5', message { bind = "x", either = 5 }, 1, true)
    assert.matches('f: option "bind" is missing', message {}, 1, true)
    assert.matches("f: wants a table of options, got 5", message(5), 1, true)
  end)

  it("refuse unknown names and guess what was meant", function()
    assert.matches('f: unknown option "timout" (did you mean "timeout"?)', message { bind = "x", timout = 1 }, 1, true)
    assert.matches('f: unknown option "zzzzzz"$', message { bind = "x", zzzzzz = 1 })
    assert.matches("f: options have names, got 1", message { bind = "x", [1] = "y" }, 1, true)
  end)

  it("say why a known option cannot be given", function()
    assert.matches('f: option "later" comes with a later version', message { bind = "x", later = true }, 1, true)
  end)

  it("check tables inside", function()
    assert.equal(2, check { bind = "x", inner = {} }.inner.depth)
    assert.matches('f.inner: option "depth" wants an integer, got "deep"', message { bind = "x", inner = { depth = "deep" } }, 1, true)
  end)

  it("refuse NaN", function()
    assert.matches("wants", message { bind = "x", timeout = 0 / 0 })
  end)

  it("point at the caller", function()
    local function api(opts)
      local checked = options.check("api", opts, schema)
      return checked
    end
    local ok, err = pcall(function()
      api { bind = 5 } -- this line
    end)
    assert.is_false(ok)
    assert.matches("options_spec", err)
  end)

  it("check single arguments", function()
    options.argument("f", "x", 1, "integer")
    options.argument("f", "x", "s", { "integer", "string" })
    local ok, err = pcall(options.argument, "f", "x", {}, { "integer", "string" })
    assert.is_false(ok)
    assert.matches("f: x wants an integer or a string, got a table", err, 1, true)
  end)
end)
