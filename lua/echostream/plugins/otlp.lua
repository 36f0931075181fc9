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

local function attribute(key, text)
  return { key = key, value = { stringValue = text } }
end

local function span_of(span)
  local attributes = core.array { attribute("rpc.system", "echostream"), attribute("rpc.method", span.name) }
  local failed = span.code ~= "ok"
  if failed then
    attributes[#attributes + 1] = attribute("error.type", span.code)
  end
  return {
    traceId = span.trace_id,
    spanId = span.span_id,
    parentSpanId = span.parent_id,
    name = span.name,
    kind = kinds[span.direction][span.kind],
    startTimeUnixNano = nanoseconds(span.start),
    endTimeUnixNano = nanoseconds(span.start + span.duration),
    attributes = attributes,
    status = failed and { code = FAILED, message = span.code } or core.map {},
  }
end

--- The text of an ExportTraceServiceRequest, without a line feed.
---@param service string
---@param spans echostream.trace.span[]
---@return string
function M.encode(service, spans)
  local list = core.array {}
  for i, span in ipairs(spans) do
    list[i] = span_of(span)
  end
  return assert(core.codec.json.pack {
    resourceSpans = core.array { {
      resource = { attributes = core.array { attribute("service.name", service) } },
      scopeSpans = core.array { { scope = { name = "echostream", version = core.version }, spans = list } },
    } },
  })
end

--- Sends text by POST and waits for the answer's status.
---@param place { ip: string, port: integer, path: string, host: string }
---@param body string
---@param timeout number  seconds
---@return true|nil ok, echostream.error? err
function M.post(place, body, timeout)
  local request = ("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n")
    :format(place.path, place.host, #body)
  local status, err = task.await(function(resume)
    local open
    local cancel = socket.connect({ ip = place.ip, port = place.port }, function(connection, problem)
      if not connection then
        resume(nil, errors.new("unavailable", tostring(problem)))
        return
      end
      open = connection
      connection:send(request)
      connection:send(body)
      local head = ""
      return function(data)
        head = head .. (data or "")
        local code = head:match "^HTTP/1%.%d (%d%d%d)"
        if code or not data or #head > 4096 then
          connection:close()
          resume(tonumber(code), not code and errors.new("protocol", "the collector gave no answer of HTTP/1.1") or nil)
        end
      end
    end)
    return function()
      cancel()
      if open then
        open:close()
      end
    end
  end, timeout)
  if not status then
    return nil, err
  elseif status < 200 or status > 299 then
    return nil, errors.new("unavailable", ("the collector answered %d"):format(status))
  end
  return true
end

return M
