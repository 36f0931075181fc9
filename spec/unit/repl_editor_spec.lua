-- The prompt's line editor, key by key, on a small terminal made of rows.

local editor = require "echostream.repl.editor"

-- A screen that knows what the editor uses: newline, return, cursor up and right, clearing.
local function new_screen(columns)
  local rows, row, column = { {} }, 1, 1
  local screen = {}
  local function put(character)
    if column > columns then row, column = row + 1, 1 end
    rows[row] = rows[row] or {}
    rows[row][column] = character
    column = column + 1
  end
  local function control(number, letter)
    local n = math.max(tonumber(number) or 1, 1)
    if letter == "A" then row = math.max(row - n, 1)
    elseif letter == "C" then column = column + n
    elseif letter == "J" then
      if number == "2" then rows = { {} } end
      for i = #rows, row + 1, -1 do rows[i] = nil end
      for i = #(rows[row] or {}), column, -1 do rows[row][i] = nil end
    elseif letter == "H" then row, column = 1, 1
    else error("the screen does not know " .. letter) end
  end
  function screen.write(text)
    local at = 1
    while at <= #text do
      local number, letter, stop = text:match("^\27%[([%d;]*)(%a)()", at)
      if stop then
        control(number, letter)
        at = stop
      elseif text:sub(at, at) == "\n" then
        row, column, at = row + 1, 1, at + 1
        rows[row] = rows[row] or {}
      elseif text:sub(at, at) == "\r" then
        column, at = 1, at + 1
      else
        local character = text:match("^" .. utf8.charpattern, at)
        put(character)
        at = at + #character
      end
    end
  end
  function screen.rows()
    local list = {}
    for i, cells in ipairs(rows) do list[i] = (table.concat(cells):gsub("%s+$", "")) end
    while #list > 1 and list[#list] == "" do list[#list] = nil end
    return list
  end
  function screen.cursor() return row, column end
  return screen
end

local function new_editor(opts)
  opts = opts or {}
  local screen = new_screen(opts.columns or 40)
  local self = { screen = screen, lines = {}, interrupts = {}, finished = 0 }
  self.editor = editor.new {
    write = screen.write,
    columns = function() return opts.columns or 40 end,
    history = opts.history,
    line = function(text)
      table.insert(self.lines, text)
      if not opts.once then self.editor:prompt "> " end
    end,
    interrupt = function(typing)
      table.insert(self.interrupts, typing)
      if not opts.once then self.editor:prompt "> " end
    end,
    finish = function() self.finished = self.finished + 1 end,
    suspend = function() self.suspended = true end,
    complete = opts.complete,
  }
  self.editor:prompt "> "
  -- What a line becomes when these keys are pressed.
  function self.typed(keys)
    self.editor:feed(keys .. "\r")
    return table.remove(self.lines)
  end
  return self
end

describe("the line editor", function()
  it("takes lines", function()
    local e = new_editor()
    assert.equal("hello", e.typed "hello")
    assert.equal("", e.typed "")
    assert.equal("été 日本", e.typed "été 日本")
    assert.same({ "> hello", ">", "> été 日本", ">" }, e.screen.rows())
  end)

  it("moves and edits with the keys that everybody knows", function()
    local e = new_editor()
    local expected = {
      ["abc\2\2X"] = "aXbc",                  -- Ctrl-B
      ["abc\27[D\27[DX\27[CY"] = "aXbYc",     -- arrows
      ["abc\1X\5Y"] = "XabcY",                -- Ctrl-A, Ctrl-E
      ["abc\27[HX\27[FY"] = "XabcY",          -- Home, End
      ["abc\27OHX\27OFY"] = "XabcY",
      ["abc\127\8d"] = "ad",                  -- Backspace
      ["abc\1\4\27[3~"] = "c",                -- Ctrl-D, Delete
      ["one two\1\11three\25"] = "threeone two", -- Ctrl-K, Ctrl-Y
      ["one two\21three"] = "three",          -- Ctrl-U
      ["one two\23three"] = "one three",      -- Ctrl-W
      ["one two\27b\27bX\27fY"] = "XoneY two",
      ["one two\1\27d"] = " two",
      ["one two\27[1;5DX"] = "one Xtwo",
      ["é日\2\2X"] = "Xé日",
      ["é日\127\127X"] = "X",
      ["a\27[99~b\0c\28"] = "abc",            -- keys that nobody knows
      ["\27[Aab"] = "ab",
    }
    for keys, line in pairs(expected) do
      e.editor.history = {}
      assert.equal(line, e.typed(keys), ("%q"):format(keys))
    end
  end)

  it("takes keys whose bytes come one by one", function()
    local e = new_editor()
    for c in ("a日\27[D\27[3~é\r"):gmatch "." do e.editor:feed(c) end
    assert.same({ "aé" }, e.lines)
  end)

  it("shows the line and the cursor where they are, over several rows", function()
    local e = new_editor { columns = 10 }
    e.editor:feed "12345678"
    assert.same({ 2, 1 }, { e.screen.cursor() }) -- not behind the last column
    e.editor:feed "abcdefghijKL"
    assert.same({ "> 12345678", "abcdefghij", "KL" }, e.screen.rows())
    e.editor:feed "\1"
    assert.same({ 1, 3 }, { e.screen.cursor() })
    e.editor:feed "X"
    assert.same({ "> X1234567", "8abcdefghi", "jKL" }, e.screen.rows())
    assert.same({ 1, 4 }, { e.screen.cursor() })
    e.editor:feed "\11"
    assert.same({ "> X" }, e.screen.rows())
    e.editor:feed "\25\r"
    assert.same({ "X12345678abcdefghijKL" }, e.lines)
    assert.same({ "> X1234567", "8abcdefghi", "jKL", ">" }, e.screen.rows())
  end)

  it("prints above the line that is typed, which stays as it was", function()
    local e = new_editor { columns = 10 }
    e.editor:feed "some text, long\2\2\2\2"
    local row, column = e.screen.cursor()
    e.editor:above "first\n"
    e.editor:above "second"
    assert.same({ "first", "second", "> some tex", "t, long" }, e.screen.rows())
    assert.same({ row + 2, column }, { e.screen.cursor() })
    e.editor:above ""
    assert.equal("some text, XXlong", e.typed "XX")
    e.editor:hide()
    e.editor:above "after\n"
    assert.equal("after", e.screen.rows()[5])
  end)

  it("goes through the history, and keeps what was being typed", function()
    local e = new_editor { history = { "one", "two" } }
    assert.equal("two", e.typed "\27[A")
    assert.equal("one", e.typed "\27[A\27[A\27[A")
    assert.equal("draft", e.typed "draft\27[A\27[A\27[B\27[B\27[B")
    assert.same({ "one", "two", "one", "draft" }, e.editor.history)
    e.typed "draft" -- not twice in a row
    e.typed "  "
    assert.equal(4, #e.editor.history)
  end)

  it("searches the history", function()
    local e = new_editor { history = { "alpha beta", "gamma", "beta" } }
    assert.equal("beta", e.typed "\18bet")
    assert.equal("alpha beta", e.typed "\18bet\18\18")
    assert.equal("gammaX", e.typed "\18gam\5X")
    assert.equal("mine", e.typed "mine\18gam\7")
    e.editor:feed "\18gam"
    assert.equal("(search) gam: gamma", e.screen.rows()[5]:sub(1, 19))
  end)

  it("completes: one word, what several have in common, a list of them", function()
    local late
    local e = new_editor { complete = function(before, done)
      if before == "la" then
        late = done
      elseif before:find "co$" then
        done(#before - 1, { "connect", "console" })
      elseif before:find "con$" then
        done(#before - 2, { "connect", "console" })
      elseif before == "x = f" then
        done(5, { "format(" })
      else
        done(#before + 1, {})
      end
    end }
    assert.equal("x = format()", e.typed "x = f\t)")
    assert.equal("con", e.typed "co\t")
    assert.equal("(con)", e.typed "(co)\2\t")
    e.editor:feed "con\t"
    assert.same({ "connect  console", "> con" }, { table.unpack(e.screen.rows(), 4) })
    assert.equal("conz", e.typed "z\t")
    assert.equal("  tab", e.typed "\ttab")
    e.editor:feed "la\tx"
    late(1, { "late" }) -- too late: something else was typed
    assert.equal("lax", e.typed "")
    e.editor:feed "la\t"
    late(1, { "late" })
    assert.equal("late", e.typed "")
  end)

  it("says Ctrl-C, Ctrl-D and Ctrl-Z, and clears the screen", function()
    local e = new_editor()
    e.editor:feed "half\3"
    e.editor:feed "\3"
    assert.same({ true, false }, e.interrupts)
    assert.same({ "> half^C", "> ^C", ">" }, e.screen.rows())
    e.editor:feed "ab\26"
    assert.is_true(e.suspended)
    e.editor:feed "\12"
    assert.same({ "> ab" }, e.screen.rows())
    assert.equal("a", e.typed "\2\4")
    e.editor:feed "\4"
    assert.equal(1, e.finished)
  end)

  it("keeps what is typed while something runs, but for Ctrl-C", function()
    local e = new_editor { once = true }
    e.editor:feed "one\rtwo\rth"
    assert.same({ "one" }, e.lines)
    e.editor:prompt "> "
    assert.same({ "one", "two" }, e.lines)
    e.editor:prompt ">> "
    e.editor:feed "ree\r"
    assert.same({ "one", "two", "three" }, e.lines)
    assert.same({ "> one", "> two", ">> three" }, e.screen.rows())
    e.editor:feed "dropped\3kept\r"
    assert.same({ false }, e.interrupts)
    e.editor:prompt "> "
    assert.equal("kept", e.lines[4])
  end)

  it("knows how wide text is", function()
    assert.equal(3, editor.width "abc")
    assert.equal(4, editor.width "日本")
    assert.equal(1, editor.width "e\u{301}")
    assert.equal(2, editor.width "\27[31mab\27[0m")
  end)

  it("bears any bytes", function()
    local random = 12345
    local e = new_editor { columns = 13, complete = function(before, done) done(#before + 1, { "x", "xy" }) end }
    for _ = 1, 3000 do
      random = (random * 1103515245 + 12345) % 2147483648
      e.editor:feed(string.char(random // 65536 % 256))
    end
    e.editor:feed "\27[F\21"
    e.editor:feed "\3"
    assert.equal("fine", e.typed "\21fine")
  end)
end)
