--- Error objects: what every call that depends on the network, the peer or time returns after `nil`.
---
--- An error object is a table with a stable `code`, a sentence in `message`, and what else is known. The C core makes the
--- same kind of table; both share one metatable, so `errors.is_error` knows them all.

local core = require "echostream.core"

local M = {}

---@class echostream.error
---@field code string              stable: one of `errors.codes` or a code of the application's own
---@field message string           one sentence for people
---@field processed? "no"|"maybe"|"yes"  whether the other side ran the handler
---@field retry_after? number      seconds after which trying again makes sense
---@field attempts? integer        how often a call was sent, when a retry policy sent it more than once
---@field details? any             whatever the handler that failed attached
---@field status integer           gRPC's number of the code (2, UNKNOWN, for an application's own code)
---@field fatal boolean            the session it came from is over, or was never there
---@field recoverable boolean      not fatal: other calls of the session may succeed
---@field retryable boolean        the same call may succeed later. Whether that is safe is another question: when `processed` is
--- "no", or the call is idempotent

--- The codes echostream itself uses, each with gRPC's status number.
---@type table<string, integer>
M.codes = {
  -- gRPC's meanings
  cancelled = 1,
  unknown = 2,
  invalid_argument = 3,
  timeout = 4, -- DEADLINE_EXCEEDED
  not_found = 5,
  already_exists = 6,
  permission_denied = 7,
  resource_exhausted = 8,
  failed_precondition = 9,
  aborted = 10,
  out_of_range = 11,
  method_not_found = 12, -- UNIMPLEMENTED
  internal = 13,
  unavailable = 14,
  data_loss = 15,
  unauthenticated = 16,
  -- kinds that have no number of their own
  serialization = 3,
  protocol = 13,
  connection_closed = 14,
  io = 14,
  deadlock = 9, -- the main thread waits for something that nothing can bring about
}

local mt = core.error_mt

mt.__name = "echostream.error"

-- Errors after which nothing works any more on their session, and those that pass by themselves.
local fatal = { connection_closed = true, protocol = true, io = true, unauthenticated = true }
local passing = { unavailable = true, connection_closed = true, io = true, resource_exhausted = true, timeout = true,
  data_loss = true, aborted = true }

mt.__index = function(err, key)
  local code = rawget(err, "code")
  if key == "status" then
    return M.codes[code] or M.codes.unknown
  elseif key == "fatal" then
    return fatal[code] == true
  elseif key == "recoverable" then
    return fatal[code] ~= true
  elseif key == "retryable" then
    return passing[code] == true
  end
end

-- Of the codes that share a number, the one that is counted.
local counted = { [3] = "invalid_argument", [9] = "failed_precondition", [13] = "internal", [14] = "unavailable" }
for code, number in pairs(M.codes) do
  counted[number] = counted[number] or code
end

--- The code that errors of a code are counted under: gRPC's, so that `connection_closed` and `io` are `unavailable`.
---@param code string
---@return string
function M.counted_as(code)
  return counted[M.codes[code] or M.codes.unknown]
end

mt.__tostring = function(err)
  return ("%s: %s"):format(tostring(rawget(err, "code")), tostring(rawget(err, "message")))
end

-- So that `"could not start: " .. err` works as it does with plain strings.
mt.__concat = function(a, b)
  return tostring(a) .. tostring(b)
end

--- Makes an error object. A handler fails a call with `return nil, echo.error("not_found", "no such user")` or by
--- raising it.
---@param code string      a code of `errors.codes`, or your own: 1 to 64 characters of `a-z 0-9 _ . -`
---@param message? string  one sentence; default the code
---@param details? any     anything that can be sent; the caller finds it in `err.details`
---@return echostream.error
function M.new(code, message, details)
  if type(code) ~= "string" or #code == 0 or #code > 64 or code:find("[^%w_.%-]") then
    error(("echo.error: code must be a short word such as \"not_found\", got %s"):format(M.show(code)), 2)
  end
  if message ~= nil and type(message) ~= "string" then
    error(("echo.error: message must be a string, got %s"):format(M.show(message)), 2)
  end
  return setmetatable({ code = code, message = message or code, details = details }, mt)
end

--- Whether `value` is an error object.
---@param value any
---@return boolean
function M.is_error(value)
  return type(value) == "table" and getmetatable(value) == mt
end

--- Turns whatever a function raised into an error object: error objects stay, anything else becomes `internal`.
---@param raised any
---@return echostream.error
function M.from(raised)
  if M.is_error(raised) then
    return raised
  end
  local ok, text = pcall(tostring, raised)
  return setmetatable({
    code = "internal",
    message = ok and type(text) == "string" and text or ("an error of type " .. type(raised)),
  }, mt)
end

--- A short, harmless picture of a value for messages: strings quoted and cut, numbers as they are, else the type.
---@param value any
---@return string
function M.show(value)
  local kind = type(value)
  if kind == "string" then
    local text = #value > 40 and value:sub(1, 40) .. "…" or value
    return (('"%s"'):format((text:gsub("[%c\"\\]", function(c)
      return ("\\x%02x"):format(c:byte())
    end))))
  elseif kind == "number" or kind == "boolean" or kind == "nil" then
    return tostring(value)
  end
  return (kind == "userdata" and "a " or kind:find("^[aeiou]") and "an " or "a ") .. kind
end

return M
