--- Header and trailer fields (RFC 9110, section 5): names without case, several values to a name, in the order they came in.

local errors = require "echostream.errors"

local M = {}

---@class echostream.http.fields
---@field private _list string[]  name, value, name, value, …: as the core gives and takes them
local Fields = {}
Fields.__index = Fields
Fields.__name = "echostream.http.fields"

-- What joins the lines of a name to one value. Cookie crumbs: RFC 9114, section 4.2.1.
local joints = { cookie = "; " }

--- Fields that belong to one connection and have no place in HTTP/2 and HTTP/3 (RFC 9114, section 4.2).
---@type table<string, boolean>
M.connection_specific = {
  connection = true,
  ["keep-alive"] = true,
  ["proxy-connection"] = true,
  ["transfer-encoding"] = true,
  upgrade = true,
}

--- Whether `text` is a token (RFC 9110, section 5.6.2): names of fields, methods, cookies are.
---@param text any
---@return boolean
function M.is_token(text)
  return type(text) == "string" and text:find("^[%w!#$%%&'*+%-.^_`|~]+$") ~= nil
end
local is_token = M.is_token

--- Whether `text` may be the value of a field: no control bytes but tabs, no blanks at its ends.
---@param text any
---@return boolean
function M.is_value(text)
  return type(text) == "string" and not text:find "[\0-\8\10-\31\127]" and not text:find "^[ \t]" and not text:find "[ \t]$"
end

--- A text without the blanks around it. One pattern for both ends would look at each blank inside again and again, which takes seconds
--- for the fields that some peers send.
---@param text string
---@return string
---@package
function M.trim(text)
  return text:match(".*[^ \t]", (text:match "^[ \t]*()")) or ""
end
local trim = M.trim

local function check_name(where, name)
  if not is_token(name) then
    error(("%s: %s is no name of a field"):format(where, errors.show(name)), 3)
  end
  return name:lower()
end

local function lower(where, name)
  if type(name) ~= "string" then
    error(("%s: a name is a string, got %s"):format(where, errors.show(name)), 3)
  end
  return name:lower()
end

local function check_value(where, name, value)
  if math.type(value) == "integer" then
    value = tostring(value)
  elseif type(value) == "string" then
    value = trim(value)
  end
  if not M.is_value(value) then
    error(("%s: %s cannot be the value of \"%s\""):format(where, errors.show(value), name), 3)
  end
  return value
end

--- Makes fields. Raises on names and values that HTTP does not have.
---@param from? table<string, string|integer|string[]>|{ [1]: string, [2]: string }[]|echostream.http.fields  a map, a list of pairs, or
--- fields, which are copied
---@return echostream.http.fields
function M.new(from)
  if M.is_fields(from) then
    return from--[[@as echostream.http.fields]]:copy()
  end
  local self = setmetatable({ _list = {} }, Fields)
  if from then
    if type(from) ~= "table" then
      error("http.fields: wants a table, got " .. errors.show(from), 2)
    end
    local names = {}
    for key, value in pairs(from) do
      if math.type(key) == "integer" and type(value) == "table" then
        names[#names + 1] = key
      elseif type(key) == "string" then
        names[#names + 1] = key
      else
        error("http.fields: wants a map of names, or a list of pairs", 2)
      end
    end
    table.sort(names, function(a, b) -- a map has no order: its fields go out by name
      if type(a) == type(b) then
        return a < b
      end
      return type(a) == "number"
    end)
    for _, key in ipairs(names) do
      local value = from[key]
      if type(key) == "number" then
        self:add(value[1], value[2])
      elseif type(value) == "table" then
        for _, one in ipairs(value) do
          self:add(key, one)
        end
      else
        self:add(key, value)
      end
    end
  end
  return self
end

--- Fields as a peer sent them. Over HTTP/3 names come in lower case and nothing belongs to the connection
--- (RFC 9114, section 4.2); anything else makes the message malformed. Pseudo-fields are not for here.
---@param pairs_of { [1]: string, [2]: string }[]
---@return echostream.http.fields? fields, echostream.error? err  `protocol`
function M.parse(pairs_of)
  local list = {}
  for i, pair in ipairs(pairs_of) do
    local name, value = pair[1], pair[2]
    if not is_token(name) or name:find "%u" then
      return nil, errors.new("protocol", ("%s is no name of a field"):format(errors.show(name)))
    elseif M.connection_specific[name] or (name == "te" and value ~= "trailers") then
      return nil, errors.new("protocol", ("the field \"%s\" belongs to a connection"):format(name))
    elseif not M.is_value(value) then
      return nil, errors.new("protocol", ("the field \"%s\" has a value that no field has"):format(name))
    end
    list[2 * i - 1], list[2 * i] = name, value
  end
  return setmetatable({ _list = list }, Fields)
end

--- Fields around the core's own list, which has been checked there and is theirs from here on.
---@param list string[]  name, value, name, value, …
---@return echostream.http.fields
---@package
function M.of_list(list)
  return setmetatable({ _list = list }, Fields)
end

--- What `of_list` takes. Not a copy.
---@param self echostream.http.fields
---@return string[]
---@package
function M.list_of(self)
  return self._list
end

--- Whether a value is one of these objects.
---@param value any
---@return boolean
---@package
function M.is_fields(value)
  return getmetatable(value) == Fields
end

-- `headers["x"] = "y"` would say nothing to anybody.
function Fields.__newindex(_, name)
  error(("http.fields: a field is set by fields:set(%s, value)"):format(errors.show(name)), 2)
end

--- The value of a name: of several lines, all of them joined (RFC 9110, section 5.3). `set-cookie` is never joined: its first.
---@param name string
---@return string?
function Fields:get(name)
  name = lower("fields:get", name)
  local first, more
  local list = self._list
  for i = 1, #list, 2 do
    if list[i] == name then
      if not first then
        first = list[i + 1]
        if name == "set-cookie" then
          break
        end
      else
        more = more or { first }
        more[#more + 1] = list[i + 1]
      end
    end
  end
  return more and table.concat(more, joints[name] or ", ") or first
end

--- The values of a name, line by line.
---@param name string
---@return string[]
function Fields:all(name)
  name = lower("fields:all", name)
  local values, list = {}, self._list
  for i = 1, #list, 2 do
    if list[i] == name then
      values[#values + 1] = list[i + 1]
    end
  end
  return values
end

--- Whether a name has a value, also an empty one.
---@param name string
---@return boolean
function Fields:has(name)
  name = lower("fields:has", name)
  local list = self._list
  for i = 1, #list, 2 do
    if list[i] == name then
      return true
    end
  end
  return false
end

--- Adds a line.
---@param name string
---@param value string|integer
---@return echostream.http.fields self
function Fields:add(name, value)
  name = check_name("fields:add", name)
  value = check_value("fields:add", name, value)
  local list = self._list
  local n = #list
  list[n + 1], list[n + 2] = name, value
  return self
end

--- Replaces all lines of a name.
---@param name string
---@param value string|integer|string[]|nil  nil removes the name
---@return echostream.http.fields self
function Fields:set(name, value)
  name = check_name("fields:set", name)
  local lines = {}
  for _, one in ipairs(type(value) == "table" and value or { value }) do
    lines[#lines + 1] = name
    lines[#lines + 1] = check_value("fields:set", name, one)
  end
  self:remove(name)
  table.move(lines, 1, #lines, #self._list + 1, self._list)
  return self
end

--- Removes a name.
---@param name string
---@return echostream.http.fields self
function Fields:remove(name)
  name = lower("fields:remove", name)
  local list, n = self._list, 0
  for i = 1, #list, 2 do
    local line, value = list[i], list[i + 1]
    if line ~= name then
      list[n + 1], list[n + 2] = line, value
      n = n + 2
    end
  end
  for i = #list, n + 1, -1 do
    list[i] = nil
  end
  return self
end

--- Adds members to a field that is a list, such as `vary`, unless they are there already (compared without case).
---@param name string
---@param ... string
---@return echostream.http.fields self
function Fields:include(name, ...)
  name = check_name("fields:include", name)
  local members = M.list(self:get(name) or "") or {}
  local there = {}
  for _, member in ipairs(members) do
    there[member:lower()] = true
  end
  for i = 1, select("#", ...) do
    local member = check_value("fields:include", name, (select(i, ...)))
    if not there[member:lower()] then
      there[member:lower()] = true
      members[#members + 1] = member
    end
  end
  return self:set(name, table.concat(members, ", "))
end

--- Iterates over the lines: lower-case name, value. They must not be changed meanwhile.
---@return fun(): string?, string?
function Fields:each()
  local i, list = -1, self._list
  return function()
    i = i + 2
    return list[i], list[i + 1]
  end
end

--- How many lines there are.
---@return integer
function Fields:count()
  return #self._list // 2
end

--- The size that limits are about: names and values and 32 for each line (RFC 9114, section 4.2.2).
---@return integer
function Fields:size()
  local bytes = 0
  for _, text in ipairs(self._list) do
    bytes = bytes + #text + 16
  end
  return bytes
end

--- A copy that can be changed.
---@return echostream.http.fields
function Fields:copy()
  return setmetatable({ _list = table.move(self._list, 1, #self._list, 1, {}) }, Fields)
end

-- Values ------------------------------------------------------------------------------------------------------

-- Cuts at a separator that stands in no quoted string. nil: a quoted string does not end, or there are more than `max` pieces.
local function cut(value, separator, max)
  local pieces, start, at = {}, 1, 1
  local stops = "[\"" .. separator .. "]"
  while true do
    local found = value:find(stops, at)
    if not found or value:byte(found) ~= 34 then
      local piece = trim(value:sub(start, (found or 0) - 1))
      if piece ~= "" then -- empty ones are to be ignored: RFC 9110, section 5.6.1.2
        if #pieces == max then
          return nil
        end
        pieces[#pieces + 1] = piece
      end
      if not found then
        return pieces
      end
      start, at = found + 1, found + 1
    else
      at = found + 1
      while true do
        local mark = value:find("[\"\\]", at)
        if not mark then
          return nil
        end
        at = mark + (value:byte(mark) == 92 and 2 or 1)
        if value:byte(mark) == 34 then
          break
        end
      end
    end
  end
end

--- The members of a list (RFC 9110, section 5.6.1). Commas in quoted strings do not count, empty members are left out.
---@param value string
---@param max? integer  default 128
---@return string[]? members, echostream.error? err  `invalid_argument`
function M.list(value, max)
  local members = cut(value, ",", max or 128)
  if not members then
    return nil, errors.new("invalid_argument", "a list of a header field is broken or too long")
  end
  return members
end

--- What a quoted string says; anything else stays as it is.
---@param text string
---@return string
function M.unquote(text)
  local inside = text:match '^"(.*)"$'
  return inside and (inside:gsub("\\(.)", "%1")) or text
end

--- `text` as it may stand as the value of a parameter: a token as it is, anything else as a quoted string.
---@param text string
---@return string
function M.quote(text)
  if is_token(text) then
    return text
  elseif text:find "[\0-\8\10-\31\127]" then
    error("http.fields: control bytes cannot be quoted", 2)
  end
  return '"' .. text:gsub('["\\]', "\\%0") .. '"'
end

--- Takes `text/html; charset="utf-8"` apart (RFC 9110, section 5.6.6). Of a parameter that is given twice, the first counts.
---@param value string
---@return string? head, table<string, string>|echostream.error parameters  names in lower case; or nil, err
function M.parameters(value)
  local pieces = cut(value, ";", 32)
  if not pieces or #pieces == 0 or value:find "^[ \t]*;" then
    return nil, errors.new("invalid_argument", "the parameters of a header field are broken")
  end
  local parameters = {}
  for i = 2, #pieces do
    local name, text = pieces[i]:match "^([^=]+)=(.*)$"
    if not is_token(name) or not (is_token(text) or text:find '^".*"$') then
      return nil, errors.new("invalid_argument", "the parameters of a header field are broken")
    end
    name = name:lower()
    parameters[name] = parameters[name] or M.unquote(text)
  end
  return pieces[1], parameters
end

-- A weight: RFC 9110, section 12.4.2.
local function weight(text)
  if text == nil then
    return 1.0
  elseif text:find "^0%.?%d?%d?%d?$" or text:find "^1%.?0?0?0?$" then
    return tonumber(text) + 0.0
  end
end

---@class echostream.http.choice
---@field value string   in lower case
---@field q number       0 to 1
---@field parameters table<string, string>  without q

--- For `table.sort`: the greater weight `q` first, of equal ones the one that came first, at `at`.
---@param a { q: number, at: integer }
---@param b { q: number, at: integer }
---@return boolean
---@package
function M.is_better(a, b)
  if a.q ~= b.q then
    return a.q > b.q
  end
  return a.at < b.at
end

--- The members of a list with weights, such as `Accept-Encoding`, best first; equal ones stay in their order. Members that are
--- broken are left out.
---@param value string
---@return echostream.http.choice[]
function M.qualities(value)
  local choices = {}
  for i, member in ipairs(M.list(value) or {}) do
    local head, parameters = M.parameters(member)
    local q = head and weight(parameters.q)
    if q then
      parameters.q = nil
      choices[#choices + 1] = { value = head:lower(), q = q, parameters = parameters, at = i }
    end
  end
  table.sort(choices, M.is_better)
  for _, choice in ipairs(choices) do
    choice.at = nil
  end
  return choices
end

return M
