--- Lua values as text for people: what the prompt, the command line and error messages print.
---
---     local pretty = require "echostream.pretty"
---     print(pretty.format({ name = "ada", tags = { "a", "b" } }))   --> { name = "ada", tags = { "a", "b" } }
---
--- Tables are read raw, keys come sorted, and whatever the value is, the text is bounded and safe for a terminal: control
--- characters, bytes that are no UTF-8 and characters that turn the direction of writing are escaped. A table with a
--- `__tostring` is shown as that says.

local core = require "echostream.core"
local options = require "echostream.options"
local view = require "echostream.view"

local M = {}

---@class echostream.options.pretty
---@field width? integer       columns of a line; tables that fit are on one (default: 80)
---@field depth? integer       tables inside tables (default: 6)
---@field items? integer       entries of each table that are shown (default: 100)
---@field string? integer      bytes of each string that are shown (default: 1000)
---@field nodes? integer       values shown in all (default: 2000)
---@field colour? boolean      with the escape sequences of a terminal (default: false)
local schema = {
  width = { type = "integer", min = 10, default = 80 },
  depth = { type = "integer", min = 0, default = 6 },
  items = { type = "integer", min = 1, default = 100 },
  string = { type = "integer", min = 1, default = 1000 },
  nodes = { type = "integer", min = 1, default = 2000 },
  colour = { type = "boolean", default = false },
}

local colours = {
  string = "32", number = "36", keyword = "35", key = "34", object = "33", fault = "31", dim = "2",
}

--- Paints text for a terminal.
---@param text string
---@param style "string"|"number"|"keyword"|"key"|"object"|"fault"|"dim"
---@param on? boolean  false: the text as it is (default true)
---@return string
function M.paint(text, style, on)
  if on == false or text == "" then
    return text
  end
  return ("\27[%sm%s\27[0m"):format(colours[style], text)
end

-- Strings -----------------------------------------------------------------------------------------------------

local short = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\", ['"'] = '\\"' }

local function escape_byte(c)
  return short[c] or ("\\x%02x"):format(c:byte())
end

-- Characters that a terminal does not show as themselves: C1 controls, invisible ones, and those that turn the direction.
local function hidden(code)
  return code >= 0x80 and code <= 0x9f or code == 0xad or code == 0x61c or code >= 0x200b and code <= 0x200f
    or code >= 0x2028 and code <= 0x202e or code >= 0x2060 and code <= 0x206f or code == 0xfeff
    or code >= 0xe000 and code <= 0xf8ff or code >= 0xfff0 and code <= 0xfffb or code >= 0xe0000
end

-- Everything above ASCII: characters stay, what is hidden or no UTF-8 is escaped.
local function escape_high(text)
  local out, i = {}, 1
  while i <= #text do
    local stop = utf8.len(text, i, i)
    local code = stop and utf8.codepoint(text, i)
    if not code then
      out[#out + 1] = escape_byte(text:sub(i, i))
      i = i + 1
    else
      local character = utf8.char(code)
      out[#out + 1] = hidden(code) and ("\\u{%x}"):format(code) or character
      i = i + #character
    end
  end
  return table.concat(out)
end

--- The text with everything escaped that could do something to a terminal, in one line unless `lines`.
---@param text string
---@param lines? boolean  newlines and tabs stay
---@return string
function M.safe(text, lines)
  options.argument("pretty.safe", "text", text, "string")
  text = text:gsub(lines and "[^\n\t\x20-\x7e\x80-\xff]" or "[^\x20-\x7e\x80-\xff]", escape_byte)
  if text:find("[\x80-\xff]") then
    text = text:gsub("[\x80-\xff]+", escape_high)
  end
  return text
end

local RESET = "\27[0m"

local ours = { [RESET] = true }
for _, code in pairs(colours) do
  ours[("\27[%sm"):format(code)] = true
end

--- The output of a prompt that is somewhere else, for a terminal: `safe`, but for the colours that this module paints with. One that
--- is left on ends with the text.
---@param text string
---@return string
function M.safe_painted(text)
  options.argument("pretty.safe_painted", "text", text, "string")
  local out, from, on = {}, 1, false
  for at, sequence, after in text:gmatch "()(\27%[%d%d?m)()" do
    if ours[sequence] then
      out[#out + 1] = M.safe(text:sub(from, at - 1), true)
      out[#out + 1] = sequence
      from, on = after, sequence ~= RESET
    end
  end
  out[#out + 1] = M.safe(text:sub(from), true)
  return table.concat(out) .. (on and RESET or "")
end

-- Cut at a character, not inside one.
local function cut(text, bytes)
  local last = bytes
  while last > bytes - 4 and last > 0 and (text:byte(last + 1) or 0) & 0xc0 == 0x80 do
    last = last - 1
  end
  return text:sub(1, last)
end

local function quoted(text, limit)
  local rest = ""
  if #text > limit then
    rest = ("… (%d bytes)"):format(#text)
    text = cut(text, limit)
  end
  return '"' .. M.safe((text:gsub('["\\]', "\\%0"))) .. '"' .. rest
end

-- Numbers and the rest that is no table -----------------------------------------------------------------------

local function number(value)
  if math.type(value) == "integer" then
    return ("%d"):format(value)
  elseif value ~= value then
    return "nan"
  elseif value == math.huge or value == -math.huge then
    return value > 0 and "inf" or "-inf"
  end
  local text = ("%.14g"):format(value)
  if tonumber(text) ~= value then
    text = ("%.17g"):format(value)
  end
  return text:find("[.e]") and text or text .. ".0"
end

local function callable(value)
  local info = debug.getinfo(value, "S")
  if info.what == "C" then
    return "function (C)"
  end
  return ("function (%s:%d)"):format(info.short_src, info.linedefined)
end

local function in_words(value)
  local ok, text = pcall(tostring, value)
  return ok and type(text) == "string" and text or type(value)
end

-- Text and style of anything that is one word.
local function atom(value, opts)
  local kind = type(value)
  if kind == "string" then
    return quoted(value, opts.string), "string"
  elseif kind == "number" then
    return number(value), "number"
  elseif kind == "nil" or kind == "boolean" then
    return tostring(value), "keyword"
  elseif value == core.null then
    return "null", "keyword"
  elseif kind == "function" then
    return M.safe(callable(value)), "object"
  end
  return M.safe(cut(in_words(value), opts.string)), "object"
end

-- Tables ------------------------------------------------------------------------------------------------------

local array_mark, map_mark = debug.getmetatable(core.array {}), debug.getmetatable(core.map {})

local reserved = {}
for word in ("and break do else elseif end false for function goto if in local nil not or repeat return then true until while"):gmatch "%a+" do
  reserved[word] = true
end

--- Whether a string can stand as a name in Lua.
---@param text string
---@return boolean
function M.is_name(text)
  return type(text) == "string" and text:find("^[%a_][%w_]*$") ~= nil and not reserved[text]
end

local ranks = { number = 1, string = 2, boolean = 3 }

local function before(a, b)
  local kind_a, kind_b = type(a), type(b)
  if kind_a ~= kind_b then
    return (ranks[kind_a] or 4) < (ranks[kind_b] or 4)
  elseif kind_a == "number" or kind_a == "string" then
    return a < b
  end
  return tostring(a) < tostring(b)
end

-- The keys that are shown behind the sequence 1..n, sorted, and how many there are in all. Of a huge table only as many
-- are sorted as can be shown with some choice.
local function other_keys(t, n, limit)
  local keys, count = {}, 0
  for key in next, t do
    if not (math.type(key) == "integer" and key >= 1 and key <= n) then
      count = count + 1
      if #keys < limit then
        keys[#keys + 1] = key
      end
    end
  end
  -- A comparison that is not one of our kinds (NaN is no key) cannot fail: tostring of what is no string has no error here.
  pcall(table.sort, keys, before)
  return keys, count
end

local SORTED = 10000

local build

local function leaf(text, style)
  return { text = text, style = style, width = utf8.len(text) or #text }
end

local function key_text(key, opts)
  if type(key) == "string" and M.is_name(key) then
    return key
  end
  return "[" .. atom(key, opts) .. "]"
end

-- What stands before the brace: the name of the class, or the mark where the braces alone would not say it.
local function title(t, mt, n)
  if mt == array_mark then
    return next(t) == nil and "array " or ""
  elseif mt == map_mark then
    return (n > 0 or next(t) == nil) and "map " or ""
  end
  local name = type(mt) == "table" and rawget(mt, "__name")
  return type(name) == "string" and M.safe(cut(name, 60)) .. " " or ""
end

local function add(node, state, key, child)
  node[#node + 1] = { key = key, child = child }
  node.width = node.width + child.width + 2 + (key and (utf8.len(key) or #key) + 3 or 0)
  state.left = state.left - 1
end

local function contents(t, mt, depth, state)
  local opts = state.opts
  local n = rawlen(t)
  local node = { width = 2, title = title(t, mt, n) }
  node.width = node.width + #node.title
  local shown = 0
  for i = 1, n do
    if shown == opts.items or state.left <= 0 then
      break
    end
    shown = shown + 1
    add(node, state, nil, build(rawget(t, i), depth + 1, state))
  end
  local keys, count = other_keys(t, n, SORTED)
  for _, key in ipairs(keys) do
    if shown == opts.items or state.left <= 0 then
      break
    end
    shown = shown + 1
    add(node, state, key_text(key, opts), build(rawget(t, key), depth + 1, state))
  end
  if shown < n + count then
    add(node, state, nil, leaf(("… %d more"):format(n + count - shown), "dim"))
  end
  return node
end

-- What is added to an error object's own sentence.
local function failure(err, _, depth, state)
  local node = { width = 0, title = M.safe(cut(in_words(err), state.opts.string)), fault = true }
  node.width = (utf8.len(node.title) or #node.title) + 3
  local keys = other_keys(err, 0, 100)
  for _, key in ipairs(keys) do
    local value = rawget(err, key)
    if key ~= "code" and key ~= "message" and not (key == "processed" and value ~= "maybe") then
      add(node, state, key_text(key, state.opts), build(value, depth + 1, state))
    end
  end
  if #node == 0 then
    return leaf(node.title, "fault")
  end
  node.title = node.title .. " "
  return node
end

function build(value, depth, state)
  if type(value) ~= "table" then
    return leaf(atom(value, state.opts))
  elseif state.path[value] then
    return leaf("<cycle>", "dim")
  end
  local mt = debug.getmetatable(value)
  local is_error = mt == core.error_mt
  if type(mt) == "table" and rawget(mt, "__tostring") and mt ~= view.metatable and not is_error then
    local text = M.safe(cut(in_words(value), state.opts.string), depth == 0)
    return leaf(text, "object")
  elseif depth >= state.opts.depth and next(value) ~= nil and not is_error then
    return leaf(title(value, mt, rawlen(value)) .. "{…}", "dim")
  end
  state.path[value] = true
  local node = (is_error and failure or contents)(value, mt, depth, state)
  state.path[value] = nil
  return node
end

-- Layout ------------------------------------------------------------------------------------------------------

local function put(out, text, style, colour)
  out[#out + 1] = colour and style and M.paint(text, style) or text
end

-- `column`: how much of the line is taken before the node.
local function layout(out, node, indent, column, opts)
  if node.text then
    return put(out, node.text, node.style, opts.colour)
  end
  put(out, node.title, node.fault and "fault" or "object", opts.colour and node.title ~= "")
  if #node == 0 then
    return put(out, "{}")
  end
  local flat = column + node.width <= opts.width
  put(out, flat and "{ " or "{\n")
  local inner = indent .. "  "
  for i, item in ipairs(node) do
    if not flat then
      put(out, inner)
    end
    local used = #inner
    if item.key then
      put(out, item.key, "key", opts.colour)
      put(out, " = ")
      used = used + #item.key + 3
    end
    layout(out, item.child, inner, flat and 0 or used + 1, flat and { width = math.huge, colour = opts.colour } or opts)
    if i < #node then
      put(out, flat and ", " or ",\n")
    end
  end
  put(out, flat and " }" or "\n" .. indent .. "}")
end

local defaults = options.check("pretty.format", nil, schema)

--- A value as text.
---@param value any
---@param opts? echostream.options.pretty
---@return string
function M.format(value, opts)
  opts = opts and options.check("pretty.format", opts, schema) or defaults
  local out = {}
  local node = build(value, 0, { opts = opts, path = {}, left = opts.nodes })
  layout(out, node, "", 0, opts)
  return table.concat(out)
end

local function widest(max)
  return { width = math.maxinteger, depth = 3, items = 20, string = max, nodes = 100, colour = false }
end

--- A value as one line of at most `max` bytes, for tables of a terminal and messages.
---@param value any
---@param max? integer  default 200
---@return string
function M.line(value, max)
  max = max or 200
  options.argument("pretty.line", "max", max, "integer")
  local out = {}
  local opts = widest(max)
  layout(out, build(value, 0, { opts = opts, path = {}, left = opts.nodes }), "", 0, opts)
  local text = table.concat(out):gsub("[\n\t]", " ")
  return #text > max and cut(text, math.max(max - 3, 0)) .. "…" or text
end

return M
