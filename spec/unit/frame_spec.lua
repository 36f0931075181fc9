local codec = require "echostream.codec"
local frame = require "echostream.frame"

local msgpack = codec.msgpack

local function hex(bytes)
  return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end
local function unhex(text)
  return (text:gsub("%s", ""):gsub("%x%x", function(x) return string.char(tonumber(x, 16)) end))
end
local function fails(code, pattern, ok, err)
  assert.falsy(ok)
  assert.equal(code, err.code)
  assert.truthy(err.message:find(pattern), err.message)
end

local instance = unhex "000102030405060708090a0b0c0d0e0f"

-- The examples of docs/PROTOCOL.md: what is encoded, its bytes, what decoding adds to it.
local golden = {
  {
    { type = "hello", instance = instance, max_message = 4194304, max_calls = 100 },
    "001e000000000102030405060708090a0b0c0d0e0f02010480400000030240 64",
    { min_minor = 0, max_minor = 0, caps = 0 },
  },
  {
    {
      type = "request", idempotent = true, request_id = 1, method = "math.add", deadline_ms = 30000,
      payload = msgpack.encode(10, 20),
    },
    "02150401 01086d6174682e616464 80007530 0300 920a14",
    { priority = 3, codec = "msgpack", metadata = {} },
  },
  { { type = "response", payload = msgpack.encode(30) }, "040600010000911e", { codec = "msgpack", status = 0, trailers = {} } },
  {
    { type = "response", code = "method_not_found", message = "no method math.sub" },
    "042a00010c00106d6574686f645f6e6f745f666f756e64126e6f206d6574686f64206d6174682e7375620000",
    { codec = "msgpack", status = 12, trailers = {}, processed = "no", retry_after_ms = 0, details = "" },
  },
  {
    { type = "event", name = "log", payload = msgpack.encode "hello" },
    "0c0f000100036c6f670091a568656c6c6f",
    { codec = "msgpack", seq = 0, metadata = {} },
  },
  { { type = "cancel", request_id = 1 }, "0a020110", { code = 0x10 } },
}

-- One frame of every type with everything in it.
local full = {
  {
    type = "hello", min_minor = 1, max_minor = 2, caps = 31, instance = instance, max_message = 1, max_metadata = 2, max_calls = 3,
    max_named_streams = 4, agent = "lua", credentials = { token = "secret", a = "" },
  },
  {
    type = "request", more = true, stream = true, idempotent = true, retry = true, request_id = (1 << 62) - 1, method = "a/b:c_d-e.F9",
    deadline_ms = 1, priority = 0, metadata = { ["es-accept"] = "1.0" }, codec = "raw", payload = "\0\1",
  },
  { type = "response", idempotent = true, codec = "json", status = 0, trailers = { k = "v" }, payload = "[1]" },
  {
    type = "response", codec = 77, status = 8, trailers = {}, code = "slow_down", message = "later", processed = "maybe",
    retry_after_ms = 250, details = "d",
  },
  { type = "head", metadata = { ["es-version"] = "1.2" } },
  { type = "data", codec = "raw", seq = 9, wall_time_us = 1700000000000000, payload = "bytes" },
  { type = "data", codec = "msgpack", payload = "" },
  { type = "cancel", request_id = 5, code = 0x12 },
  { type = "event", name = "log", seq = 3, wall_time_us = 4, metadata = { a = "b" }, codec = "msgpack", payload = "\x90" },
  { type = "goaway", grace_ms = 10000, retry_after_ms = 500, reason = "restart" },
  { type = "ping", t1 = 1 },
  { type = "pong", t1 = 1, t2 = 2, t3 = 3 },
}

describe("frames", function()
  it("have the bytes of the protocol's examples", function()
    for _, case in ipairs(golden) do
      local bytes = assert(frame.encode(case[1]))
      assert.equal((case[2]:gsub(" ", "")), hex(bytes))
      local back, next = frame.decode(bytes)
      local expected = {}
      for k, v in pairs(case[1]) do expected[k] = v end
      for k, v in pairs(case[3]) do expected[k] = v end
      assert.same(expected, back)
      assert.equal(#bytes + 1, next)
    end
  end)

  it("of every type come back as they were", function()
    for _, f in ipairs(full) do
      local back = assert(frame.decode(assert(frame.encode(f))))
      assert.same(f, back)
    end
  end)

  it("are told apart from half of one", function()
    for _, f in ipairs(full) do
      local bytes = frame.encode(f)
      for cut = 0, #bytes - 1 do
        local ok, again = frame.decode(bytes:sub(1, cut))
        assert.is_nil(ok)
        assert.equal("again", again)
      end
    end
  end)

  it("are read from any position", function()
    local bytes = frame.encode(full[8]) .. frame.encode(full[11])
    local first, at = frame.decode(bytes)
    local second, at2 = frame.decode(bytes, at)
    assert.equal("cancel", first.type)
    assert.equal("ping", second.type)
    assert.equal(#bytes + 1, at2)
    assert.same({ nil, "again" }, { frame.decode(bytes, at2) })
    assert.has_error(function() frame.decode(bytes, at2 + 1) end)
  end)

  it("are refused with the reason when the body is malformed", function()
    fails("protocol", "cancel: ", frame.decode(unhex "0a0101"))
    fails("protocol", "request: ", frame.decode(unhex "0200"))
    fails("protocol", "hello: ", frame.decode(unhex "0001ff"))
    fails("protocol", "unknown frame type", frame.decode(unhex "2000"))
    local cancel = frame.decode(unhex "2102 ffff 0a020110") -- odd: skipped
    assert.equal("cancel", cancel.type)
  end)

  it("are not made of fields that the wire does not have", function()
    assert.has_error(function() frame.encode { type = "cancel", request = 1 } end, "unknown option 'request'")
    assert.has_error(function() frame.encode { type = "cancle" } end, "type: there is no frame type 'cancle'")
    assert.has_error(function() frame.encode {} end, "type: expected the name of a frame type, got nil")
    assert.has_error(function() frame.encode { type = "cancel", request_id = "1" } end, "request_id: expected an integer, got string")
    assert.has_error(function() frame.encode { type = "data", payload = 1 } end, "payload: expected a string, got number")
    assert.has_error(function() frame.encode { type = "data", codec = "xml" } end,
      "codec: expected raw, msgpack, json or a number, got 'xml'")
    assert.has_error(function() frame.encode { type = "hello", instance = "short" } end, "instance: expected 16 bytes")
    assert.has_error(function() frame.encode { type = "head", metadata = { a = 1 } } end,
      "metadata: expected strings as keys and values, got string = number")
    assert.has_error(function() frame.encode { type = "head", metadata = { A = "" } } end)
    fails("invalid_argument", "request", frame.encode { type = "request", method = "two words" })
    fails("invalid_argument", "request", frame.encode { type = "request", method = ("m"):rep(257) })
    assert(frame.encode { type = "request", method = ("m"):rep(256) })
  end)

  it("carry up to 64 pairs of metadata", function()
    local metadata = {}
    for i = 1, 64 do metadata["k" .. i] = "v" end
    local bytes = assert(frame.encode { type = "head", metadata = metadata })
    assert.same(metadata, frame.decode(bytes).metadata)
    assert.equal(bytes, frame.encode { type = "head", metadata = metadata })
    metadata.k65 = "v"
    assert.has_error(function() frame.encode { type = "head", metadata = metadata } end, "metadata: more than 64 pairs")
  end)

  it("have a datagram form for events", function()
    local event = { type = "event", name = "log", payload = msgpack.encode "hello", datagram = true }
    local bytes = assert(frame.encode(event))
    assert.equal("0c000100036c6f670091a568656c6c6f", hex(bytes))
    local back = assert(frame.decode_datagram(bytes))
    assert.is_true(back.datagram)
    assert.equal("hello", (msgpack.decode(back.payload)))
    fails("protocol", "one event", frame.decode_datagram "")
    fails("protocol", "one event", frame.decode_datagram(frame.encode { type = "ping" }))
  end)
end)

describe("a frame reader", function()
  it("gives the same frames however the bytes are cut", function()
    local bytes, count = "", 0
    for _, f in ipairs(full) do
      bytes = bytes .. frame.encode(f)
      count = count + 1
    end
    bytes = bytes .. unhex "2103010203" .. frame.encode(full[1]) -- an unknown odd type is skipped
    for cut = 0, #bytes do
      local reader, got = frame.reader(), {}
      for _, part in ipairs { bytes:sub(1, cut), bytes:sub(cut + 1) } do
        for f, err in reader:feed(part) do
          assert(f, err)
          got[#got + 1] = f
        end
      end
      assert.equal(count + 1, #got)
      for i = 1, count do assert.same(full[i], got[i]) end
      assert.same({ 0, 0 }, { reader:missing() })
    end
    local reader, n = frame.reader(), 0
    for i = 1, #bytes do
      for f in reader:feed(bytes:sub(i, i)) do n = n + (f and 1 or 100) end
    end
    assert.equal(count + 1, n)
  end)

  it("says what is missing", function()
    local reader = frame.reader()
    local bytes = frame.encode { type = "data", payload = ("x"):rep(100) }
    for _ in reader:feed(bytes:sub(1, 10)) do error "too early" end
    local missing, held = reader:missing()
    assert.equal(#bytes - 10, missing)
    assert.is_true(held <= 10)
  end)

  it("stops at a failure and repeats it", function()
    local reader, seen = frame.reader(), {}
    for f, err in reader:feed(frame.encode { type = "ping" } .. unhex "2000" .. frame.encode { type = "ping" }) do
      seen[#seen + 1] = f and f.type or err.code
    end
    assert.same({ "ping", "protocol" }, seen)
    for _ = 1, 2 do
      local n = 0
      for f, err in reader:feed(frame.encode { type = "ping" }) do
        n = n + 1
        fails("protocol", "", f, err)
      end
      assert.equal(1, n)
    end
  end)

  it("refuses frames over its limit, and takes those at it", function()
    local bytes = frame.encode { type = "data", payload = ("x"):rep(98) } -- a body of 100 bytes
    for f in frame.reader(100):feed(bytes) do assert.equal("data", f.type) end
    local n = 0
    for f, err in frame.reader(99):feed(bytes:sub(1, 3)) do
      n = n + 1
      fails("resource_exhausted", "", f, err)
    end
    assert.equal(1, n)
    assert.has_error(function() frame.reader(-1) end)
  end)
end)

describe("varints", function()
  it("are RFC 9000's", function()
    for n, bytes in pairs { [37] = "25", [15293] = "7bbd", [494878333] = "9d7f3e7d", [151288809941952652] = "c2197c5eff14e88c" } do
      assert.equal(bytes, hex(frame.varint(n)))
      assert.same({ n, #bytes // 2 + 1 }, { frame.read_varint(unhex(bytes)) })
    end
    assert.same({ 37, 3 }, { frame.read_varint(unhex "4025") }) -- longer than needed is fine
    assert.same({ nil, "again" }, { frame.read_varint "\x40" })
    assert.same({ nil, "again" }, { frame.read_varint "" })
    assert.has_error(function() frame.varint(-1) end)
    assert.has_error(function() frame.varint(1 << 62) end)
    assert.equal((1 << 62) - 1, (frame.read_varint(frame.varint((1 << 62) - 1))))
  end)
end)
