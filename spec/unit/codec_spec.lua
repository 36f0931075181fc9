local codec = require "echostream.codec"

local msgpack, json, raw, null = codec.msgpack, codec.json, codec.raw, codec.null

local function unhex(text)
  return (text:gsub("%s", ""):gsub("%x%x", function(x) return string.char(tonumber(x, 16)) end))
end
local function hex(bytes)
  return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end
local function fails(pattern, ok, err)
  assert.is_nil(ok)
  assert.equal("serialization", err.code)
  assert.equal("no", err.processed)
  assert.truthy(err.message:find(pattern), err.message)
end
local function same(expected, value)
  assert.equal(math.type(expected) or type(expected), math.type(value) or type(value))
  assert.same(expected, value)
end

local slow = os.getenv "ES_VALGRIND" and 20 or 1 -- random values are fewer there

describe("MessagePack", function()
  it("writes the bytes of the protocol's examples", function()
    assert.equal("920a14", hex(msgpack.encode(10, 20)))
    assert.equal("911e", hex(msgpack.encode(30)))
    assert.equal("91a568656c6c6f", hex(msgpack.encode("hello")))
    assert.equal("90", hex(msgpack.encode()))
  end)

  it("uses the shortest form of every integer and gives it back", function()
    local forms = {
      { 0, "00" }, { 127, "7f" }, { 128, "cc80" }, { 255, "ccff" }, { 256, "cd0100" }, { 65535, "cdffff" },
      { 65536, "ce00010000" }, { 0xffffffff, "ceffffffff" }, { 0x100000000, "cf0000000100000000" },
      { math.maxinteger, "cf7fffffffffffffff" }, { -1, "ff" }, { -32, "e0" }, { -33, "d0df" }, { -128, "d080" },
      { -129, "d1ff7f" }, { -32768, "d18000" }, { -32769, "d2ffff7fff" }, { -2147483648, "d280000000" },
      { -2147483649, "d3ffffffff7fffffff" }, { math.mininteger, "d38000000000000000" },
    }
    for _, form in ipairs(forms) do
      assert.equal(form[2], hex(msgpack.pack(form[1])))
      same(form[1], (msgpack.unpack(unhex(form[2]))))
    end
  end)

  it("reads integers in longer forms than needed, but none above 2^63 - 1", function()
    same(5, (msgpack.unpack(unhex "d300 00 00 00 00 00 00 05")))
    same(5, (msgpack.unpack(unhex "cd0005")))
    same(math.maxinteger, (msgpack.unpack(unhex "cf7fffffffffffffff")))
    fails("out of range", msgpack.unpack(unhex "cf8000000000000000"))
  end)

  it("keeps floats floats", function()
    assert.equal("cb3ff8000000000000", hex(msgpack.pack(1.5)))
    for _, v in ipairs { 1.0, -0.0, 1e308, 5e-324, math.huge, -math.huge, 0.1 } do same(v, (msgpack.unpack(msgpack.pack(v)))) end
    assert.equal("-0.0", tostring((msgpack.unpack(msgpack.pack(-0.0)))))
    local nan = msgpack.unpack(msgpack.pack(0 / 0))
    assert.is_true(nan ~= nan)
    same(1.5, (msgpack.unpack(unhex "ca3fc00000"))) -- float 32
  end)

  it("treats strings as bytes, in every length form", function()
    for _, n in ipairs { 0, 1, 31, 32, 255, 256, 65535, 65536 } do
      local s = ("\0\xff"):rep(n):sub(1, n)
      local head = n < 32 and 1 or n < 256 and 2 or n < 65536 and 3 or 5
      local bytes = msgpack.pack(s)
      assert.equal(head + n, #bytes)
      assert.equal(s, (msgpack.unpack(bytes)))
    end
    assert.equal("\1\2", (msgpack.unpack(unhex "c4020102"))) -- bin 8, 16, 32
    assert.equal("\1\2", (msgpack.unpack(unhex "c500020102")))
    assert.equal("\1\2", (msgpack.unpack(unhex "c6000000020102")))
  end)

  it("keeps nils between arguments and null inside tables", function()
    local bytes = msgpack.encode(nil, 1, nil)
    assert.equal("93c001c0", hex(bytes))
    assert.equal(3, select("#", msgpack.decode(bytes)))
    assert.same({ n = 3, nil, 1, nil }, table.pack(msgpack.decode(bytes)))
    assert.same({ null, 1, null }, (msgpack.unpack(unhex "93c001c0")))
    assert.same({ a = null }, (msgpack.unpack(unhex "81a161c0")))
    assert.equal("c0", hex(msgpack.pack(null)))
    assert.is_nil((msgpack.unpack "\xc0"))
  end)

  it("makes sequences arrays and other tables maps", function()
    assert.equal("93010203", hex(msgpack.pack { 1, 2, 3 }))
    assert.equal("80", hex(msgpack.pack {}))
    assert.equal("81a16101", hex(msgpack.pack { a = 1 }))
    assert.equal("820102" .. "0304", hex(msgpack.pack { [1] = 2, [3] = 4 }))
    assert.equal(0x82, msgpack.pack({ 1, x = 2 }):byte())
    local grown = {}
    for i = 100, 1, -1 do grown[i] = i end
    assert.equal("dc0064", hex(msgpack.pack(grown):sub(1, 3)))
    assert.same(grown, (msgpack.unpack(msgpack.pack(grown))))
  end)

  it("obeys the marks where Lua is ambiguous, and hands them on", function()
    assert.equal("90", hex(msgpack.pack(codec.array {})))
    assert.equal("90", hex(msgpack.pack(codec.array())))
    assert.equal("80", hex(msgpack.pack(codec.map {})))
    assert.equal("820107" .. "0208", hex(msgpack.pack(codec.map { 7, 8 })))
    assert.equal("93c0c001", hex(msgpack.pack(codec.array { [3] = 1 })))
    assert.equal("81a16101", hex(msgpack.pack(codec.array { a = 1 }))) -- a mark cannot make it one
    assert.equal("81ce7735940001", hex(msgpack.pack(codec.array { [2000000000] = 1 })))
    for _, bytes in ipairs { "90", "80", "8101a161", "9190" } do
      assert.equal(bytes, hex(msgpack.pack((msgpack.unpack(unhex(bytes))))))
    end
    assert.has_error(function() codec.array(setmetatable({}, {})) end,
      "bad argument #1 to 'array' (the table has a metatable already, so it cannot be marked)")
    assert.equal("80", hex(msgpack.pack(codec.map(codec.array {})))) -- marks replace each other
  end)

  it("reads tables raw", function()
    local t = setmetatable({ 1 }, {
      __index = function() error "read" end, __len = function() error "len" end, __pairs = function() error "pairs" end,
      __newindex = function() error "write" end,
    })
    assert.equal("9101", hex(msgpack.pack(t)))
  end)

  it("encodes maps of every size", function()
    for _, n in ipairs { 0, 1, 15, 16, 17, 1000, 65535, 65536 } do
      local t = {}
      for i = 1, n do t["k" .. i] = { i } end
      local bytes = msgpack.pack(t)
      assert.equal(n < 16 and 0x80 + n or n < 65536 and 0xde or 0xdf, bytes:byte())
      local back, next = msgpack.unpack(bytes)
      assert.equal(#bytes + 1, next)
      local count = 0
      for k, v in pairs(back) do
        count = count + 1
        assert(v[1] == tonumber(k:sub(2)))
      end
      assert.equal(n, count)
    end
  end)

  it("takes strings, numbers and booleans as keys and refuses the rest", function()
    local t = { a = 1, [-5] = 2, [2.5] = 3, [true] = 4, [false] = 5 }
    assert.same(t, (msgpack.unpack(msgpack.pack(t))))
    fails("a table cannot be a key", msgpack.pack { [{}] = 1 })
    fails("a key that is not", msgpack.pack { [print] = 1 })
    fails("a key that is not", msgpack.pack { [null] = 1 })
  end)

  it("names the place of what it cannot send", function()
    fails("^argument 2 %.user%.tags%[3%]: a function cannot be sent$", msgpack.encode(1, { user = { tags = { 1, 2, print } } }))
    fails("^argument 1: a coroutine cannot be sent$", msgpack.encode(coroutine.create(print)))
    fails("^value: a userdata cannot be sent$", msgpack.pack(io.stdout))
    fails("^value %[\"a b%?c\"%]: a userdata", msgpack.pack { ["a b\nc"] = io.stdout })
    fails("%.k+%.%.%.: ", msgpack.pack { [("k"):rep(1000)] = print })
  end)

  it("nests 64 deep and no deeper, both ways", function()
    local function nest(depth)
      local t = 1
      for _ = 1, depth do t = { t } end
      return t
    end
    local bytes = assert(msgpack.encode(nest(64)))
    assert.same(nest(64), (msgpack.decode(bytes)))
    fails("more than 64 deep", msgpack.encode(nest(65)))
    fails("more than 64 deep", msgpack.decode("\x91" .. ("\x91"):rep(65) .. "\1"))
    assert(msgpack.unpack(("\x91"):rep(64) .. "\1"))
    fails("more than 64 deep", msgpack.unpack(("\x91"):rep(65) .. "\1"))
    fails("more than 64 deep", msgpack.unpack(("\x81\1"):rep(65) .. "\1"))
    local cycle = {}
    cycle.cycle = cycle
    fails("contain themselves", msgpack.encode(cycle))
  end)

  it("carries 250 values and no more, both ways", function()
    local values = {}
    for i = 1, 251 do values[i] = i end
    local bytes = assert(msgpack.encode(table.unpack(values, 1, 250)))
    assert.equal(250, select("#", msgpack.decode(bytes)))
    fails("251 values", msgpack.encode(table.unpack(values)))
    fails("more than 250", msgpack.decode(msgpack.pack(values)))
  end)

  it("refuses keys that come twice, NaN and nil as keys", function()
    fails("comes twice", msgpack.unpack(unhex "82a16101a16102"))
    fails("comes twice", msgpack.unpack(unhex "82a161c0a161c0"))
    fails("comes twice", msgpack.unpack(unhex "820101cb3ff000000000000002")) -- 1 and 1.0 are one key in Lua
    fails("NaN", msgpack.unpack(unhex "81cb7ff800000000000001"))
    fails("not a string", msgpack.unpack(unhex "81c001"))
    fails("not a string", msgpack.unpack(unhex "819001"))
  end)

  it("refuses extension types and the unused tag", function()
    for _, tag in ipairs { "c7", "c8", "c9", "d4", "d5", "d6", "d7", "d8" } do
      fails("extension", msgpack.unpack(unhex(tag) .. ("\0"):rep(32)))
    end
    fails("never used", msgpack.unpack "\xc1")
  end)

  it("believes no length that the data cannot keep, and allocates nothing for it", function()
    local lies = {
      "dd ffffffff", "dc ffff", "df ffffffff", "de ffff", "db ffffffff", "c6 ffffffff", "9f", "8f", "bf", "d9 05 61",
      -- outer containers promise elements that the inner ones would need too
      "dc 0004 dc 0003 01 01 01", "82 01 dd 00000004 01 01 01 01",
    }
    for _, lie in ipairs(lies) do
      collectgarbage()
      collectgarbage "stop"
      local before = collectgarbage "count"
      fails("data", msgpack.unpack(unhex(lie)))
      assert.is_true(collectgarbage "count" - before < 16)
      collectgarbage "restart"
    end
    -- 64 levels, each claiming all that is left: the sum is checked, not only each
    local n = 1 << 20
    local bomb = (("\xdd" .. string.pack(">I4", n - 400)):rep(60)) .. ("\1"):rep(n)
    collectgarbage()
    local before = collectgarbage "count"
    fails("more elements", msgpack.unpack(bomb))
    assert.is_true(collectgarbage "count" - before < 40 * 1024)
  end)

  it("refuses every prefix of a message and bytes behind it", function()
    local values = { 1, -200, 70000, 2.5, "text", ("x"):rep(300), true, { 1, { a = null, b = {} } }, codec.map { 1, 2 } }
    local bytes = msgpack.encode(table.unpack(values))
    for cut = 0, #bytes - 1 do fails("", msgpack.decode(bytes:sub(1, cut))) end
    fails("bytes follow", msgpack.decode(bytes .. "\0"))
    assert.same(values, { msgpack.decode(bytes) })
    fails("expected", msgpack.decode "\1")
    fails("no data", msgpack.decode "")
  end)

  it("reads one value after another", function()
    local bytes = msgpack.pack(1) .. msgpack.pack "two" .. msgpack.pack { 3 }
    local a, at = msgpack.unpack(bytes)
    local b, at2 = msgpack.unpack(bytes, at)
    local c, at3 = msgpack.unpack(bytes, at2)
    assert.same({ 1, "two", { 3 } }, { a, b, c })
    assert.equal(#bytes + 1, at3)
    fails("end inside", msgpack.unpack(bytes, at3))
    assert.has_error(function() msgpack.unpack(bytes, at3 + 1) end)
    assert.has_error(function() msgpack.unpack(bytes, 0) end)
    assert.equal("two", (msgpack.decode("xx\x91" .. msgpack.pack "two", 3)))
  end)

  it("agrees with itself on random values", function()
    math.randomseed(7)
    local function value(depth)
      local kind = math.random(depth > 4 and 6 or 8)
      if kind == 1 then return math.random(0) end
      if kind == 2 then return math.random(-300, 300) end
      if kind == 3 then return math.random() * 10 ^ math.random(-300, 300) end
      if kind == 4 then return string.rep(string.char(math.random(0, 255)), math.random(0, 70)) end
      if kind == 5 then return math.random(2) == 1 end
      if kind == 6 then return null end
      local t = {}
      for i = 1, math.random(0, 20) do t[kind == 7 and i or "k" .. i] = value(depth + 1) end
      return t
    end
    for _ = 1, 2000 // slow do
      local v = value(0)
      local back = msgpack.unpack(assert(msgpack.pack(v)))
      if v ~= null then same(v, back) end
    end
  end)

  it("survives random bytes", function()
    math.randomseed(11)
    for _ = 1, 20000 // slow do
      local n = math.random(1, 24)
      local bytes = {}
      for i = 1, n do bytes[i] = string.char(math.random(0, 255)) end
      local data = table.concat(bytes)
      local ok, second = msgpack.unpack(data)
      if ok == nil and type(second) == "table" then assert.equal("serialization", second.code) end
      msgpack.decode(data)
      json.decode(data)
    end
  end)

  it("gives its memory back", function()
    for _ = 1, 50 do
      msgpack.pack(("x"):rep(200000))
      msgpack.pack { print }
      msgpack.unpack(unhex "82a16101a16102")
    end
    collectgarbage()
    collectgarbage()
    local before = collectgarbage "count"
    for _ = 1, 2000 do
      msgpack.pack(("x"):rep(2000))
      msgpack.pack { { { print } } }
      msgpack.unpack(unhex "82a16101a16102")
      json.decode '[{"a":[1,2,{"b":null}]}]'
      json.decode '[{"a":[1,2,{"b":null}'
    end
    collectgarbage()
    collectgarbage()
    assert.is_true(collectgarbage "count" - before < 32)
  end)
end)

describe("JSON", function()
  it("writes arguments as an array and gives them back", function()
    assert.equal('[1,"two",null,true,[3],{"a":null}]', json.encode(1, "two", nil, true, { 3 }, { a = null }))
    assert.same({ n = 6, 1, "two", nil, true, { 3 }, { a = null } },
      table.pack(json.decode '[1,"two",null,true,[3],{"a":null}]'))
    assert.equal("[]", json.encode())
    assert.equal(0, select("#", json.decode "[]"))
  end)

  it("keeps integers exact and floats floats", function()
    for _, v in ipairs { 0, 10, -1, math.maxinteger, math.mininteger, (1 << 53) + 1, 10.0, 0.1, 1e300, 5e-324, -0.0, 1 / 3 } do
      same(v, (json.unpack(json.pack(v))))
    end
    assert.equal("10.0", json.pack(10.0))
    assert.equal("0.1", json.pack(0.1))
    fails("too big integer", json.unpack "9223372036854775808")
    fails("overflow", json.unpack "1e999")
    for _, v in ipairs { 0 / 0, math.huge, -math.huge } do fails("NaN and infinity", json.pack(v)) end
  end)

  it("escapes what must be escaped and nothing else", function()
    assert.equal([["\"\\\b\f\n\r\t\u0000\u001f/é€𝄞"]], json.pack "\"\\\b\f\n\r\t\0\31/é€𝄞")
    assert.equal("\"\\\b\f\n\r\t\0\31/é€𝄞", (json.unpack(json.pack "\"\\\b\f\n\r\t\0\31/é€𝄞")))
    assert.equal("𝄞", (json.unpack [["\ud834\udd1e"]]))
  end)

  it("refuses strings that are not UTF-8, both ways", function()
    local bad = { "\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\xf5",
      "\xe2\x82", "\xff", "a\xc3" }
    for _, s in ipairs(bad) do
      fails("not UTF%-8", json.pack(s))
      fails("", json.unpack('"' .. s .. '"'))
    end
    fails("%.k: a string that is not UTF%-8", json.pack { k = "\xff" })
    for _, s in ipairs { "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf" } do
      assert.equal(s, (json.unpack(assert(json.pack(s)))))
    end
  end)

  it("refuses keys that are not strings or come twice", function()
    fails("key that is not a string", json.pack { [1] = 1, [3] = 1 })
    fails("key that is not a string", json.encode(codec.map { 1 }))
    fails("duplicate", json.unpack '{"a":1,"a":2}')
  end)

  it("keeps empty arrays and objects apart", function()
    for _, text in ipairs { "[]", "{}", '{"a":[]}' } do assert.equal(text, json.pack((json.unpack(text)))) end
    assert.equal("[]", json.pack(codec.array()))
  end)

  it("nests 64 deep and no deeper, carries 250 values and no more", function()
    local deep = ("["):rep(64) .. ("]"):rep(64)
    assert.equal(deep, json.pack((json.unpack(deep))))
    fails("64 deep", json.unpack("[" .. deep .. "]"))
    fails("", json.unpack(("["):rep(100000)))
    assert.equal(250, select("#", json.decode("[" .. ("1,"):rep(249) .. "1]")))
    fails("more than 250", json.decode("[" .. ("1,"):rep(250) .. "1]"))
    local t = {}
    t[1] = t
    fails("contain themselves", json.pack(t))
  end)

  it("refuses every prefix and bytes behind", function()
    local text = '[1,-2.5,"t\\u0041",{"a":[null,true,false]}]'
    for cut = 0, #text - 1 do fails("", json.decode(text:sub(1, cut))) end
    assert(json.decode(text .. " \n"))
    fails("", json.decode(text .. "x"))
    fails("array of values", json.decode '{"a":1}')
  end)

  it("reads one value after another", function()
    local text = '1 "two" [3]'
    local a, at = json.unpack(text)
    local b, at2 = json.unpack(text, at)
    local c, at3 = json.unpack(text, at2)
    assert.same({ 1, "two", { 3 } }, { a, b, c })
    assert.equal(#text + 1, at3)
  end)

  it("names the place of what it cannot send", function()
    fails("^argument 2 %.a%[1%]: a function cannot be sent$", json.encode(1, { a = { print } }))
  end)

  it("does not depend on the locale", function()
    local before = os.setlocale(nil, "numeric")
    for _, name in ipairs { "de_DE.UTF-8", "de_DE", "fr_FR.UTF-8" } do
      if os.setlocale(name, "numeric") then break end
    end
    local text, back = json.pack(1.5), json.unpack "[2.5]"
    os.setlocale(before, "numeric")
    assert.equal("1.5", text)
    assert.same({ 2.5 }, back)
  end)
end)

describe("the raw codec", function()
  it("carries one string as it is", function()
    assert.equal("\0\xff", raw.encode "\0\xff")
    assert.equal("\0\xff", raw.decode "\0\xff")
    assert.equal("", (raw.unpack(raw.pack "")))
    fails("carries a string, not a number", raw.encode(1))
    fails("exactly one string, not 2 values", raw.encode("a", "b"))
    fails("exactly one string, not 0 values", raw.encode())
  end)
end)

describe("codecs of users", function()
  local function join(...) return table.concat({ ... }, ",") end
  local function split(bytes)
    local values = {}
    for word in bytes:gmatch "[^,]+" do values[#values + 1] = word end
    return table.unpack(values)
  end

  it("are registered under a name", function()
    local made = codec.register("unit.join", { encode = join, decode = split })
    assert.equal(made, codec.find "unit.join")
    assert.equal("unit.join", made.name)
    assert.is_true(made.id >= 16)
    assert.equal("a,b", made.encode("a", "b"))
    assert.same({ "a", "b" }, { made.decode "a,b" })
    assert.equal("a", made.pack "a")
    assert.same({ "a", 4 }, { made.unpack "a,b" })
    assert.equal("unit.join", codec.names[#codec.names])
  end)

  it("are replaced only when that is said", function()
    local functions = { encode = function() return "new" end, decode = split }
    assert.has_error(function() codec.register("unit.join", functions) end)
    local id = codec.find("unit.join").id
    local made = codec.register("unit.join", functions, { replace = true })
    assert.equal(id, made.id)
    assert.equal("new", made.encode(1))
    assert.equal("new", codec.find("unit.join").encode(1))
    for _, name in ipairs { "json", "msgpack", "raw" } do
      assert.has_error(function() codec.register(name, functions, { replace = true }) end)
    end
  end)

  it("refuse names and functions that are none", function()
    for _, name in ipairs { "", "a b", ("x"):rep(64), "\0" } do
      assert.has_error(function() codec.register(name, { encode = join, decode = split }) end)
    end
    assert.has_error(function() codec.register(1, { encode = join, decode = split }) end)
    assert.has_error(function() codec.register("unit.half", { encode = join }) end)
    assert.has_error(function() codec.register("unit.half", { encode = join, decode = 1 }) end)
    assert.is_nil(codec.find "unit.half")
  end)

  it("fail with serialization whatever their functions do", function()
    local bad
    local made = codec.register("unit.bad", { encode = function(...) return bad(...) end, decode = function(...) return bad(...) end })
    for _, case in ipairs {
      { function() error "no reason" end, "codec unit.bad: no reason" },
      { function() error { } end, "an error that is a table" },
      { function() error() end, "codec unit.bad: an error that is a nil" },
      { function() error(codec.msgpack) end, "an error that is a table" },
      { function() error(setmetatable({}, { __tostring = error })) end, "an error that is a table" },
      { function() return nil, (select(2, msgpack.encode(print))) end, "a function cannot be sent" },
      { function() coroutine.yield() end, "yield" },
    } do
      bad = case[1]
      fails(case[2], made.encode(1))
      fails(case[2], made.decode "x")
    end
    bad = function() return 1 end
    fails("gave a number instead of a string", made.encode(1))
    bad = function() end
    fails("gave a nil instead of a string", made.encode(1))
    bad = function() return table.unpack({}, 1, 251) end
    fails("more than 250 values", made.decode "x")
  end)

  it("may use other codecs, and themselves", function()
    local made
    made = codec.register("unit.nested", {
      encode = function(depth) return msgpack.pack(depth > 0 and made.encode(depth - 1) or ("x"):rep(5000)) end,
      decode = function(bytes) return (msgpack.unpack(bytes)) end,
    })
    local bytes = assert(made.encode(20))
    for _ = 1, 20 do bytes = made.decode(bytes) end
    assert.equal(("x"):rep(5000), made.decode(bytes))
  end)
end)

describe("MessagePack's extension types", function()
  local mt = { __name = "unit" }

  it("are packed and unpacked by functions, in every length", function()
    codec.extend(3, { metatable = mt, pack = function(v) return v.bytes end,
      unpack = function(bytes) return setmetatable({ bytes = bytes }, mt) end })
    for _, n in ipairs { 0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 255, 256, 65535, 65536 } do
      local value = setmetatable({ bytes = ("z"):rep(n) }, mt)
      local bytes = msgpack.pack { value, 7 }
      local back = msgpack.unpack(bytes)
      assert.equal(mt, getmetatable(back[1]))
      assert.equal(n, #back[1].bytes)
      assert.equal(7, back[2])
      if n < 300 then
        for cut = 0, #bytes - 1 do fails("", msgpack.unpack(bytes:sub(1, cut))) end
      end
    end
    assert.equal("\xd4\x03z", msgpack.pack(setmetatable({ bytes = "z" }, mt)))
    assert.equal("\xc7\x03\x03zzz", msgpack.pack(setmetatable({ bytes = "zzz" }, mt)))
  end)

  it("recognise userdata too", function()
    local file = io.tmpfile()
    fails("userdata", msgpack.pack(file))
    codec.extend(4, { metatable = getmetatable(file), pack = function() return "f" end, unpack = function() return "a file" end })
    assert.equal("a file", (msgpack.unpack(msgpack.pack(file))))
    file:close()
  end)

  it("are refused with their number when unknown", function()
    fails("extension type 99 is not known here", msgpack.unpack "\xd4\x63x")
    fails("extension type %-2 is not known here", msgpack.unpack "\xd4\xfex")
  end)

  it("fail with serialization when their functions do", function()
    local broken = {}
    codec.extend(5, { name = "broken", metatable = broken, pack = function() error "no" end, unpack = function() error "never" end })
    fails("argument 1 %.a%[1%]: extension type 5: broken: no", msgpack.encode { a = { setmetatable({}, broken) } })
    fails("extension type 5: broken: never", msgpack.decode "\x91\xd4\x05x")
    codec.extend(5, { metatable = broken, pack = function() return 1 end, unpack = function() end })
    fails("pack gave a number instead of a string", msgpack.pack(setmetatable({}, broken)))
  end)

  it("belong to one metatable each", function()
    assert.has_error(function() codec.extend(6, { metatable = mt, pack = print, unpack = print }) end)
    for _, number in ipairs { -1, 128, 1.5, "1" } do
      assert.has_error(function() codec.extend(number, { metatable = {}, pack = print, unpack = print }) end)
    end
    assert.has_error(function() codec.extend(6, { pack = print, unpack = print }) end)
    assert.has_error(function() codec.extend(6, { metatable = {}, pack = print, unpack = print, extra = 1 }) end)
  end)
end)

describe("timestamps", function()
  it("may stand where no table may any more, both ways", function()
    local bytes = ("\x91"):rep(64) .. unhex "d6ff01020304"
    assert.equal(hex(bytes), hex(assert(msgpack.pack((msgpack.unpack(bytes))))))
    fails("more than 64 deep", msgpack.unpack("\x91" .. bytes))
  end)

  local stamp = codec.timestamp

  it("go there and back in the shortest form", function()
    for _, case in ipairs {
      { stamp(0), 6 }, { stamp(0xffffffff), 6 }, { stamp(0x100000000), 10 }, { stamp(1, 1), 10 }, { stamp(2 ^ 34 - 1 | 0, 999999999), 10 },
      { stamp(2 ^ 34 | 0), 15 }, { stamp(-1), 15 }, { stamp(-1, 999999999), 15 }, { stamp(math.maxinteger), 15 }, { stamp(math.mininteger, 5), 15 },
    } do
      local bytes = msgpack.pack(case[1])
      assert.equal(case[2], #bytes)
      local back = msgpack.unpack(bytes)
      assert.equal(case[1], back)
      assert.equal(getmetatable(case[1]), getmetatable(back))
    end
    assert.equal("\xd6\xff\x00\x00\x00\x07", msgpack.pack(stamp(7)))
  end)

  it("are made of numbers, compared and printed", function()
    assert.same({ 1, 500000000 }, { stamp(1.5).seconds, stamp(1.5).nanoseconds })
    assert.same({ -2, 750000000 }, { stamp(-1.25).seconds, stamp(-1.25).nanoseconds })
    assert.equal("-1.250000000", tostring(stamp(-1.25)))
    assert.equal("-0.250000000", tostring(stamp(-0.25)))
    assert.equal("3.000000007", tostring(stamp(3, 7)))
    assert.equal(-1.25, stamp(-1.25):number())
    assert.is_true(stamp(1) < stamp(1, 1) and stamp(1, 1) <= stamp(1, 1) and stamp(2) > stamp(1, 999999999))
    assert.is_true(stamp(1) ~= stamp(2))
  end)

  it("refuse what is no time", function()
    for _, args in ipairs { { "x" }, { 1, -1 }, { 1, 1000000000 }, { 1.5, 1 }, { 1 / 0 }, { 0 / 0 }, { 1, 1.5 } } do
      assert.has_error(function() stamp(table.unpack(args)) end)
    end
    fails("whole seconds", msgpack.pack(setmetatable({}, getmetatable(stamp(0)))))
    fails("4, 8 or 12 bytes", msgpack.unpack "\xd4\xffx")
    fails("a second or more", msgpack.unpack("\xd7\xff" .. ("\xff"):rep(8)))
  end)
end)

describe("codecs", function()
  it("are found by name", function()
    assert.equal(msgpack, codec.find "msgpack")
    assert.equal(json, codec.find "json")
    assert.equal(raw, codec.find "raw")
    assert.is_nil(codec.find "xml")
  end)
end)
