--- A line editor: bytes of a terminal in, lines out. It knows no terminal and no loop, so that a spec can press every key.
---
--- Why not readline: what happens elsewhere is printed above the line that somebody types, which is then shown again as it was. The
--- Lua modules for readline offer neither the text typed so far nor the redisplay.

local M = {}

---@class echostream.repl.editor.options
---@field write fun(text: string)           to the terminal, which begins a new line at a newline
---@field columns fun(): integer
---@field line fun(text: string)            Enter was pressed; nothing is edited before the next `prompt`
---@field interrupt fun(typing: boolean)    Ctrl-C; `typing`: a line was being typed, which is gone
---@field finish fun()                      Ctrl-D on an empty line
---@field suspend? fun()                    Ctrl-Z
---@field complete? fun(before: string, done: fun(from: integer, words: string[]))  Tab: words that may stand from byte `from` on
---@field history? string[]

---@class echostream.repl.editor
---@field history string[]
local Editor = {}
Editor.__index = Editor

local HISTORY = 1000
-- What is typed ahead while something runs is kept up to here.
local TYPED_AHEAD = 1 << 20

---@param opts echostream.repl.editor.options
---@return echostream.repl.editor
function M.new(opts)
  return setmetatable({
    _opts = opts,
    history = opts.history or {},
    _active = false, -- a prompt is shown
    _prompt = "",
    _text = "",
    _cursor = 0,     -- bytes before it
    _row = 0,        -- of the cursor, counted from the prompt's
    _ahead = "",     -- bytes that are not looked at yet
    _killed = "",
    _place = nil,    -- in the history; nil: behind it
    _draft = "",     -- what was typed before the history was looked through
    _search = nil,
    _changes = 0,
  }, Editor)
end

-- Widths ------------------------------------------------------------------------------------------------------

local function wide(code)
  return code >= 0x1100 and (code <= 0x115f or code >= 0x2e80 and code <= 0xa4cf or code >= 0xac00 and code <= 0xd7a3
    or code >= 0xf900 and code <= 0xfaff or code >= 0xfe30 and code <= 0xfe6f or code >= 0xff00 and code <= 0xff60
    or code >= 0xffe0 and code <= 0xffe6 or code >= 0x1f300 and code <= 0x1faff or code >= 0x20000 and code <= 0x3fffd)
end

local function zero(code)
  return code >= 0x300 and code <= 0x36f or code >= 0x200b and code <= 0x200f or code >= 0xfe00 and code <= 0xfe0f
end

--- How many columns a text takes, escape sequences of colours left out.
---@param text string
---@return integer
function M.width(text)
  text = text:gsub("\27%[[%d;]*m", "")
  if not text:find("[\x80-\xff]") or not utf8.len(text, 1, -1, true) then
    return #text
  end
  local n = 0
  for _, code in utf8.codes(text, true) do
    n = n + (zero(code) and 0 or wide(code) and 2 or 1)
  end
  return n
end

-- Showing -----------------------------------------------------------------------------------------------------

function Editor:_put(text)
  self._opts.write(text)
end

-- The cursor to the beginning of the prompt, everything behind it away.
function Editor:_erase()
  return (self._row > 0 and ("\27[%dA"):format(self._row) or "") .. "\r\27[J"
end

function Editor:_shown_prompt()
  local search = self._search
  return search and ("(search) %s: "):format(search.text) or self._prompt
end

-- The prompt and the text, with the cursor where it belongs.
function Editor:_drawn()
  local columns = math.max(self._opts.columns(), 10)
  local prompt = self:_shown_prompt()
  local all = M.width(prompt) + M.width(self._text)
  local at = M.width(prompt) + M.width(self._text:sub(1, self._cursor))
  local out = prompt .. self._text
  if all > 0 and all % columns == 0 then
    out = out .. "\n" -- the terminal would stay on the full row
  end
  local last, row = all // columns, at // columns
  if last > row then
    out = out .. ("\27[%dA"):format(last - row)
  end
  if at < all or last > row then
    out = out .. "\r" .. (at % columns > 0 and ("\27[%dC"):format(at % columns) or "")
  end
  self._row = row
  return out
end

function Editor:_redraw()
  local erase = self:_erase()
  self:_put(erase .. self:_drawn())
end

--- Prints above the line that is typed. What has no newline at its end gets one.
---@param text string
function Editor:above(text)
  if text == "" then
    return
  end
  if not self._active then
    return self:_put(text)
  end
  local erase = self:_erase()
  self._row = 0
  self:_put(erase .. text .. (text:sub(-1) == "\n" and "" or "\n") .. self:_drawn())
end

--- Shows a prompt and takes a line; what was typed ahead counts.
---@param prompt string
function Editor:prompt(prompt)
  self._prompt, self._text, self._cursor, self._row = prompt, "", 0, 0
  self._place, self._search, self._active = nil, nil, true
  self:_put(self:_drawn())
  self:feed("")
end

--- Takes the prompt away, as when the program ends.
function Editor:hide()
  if self._active then
    self:_put(self:_erase())
    self._active = false
  end
end

-- Editing -----------------------------------------------------------------------------------------------------

local function left_of(text, at)
  if at > 0 then
    at = at - 1
    while at > 0 and text:byte(at + 1) & 0xc0 == 0x80 do
      at = at - 1
    end
  end
  return at
end

local function right_of(text, at)
  if at < #text then
    at = at + 1
    while at < #text and text:byte(at + 1) & 0xc0 == 0x80 do
      at = at + 1
    end
  end
  return at
end

local function word_left(text, at)
  local before = text:sub(1, at):gsub("[^%w_\x80-\xff]+$", "")
  return #(before:gsub("[%w_\x80-\xff]+$", ""))
end

local function word_right(text, at)
  local _, stop = text:find("^[^%w_\x80-\xff]*[%w_\x80-\xff]*", at + 1)
  return stop
end

function Editor:_set(text, cursor)
  self._text, self._cursor = text, cursor or #text
  self._changes = self._changes + 1
  self:_redraw()
end

function Editor:_move(cursor)
  self._cursor = cursor
  self:_redraw()
end

function Editor:_cut(from, to)
  if from < to then
    self._killed = self._text:sub(from + 1, to)
    self:_set(self._text:sub(1, from) .. self._text:sub(to + 1), from)
  end
end

function Editor:_delete(from, to)
  local kept = self._killed
  self:_cut(from, to)
  self._killed = kept
end

function Editor:_insert(text)
  local columns = math.max(self._opts.columns(), 10)
  local at = M.width(self._prompt) + M.width(self._text)
  if self._cursor == #self._text and at // columns == (at + M.width(text)) // columns then -- nothing moves: as a terminal echoes
    self._text = self._text .. text
    self._cursor = #self._text
    self._changes = self._changes + 1
    return self:_put(text)
  end
  self:_set(self._text:sub(1, self._cursor) .. text .. self._text:sub(self._cursor + 1), self._cursor + #text)
end

function Editor:_remember(text)
  local history = self.history
  if text:find("%S") and history[#history] ~= text then
    history[#history + 1] = text
    if #history > HISTORY then
      table.remove(history, 1)
    end
  end
end

function Editor:_browse(step)
  local history = self.history
  local place = (self._place or #history + 1) + step
  if place < 1 or place > #history + 1 or place == self._place then
    return
  end
  if not self._place then
    self._draft = self._text
  end
  self._place = place <= #history and place or nil
  self:_set(self._place and history[place] or self._draft)
end

-- Ends the line: the cursor goes below it.
function Editor:_leave_line()
  self._cursor = #self._text
  self._search = nil
  self:_redraw()
  self:_put("\n")
  self._active = false
end

function Editor:_enter()
  local text = self._text
  if self._cursor == #text and not self._search then
    self:_put("\n")
    self._active = false
  else
    self:_leave_line()
  end
  self:_remember(text)
  self._opts.line(text)
end

function Editor:_interrupt()
  local typing = self._active and self._text ~= ""
  if self._active then
    self:_put("^C")
    self._search = nil
    self:_put("\n")
    self._active = false
  end
  self._opts.interrupt(typing)
end

-- Completion --------------------------------------------------------------------------------------------------

local function common(words)
  local prefix = words[1]
  for _, word in ipairs(words) do
    while word:sub(1, #prefix) ~= prefix do
      prefix = prefix:sub(1, left_of(prefix, #prefix))
    end
  end
  return prefix
end

local LISTED = 200

-- Words in columns, as far as they help.
local function listed(words, columns)
  local width = 0
  for _, word in ipairs(words) do
    width = math.max(width, M.width(word) + 2)
  end
  local across = math.max(columns // width, 1)
  local lines, n = {}, math.min(#words, LISTED)
  for i = 1, n, across do
    local parts = {}
    for k = i, math.min(i + across - 1, n) do
      parts[#parts + 1] = words[k] .. (" "):rep(width - M.width(words[k]))
    end
    lines[#lines + 1] = (table.concat(parts):gsub("%s+$", ""))
  end
  if n < #words then
    lines[#lines + 1] = ("… %d more"):format(#words - n)
  end
  return table.concat(lines, "\n") .. "\n"
end

function Editor:_complete()
  local before = self._text:sub(1, self._cursor)
  if not self._opts.complete then
    return
  elseif not before:find("%S") then
    return self:_insert("  ")
  end
  local changes, cursor = self._changes, self._cursor
  self._opts.complete(before, function(from, words)
    if not self._active or self._search or changes ~= self._changes or cursor ~= self._cursor or #words == 0 then
      return -- too late, or nothing
    end
    local prefix = common(words)
    local typed = before:sub(from)
    if #words > 1 and #prefix <= #typed then
      return self:above(listed(words, self._opts.columns()))
    end
    local text = before:sub(1, from - 1) .. prefix
    if text:sub(1, cursor) == before then
      self:_insert(text:sub(cursor + 1))
    else
      self:_set(text .. self._text:sub(cursor + 1), #text)
    end
  end)
end

-- Searching ---------------------------------------------------------------------------------------------------

function Editor:_find(from)
  local search, history = self._search, self.history
  for i = math.min(from, #history), 1, -1 do
    if history[i]:find(search.text, 1, true) then
      search.at = i
      return self:_set(history[i])
    end
  end
  self:_redraw()
end

-- A key while the history is searched; true when it was taken.
function Editor:_search_key(key)
  local search = self._search
  if key == "\18" then
    self:_find(search.at - 1)
  elseif key == "\127" or key == "\8" then
    search.text = search.text:sub(1, left_of(search.text, #search.text))
    self:_find(#self.history)
  elseif key == "\7" then
    self._search = nil
    self:_set(search.draft)
  elseif not key:find("^%c") and utf8.len(key) then
    search.text = search.text .. key
    self:_find(search.at)
  else
    self._search = nil
    self:_redraw()
    return key == "\27"
  end
  return true
end

-- Keys --------------------------------------------------------------------------------------------------------

local keys = {
  ["\r"] = Editor._enter,
  ["\n"] = Editor._enter,
  ["\3"] = Editor._interrupt,
  ["\t"] = Editor._complete,
  ["\1"] = function(self) self:_move(0) end,
  ["\5"] = function(self) self:_move(#self._text) end,
  ["\2"] = function(self) self:_move(left_of(self._text, self._cursor)) end,
  ["\6"] = function(self) self:_move(right_of(self._text, self._cursor)) end,
  ["\127"] = function(self) self:_delete(left_of(self._text, self._cursor), self._cursor) end,
  ["\27[3~"] = function(self) self:_delete(self._cursor, right_of(self._text, self._cursor)) end,
  ["\11"] = function(self) self:_cut(self._cursor, #self._text) end,
  ["\21"] = function(self) self:_cut(0, self._cursor) end,
  ["\23"] = function(self) self:_cut(word_left(self._text, self._cursor), self._cursor) end,
  ["\27d"] = function(self) self:_cut(self._cursor, word_right(self._text, self._cursor)) end,
  ["\25"] = function(self) self:_insert(self._killed) end,
  ["\16"] = function(self) self:_browse(-1) end,
  ["\14"] = function(self) self:_browse(1) end,
  ["\27b"] = function(self) self:_move(word_left(self._text, self._cursor)) end,
  ["\27f"] = function(self) self:_move(word_right(self._text, self._cursor)) end,
  ["\12"] = function(self)
    self:_put("\27[H\27[2J")
    self._row = 0
    self:_put(self:_drawn())
  end,
  ["\18"] = function(self)
    self._search = { text = "", at = #self.history + 1, draft = self._text }
    self:_redraw()
  end,
  ["\26"] = function(self)
    if self._opts.suspend then
      self._opts.suspend()
      self:_put(self:_erase() .. self:_drawn())
    end
  end,
  ["\4"] = function(self)
    if self._text == "" then
      self:_put("\n")
      self._active = false
      self._opts.finish()
    else
      self:_delete(self._cursor, right_of(self._text, self._cursor))
    end
  end,
}
for other, key in pairs {
  ["\8"] = "\127", ["\27[A"] = "\16", ["\27[B"] = "\14", ["\27[C"] = "\6", ["\27[D"] = "\2", ["\27OA"] = "\16", ["\27OB"] = "\14",
  ["\27OC"] = "\6", ["\27OD"] = "\2", ["\27[H"] = "\1", ["\27[F"] = "\5", ["\27OH"] = "\1", ["\27OF"] = "\5", ["\27[1~"] = "\1",
  ["\27[4~"] = "\5", ["\27[7~"] = "\1", ["\27[8~"] = "\5", ["\27[1;5C"] = "\27f", ["\27[1;5D"] = "\27b", ["\27[1;3C"] = "\27f",
  ["\27[1;3D"] = "\27b", ["\27\127"] = "\23",
} do
  keys[other] = keys[key]
end

-- The first key of the bytes: its own bytes, or nil when more have to come.
local function first_key(bytes)
  local first = bytes:byte()
  if first == 27 then
    local sequence = bytes:match("^\27%[[\x30-\x3f]*[\x20-\x2f]*[\x40-\x7e]") or bytes:match("^\27O.") or bytes:match("^\27[^%[O]")
    if not sequence and #bytes > 16 then
      return "\27" -- nothing that we know is so long
    end
    return sequence
  elseif first >= 0xc2 and first <= 0xf4 then
    local length = first < 0xe0 and 2 or first < 0xf0 and 3 or 4
    if not bytes:find("^[\x80-\xbf]+", 2) and #bytes > 1 then
      return bytes:sub(1, 1)
    end
    return #bytes >= length and bytes:sub(1, length) or nil
  end
  local plain = bytes:match("^[\x20-\x7e]+") -- a paste goes in as one
  return plain or bytes:sub(1, 1)
end

--- Takes bytes of the terminal. While no prompt is shown they are kept for the next one, but for Ctrl-C.
---@param bytes string
function Editor:feed(bytes)
  if not self._active then
    local at = bytes:find("\3", 1, true)
    if at then -- and what was typed before it is not wanted any more
      self._ahead = bytes:sub(at + 1)
      return self._opts.interrupt(false)
    end
  end
  self._ahead = (self._ahead .. bytes):sub(1, TYPED_AHEAD)
  while self._active and self._ahead ~= "" do
    local key = first_key(self._ahead)
    if not key then
      return
    end
    self._ahead = self._ahead:sub(#key + 1)
    if not (self._search and self:_search_key(key)) then
      local act = keys[key]
      if act then
        act(self)
      elseif not key:find("^%c") and utf8.len(key) then
        self:_insert(key)
      end
    end
  end
end

return M
