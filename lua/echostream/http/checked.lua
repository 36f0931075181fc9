--- The face of the parts of HTTP: `echo.http.date` is the module `echostream.http.date` with its arguments looked at, so that a mistake
--- is an error that names the argument. The parts themselves, which servers use for every request, trust each other.

local errors = require "echostream.errors"
local fields = require "echostream.http.fields"
local options = require "echostream.options"

local M = {}

-- Kinds of arguments: fn(value) gives the value to go on with, or nil when it is none of the kind. -----------------

local function of_type(wanted)
  return function(value)
    return type(value) == wanted and value or nil
  end
end

local kinds = {
  string = { "a string", of_type "string" },
  number = { "a number", function(value)
    return type(value) == "number" and value == value and value or nil
  end },
  ["function"] = { "a function", of_type "function" },
  table = { "a table", of_type "table" },
}

kinds.integer = { "an integer", function(value)
  return math.type(value) == "integer" and value or nil
end }

-- Copies of lists: what is looked at is what is used.
local function list(of)
  return function(value)
    if type(value) ~= "table" then
      return nil
    end
    local copy = {}
    for i = 1, rawlen(value) do
      copy[i] = of(rawget(value, i))
      if copy[i] == nil then
        return nil
      end
    end
    return copy
  end
end

kinds.strings = { "a list of strings", list(of_type "string") }

kinds.fields = { "header fields", function(value)
  return fields.is_fields(value) and value or nil
end }

local function is_object(value, name)
  local mt = getmetatable(value)
  return type(mt) == "table" and rawget(mt, "__name") == name
end

-- A request of the server's, or a plain table.
local function message(name, also)
  return function(value)
    if type(value) ~= "table" then
      return nil
    elseif is_object(value, name) or fields.is_fields(rawget(value, "headers")) and (not also or type(rawget(value, also)) == "string") then
      return value
    end
  end
end

kinds.request = { "a request with headers", message "echostream.http.request" }
kinds.response = { "a response with headers", message "echostream.http.response" }
kinds.target = { "a request with method, path and headers", function(value)
  local plain = type(value) == "table" and not is_object(value, "echostream.http.request")
  if plain and (type(rawget(value, "method")) ~= "string" or type(rawget(value, "path")) ~= "string") then
    return nil
  end
  return kinds.request[2](value)
end }
kinds.asked = { "a request with a method", function(value)
  return type(value) == "table" and (is_object(value, "echostream.http.request") or type(rawget(value, "method")) == "string") and value
    or nil
end }

kinds.error = { "an error object", function(value)
  return errors.is_error(value) and value or nil
end }
kinds.code = { "an error object, or its code", function(value)
  return (type(value) == "string" or errors.is_error(value)) and value or nil
end }

kinds.validators = { "a table with etag and last_modified", function(value)
  if type(value) ~= "table" then
    return nil
  end
  local etag, modified = rawget(value, "etag"), rawget(value, "last_modified")
  if (etag ~= nil and type(etag) ~= "string") or (modified ~= nil and math.type(modified) ~= "integer") then
    return nil
  end
  return { etag = etag, last_modified = modified }
end }

kinds.tag = { "an entity tag", function(value)
  return type(value) == "string" and value or nil
end }

local function range(value)
  if type(value) == "table" and math.type(rawget(value, "first")) == "integer" and math.type(rawget(value, "last")) == "integer" then
    return { first = value.first, last = value.last }
  end
end
kinds.range = { "a range with first and last", range }
kinds.ranges = { "a list of ranges", list(range) }

kinds.pairs = { "a list of names and values", list(function(value)
  if type(value) == "table" then
    return { rawget(value, 1), rawget(value, 2) }
  end
end) }

local simple = { string = true, number = true, boolean = true }

local function values(value)
  if simple[type(value)] then
    return value
  end
  return kinds.strings[2](value)
end

kinds.form = { "a map of names, or a list of names and values", function(value)
  if type(value) ~= "table" then
    return nil
  elseif rawget(value, 1) ~= nil then
    local copy = kinds.pairs[2](value)
    for _, pair in ipairs(copy or {}) do
      if not simple[type(pair[1])] or not simple[type(pair[2])] then
        return nil
      end
    end
    return copy
  end
  local copy = {}
  for name, each in next, value do
    copy[name] = type(name) == "string" and values(each) or nil
    if copy[name] == nil then
      return nil
    end
  end
  return copy
end }

kinds.event = { "a string, or a table", function(value)
  if type(value) == "string" then
    return value
  elseif type(value) ~= "table" then
    return nil
  end
  local comment = rawget(value, "comment")
  if comment ~= nil and type(comment) ~= "string" then
    return nil
  end
  return { data = rawget(value, "data"), event = rawget(value, "event"), id = rawget(value, "id"), retry = rawget(value, "retry"),
    comment = comment }
end }

-- What the functions take: "name:kind", with "?" when it may be left out. ---------------------------------------------

local signatures = {
  accept = { media_type = "accept:string? offered:strings", encodings = "accept_encoding:string? offered:strings" },
  conditional = { parse = "value:string", strong_equal = "a:tag? b:tag?", weak_equal = "a:tag? b:tag?",
    evaluate = "request:target validators:validators now:number?", if_range = "value:string? validators:validators now:number?" },
  content = { read = "request:request max:integer?", kind = "headers:fields", decode = "request:request" },
  cookies = { parse = "value:string?" },
  date = { parse = "text:string? now:number?" },
  errors = { status = "err:code", code = "status:integer", body = "err:error", respond = "response:response",
    parse = "status:integer headers:fields body:string?" },
  fields = { parse = "pairs:pairs", list = "value:string max:integer?", unquote = "text:string", quote = "text:string",
    parameters = "value:string", qualities = "value:string" },
  message = { finish = "request:asked response:response now:number?" },
  mime = { by_name = "name:string", compressible = "type:string" },
  percent = { decode = "text:string", encode = "bytes:string keep:string?" },
  query = { split = "target:string", parse = "text:string? max:integer?", build = "from:form" },
  range = { parse = "value:string? size:integer", content_range = "range:range size:integer", unsatisfied = "size:integer",
    multipart = "ranges:ranges size:integer content_type:string? boundary:string" },
  router = { segments = "path:string" },
  sse = { encode = "event:event", comment = "text:string?", respond = "response:response next_event:function close:function?",
    last_event_id = "request:request" },
}

local function checked(where, fn, text)
  local arguments = {}
  for name, kind, may in text:gmatch "([%w_]+):(%w+)(%??)" do
    arguments[#arguments + 1] = { name = name, kind = assert(kinds[kind]), optional = may ~= "" }
  end
  return function(...)
    local given = table.pack(...)
    for i, argument in ipairs(arguments) do
      local value = given[i]
      if value ~= nil or not argument.optional then
        local taken = argument.kind[2](value)
        if taken == nil then
          error(("%s: %s wants to be %s, got %s"):format(where, argument.name, argument.kind[1], errors.show(value)), options.users_level(2))
        end
        given[i] = taken
      end
    end
    return fn(table.unpack(given, 1, math.max(given.n, #arguments)))
  end
end

--- The part `name` with its arguments looked at. Its fields are the module's own.
---@param name string
---@param part table  the module
---@return table
---@package
function M.face(name, part)
  local face = setmetatable({}, { __index = part, __newindex = part, __methods = part })
  for key, text in pairs(signatures[name] or {}) do
    rawset(face, key, checked(("http.%s.%s"):format(name, key), assert(part[key]), text))
  end
  return face
end

return M
