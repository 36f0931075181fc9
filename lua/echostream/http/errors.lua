--- Errors of ours as answers of HTTP, and back. The statuses are those that gRPC's gateways use for its codes.

local codec = require "echostream.codec"
local errors = require "echostream.errors"

local M = {}

--- Our code -> status. A code of an application's own is 500.
---@type table<string, integer>
M.statuses = {
  cancelled = 499, -- "client closed request"
  unknown = 500,
  invalid_argument = 400,
  timeout = 504,
  not_found = 404,
  already_exists = 409,
  permission_denied = 403,
  resource_exhausted = 429,
  failed_precondition = 400,
  aborted = 409,
  out_of_range = 400,
  method_not_found = 501,
  internal = 500,
  unavailable = 503,
  data_loss = 500,
  unauthenticated = 401,
  serialization = 400,
  protocol = 500,
  connection_closed = 503,
  io = 503,
  deadlock = 500,
}

-- What an answer means that does not say our code, such as one of a proxy on the way.
local codes = {
  [400] = "invalid_argument",
  [401] = "unauthenticated",
  [403] = "permission_denied",
  [404] = "not_found",
  [405] = "method_not_found",
  [406] = "invalid_argument",
  [407] = "unauthenticated",
  [408] = "timeout",
  [409] = "aborted",
  [410] = "not_found",
  [411] = "invalid_argument",
  [412] = "failed_precondition",
  [413] = "resource_exhausted",
  [414] = "invalid_argument",
  [415] = "serialization",
  [416] = "out_of_range",
  [421] = "unavailable",
  [422] = "invalid_argument",
  [425] = "unavailable",
  [428] = "failed_precondition",
  [429] = "resource_exhausted",
  [431] = "resource_exhausted",
  [499] = "cancelled",
  [500] = "internal",
  [501] = "method_not_found",
  [502] = "unavailable",
  [503] = "unavailable",
  [504] = "timeout",
}

--- The status that an error is answered with. An error may say it itself, in a field `http_status` from 400 to 599.
---@param err echostream.error|string  or its code
---@return integer
function M.status(err)
  if type(err) == "table" then
    local own = rawget(err, "http_status")
    if math.type(own) == "integer" and own >= 400 and own <= 599 then
      return own
    end
    err = err.code
  end
  return M.statuses[err] or 500
end

--- The code that an answer without one of ours stands for.
---@param status integer
---@return string
function M.code(status)
  if codes[status] then
    return codes[status]
  elseif status >= 400 and status < 500 then
    return "failed_precondition"
  elseif status >= 500 and status < 600 then
    return "internal"
  end
  return "unknown"
end

-- Text that JSON can carry: bytes that are not UTF-8 are shown as "?".
local function readable(text)
  local pieces, from = {}, 1
  while true do
    local n, at = utf8.len(text, from)
    if n then
      pieces[#pieces + 1] = text:sub(from)
      return table.concat(pieces)
    end
    pieces[#pieces + 1] = text:sub(from, at - 1) .. "?"
    from = at + 1
  end
end

--- The body of an error: {"error":{"code":…,"message":…,"details":…,"processed":…}}. Details that JSON cannot carry are left out.
---@param err echostream.error
---@return string json
function M.body(err)
  local shown = { code = err.code, message = readable(err.message:sub(1, 4096)), details = err.details, processed = err.processed }
  local text = codec.json.pack { error = shown }
  if not text then
    shown.details = nil
    text = assert(codec.json.pack { error = shown })
  end
  return text
end

--- Makes a response the answer to an error: status, body, and `Retry-After` when the error says when.
---@param response echostream.http.response
---@param err any  what a handler returned or raised; what is no error object becomes `internal`
---@return echostream.http.response
function M.respond(response, err)
  err = errors.from(err)
  response.status = M.status(err)
  response.body = M.body(err)
  response.headers:set("content-type", "application/json")
  if err.retry_after then
    response.headers:set("retry-after", math.ceil(math.min(math.max(err.retry_after, 0), 1 << 31)))
  end
  return response
end

--- The error that an answer stands for; ours when the body is one, else one made of the status.
---@param status integer  400 or more
---@param headers echostream.http.fields
---@param body string?
---@return echostream.error
function M.parse(status, headers, body)
  local kind = (headers:get "content-type" or ""):lower():match "^[^;%s]*"
  local decoded = body and kind == "application/json" and codec.json.unpack(body) or nil
  local said = type(decoded) == "table" and decoded.error or nil
  local err
  if type(said) == "table" and type(said.code) == "string" and #said.code <= 64 and said.code:find "^[%w_.%-]+$" then
    err = errors.new(said.code, type(said.message) == "string" and said.message or nil, said.details)
    if said.processed == "no" or said.processed == "maybe" or said.processed == "yes" then
      err.processed = said.processed
    end
  else
    err = errors.new(M.code(status), ("the answer was HTTP status %d"):format(status))
  end
  local wait = headers:get "retry-after"
  if wait and wait:find "^%d%d?%d?%d?%d?%d?%d?%d?%d?$" then
    err.retry_after = tonumber(wait)
  end
  return err
end

return M
