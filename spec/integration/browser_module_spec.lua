-- examples/browser/echostream.js without a browser: its MessagePack and its frames beside those of the core, and sessions of it over
-- streams in memory. In node, from Debian or elsewhere; without it this is skipped.

local codec = require "echostream.codec"
local echo = require "echostream"
local frame = require "echostream.frame"
local process = require "spec.support.process"

local msgpack = codec.msgpack

local function hex(bytes)
  return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

local function unhex(text)
  return (text:gsub("%x%x", function(x) return string.char(tonumber(x, 16)) end))
end

-- Values of Lua and what they are in JavaScript.
local values = {
  { 0, "0" }, { 1, "1" }, { -1, "-1" }, { 1.0, "new Float(1)" }, { 1.5, "1.5" }, { -0.0, "-0" },
  { math.maxinteger, "9223372036854775807n" }, { math.mininteger, "-9223372036854775808n" }, { 1 << 53, "9007199254740992n" },
  { (1 << 53) - 1, "9007199254740991" }, { math.huge, "Infinity" },
  { true, "true" }, { false, "false" }, { echo.null, "null" },
  { "", '""' }, { "text", '"text"' }, { "grüß\0dich €", '"grüß\\0dich €"' }, { ("x"):rep(40), '"x".repeat(40)' },
  { ("x"):rep(300), '"x".repeat(300)' }, { ("x"):rep(70000), '"x".repeat(70000)' }, { "\xff\0", 'bytes("ff00")', bin = true },
  { echo.array {}, "[]" }, { echo.map {}, "({})" }, { { 1, "two", { 3 } }, '[1, "two", [3]]' }, { { a = 1 }, "({ a: 1 })" },
  { { [1] = "a", [3] = "c" }, 'new Map([[1, "a"], [3, "c"]])', order = true },
  { { a = { b = { echo.null, 2.0 } } }, "({ a: { b: [null, new Float(2)] } })" },
  { codec.timestamp(1700000000), "new Timestamp(1700000000)" }, { codec.timestamp(1700000000, 5), "new Timestamp(1700000000, 5)" },
  { codec.timestamp(-1, 999999999), "new Timestamp(-1, 999999999)" }, { codec.timestamp(1 << 34, 1), "new Timestamp(17179869184, 1)" },
}

local instance = string.char(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
local instance_js = 'instance: bytes("000102030405060708090a0b0c0d0e0f")'

local frames = {
  { { type = "hello", instance = instance, max_message = 4194304, max_calls = 100 },
    ('({ type: "hello", %s, maxMessage: 4194304, maxCalls: 100 })'):format(instance_js) },
  { { type = "hello", min_minor = 0, max_minor = 2, caps = 12, instance = instance, max_message = 1, max_metadata = 2, max_calls = 3,
    max_named_streams = 4, agent = "lua", credentials = { token = "secret" } },
    ('({ type: "hello", minMinor: 0, maxMinor: 2, caps: 12, %s, maxMessage: 1, maxMetadata: 2, maxCalls: 3, maxNamedStreams: 4, '
      .. 'agent: "lua", credentials: { token: "secret" } })'):format(instance_js) },
  { { type = "request", idempotent = true, request_id = 1, method = "math.add", deadline_ms = 30000, payload = msgpack.encode(10, 20) },
    '({ type: "request", idempotent: true, requestId: 1, method: "math.add", deadlineMs: 30000, payload: bytes("920a14") })' },
  { { type = "request", more = true, stream = true, retry = true, request_id = (1 << 62) - 1, method = "a/b:c_d-e.F9",
    deadline_ms = 1, priority = 0, metadata = { ["es-accept"] = "1.0" }, codec = "raw", payload = "\0\1" },
    '({ type: "request", more: true, stream: true, idempotent: false, retry: true, requestId: 4611686018427387903n, method: "a/b:c_d-e.F9", '
      .. 'deadlineMs: 1, priority: 0, metadata: { "es-accept": "1.0" }, codec: 0, payload: bytes("0001") })' },
  { { type = "response", payload = msgpack.encode(30) }, '({ type: "response", status: 0, payload: bytes("911e") })' },
  { { type = "response", code = "method_not_found", message = "no method math.sub" },
    '({ type: "response", status: 12, code: "method_not_found", message: "no method math.sub", processed: "no" })' },
  { { type = "response", idempotent = true, codec = "json", status = 8, trailers = { k = "\xff" }, code = "slow_down", message = "later",
    processed = "maybe", retry_after_ms = 250, details = "d" },
    '({ type: "response", idempotent: true, codec: 2, status: 8, trailers: { k: bytes("ff") }, code: "slow_down", message: "later", '
      .. 'processed: "maybe", retryAfterMs: 250, details: bytes("64") })' },
  { { type = "head", metadata = { ["es-version"] = "1.2" } }, '({ type: "head", metadata: { "es-version": "1.2" } })' },
  { { type = "data", codec = "raw", seq = 9, wall_time_us = 1700000000000000, payload = "bytes" },
    '({ type: "data", codec: 0, seq: 9, wallTimeUs: 1700000000000000, payload: bytes("6279746573") })' },
  { { type = "data", codec = "msgpack", payload = "" }, '({ type: "data", codec: 1, payload: bytes("") })' },
  { { type = "cancel", request_id = 5, code = 0x12 }, '({ type: "cancel", requestId: 5, code: 0x12 })' },
  { { type = "event", name = "log", seq = 3, wall_time_us = 4, metadata = { a = "b" }, payload = "\x90" },
    '({ type: "event", name: "log", seq: 3, wallTimeUs: 4, metadata: { a: "b" }, payload: bytes("90") })' },
  { { type = "event", name = "log", payload = msgpack.encode "hello", datagram = true },
    '({ type: "event", name: "log", seq: 0, payload: bytes("91a568656c6c6f") })', datagram = true },
  { { type = "goaway", grace_ms = 10000, retry_after_ms = 500, reason = "restart" },
    '({ type: "goaway", graceMs: 10000, retryAfterMs: 500, reason: "restart" })' },
  { { type = "ping", t1 = 1700000000000000 }, '({ type: "ping", t1: 1700000000000000 })' },
  { { type = "pong", t1 = 1, t2 = 2, t3 = 3 }, '({ type: "pong", t1: 1, t2: 2, t3: 3 })' },
}

-- Values that JavaScript can write as they were: strings are text, floats have a fraction, maps have one key (their order is nobody's).
local function random_value(depth)
  local kind = math.random(depth > 4 and 5 or 7)
  if kind == 1 then return math.random(0) >> math.random(0, 63) end
  if kind == 2 then return -(math.random(0) >> math.random(1, 63)) end
  if kind == 3 then return math.random() + 0.1 end
  if kind == 4 then return ("aé€"):rep(math.random(0, 20)) end
  if kind == 5 then return ({ true, false, echo.null })[math.random(3)] end
  if kind == 6 then
    local list = echo.array {}
    for i = 1, math.random(0, 18) do list[i] = random_value(depth + 1) end
    return list
  end
  return { [("k"):rep(math.random(40))] = random_value(depth + 1) }
end

local function vectors()
  local list = { values = echo.array {}, random = echo.array {}, frames = echo.array {} }
  for i, case in ipairs(values) do
    list.values[i] = { hex = hex(msgpack.encode(case[1]):sub(2)), js = case[2] }
  end
  math.randomseed(7)
  for i = 1, 400 do
    list.random[i] = hex(msgpack.encode(random_value(1)):sub(2))
  end
  for i, case in ipairs(frames) do
    list.frames[i] = { hex = hex(assert(frame.encode(case[1]))), js = case[2], datagram = case.datagram or false }
  end
  return list
end

-- The sanitizers' preloaded libraries are for lua5.4 only.
local function node(arguments)
  return process.run("env LD_PRELOAD= node " .. arguments, { seconds = 120 })
end

-- One `it` for each line that a program printed.
local function tell(result)
  local told = 0
  for word, name, why in result.out:gmatch "(%l+) ([^\n:]+):?([^\n]*)\n" do
    if word == "ok" or word == "failed" then
      told = told + 1
      it(name, function()
        assert.equal("ok", word, why)
      end)
    end
  end
  it("reaches its end", function()
    assert.is_true(told > 0, result.err)
    assert.equal(0, result.code, result.out .. result.err)
  end)
end

describe("echostream.js", function()
  if node("--version").code ~= 0 then
    pending "skipped: no node (apt-get install nodejs)"
    return
  end

  describe("beside the core", function()
    local dir = process.directory()
    process.write(dir .. "/vectors.json", (codec.json.encode(vectors()):gsub("^%[(.*)%]$", "%1")))
    local result = node("spec/browser/codec.mjs " .. dir .. "/vectors.json")
    process.remove(dir)
    tell(result)

    it("writes what the core reads", function()
      local i = 0
      for text in result.out:gmatch "packed (%x*)\n" do
        i = i + 1
        local case = values[i]
        local bytes = msgpack.encode(case[1]):sub(2)
        if not case.bin and not case.order then
          assert.equal(hex(bytes), text, case[2])
        end
        local value = msgpack.decode("\x91" .. unhex(text))
        if case[1] == echo.null then case = {} end -- the only argument: nil
        assert.same(case[1], value)
        assert.equal(math.type(case[1]), math.type(value))
      end
      assert.equal(#values, i)
    end)
  end)

  describe("over streams in memory", function()
    tell(node "spec/browser/session.mjs")
  end)
end)
