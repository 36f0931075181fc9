-- RELIABILITY C1: input that is made to harm ends soon. The worst was hash flooding: Lua hashes numbers without a secret, so a
-- peer can choose keys that all fall on one place of a table; 300 KB of them kept the process busy for two seconds. Such messages
-- are refused before that, others are not.

local codec = require "echostream.codec"

local msgpack = codec.msgpack

-- An array of one map from the n keys that key(i) packs to nil.
local function map_of(n, key)
  local parts = { "\x91\xdf", (">I4"):pack(n) }
  for i = 1, n do
    parts[#parts + 1] = key(i)
    parts[#parts + 1] = "\xc0"
  end
  return table.concat(parts)
end

local function integer(i) return "\xd3" .. (">i8"):pack(i) end
local function float(x) return "\xcb" .. (">d"):pack(x) end

-- Places in a table of Lua's for n keys.
local function size_for(n)
  local size = 1
  while size < n do size = size * 2 end
  return size
end

-- CPU seconds of a decoding: the shortest of five, for what else the machine does is not meant; of thirty, while none is
-- below `goal`.
local function seconds(bytes, decode, goal)
  local least = math.huge
  for i = 1, 30 do
    if i > 5 and (not goal or least < goal) then break end
    collectgarbage()
    local began = os.clock();
    (decode or msgpack.decode)(bytes)
    least = math.min(least, os.clock() - began)
  end
  return least
end

-- The refusal comes within a millisecond, or (megabytes of keys that are honest for a long while) within the time that as many
-- bytes of honest keys take: a flood buys no more than honest messages do.
local function is_refused(bytes)
  local value, err = msgpack.decode(bytes)
  assert.is_nil(value)
  assert.equal("serialization", err.code)
  assert.matches("fall together", err.message)
  if os.getenv "ES_SANITIZED" then return end -- times mean nothing there
  local took = seconds(bytes, nil, 0.001)
  if took < 0.001 then return end
  local honest = seconds(map_of(#bytes // 10, function(i) return integer(i * 1000000007) end))
  assert.is_true(took < honest, ("it took %.6f s, and honest keys take %.6f s"):format(took, honest))
end

local function is_taken(bytes, n)
  local value, err = msgpack.decode(bytes)
  assert.is_table(value, tostring(err))
  local count = 0
  for _ in pairs(value) do count = count + 1 end
  assert.equal(n, count)
end

describe("what a peer sends to harm", function()
  it("is refused within a millisecond, however much of it there is", function()
    local n = 1 << 20
    local hostile = {
      ["MessagePack nested too deep"] = { "msgpack", ("\x91"):rep(n) },
      ["maps nested too deep"] = { "msgpack", "\x91" .. ("\x81\x01"):rep(n) },
      ["an array of 2^32 - 1"] = { "msgpack", "\x91\xdd\xff\xff\xff\xff" .. ("\1"):rep(1000) },
      ["a string of 2^32 - 1 bytes"] = { "msgpack", "\x91\xdb\xff\xff\xff\xff" .. ("x"):rep(n) },
      ["arrays that each claim all that is left"] = { "msgpack", "\x91" .. ("\xdd" .. (">I4"):pack(n - 400)):rep(60) .. ("\1"):rep(1000) },
      ["a key that comes twice"] = { "msgpack", "\x91\x82\xa1a\1\xa1a\2" },
      ["NaN as a key"] = { "msgpack", "\x91\x81\xcb\x7f\xf8\0\0\0\0\0\0\1" },
      ["an integer above 2^63 - 1"] = { "msgpack", "\x91\xcf" .. ("\xff"):rep(8) },
      ["JSON nested too deep"] = { "json", ("["):rep(n) },
      ["JSON objects nested too deep"] = { "json", "[" .. ('{"a":'):rep(n // 5) },
      ["a JSON key that comes twice"] = { "json", '[{"a":1,"a":2}]' },
      ["a JSON integer above 2^63 - 1"] = { "json", "[9223372036854775808]" },
      ["a JSON string that does not end"] = { "json", '["' .. ("x"):rep(1000) },
    }
    for what, case in pairs(hostile) do
      local decode, bytes = codec[case[1]].decode, case[2]
      local value, err = decode(bytes)
      assert.is_nil(value, what)
      assert.equal("serialization", err.code, what)
      local took = seconds(bytes, decode, 0.001)
      assert.is_true(os.getenv "ES_SANITIZED" ~= nil or took < 0.001, ("%s: %.6f s"):format(what, took))
    end
  end)
end)

describe("maps with numeric keys", function()
  it("that all fall on one place are refused, in every size of table", function()
    for _, n in ipairs { 1000, 4000, 20000, 65536 } do
      local step = (size_for(n) - 1) | 1 -- Lua 5.4.3 and later take the remainder
      is_refused(map_of(n, function(i) return integer((i + (1 << 40) // step) * step) end))
    end
  end)

  it("that fall together while the table is still growing are refused", function()
    is_refused(map_of(300000, function(i) return integer(i * 65535) end))
    is_refused(map_of(300000, function(i) return integer(i * 131071) end))
    is_refused(map_of(300000, function(i) return integer(i * 65535 * 131071) end))
  end)

  it("may not spread collisions over many maps of one message", function()
    local maps = {}
    for m = 1, 30 do
      maps[m] = map_of(250, function(i) return integer(i * 255 << 20) end):sub(2)
    end
    is_refused("\x91\xdd" .. (">I4"):pack(#maps) .. table.concat(maps))
  end)

  it("that are floats are counted too: Lua looks at the first 31 bits of their fractions only", function()
    is_refused(map_of(30000, function(i) return float(1.5 + i * 2.0 ^ -50) end))
  end)

  it("that anybody would use are taken", function()
    math.randomseed(7)
    for _, n in ipairs(os.getenv "ES_VALGRIND" and { 65, 1000 } or { 65, 1000, 70000 }) do
      local seen = {}
      is_taken(map_of(n, function()
        local k
        repeat k = math.random(math.mininteger, math.maxinteger) until not seen[k]
        seen[k] = true
        return integer(k)
      end), n)
      is_taken(map_of(n, function(i) return integer(i) end), n)
      is_taken(map_of(n, function(i) return integer(-i) end), n)
      is_taken(map_of(n, function(i) return integer(i * 4096) end), n)
      is_taken(map_of(n, function(i) return integer(i * 1000000007) end), n)
      is_taken(map_of(n, function(i) return integer(1700000000000000 + i * 1000) end), n)
      is_taken(map_of(n, function(i) return float(i / 7) end), n)
      is_taken(map_of(n, function(i) return float(1.7e9 + i * 0.5) end), n)
    end
  end)

  it("of the largest small size may collide as they like", function()
    is_taken(map_of(64, function(i) return integer(i * 63 * 2047) end), 64)
  end)
end)
