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

  it("takes control characters out of what peers say", function()
    assert.equal("a?[31mb\tc\nd?", output.plain "a\27[31mb\tc\nd\0")
  end)
end)
