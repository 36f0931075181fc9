--- Checks what a file or a user gave: errors name the field, "rules[3].path: wants …".

local echo_errors = require "echostream.errors"
local options = require "echostream.options"

local M = {}

--- What is thrown inside of `try`.
local Wrong = {}

--- Raises: to be called inside of `try`.
---@param field string   "rules[3].path"
---@param text string    format
---@param ... any
function M.fail(field, text, ...)
  error(setmetatable({ field = field, message = select("#", ...) > 0 and text:format(...) or text }, Wrong), 0)
end
local fail = M.fail

--- Calls fn(…). What `fail` raised in it comes back as nil and an error object: code `invalid_argument`, `field` the name of the field.
---@param fn function
---@param ... any
---@return any result, echostream.error? err
function M.try(fn, ...)
  local function caught(raised)
    return getmetatable(raised) == Wrong and raised or debug.traceback(echo_errors.from(raised).message, 2)
  end
  local ok, result = xpcall(fn, caught, ...)
  if ok then
    return result
  elseif getmetatable(result) ~= Wrong then
    error(result, 0)
  end
  local err = echo_errors.new("invalid_argument", result.field ~= "" and result.field .. ": " .. result.message or result.message)
  err.field = result.field
  return nil, err
end

-- What options.check says, as a sentence about a field.
local function reworded(field, text)
  local at = text:find(field .. ": ", 1, true) or text:find(field .. ".", 1, true)
  text = at and text:sub(at) or text
  local where, name, rest = text:match '^(.-): option "(.-)" (.*)$'
  if where then
    return fail(where .. "." .. name, rest)
  end
  where, name, rest = text:match '^(.-): unknown option "(.-)"(.*)$'
  if where then
    return fail(where .. "." .. name, "there is no such field" .. rest)
  end
  where, rest = text:match "^(.-): (.*)$"
  return fail(where or field, ((rest or text):gsub("table of options", "table")))
end

--- options.check, with errors as here.
---@param field string
---@param value any
---@param schema table<string, echostream.options.field>
---@return table
function M.table(field, value, schema)
  if value == nil then
    fail(field, "wants a table, got nothing")
  end
  local ok, result = pcall(options.check, field, value, schema)
  return ok and result or reworded(field, result)
end

--- A text or a list of texts, as a list that is not empty.
---@param field string
---@param value any
---@return string[]
function M.strings(field, value)
  if type(value) == "string" then
    return { value }
  elseif type(value) ~= "table" or #value == 0 then
    fail(field, "wants a text or a list of texts, got %s", type(value) == "table" and "an empty table" or echo_errors.show(value))
  end
  for i, one in ipairs(value) do
    if type(one) ~= "string" then
      fail(("%s[%d]"):format(field, i), "wants a text, got %s", echo_errors.show(one))
    end
  end
  return value
end

--- What `fn` gives for a value; its nil, why becomes an error of the field.
---@param field string
---@param fn fun(...): any, string?
---@param ... any
---@return any
function M.made(field, fn, ...)
  local value, why = fn(...)
  if value == nil then
    fail(field, "%s", type(why) == "table" and why.message or tostring(why))
  end
  return value
end

return M
