--- Names that a request goes by in logs, everywhere: `x-request-id`, and the trace of W3C's Trace Context (`traceparent`).

local core = require "echostream.core"

local M = {}

-- Chance comes from the kernel in pieces that are enough for some hundred names: each is used once.
local POOL <const> = 4096
local pool, at = "", 1

local format, unpack = string.format, string.unpack

-- What one request needs of it, as numbers of 8 bytes: two for its id, two for its trace, one for the span.
local function chances()
  if at + 39 > #pool then
    pool, at = core.random(POOL), 1
  end
  local a, b, c, d, e
  a, b, c, d, e, at = unpack("i8i8i8i8i8", pool, at)
  return a, b, c, d, e
end

--- The trace that the field `traceparent` continues.
---@param value string?
---@return string? trace_id, string? parent, string? flags  nil: there is none that can be read
function M.trace(value)
  if not value then
    return nil
  end
  local version, trace, parent, flags, rest = value:match "^(%x%x)%-(%x+)%-(%x+)%-(%x%x)(.*)$"
  if not version or #trace ~= 32 or #parent ~= 16 or value:find "%u" or version == "ff" or trace:find "^0+$" or parent:find "^0+$" then
    return nil
  elseif version == "00" and rest ~= "" or rest ~= "" and rest:byte() ~= 45 then
    return nil
  end
  return trace, parent, flags
end

--- Gives a request its names, and writes them into its head. The request id that came is kept only from who is trusted, and when it is one: at most
--- 128 characters without blanks. A trace is continued, as a new span of it; the state beside it (`tracestate`) stays with a trace that is
--- continued only.
---@param request echostream.tunnel.request  gets `id` and `trace_id`
---@param trusted? boolean  whether who is connected may name the request
function M.apply(request, trusted)
  local head = request.head
  local given = trusted and head and head:get "x-request-id"
  local a, b, c, d, span = chances()
  request.id = given and #given <= 128 and given:find "^[%w._:/+=@-]+$" and given or format("%016x%016x", a, b)
  if not head then
    request.trace_id = format("%016x%016x", c, d)
    return
  end
  local trace, _, flags = M.trace(head:get "traceparent")
  if not trace then
    head:remove "tracestate"
    trace, flags = format("%016x%016x", c, d), "00"
  end
  request.trace_id = trace
  head:set("x-request-id", request.id)
  head:set("traceparent", format("00-%s-%016x-%s", trace, span, flags))
end

return M
