--- Traces: W3C Trace Context (traceparent, tracestate) in the metadata of calls, handed down to the calls that a handler makes.
---
---     server:middleware(echo.trace.middleware())
---     client:middleware(echo.trace.middleware { on_span = function(span) print(span.trace_id, span.name, span.duration) end })
---
--- A handler whose caller sent a traceparent works in that trace, under a span of its own; so do tasks it spawns. What they call
--- carries the same trace id and, for each call, a new span id. Without this middleware nothing of it runs.
--- See https://www.w3.org/TR/trace-context/

local core = require "echostream.core"
local loop = require "echostream.loop"
local log = require "echostream.log"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

---@class echostream.trace.context
---@field trace_id string    32 hexadecimal digits, lower case
---@field span_id string     16: of the span that is under way
---@field parent_id string?  16: of the span above it; nil: this one began the trace
---@field sampled boolean    somebody records this trace
---@field state string?      tracestate, as it came

---@class echostream.trace.span
---@field name string        of the method, event or stream
---@field kind "rpc"|"event"|"stream"
---@field direction "in"|"out"
---@field trace_id string
---@field span_id string
---@field parent_id string?
---@field sampled boolean
---@field start number       seconds since 1970
---@field duration number    seconds
---@field code string        "ok", or the error's

-- Task -> context. Weak: tasks come and go.
local contexts = setmetatable({}, { __mode = "k" })
local root -- the context of code that is in no task (set by `with`)

local id_forms = { [8] = { "%016x", "<i8" }, [16] = { "%016x%016x", "<i8i8" } }

local NO_TRACE <const>, NO_SPAN <const> = ("0"):rep(32), ("0"):rep(16)

-- Asking the system for a few bytes at a time costs more than the rest of a span.
local POOL <const> = 4096
local pool, used = "", 0

local function random_id(bytes)
  local digits, numbers = id_forms[bytes][1], id_forms[bytes][2]
  local id
  repeat
    if used + bytes > #pool then
      pool, used = core.random(POOL), 0
    end
    id = digits:format(numbers:unpack(pool, used + 1))
    used = used + bytes
  until id ~= NO_TRACE and id ~= NO_SPAN
  return id
end

--- The trace that the running handler or task works in, or nil.
---@return echostream.trace.context?
function M.current()
  local me = core.current()
  if me then
    return contexts[me]
  end
  return root
end

-- What a traceparent says, when it is one that is not of version 00 alone; nil: it is none.
local function parse_later(text)
  local version, trace_id, span_id, flags, rest = text:match "^(%x%x)%-(%x+)%-(%x+)%-(%x%x)(.*)$"
  if not version or text:find "%u" or version == "ff" or rest ~= "" and (version == "00" or rest:sub(1, 1) ~= "-") then
    return nil
  end
  return trace_id, span_id, flags
end

--- Reads a traceparent, of version 00 or of a later one that begins alike.
---@param text any
---@param state? any  tracestate; what is no text of up to 512 bytes is dropped
---@return echostream.trace.context? context  nil: that is none, and whoever got it begins a trace of its own
function M.parse(text, state)
  if type(text) ~= "string" or #text < 55 or #text > 512 then
    return nil
  end
  local trace_id, span_id, flags = text:match "^00%-([%da-f]+)%-([%da-f]+)%-([%da-f][%da-f])$"
  if not trace_id then
    trace_id, span_id, flags = parse_later(text)
  end
  if not trace_id or #trace_id ~= 32 or #span_id ~= 16 or trace_id == NO_TRACE or span_id == NO_SPAN then
    return nil
  end
  if type(state) ~= "string" or state == "" or #state > 512 or state:find "[%c\127-\255]" then
    state = nil
  end
  return { trace_id = trace_id, span_id = span_id, parent_id = nil, sampled = tonumber(flags, 16) & 1 == 1, state = state }
end

--- A new span: under `parent`, or the first of a new trace.
---@param parent? echostream.trace.context
---@param sampled? boolean  of a new trace; default true
---@return echostream.trace.context
function M.new(parent, sampled)
  if parent ~= nil then
    options.argument("trace.new", "parent", parent, "table")
    return {
      trace_id = parent.trace_id,
      span_id = random_id(8),
      parent_id = parent.span_id,
      sampled = parent.sampled,
      state = parent.state,
    }
  end
  return { trace_id = random_id(16), span_id = random_id(8), parent_id = nil, sampled = sampled ~= false, state = nil }
end

--- The traceparent of a context.
---@param context echostream.trace.context
---@return string
function M.format(context)
  options.argument("trace.format", "context", context, "table")
  return ("00-%s-%s-%s"):format(tostring(context.trace_id), tostring(context.span_id), context.sampled and "01" or "00")
end

local function enter(context)
  local me = core.current()
  local before
  if me then
    before, contexts[me] = contexts[me], context
  else
    before, root = root, context
  end
  return me, before
end

local function leave(me, before, ...)
  if me then
    contexts[me] = before
  else
    root = before
  end
  return ...
end

local function finish(me, before, ok, ...)
  leave(me, before)
  if not ok then
    error((...), 0)
  end
  return ...
end

--- Runs `fn(...)` in a trace: what it calls belongs to it. For jobs that no call of a peer began.
---@param context echostream.trace.context|nil  nil: in none
---@param fn function
---@return any ...
function M.with(context, fn, ...)
  options.argument("trace.with", "context", context, { "table", "nil" })
  options.argument("trace.with", "function", fn, "function")
  local me, before = enter(context)
  return finish(me, before, pcall(fn, ...))
end

-- Middleware --------------------------------------------------------------------------------------------------

local function wall()
  return loop.current().core:wall()
end

local function report(on_span, call, context, began, since, response)
  if not on_span then
    return
  end
  local ok, err = pcall(on_span, {
    name = call.name,
    kind = call.kind,
    direction = call.direction,
    trace_id = context.trace_id,
    span_id = context.span_id,
    parent_id = context.parent_id,
    sampled = context.sampled,
    start = began,
    duration = loop.now() - since,
    code = response and (response.ok and "ok" or response.err and response.err.code) or "unknown",
  })
  if not ok then
    log.write("error", "on_span failed: " .. tostring(err))
  end
end

local schema = {
  sample = { type = "number", min = 0, max = 1, default = 1 },
  on_span = { type = "function" },
}

local function sampled(share)
  return share >= 1 or share > 0 and string.unpack("<I4", core.random(4)) < share * 4294967296
end

--- Middleware for servers and clients, for both directions. `sample`: the share of traces begun here that are marked as sampled (default
--- 1); `on_span(span)` runs when a call is over, for whoever exports spans: it must not wait.
---@param opts? { sample?: number, on_span?: fun(span: echostream.trace.span) }
---@return function
function M.middleware(opts)
  local checked = options.check("trace.middleware", opts, schema)
  local on_span, share = checked.on_span, checked.sample
  return function(call, next)
    local metadata = call.metadata
    local began, since = on_span and wall(), on_span and loop.now()
    if call.direction == "in" then
      local parent = M.parse(metadata.traceparent, metadata.tracestate)
      local context = M.new(parent, parent == nil and sampled(share))
      local me, before = enter(context)
      local response = next(call)
      leave(me, before)
      report(on_span, call, context, began, since, response)
      return response
    end
    local context = M.parse(metadata.traceparent)
    if not context then -- nobody said otherwise
      local parent = M.current()
      context = M.new(parent, parent == nil and sampled(share))
      metadata.traceparent, metadata.tracestate = M.format(context), context.state
    end
    local response = next(call)
    report(on_span, call, context, began, since, response)
    return response
  end
end

task.on_spawn(function(child)
  local context = M.current()
  if context then
    contexts[child] = context
  end
end)

log.trace = function()
  local context = M.current()
  if context then
    return context.trace_id, context.span_id
  end
end

return M
