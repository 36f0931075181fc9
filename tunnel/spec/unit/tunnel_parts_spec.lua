local codec = require "echostream.codec"
local parts = require "echostream.tunnel.server.parts"

local function varint(n)
  return n < 64 and string.char(n) or n < 16384 and (">I2"):pack(n | 0x4000) or (">I4"):pack(n | 0x80000000)
end

local function part(kind, payload) return string.char(kind) .. varint(#payload) .. payload end

describe("the parts of a message", function()
  it("are counted by the bytes of body in them", function()
    assert.equal(0, parts.body_size "")
    assert.equal(0, parts.body_size(parts.END))
    local long = ("x"):rep(20000)
    assert.equal(20105, parts.body_size(part(1, "head") .. part(3, "hello") .. part(3, long) .. part(3, ("y"):rep(100)) .. parts.END))
    assert.equal(5, parts.body_size(part(1, "head") .. part(3, "hello"), 7))
  end)

  it("end with what a RESET says", function()
    local n, why = parts.body_size(part(3, "abc") .. part(6, "\1the backend went"))
    assert.equal(3, n)
    assert.equal("the backend went", why)
    n, why = parts.body_size(part(6, ""))
    assert.equal(0, n)
    assert.equal("it was reset", why)
  end)

  it("may be malformed: what can be read counts", function()
    local whole = part(3, "hello") .. part(3, ("x"):rep(300))
    for n = 0, #whole - 1 do
      local size = parts.body_size(whole:sub(1, n))
      assert.is_true(size == 0 or size == 5)
    end
    for i = 0, 255 do assert.is_number((parts.body_size(string.char(3, i, i, i, i)))) end
  end)

  it("have numbers of every length", function()
    for _, n in ipairs { 0, 63, 64, 16383, 16384, 1 << 29 } do
      local text = varint(n)
      assert.same({ n, #text + 1 }, { parts.varint(text, 1) })
      assert.is_nil(parts.varint(text:sub(1, -2), 1))
    end
  end)

  it("tell of the backend in a NOTE, as far as it makes sense", function()
    local pack = codec.msgpack.pack
    assert.same({ backend = "site", connect_time = 0.1, reused = false, attempt = 2 },
      parts.note(pack { backend = "site", connect_time = 0.1, reused = false, attempt = 2, more = 1 }))
    assert.same({}, parts.note(pack { backend = 7, connect_time = "x", reused = 1, attempt = 1.5 }))
    for _, time in ipairs { 0 / 0, 1 / 0, -1 / 0, -1 } do -- no line of a log could say them
      assert.same({ backend = "site" }, parts.note(pack { backend = "site", connect_time = time }))
    end
    assert.is_nil(parts.note(pack "text"))
    assert.is_nil(parts.note "\xc1")
  end)
end)
