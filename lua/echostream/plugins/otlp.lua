--- Spans as OpenTelemetry's JSON (OTLP 1.x), and the HTTP/1.1 request that brings them to a collector.
--- See https://opentelemetry.io/docs/specs/otlp/

local core = require "echostream.core"
local errors = require "echostream.errors"
local socket = require "echostream.loop.socket"
local task = require "echostream.task"

local M = {}

-- Numbers of SpanKind, and of the status that means an error.
local kinds = { ["in"] = { rpc = 2, stream = 2, event = 5 }, out = { rpc = 3, stream = 3, event = 4 } }
local FAILED <const> = 2

local function nanoseconds(seconds)
  return ("%d"):format(math.floor(seconds * 1e6) * 1000)
end

-- An AnyValue: of 64-bit integers the JSON is text, as everywhere in protobuf's.
local function any_value(value)
  local kind = math.type(value) or type(value)
  if kind == "integer" then
    return { intValue = ("%d"):format(value) }
  elseif kind == "float" then
    return { doubleValue = value }
  elseif kind == "boolean" then
    return { boolValue = value }
  end
  return { stringValue = value }
end

local function attribute(key, value)
  return { key = key, value = any_value(value) }
end

--- What the spans come from: the service's name, who measured, and what the user says, which goes first. Sorted by key.
---@param service string
---@param more table<string, string|number|boolean>
---@return table resource  for `encode`
function M.resource(service, more)
  local all = { ["service.name"] = service, ["telemetry.sdk.name"] = "echostream", ["telemetry.sdk.language"] = "lua",
    ["telemetry.sdk.version"] = core.version }
  for key, value in pairs(more) do
    all[key] = value
  end
  local attributes = core.array {}
  for key, value in pairs(all) do
    attributes[#attributes + 1] = attribute(key, value)
  end
  table.sort(attributes, function(a, b)
    return a.key < b.key
  end)
  return { attributes = attributes }
end

local function span_of(span)
  local name = utf8.len(span.name) and span.name or span.name:gsub("[\128-\255]", "?") -- one of ours that was refused
  local attributes = core.array { attribute("rpc.system", "echostream"), attribute("rpc.method", name) }
  local failed = span.code ~= "ok"
  if failed then
    attributes[#attributes + 1] = attribute("error.type", span.code)
  end
  return {
    traceId = span.trace_id,
    spanId = span.span_id,
    parentSpanId = span.parent_id,
    name = name,
    kind = kinds[span.direction][span.kind],
    startTimeUnixNano = nanoseconds(span.start),
    endTimeUnixNano = nanoseconds(span.start + span.duration),
    attributes = attributes,
    status = failed and { code = FAILED, message = span.code } or core.map {},
  }
end

--- The text of an ExportTraceServiceRequest, without a line feed.
---@param resource table  from M.resource
---@param spans echostream.trace.span[]
---@return string
function M.encode(resource, spans)
  local list = core.array {}
  for i, span in ipairs(spans) do
    list[i] = span_of(span)
  end
  return assert(core.codec.json.pack {
    resourceSpans = core.array { {
      resource = resource,
      scopeSpans = core.array { { scope = { name = "echostream", version = core.version }, spans = list } },
    } },
  })
end

-- Answers after which the same may be sent again; after all others it must not. See "Retryable Response Codes" there.
local passing = { [429] = true, [502] = true, [503] = true, [504] = true }
local MAX_HEAD <const> = 16384

-- The status of an answer and the seconds of its Retry-After, once the head is whole or nothing more will come.
-- Interim answers, such as "100 Continue", come before it (RFC 9110, section 15.2).
local function read_head(head, is_over)
  local _, whole = head:find("\r\n\r\n", 1, true)
  while whole and head:find "^HTTP/1%.%d 1%d%d" do
    head = head:sub(whole + 1)
    _, whole = head:find("\r\n\r\n", 1, true)
  end
  if not (whole or is_over or #head > MAX_HEAD) then
    return nil
  end
  local status = tonumber(head:match "^HTTP/1%.%d (%d%d%d)")
  local after = ("\r\n" .. head:lower()):match "\r\nretry%-after: *(%d+) *\r"
  return status or false, tonumber(after)
end

--- Sends text by POST and waits for the answer's status.
---@param place { ip: string, port: integer, path: string, host: string }
---@param body string
---@param timeout number  seconds
---@return true|nil ok, echostream.error? err, boolean? final  `final`: the same must not be sent again
function M.post(place, body, timeout)
  local request = ("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n")
    :format(place.path, place.host, #body)
  local status, after = task.await(function(resume)
    return socket.connect({ ip = place.ip, port = place.port }, function(connection, problem)
      if not connection then
        resume(nil, errors.new("unavailable", tostring(problem)))
        return
      end
      connection:send(request)
      connection:send(body)
      local head = ""
      return function(data)
        head = head .. (data or "")
        local code, seconds = read_head(head, not data)
        if code ~= nil then
          connection:close()
          resume(code, seconds)
        end
      end
    end)
  end, timeout)
  if status == nil then
    return nil, after
  elseif not status then
    return nil, errors.new("protocol", "the collector gave no answer of HTTP/1.1")
  elseif status < 200 or status > 299 then
    local err = errors.new("unavailable", ("the collector answered %d"):format(status))
    err.retry_after = after
    return nil, err, not passing[status]
  end
  return true
end

return M
