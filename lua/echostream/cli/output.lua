--- What commands write for people: colours where they belong, columns, numbers and durations in few characters.

local pretty = require "echostream.pretty"
local stdio = require "echostream.loop.stdio"

local M = {}

local codes = { bold = "1", dim = "2", red = "31", green = "32", yellow = "33" }

--- Whether colours may be used on a descriptor: a terminal that is not `dumb`, and NO_COLOR is not set (https://no-color.org).
---@param fd integer
---@return boolean
function M.has_colour(fd)
  local off, terminal = os.getenv "NO_COLOR", os.getenv "TERM"
  return (off == nil or off == "") and terminal ~= "dumb" and stdio.is_terminal(fd)
end

--- A function that paints text for a descriptor, or leaves it as it is.
---@param fd integer
---@return fun(colour: "bold"|"dim"|"red"|"green"|"yellow", text: string): string
function M.painter(fd)
  if not M.has_colour(fd) then
    return function(_, text)
      return text
    end
  end
  return function(colour, text)
    return ("\27[%sm%s\27[0m"):format(codes[colour], text)
  end
end

--- What the peer said, with everything escaped that a terminal would obey or not show as it is: controls (those of one byte and those
--- that are characters, U+0080 to U+009F), what turns the direction of writing, bytes that are no UTF-8. Newlines and tabs stay.
---@param text any
---@return string
function M.plain(text)
  return pretty.safe(tostring(text), true)
end

--- The same in one line, for cells of a table.
---@param text any
---@return string
function M.line(text)
  return pretty.safe(tostring(text))
end

local function width_of(text)
  return utf8.len(text) or #text
end

--- Lines of a table whose columns are as wide as they must be. The last column is not padded.
---@param rows string[][]
---@param right? table<integer, boolean>  columns that are aligned to the right
---@return string[]
function M.columns(rows, right)
  local widths = {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do
      widths[i] = math.max(widths[i] or 0, width_of(cell))
    end
  end
  local lines = {}
  for n, row in ipairs(rows) do
    local cells = {}
    for i, cell in ipairs(row) do
      local padding = (" "):rep(widths[i] - width_of(cell))
      cells[i] = right and right[i] and padding .. cell or i < #row and cell .. padding or cell
    end
    lines[n] = (table.concat(cells, "  "):gsub(" +$", ""))
  end
  return lines
end

--- A number with separated thousands, and as many digits as are worth something.
---@param number number
---@return string
function M.number(number)
  local text = (number >= 100 or number == math.floor(number)) and ("%.0f"):format(number) or ("%.1f"):format(number)
  local whole, rest = text:match "^(%-?%d+)(.*)$"
  if not whole then
    return text -- no number
  end
  repeat
    local n
    whole, n = whole:gsub("^(%-?%d+)(%d%d%d)", "%1,%2")
  until n == 0
  return whole .. rest
end

--- Seconds in the unit that suits them: "12.3 µs", "4.56 ms", "7.8 s".
---@param seconds number
---@return string
function M.duration(seconds)
  if seconds <= 0 then
    return "0"
  elseif seconds < 0.001 then
    return ("%.0f µs"):format(seconds * 1e6)
  elseif seconds < 0.1 then
    return ("%.2f ms"):format(seconds * 1e3)
  elseif seconds < 1 then
    return ("%.0f ms"):format(seconds * 1e3)
  elseif seconds < 120 then
    return ("%.2f s"):format(seconds)
  end
  return ("%d min"):format(seconds // 60)
end

return M
