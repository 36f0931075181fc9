-- The near end of a prompt that is somewhere else: what a server sends is shown, and does nothing to the terminal.

local wire = require "echostream.attach.wire"
local core = require "echostream.core"
local remote = require "echostream.repl.remote"

describe("what an attached server sends", function()
  local shown, left, front, one

  local function new(colour)
    shown, left = {}, nil
    front = { interactive = true, colour = colour, over = false }
    function front.write(_, text) shown[#shown + 1] = text end
    function front.ready(_, prompt) shown[#shown + 1] = prompt end
    function front:leave(code)
      left = code
      self.over = true
    end
    function front.columns() return 80 end
    one = remote.new(function() end, front)
  end

  local function take(kind, body)
    shown = {}
    one.take(wire.encode(kind, body))
    return table.concat(shown)
  end

  it("is shown with everything escaped that a terminal would obey", function()
    new(false)
    assert.equal("plain\n\ttext größe\n", take("out", "plain\n\ttext größe\n"))
    assert.equal("\\x1b[2J\\x1b]0;title\\x07\\u{9b}31m\\u{202e}\\r\n", take("out", "\27[2J\27]0;title\7\u{9b}31m\u{202e}\r\n"))
    assert.equal("\\x1b[31mred\\x1b[0m", take("out", "\27[31mred\27[0m"))
    assert.equal("\\x1b[2J> ", take("ready", "0 \27[2J> "))
  end)

  it("keeps the prompt's own colours where there are colours", function()
    new(true)
    assert.equal("\27[31mred\27[0m \\x1b[5m\n", take("out", "\27[31mred\27[0m \27[5m\n"))
    assert.not_matches("\27%[2J", take("hello", "\27[2Jname"))
  end)

  it("completes within the line that was asked about, and nowhere else", function()
    new(false)
    local from, words
    local function complete(body)
      from, words = nil, nil
      one:complete("ab.c", function(...) from, words = ... end)
      one.take(wire.encode("words", body:format(one._asked)))
    end
    complete "%d 4\ncat\ncow\27[2J"
    assert.equal(4, from)
    assert.same({ "cat", "cow\\x1b[2J" }, words)
    for _, nowhere in ipairs { "0", "6", "99999999999999999999999", "7000000" } do
      complete("%d " .. nowhere .. "\ncat")
      assert.equal(5, from)
      assert.same({}, words)
    end
    complete "77 1\ncat" -- of another question
    assert.is_nil(from)
  end)

  it("may be any bytes: the prompt ends, and nothing gets through", function()
    for i = 1, 300 do
      new(i % 2 == 0)
      for _ = 1, 5 do
        one.take(i % 3 == 0 and core.random(50) or wire.encode(({ "out", "ready", "hello", "words", "leave", "odd" })[i % 6 + 1], core.random(50)))
      end
      assert.is_nil((table.concat(shown):gsub("\27%[%d%d?m", ""):find "[\0-\8\11-\31\127]"))
    end
    new(false)
    one.take "no echostream at all\n"
    assert.equal(1, left)
    assert.matches("no echostream server", table.concat(shown))
    new(false)
    one.take(nil)
    assert.equal(1, left)
  end)
end)
