-- What commands write for people.

local output = require "echostream.cli.output"

describe("output of commands", function()
  it("has columns as wide as their widest cell, counted in characters", function()
    assert.same({ "a       1  x", "größe  22  yy" }, output.columns({ { "a", "1", "x" }, { "größe", "22", "yy" } }, { [2] = true }))
    assert.same({ "a      1   x", "größe  22" }, output.columns { { "a", "1", "x" }, { "größe", "22", "" } })
  end)

  it("writes numbers and durations in few characters", function()
    assert.equal("0", output.number(0))
    assert.equal("1.5", output.number(1.5))
    assert.equal("999", output.number(999))
    assert.equal("1,234,567", output.number(1234567.2))
    assert.equal("-12,345", output.number(-12345))
    assert.equal("0", output.duration(0))
    assert.equal("12 µs", output.duration(12.3e-6))
    assert.equal("4.56 ms", output.duration(0.004561))
    assert.equal("250 ms", output.duration(0.25))
    assert.equal("7.80 s", output.duration(7.8))
    assert.equal("3 min", output.duration(200))
  end)

  it("escapes what a terminal would obey in what peers say", function()
    assert.equal("a\\x1b[31mb\tc\nd\\x00", output.plain "a\27[31mb\tc\nd\0")
    assert.equal("a\\n\\tb", output.line "a\n\tb")
    for code = 0x80, 0x9f do -- the controls that are characters, and the same bytes alone
      assert.equal(("\\u{%x}"):format(code), output.plain(utf8.char(code)))
      assert.equal(("\\x%02x"):format(code), output.plain(string.char(code)))
    end
    for _, code in ipairs { 0x61c, 0x200e, 0x200f, 0x202a, 0x202b, 0x202c, 0x202d, 0x202e, 0x2066, 0x2067, 0x2068, 0x2069 } do
      assert.equal(("\\u{%x}"):format(code), output.line(utf8.char(code)))
    end
    assert.equal("größe 日本", output.plain "größe 日本")
    assert.equal("nil", output.line(nil))
  end)
end)
