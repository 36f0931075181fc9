local core = require "echostream.core"
local echo = require "echostream"
local net = require "spec.support.net"
local pretty = require "echostream.pretty"
local view = require "echostream.view"

describe("pretty.format", function()
  local function shows(text, value, opts) assert.equal(text, pretty.format(value, opts)) end

  it("tells integers from floats, and loses no digit", function()
    shows("1", 1)
    shows("1.0", 1.0)
    shows("-0.0", -0.0)
    shows("0.1", 0.1)
    shows("1e+300", 1e300)
    shows("-9223372036854775808", math.mininteger)
    shows("inf", math.huge)
    shows("-inf", -math.huge)
    shows("nan", 0 / 0)
    for _, value in ipairs { 1 / 3, 2 ^ 63, 1e-320, math.pi } do
      assert.equal(value, tonumber(pretty.format(value)))
    end
  end)

  it("shows nil, booleans, null, functions", function()
    shows("nil", nil)
    shows("true", true)
    shows("null", echo.null)
    shows("function (C)", print)
    local line = debug.getinfo(1, "l").currentline + 1
    local function mine() end
    assert.matches("^function %(.*pretty_spec.lua:" .. line .. "%)$", pretty.format(mine))
  end)

  it("escapes what could do something to a terminal, and nothing else", function()
    shows('"é 日本 ✓ 🙂"', "é 日本 ✓ 🙂")
    shows([["a\n\t\r\"\\"]], "a\n\t\r\"\\")
    shows([["\x1b[2J\x00\x7f"]], "\27[2J\0\127")
    shows([["\xff\xc3("]], "\xff\xc3(")
    shows([["\u{202e}\u{200b}\u{9b}"]], "\u{202e}\u{200b}\u{9b}")
    shows([["\xed\xa0\x80"]], "\xed\xa0\x80") -- a surrogate
    for byte = 0, 255 do
      assert.is_nil(pretty.format { [string.char(byte)] = string.char(byte) }:find("[%c]"))
    end
  end)

  it("leaves the colours that it paints with, when told to, and nothing else that moves a terminal", function()
    local painted = pretty.paint("one", "string") .. "\n" .. pretty.paint("two", "dim")
    assert.equal(painted, pretty.safe_painted(painted))
    assert.equal("a\\x1b[2Jb\\x1b[31;1m\\x1b[8m\n\\x07\\u{9b}31m", pretty.safe_painted "a\27[2Jb\27[31;1m\27[8m\n\7\u{9b}31m")
    assert.equal("\27[31mred\27[0m", pretty.safe_painted "\27[31mred") -- what is on ends with the text
    assert.equal("", pretty.safe_painted "")
    for _ = 1, 200 do
      local bytes = core.random(60) .. "\27[3" .. core.random(40)
      assert.is_nil((pretty.safe_painted(bytes):gsub("\27%[%d%d?m", ""):find "[\0-\8\11-\31\127]"))
    end
  end)

  it("cuts long strings at a character and says how long they are", function()
    shows('"aaaa"… (10 bytes)', ("a"):rep(10), { string = 4 })
    shows('"é"… (20 bytes)', ("é"):rep(10), { string = 3 })
  end)

  it("sorts keys: the sequence, numbers, names, the rest", function()
    shows('{ 1, 2, [10] = "x", a = 1, b = 2, ["c d"] = 3, ["end"] = 4, [true] = 5 }',
      { 1, 2, b = 2, a = 1, [10] = "x", [true] = 5, ["c d"] = 3, ["end"] = 4 })
    shows("{}", {})
  end)

  it("puts what does not fit on a line on several", function()
    shows("{\n  first = { 1, 2, 3 },\n  second = { 4, 5 }\n}", { first = { 1, 2, 3 }, second = { 4, 5 } }, { width = 30 })
    shows("{ first = { 1, 2, 3 }, second = { 4, 5 } }", { first = { 1, 2, 3 }, second = { 4, 5 } })
  end)

  it("bounds depth, entries and everything together", function()
    shows("{ a = { b = {…} } }", { a = { b = { c = {} } } }, { depth = 2 })
    shows("{ 1, 2, … 8 more }", { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, { items = 2 })
    local wide = {}
    for i = 1, 200 do
      wide[i] = {}
      for j = 1, 200 do wide[i][j] = { j } end
    end
    assert.is_true(#pretty.format(wide) < 40000)
    assert.is_true(#pretty.format(wide, { nodes = 10 }) < 200)
    local huge = {}
    for i = 1, 20000 do huge["k" .. i] = i end
    assert.matches("… 19900 more", pretty.format(huge))
    local deep = {}
    local inner = deep
    for _ = 1, 100000 do
      inner.x = {}
      inner = inner.x
    end
    shows("{ x = {…} }", deep, { depth = 1 })
  end)

  it("bears cycles, and shows a table that occurs twice twice", function()
    local cycle = { 1 }
    cycle.me = cycle
    shows("{ 1, me = <cycle> }", cycle)
    local twice = { 7 }
    shows("{ { 7 }, { 7 } }", { twice, twice })
  end)

  it("says array and map where Lua's braces do not", function()
    shows("array {}", echo.array {})
    shows("{ 1 }", echo.array { 1 })
    shows("map {}", echo.map {})
    shows("map { 1 }", echo.map { 1 })
    shows("{ a = 1 }", echo.map { a = 1 })
  end)

  it("shows error objects as their sentence and what else they know", function()
    shows("not_found: no such user", echo.error("not_found", "no such user"))
    shows("not_found: no such user { details = { id = 7 } }", echo.error("not_found", "no such user", { id = 7 }))
    shows("{ e = busy: later }", { e = echo.error("busy", "later") })
    shows([[busy: \x1b[0m]], echo.error("busy", "\27[0m"))
  end)

  it("runs no metamethod but __tostring, and bears one that raises or lies", function()
    local trap = setmetatable({ a = 1 }, {
      __index = function() error "index" end, __len = function() error "len" end,
      __pairs = function() error "pairs" end, __eq = function() error "eq" end,
    })
    shows("{ a = 1 }", trap)
    shows("hello\\x1b", setmetatable({}, { __tostring = function() return "hello\27" end }))
    shows("table", setmetatable({}, { __tostring = function() error "no" end }))
    shows("table", setmetatable({}, { __tostring = function() return {} end }))
    shows("Point { x = 1 }", setmetatable({ x = 1 }, { __name = "Point" }))
  end)

  it("paints only when asked", function()
    local value = { "text", 1, true, print, a = { b = {} }, e = echo.error("busy", "x") }
    assert.is_nil(pretty.format(value):find "\27")
    local painted = pretty.format(value, { colour = true })
    assert.matches("\27%[32m\"text\"\27%[0m", painted)
    assert.equal(pretty.format(value), (painted:gsub("\27%[%d*m", "")))
    assert.equal("x", pretty.paint("x", "string", false))
    assert.equal("\27[31mx\27[0m", pretty.paint("x", "fault"))
  end)

  it("makes one short line for tables of a terminal", function()
    assert.equal("{ a = { 1, 2 } }", pretty.line { a = { 1, 2 } })
    assert.equal("{ 1, 2, …", pretty.line({ 1, 2, 3, 4, 5, 6, 7 }, 11))
    assert.is_true(#pretty.line(("x"):rep(1000), 50) <= 50)
    assert.equal("a b", pretty.line(setmetatable({}, { __tostring = function() return "a\nb" end })))
  end)

  it("makes any text harmless, with its lines or in one", function()
    assert.equal("a\\nb\\x1b", pretty.safe("a\nb\27"))
    assert.equal("a\nb\\x1b", pretty.safe("a\nb\27", true))
    assert.is_true(pretty.is_name "abc_1")
    assert.is_false(pretty.is_name "end")
  end)

  it("refuses options that make no sense", function()
    assert.error_matches(function() pretty.format({}, { dept = 1 }) end, 'did you mean "depth"')
    assert.error_matches(function() pretty.line({}, "x") end, "max wants")
  end)
end)

describe("the tables that users look at", function()
  it("print what is in them, and inside others too", function()
    assert.equal("{ a = 1 }", tostring(view.of { a = 1 }))
    assert.equal("{ inner = { a = 1 } }", pretty.format { inner = view.of { a = 1 } })
  end)

  net.each(function(env)
    env.it("print what is in them", function()
      local server, client = env.pair(function(server)
        server:add_rpc("add", function(_, a, b) return a + b end)
      end)
      assert.matches("packets_sent = %d", tostring(client:stats()))
      assert.equal("{ { 3, n = 1, ok = true }, failed = 0, n = 1 }", tostring(client:batch { { "add", 1, 2 } }))
      assert.matches("sessions = {", tostring(server:metrics()))
      assert.matches("calls_in", tostring(server:stats()))
      assert.matches("^{ echostream.session %d+", tostring(server:sessions()))
      local codec = echo.codec.msgpack
      assert.same({ open = 1, total = 1 }, codec.decode(codec.encode(server:metrics())).sessions)
    end)
  end)
end)
