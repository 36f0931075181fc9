-- What a terminal shows: spec/support/screen.lua, by which the tutorial's spec reads.

local screen = require "spec.support.screen"

describe("a screen", function()
  local function shown(...)
    local s = screen.new()
    for _, piece in ipairs { ... } do s:feed(piece) end
    return s.lines, s
  end

  it("has lines", function()
    assert.same({ "one", "two", "" }, (shown "one\r\ntwo\r\n"))
  end)

  it("bears sequences and characters in pieces", function()
    assert.same({ "a€b" }, (shown("a\27", "[3", "1m", "\xe2", "\x82", "\xac", "b", "\27[0m")))
  end)

  it("writes over what stands there, and erases", function()
    assert.same({ "hexxo" }, (shown "hello\b\b\bxx"))
    assert.same({ "new" }, (shown "older\r\27[Knew"))
    assert.same({ "> x", "above" }, (shown "> x\r\nabove\27[A\r> x"))
    assert.same({ "event", "> typed" }, (shown "> typed\r\27[Jevent\r\n> typed"))
    assert.same({ "a…c" }, (shown "abc\27[2D…"))
  end)

  it("keeps bytes that are no text", function()
    assert.same({ "\xff\xfe!" }, (shown "\xff\xfe!"))
  end)
end)
