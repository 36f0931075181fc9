--- What several plugins need: patterns of names, and who somebody is.

local core = require "echostream.core"
local errors = require "echostream.errors"
local options = require "echostream.options"
local text_of = require "echostream.metrics.text"

local M = {}

--- A function that finds the value of a name in a table of patterns. A pattern is a whole name, or a beginning and "*"; a whole name
--- goes first, then the longest beginning.
---@param patterns table<string, any>
---@return fun(name: string): any
function M.matcher(patterns)
  local whole, beginnings = {}, {}
  for pattern, value in pairs(patterns) do
    if pattern:sub(-1) == "*" then
      beginnings[#beginnings + 1] = { pattern:sub(1, -2), value }
    else
      whole[pattern] = value
    end
  end
  table.sort(beginnings, function(a, b)
    return #a[1] > #b[1]
  end)
  return function(name)
    local value = whole[name]
    if value ~= nil then
      return value
    end
    for _, each in ipairs(beginnings) do
      if name:sub(1, #each[1]) == each[1] then
        return each[2]
      end
    end
  end
end

--- The same for a list of patterns: whether one of them fits. Without a list every name does.
---@param list string[]?
---@return fun(name: string): boolean?
function M.one_of(list)
  if not list then
    return function()
      return true
    end
  end
  return M.matcher(M.set(list))
end

--- A list as a set.
---@param list any[]
---@return table<any, true>
function M.set(list)
  local set = {}
  for _, value in ipairs(list) do
    set[value] = true
  end
  return set
end

--- Whether two texts are the same. Takes the same time wherever they differ: it depends on the length of what was given alone.
---@type fun(given: string, secret: string): boolean
M.same = core.same

local MAX_WORD <const> = 256

local function hex(c)
  return (c:gsub(".", function(byte)
    return ("\\x%02x"):format(byte:byte())
  end))
end

--- A value as one word of a line: UTF-8, cut after 256 bytes, without control characters, spaces, quotes and backslashes, which become \xNN.
--- So nothing that a peer says begins a line or a field of its own, or talks to a terminal.
---@param value any
---@return string
function M.word(value)
  local ok, text = pcall(tostring, value)
  if not ok then
    return "?"
  end
  if #text <= MAX_WORD and not text:find "[%c\127-\255\"\\ ]" then
    return text
  end
  text = text:sub(1, MAX_WORD + 1):gsub("[%c\127\"\\ ]", hex):gsub("\194[\128-\159]", hex)
  return text_of.utf8(text, MAX_WORD)
end

--- Raises unless the keys of a table of patterns are names or beginnings with a "*".
---@param where string
---@param option string
---@param patterns table
---@param level integer  as for error()
function M.check_patterns(where, option, patterns, level)
  for pattern in pairs(patterns) do
    if type(pattern) ~= "string" or not pattern:find "^[%w._/:-]*%*?$" or pattern == "" then
      error(("%s: option \"%s\" wants names, or beginnings with a \"*\" at the end, got %s"):format(where, option,
        errors.show(pattern)), level + 1)
    end
  end
end

--- Raises unless a table has values of these kinds by name.
---@param where string
---@param option string
---@param given table
---@param wanted string|string[]  as for options.argument
---@param level integer  as for error()
function M.check_values(where, option, given, wanted, level)
  for name, value in pairs(given) do
    local what = ("option \"%s\", %s"):format(option, errors.show(name))
    options.argument(where, what, name, "string", level + 1)
    options.argument(where, what, value, wanted, level + 1)
  end
end

--- A function that finds the value of a name, of a list of patterns that all have one value, or of a table of values by pattern.
---@param where string
---@param option string
---@param given table
---@param value any
---@param level integer  as for error()
---@return fun(name: string): any
function M.values(where, option, given, value, level)
  local patterns = {}
  for key, each in pairs(given) do
    patterns[math.type(key) and each or key] = math.type(key) and value or each
    if not math.type(key) and type(each) ~= type(value) then
      error(("%s: option \"%s\" wants a %s for %s, got %s"):format(where, option, type(value), errors.show(key), errors.show(each)), level + 1)
    end
  end
  M.check_patterns(where, option, patterns, level + 1)
  return M.matcher(patterns)
end

--- Who a peer is, as text: its identity, else nil.
---@param session echostream.session?
---@return string?
function M.who(session)
  local identity = session and session.identity
  if type(identity) == "table" and type(identity.name) == "string" then
    return identity.name
  end
  return identity ~= nil and tostring(identity) or nil
end

-- The first four groups of an IPv6 address: what one customer usually has.
local function prefix64(ip)
  local head, tail = ip:match "^(.-)::(.*)$"
  local groups = {}
  for group in (head or ip):gmatch "[^:]+" do
    groups[#groups + 1] = group
  end
  if head then
    local _, after = tail:gsub("[^:]+", "")
    while #groups < 8 - after do
      groups[#groups + 1] = "0"
    end
    for group in tail:gmatch "[^:]+" do
      groups[#groups + 1] = group
    end
  end
  return table.concat(groups, ":", 1, 4) .. "::/64"
end

--- The address of a peer without its port; of IPv6 the /64.
---@param session echostream.session?
---@return string
function M.address(session)
  local peer = session and session.peer_addr or ""
  local six = peer:match "^%[([^%]%%]*)"
  if not six then
    return (peer:gsub(":%d+$", ""))
  end
  local mapped = six:match "^::ffff:(%d+%.%d+%.%d+%.%d+)$"
  return mapped or prefix64(six)
end

return M
