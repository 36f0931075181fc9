--- Names that a request goes by in logs, everywhere: `x-request-id`, and the trace of W3C's Trace Context (`traceparent`).

local core = require "echostream.core"

local M = {}

-- Chance comes from the kernel in pieces that are enough for some hundred names: each is used once.
local POOL <const> = 4096
local pool, at = "", 1

-- 8 bytes of it, as a number.
local function chance()
  if at + 7 > #pool then
    pool, at = core.random(POOL), 1
  end
  local number
  number, at = ("i8"):unpack(pool, at)
  return number
end

-- 8 or 16 bytes as hexadecimal digits.
local function hex(n)
  if n == 8 then
    return ("%016x"):format(chance())
  end
  return ("%016x%016x"):format(chance(), chance())
end

--- The trace that the field `traceparent` continues.
---@param value string?
---@return string? trace_id, string? parent, string? flags  nil: there is none that can be read
function M.trace(value)
  local version, trace, parent, flags, rest = (value or ""):match "^(%x%x)%-(%x+)%-(%x+)%-(%x%x)(.*)$"
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
  request.id = given and #given <= 128 and given:find "^[%w._:/+=@-]+$" and given or hex(16)
  if not head then
    request.trace_id = hex(16)
    return
  end
  local trace, _, flags = M.trace(head:get "traceparent")
  if not trace then
    head:remove "tracestate"
    trace, flags = hex(16), "00"
  end
  request.trace_id = trace
  head:set("x-request-id", request.id)
  head:set("traceparent", ("00-%s-%s-%s"):format(trace, hex(8), flags))
end

return M
