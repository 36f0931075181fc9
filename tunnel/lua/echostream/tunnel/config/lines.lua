--- Which line of a file a value of its table stands in, for messages such as "server.lua:12: listen[2].bind: …". Reads Lua tables and
--- JSON alike, without running anything; what it does not understand has no line.

local M = {}

-- The token at a place: its kind, its text and where it ends. Blanks and comments are passed over.
local function token(text, at)
  while true do
    local from = text:find("%S", at)
    if not from then
      return nil
    end
    at = from
    local level = text:match("^%-%-%[(=*)%[", at)
    if level then
      at = (select(2, text:find("]" .. level .. "]", at, true)) or #text) + 1
    elseif text:find("^%-%-", at) then
      at = (text:find("\n", at, true) or #text) + 1
    else
      break
    end
  end
  local level = text:match("^%[(=*)%[", at)
  if level then
    local close = select(2, text:find("]" .. level .. "]", at, true)) or #text
    return "string", text:sub(at, close), at, close + 1
  end
  local quote = text:match("^[\"']", at)
  if quote then
    local to = at + 1
    while to <= #text and text:sub(to, to) ~= quote do
      to = to + (text:sub(to, to) == "\\" and 2 or 1)
    end
    return "string", text:sub(at + 1, to - 1), at, to + 1
  end
  local word = text:match("^[%a_][%w_]*", at)
  if word then
    return "word", word, at, at + #word
  end
  local number = text:match("^[%w.]+", at)
  if number then
    return "number", number, at, at + #number
  end
  local sign = text:sub(at, at)
  return sign, sign, at, at + 1
end

local openers = { ["function"] = 1, ["if"] = 1, ["do"] = 1, ["repeat"] = 1, ["end"] = -1, ["until"] = -1 }

local function lister(text)
  local starts, found = { 1 }, {}
  for at in text:gmatch "\n()" do
    starts[#starts + 1] = at
  end
  local function line_of(at)
    local low, high = 1, #starts
    while low < high do
      local middle = (low + high + 1) // 2
      if starts[middle] <= at then
        low = middle
      else
        high = middle - 1
      end
    end
    return low
  end
  return found, function(path, at)
    found[path] = found[path] or line_of(at)
  end
end

-- The place after the value that begins at `at`: a function, a call, a table, or any expression up to a comma or the end of the table.
local value

-- A table or list; `close` is what ends it.
local function fields(text, at, close, path, note)
  local index = 0
  while true do
    local kind, word, from, after = token(text, at)
    if not kind then
      return #text + 1
    elseif kind == close then
      return after
    elseif kind == "," or kind == ";" then
      at = after
    else
      local key
      local next_kind, _, _, next_after = token(text, after)
      if (kind == "word" or kind == "string") and (next_kind == "=" and not text:find("^%s*==", after) or next_kind == ":" and kind == "string") then
        key, at = word, next_after
      elseif kind == "[" and close == "}" then
        local key_kind, key_word, _, key_after = token(text, after)
        local shut, _, _, shut_after = token(text, key_after or #text + 1)
        local equal, _, _, equal_after = token(text, shut_after or #text + 1)
        if (key_kind == "string" or key_kind == "number") and shut == "]" and equal == "=" then
          key, at = key_kind == "number" and tonumber(key_word) or key_word, equal_after
        end
      end
      if key == nil then
        index = index + 1
        key, at = index, from
      end
      local here = type(key) == "number" and ("%s[%s]"):format(path, key) or path == "" and key or path .. "." .. key
      note(here, from)
      at = value(text, at, here, note)
    end
  end
end

-- Up to the `end` of what `at` begins.
local function past_function(text, at)
  local depth = 0
  repeat
    local kind, word, _, after = token(text, at)
    if not kind then
      return #text + 1
    end
    depth = depth + (kind == "word" and openers[word] or 0)
    at = after
  until depth == 0
  return at
end

local closers = { ["{"] = "}", ["("] = ")", ["["] = "]" }

function value(text, at, path, note)
  local first = true
  while true do
    local kind, word, from, after = token(text, at)
    if not kind then
      return #text + 1
    elseif kind == "," or kind == ";" or kind == "}" or kind == "]" or kind == ")" then
      return from
    elseif kind == "word" and word == "function" then
      at = past_function(text, from)
    elseif closers[kind] then
      at = first and kind ~= "(" and fields(text, after, closers[kind], path, note) or fields(text, after, closers[kind], path .. "()", note)
    else
      at = after
    end
    first = false
  end
end

--- The lines of everything in the table that a file gives: `{ ["listen[2].bind"] = 12, … }`.
---@param text string  Lua with a table after its last top-level `return`, or JSON
---@return table<string, integer>
function M.of(text)
  local found, note = lister(text)
  local at, begin, depth = 1, nil, 0
  local first = token(text, 1)
  if first == "{" or first == "[" then
    begin = 1
  else
    while true do
      local kind, word, _, after = token(text, at)
      if not kind then
        break
      elseif kind == "word" and openers[word] then
        depth = depth + openers[word]
      elseif kind == "word" and word == "return" and depth == 0 then
        begin = after
      end
      at = after
    end
  end
  local kind, _, _, after = token(text, begin or #text + 1)
  if kind == "{" or kind == "[" then
    fields(text, after, closers[kind], "", note)
  end
  return found
end

--- The line of a value, or of the nearest thing around it that has one.
---@param lines table<string, integer>
---@param path string  "listen[2].bind"
---@return integer?
function M.find(lines, path)
  while path and path ~= "" do
    if lines[path] then
      return lines[path]
    end
    path = path:match "^(.*)%[[^%]]*%]$" or path:match "^(.*)%.[^.]*$"
  end
end

return M
