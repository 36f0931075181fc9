--- Queries and forms: application/x-www-form-urlencoded.

local errors = require "echostream.errors"
local percent = require "echostream.http.percent"

local M = {}

--- Most pairs that `parse` takes, unless told otherwise.
M.max_pairs = 1000

--- The path and the query of a request's target. A fragment is never sent; one that is there stays where it stands.
---@param target string  such as "/a?b=1"
---@return string path, string? query  nil: there is no question mark
function M.split(target)
  local at = target:find("?", 1, true)
  if at then
    return target:sub(1, at - 1), target:sub(at + 1)
  end
  return target
end

-- A percent sign without digits stands for itself, as browsers and the URL standard have it.
local function decode(text)
  return (text:gsub("%+", " "):gsub("%%(%x%x)", function(hex)
    return string.char(tonumber(hex, 16))
  end))
end

---@class echostream.http.pair
---@field [1] string  name
---@field [2] string  value

--- Reads pairs of names and values. What comes out are bytes, which need not be UTF-8.
---@param text string?  nil or "" has no pairs
---@param max? integer  pairs at most, default `query.max_pairs`
---@return table<string, string>|nil values  the first value of each name
---@return echostream.http.pair[]|echostream.error pairs_of  all of them, in order; or nil, err `resource_exhausted`
function M.parse(text, max)
  local values, list = {}, {}
  max = max or M.max_pairs
  for piece in (text or ""):gmatch "[^&]+" do
    if #list == max then
      return nil, errors.new("resource_exhausted", ("more than %d names and values"):format(max))
    end
    local at = piece:find("=", 1, true)
    local name = decode(at and piece:sub(1, at - 1) or piece)
    local value = at and decode(piece:sub(at + 1)) or ""
    list[#list + 1] = { name, value }
    if values[name] == nil then
      values[name] = value
    end
  end
  return values, list
end

local function encode(text)
  return (percent.encode(tostring(text), "* "):gsub("~", "%%7E"):gsub(" ", "+"))
end

--- Writes pairs.
---@param from table<string, string|number|boolean|string[]>|echostream.http.pair[]  a map (written by name), or a list of pairs
---@return string
function M.build(from)
  local list = {}
  if from[1] ~= nil then
    list = from
  else
    local names = {}
    for name in pairs(from) do
      names[#names + 1] = name
    end
    table.sort(names)
    for _, name in ipairs(names) do
      local value = from[name]
      for _, one in ipairs(type(value) == "table" and value or { value }) do
        list[#list + 1] = { name, one }
      end
    end
  end
  local pieces = {}
  for i, pair in ipairs(list) do
    pieces[i] = encode(pair[1]) .. "=" .. encode(pair[2])
  end
  return table.concat(pieces, "&")
end

return M
