--- The one place that makes the answers which are the tunnel's own: for HTTP a status with a text or JSON, for gRPC an answer of trailers only.
---
---     local err = errors.new(503, "the group web has no agent", { retry_after = 1 })
---     errors.send(exchange, request, err)

local codec = require "echostream.codec"
local core = require "echostream.tunnel.core"
local echo_errors = require "echostream.errors"
local http_errors = require "echostream.http.errors"
local loop = require "echostream.loop"

local M = {}

---@class echostream.tunnel.error_fields
---@field retry_after? number  seconds; the answer says them rounded up
---@field limit? string        the limit that was reached, such as "client requests"
---@field rule? string         the rule whose doing it is
---@field headers? { [1]: string, [2]: string }[]  more fields of the answer
---@field grpc_status? integer when it is not the one that `status` stands for
---@field code? string         echostream's code, when it is not the one that `status` stands for

--- An error object with a status.
---@param status integer  400 to 599
---@param message string  for the visitor too: no secrets in it
---@param more? echostream.tunnel.error_fields
---@return echostream.error
function M.new(status, message, more)
  local err = echo_errors.new(more and more.code or http_errors.code(status), message)
  err.http_status = status
  for name, value in pairs(more or {}) do
    if name ~= "code" then
      err[name] = value
    end
  end
  return err
end

-- What errors of sessions, backends and the core mean for a visitor.
local statuses = {
  timeout = 504,
  unavailable = 503,
  resource_exhausted = 503,
  connection_closed = 502,
  io = 502,
  protocol = 502,
  cancelled = 499,
  internal = 500,
  invalid_argument = 400,
}

--- The status that an error is answered with; of one without a status of its own what its code means between a visitor and a backend.
---@param err echostream.error
---@return integer
function M.status(err)
  local own = rawget(err, "http_status")
  if math.type(own) == "integer" and own >= 400 and own <= 599 then
    return own
  end
  return statuses[err.code] or 502
end

-- gRPC, doc/http-grpc-status-mapping.md; what is not in it is UNKNOWN. 499 is ours: the visitor went.
local grpc_codes = { [400] = 13, [401] = 16, [403] = 7, [404] = 12, [429] = 14, [499] = 1, [502] = 14, [503] = 14, [504] = 14 }

--- The gRPC status that stands for an HTTP status.
---@param status integer
---@return integer
function M.grpc_status(status)
  return grpc_codes[status] or 2
end

-- google/rpc/code.proto.
local http_statuses = {
  [0] = 200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401,
}

--- The HTTP status that stands for a gRPC status, for logs and counters. 500 for numbers that gRPC does not have.
---@param code integer
---@return integer
function M.http_status(code)
  return http_statuses[code] or 500
end

local units = { H = 3600, M = 60, S = 1, m = 1e-3, u = 1e-6, n = 1e-9 }

--- Seconds that the field `grpc-timeout` gives; nil: none, or one that nobody can read.
---@param value string?
---@return number?
function M.grpc_timeout(value)
  local digits, unit = (value or ""):match "^(%d+)([HMSmun])$"
  return digits and #digits <= 8 and tonumber(digits) * units[unit] or nil
end

-- The gRPC status of an error. A time-out is DEADLINE_EXCEEDED when it is the caller's own time that is over.
local function grpc_status_of(request, err, status)
  local seconds = status == 504 and M.grpc_timeout(request.head and request.head:get "grpc-timeout")
  if not err.grpc_status and seconds and request.received and loop.now() - request.received >= seconds then
    return 4
  end
  return err.grpc_status or M.grpc_status(status)
end

--- A text as the field `grpc-message` carries it: percent-encoded UTF-8.
---@param text string
---@return string
function M.grpc_message(text)
  return (text:gsub("[^ -$&-~]", function(c)
    return ("%%%02X"):format(c:byte())
  end))
end

local reasons = {
  [400] = "Bad Request", [401] = "Unauthorized", [403] = "Forbidden", [404] = "Not Found", [405] = "Method Not Allowed", [408] = "Request Timeout",
  [413] = "Content Too Large", [414] = "URI Too Long", [421] = "Misdirected Request", [429] = "Too Many Requests",
  [431] = "Request Header Fields Too Large", [499] = "Client Closed Request", [500] = "Internal Server Error", [501] = "Not Implemented",
  [502] = "Bad Gateway", [503] = "Service Unavailable", [504] = "Gateway Timeout",
}

-- Whether JSON is asked for, or at least as welcome as plain text where both are named.
local function wants_json(accept)
  if not accept then
    return false
  end
  local lower = accept:lower()
  local json, text = lower:find("application/json", 1, true), lower:find("text/", 1, true)
  return json ~= nil and (text == nil or json < text) or lower:find("+json", 1, true) ~= nil and text == nil
end

local function to_http(request, err, status)
  local message = err.message or err.code
  if request and request.head and wants_json(request.head:get "accept") then
    local shown = { status = status, message = message, limit = err.limit, retry_after = err.retry_after, request_id = request.id }
    local text = codec.json.pack { error = shown } or codec.json.pack { error = { status = status, message = reasons[status] or "error" } }
    return text .. "\n", "application/json"
  end
  local id = request and request.id and ("request id: %s\n"):format(request.id) or ""
  return ("%d %s\n%s\n%s"):format(status, reasons[status] or "Error", message, id), "text/plain; charset=utf-8"
end

--- Makes the answer to a request that fails here. The body is empty for gRPC (the head ends it), and for HEAD, whose length is told.
---@param request echostream.tunnel.request?  nil: there is none that could be read
---@param err echostream.error
---@param by? "agent"|"server"  who answers; "agent" adds the field `x-echostream-tunnel` (tunnel/DESIGN.md)
---@return echostream.tunnel.head head
---@return string body
function M.response(request, err, by)
  local status = M.status(err)
  local head = assert(core.head("response", {}))
  local body = ""
  if request and request.kind == "grpc" then
    head.status = 200
    head:set("content-type", "application/grpc")
    head:set("grpc-status", tostring(grpc_status_of(request, err, status)))
    head:set("grpc-message", M.grpc_message((err.message or err.code):sub(1, 1024)))
  else
    local kind
    head.status = status
    body, kind = to_http(request, err, status)
    head:set("content-type", kind)
    head:set("content-length", tostring(#body))
    head:set("cache-control", "no-store")
    if request and request.method == "HEAD" then
      body = ""
    end
  end
  if err.retry_after then
    head:set("retry-after", ("%d"):format(math.ceil(math.min(math.max(err.retry_after, 0), 86400))))
  end
  for _, field in ipairs(err.headers or {}) do
    head:add(field[1], field[2])
  end
  if request and request.id then
    head:set("x-request-id", request.id)
  end
  if by == "agent" then
    head:set("x-echostream-tunnel", "agent")
  end
  return head, body
end

--- Answers an exchange, and is through with it.
---@param exchange echostream.tunnel.core_exchange|table  what has send_head(head, fin) and write(bytes, fin)
---@param request echostream.tunnel.request?
---@param err echostream.error
---@param by? "agent"|"server"
---@return integer status  of HTTP, also where gRPC was told 200
function M.send(exchange, request, err, by)
  local head, body = M.response(request, err, by)
  if exchange:send_head(head, body == "") and body ~= "" then
    exchange:write(body, true)
  end
  return M.status(err)
end

return M
