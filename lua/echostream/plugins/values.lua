--- Values as texts and bytes, for what is kept by what it was asked with.

local core = require "echostream.core"

local M = {}

local plain_tables = { [getmetatable(core.array {})] = true, [getmetatable(core.map {})] = true }

-- The same text for the same value, whatever the order of its keys; false: it has none.
local function canonical(value, depth)
  local kind = math.type(value) or type(value)
  if kind == "string" then
    return ("%d:%s"):format(#value, value)
  elseif kind ~= "table" then
    return (kind == "integer" or kind == "float") and ("%q"):format(value) or kind == "boolean" and tostring(value)
      or (value == nil or value == core.null) and "n"
  elseif depth > 32 or getmetatable(value) and not plain_tables[getmetatable(value)] then
    return false
  elseif next(value) == nil then
    return core.codec.msgpack.pack(value)
  end
  local pairs_of = {}
  for key, each in pairs(value) do
    local left, right = canonical(key, depth + 1), canonical(each, depth + 1)
    if not left or not right then
      return false
    end
    pairs_of[#pairs_of + 1] = left .. "=" .. right
  end
  table.sort(pairs_of)
  return "{" .. table.concat(pairs_of, ",") .. "}"
end

--- The same text for the same value, whatever the order of its keys; false: it has none.
---@param value any
---@return string|false
function M.canonical(value)
  return canonical(value, 1) or false
end

--- The same for a name and arguments; nil: there is none.
---@param name string
---@param n integer
---@param args any[]
---@return string?
function M.text_of(name, n, args)
  if n == 1 then
    local word = canonical(args[1], 1)
    return word and name .. "," .. word or nil
  end
  local words = { name }
  for i = 1, n do
    local word = canonical(args[i], 1)
    if not word then
      return nil
    end
    words[#words + 1] = word
  end
  return table.concat(words, ",")
end

--- An error object of one's own, like this one.
---@param err echostream.error
---@return echostream.error
function M.copy_error(err)
  local copy = setmetatable({}, getmetatable(err))
  for key, value in next, err do
    copy[key] = value
  end
  if type(copy.details) == "table" then
    local bytes = core.codec.msgpack.pack(copy.details)
    copy.details = bytes and (core.codec.msgpack.unpack(bytes)) or nil
  end
  return copy
end

--- Results as bytes; nil when they cannot be packed.
---@param response echostream.middleware.response
---@return string?
function M.pack(response)
  local list = core.array {}
  for i = 1, response.n do
    list[i] = response[i] == nil and core.null or response[i]
  end
  return (core.codec.msgpack.pack(list))
end

--- The results again, their tables made anew.
---@param packed string
---@return any ...
function M.unpack(packed)
  local list = core.codec.msgpack.unpack(packed)
  local n = #list
  for i = 1, n do
    if list[i] == core.null then
      list[i] = nil
    end
  end
  return table.unpack(list, 1, n)
end

return M
