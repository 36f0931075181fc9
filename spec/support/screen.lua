-- What a terminal shows, line by line, of the bytes that a program wrote: enough of a VT100 for programs that print and for line
-- editors (carriage return, backspace, cursor up, down, left and right, erasing in the line and below; colours are dropped).
-- Lines are as long as they like: nothing wraps.

local M = {}

---@class screen
---@field lines string[]   from 1; the one of the cursor is the last that was touched
---@field row integer      of the cursor, from 1
local Screen = {}
Screen.__index = Screen

---@return screen
function M.new()
  return setmetatable({ lines = { "" }, row = 1, column = 0, rest = "" }, Screen)
end

-- Text is kept as bytes; columns count characters, of which every one is taken to be one column wide.
local function put(self, text)
  local line = self.lines[self.row]
  local width = utf8.len(line)
  if not width or not utf8.len(text) then -- not UTF-8: a byte, a column
    line = line .. (" "):rep(self.column - #line)
    self.lines[self.row] = line:sub(1, self.column) .. text .. line:sub(self.column + #text + 1)
    self.column = self.column + #text
    return
  end
  line = line .. (" "):rep(self.column - width)
  width = math.max(width, self.column)
  local n = utf8.len(text)
  local before = line:sub(1, utf8.offset(line, self.column + 1) - 1)
  local after = self.column + n < width and line:sub(utf8.offset(line, self.column + n + 1)) or ""
  self.lines[self.row] = before .. text .. after
  self.column = self.column + n
end

local function cut(self, column)
  local line = self.lines[self.row]
  local offset = utf8.len(line) and utf8.offset(line, column + 1) or column + 1
  self.lines[self.row] = offset and line:sub(1, offset - 1) or line
end

local function move_down(self)
  self.row = self.row + 1
  self.lines[self.row] = self.lines[self.row] or ""
end

local function escape(self, arguments, final)
  local n = tonumber(arguments:match "^%d+") or nil
  if final == "K" and (n or 0) == 0 then
    cut(self, self.column)
  elseif final == "K" and n == 2 then
    self.lines[self.row] = ""
  elseif final == "J" and (n or 0) == 0 then
    cut(self, self.column)
    for row = #self.lines, self.row + 1, -1 do self.lines[row] = nil end
  elseif final == "A" then
    self.row = math.max(1, self.row - (n or 1))
  elseif final == "B" then
    for _ = 1, n or 1 do move_down(self) end
  elseif final == "C" then
    self.column = self.column + (n or 1)
  elseif final == "D" then
    self.column = math.max(0, self.column - (n or 1))
  elseif final == "G" then
    self.column = math.max(0, (n or 1) - 1)
  end
end

--- Takes what a program wrote. Sequences and characters may come in pieces.
---@param bytes string
function Screen:feed(bytes)
  local text = self.rest .. bytes
  local at = 1
  while at <= #text do
    local c = text:sub(at, at)
    if c == "\27" then
      local arguments, final, after = text:match("^%[([%d;?]*)([%a@])()", at + 1)
      local skipped = text:match("^[^%[%]]()", at + 1) or text:match("^%][^\7]*\7()", at + 1)
      if not after and not skipped then break end -- the rest of it comes later
      if after then escape(self, arguments, final) end
      at = after or skipped
    elseif c == "\r" then
      self.column, at = 0, at + 1
    elseif c == "\n" then
      move_down(self)
      at = at + 1
    elseif c == "\b" then
      self.column, at = math.max(0, self.column - 1), at + 1
    elseif c:find "%c" then
      at = at + 1
    else
      local run, after = text:match("^([^%c]+)()", at)
      -- The last character may be there in part only.
      local good = utf8.len(run)
      if not good and after > #text then
        local start = #run
        while start > 1 and run:byte(start) & 0xc0 == 0x80 do start = start - 1 end
        if #run - start < 4 and utf8.len(run:sub(1, start - 1)) then
          run = run:sub(1, start - 1)
          after = at + start - 1
          if run == "" then break end
        end
      end
      put(self, run)
      at = after
    end
  end
  self.rest = text:sub(at)
end

return M
