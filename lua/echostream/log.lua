--- Where messages about this process go: the C core and the Lua files share one sink.
---
---     echo.set_log(echo.log.json(), { level = "info" })   -- lines of JSON on standard error
---
--- What a trace is under way in is said too, where the trace middleware is used.

local core = require "echostream.core"

local M = {}

---@class echostream.log.record
---@field level "error"|"warn"|"info"|"debug"
---@field message string
---@field traceback? string
---@field session? any
---@field method? string
---@field trace_id? string     of the trace the message belongs to, and
---@field span_id? string      of the span
---@field repeated? integer    how many like it were left out before it: see `repeats`

local levels = { error = 4, warn = 3, info = 2, debug = 1 }

-- Repeats: so many records of one text in a window of so many seconds; of so many texts.
local REPEATS, WINDOW, TEXTS = 10, 10, 256

-- What peers said stands in messages too, and a terminal obeys more than the controls of ASCII.
local function escape(text)
  return (require("echostream.pretty").safe(tostring(text), true):gsub("\n", "\n  "))
end

local function to_stderr(record)
  local where = record.method and (" [" .. escape(record.method):sub(1, 256) .. "]") or ""
  -- A traceback from the core begins with the message.
  local text = record.traceback and record.traceback:sub(1, #record.message) == record.message and record.traceback
    or record.message .. (record.traceback and "\n" .. record.traceback or "")
  local tail = record.repeated and (" (and %d like it)"):format(record.repeated) or ""
  if record.trace_id then
    tail = tail .. " (trace " .. record.trace_id .. ")"
  end
  io.stderr:write("echostream: ", record.level, where, ": ", escape(text), tail, "\n")
end

local sink, lowest, repeats = to_stderr, 1, REPEATS

-- Text -> { how many in this window, when it began, how many were left out }.
local seen, n_seen = {}, 0

-- Whether the record is one too many. What was left out is said with the next one that is not.
local function too_often(record)
  local key = ("%s\0%s\0%s"):format(record.level, tostring(record.method), tostring(record.message):sub(1, 256))
  local now, entry = os.time(), seen[key]
  if not entry then
    if n_seen >= TEXTS then
      seen, n_seen = {}, 0
    end
    seen[key], n_seen = { 1, now, 0 }, n_seen + 1
    return false
  elseif now < entry[2] or now >= entry[2] + WINDOW then
    record.repeated = entry[3] > 0 and entry[3] or nil
    entry[1], entry[2], entry[3] = 1, now, 0
    return false
  end
  entry[1] = entry[1] + 1
  if entry[1] > repeats then
    entry[3] = entry[3] + 1
    return true
  end
  return false
end

-- Everything passes here.
local function deliver(record)
  if (levels[record.level] or 4) < lowest or repeats and too_often(record) then
    return
  end
  if M.trace then
    record.trace_id, record.span_id = M.trace()
  end
  sink(record)
end

--- Sends every log record of this Lua state to `fn`; nil: back to standard error. An error raised by `fn` is swallowed.
---@param fn fun(record: echostream.log.record)?
---@param opts? { level?: string, repeats?: integer|false }  the least level ("debug"); records of one text in 10 s (10 on standard error)
function M.set(fn, opts)
  if fn ~= nil and type(fn) ~= "function" then
    error("echo.set_log: wants a function or nil, got a " .. type(fn), 2)
  end
  local checked = opts and require("echostream.options").check("echo.set_log", opts, {
    level = { type = "string", one_of = { "error", "warn", "info", "debug" } },
    repeats = { type = { "integer", "boolean" }, min = 1 },
  }) or {}
  if checked.repeats == true then
    checked.repeats = REPEATS
  end
  sink, lowest, repeats = fn or to_stderr, levels[checked.level or "debug"], checked.repeats
  if repeats == nil then
    repeats = not fn and REPEATS or M.bounded[fn]
  end
  seen, n_seen = {}, 0
  core.set_log(deliver)
end

-- Sinks of ours that want no floods.
M.bounded = setmetatable({}, { __mode = "k" })

local function field(value, max)
  return require("echostream.metrics.text").utf8(value, max)
end

--- A sink for `echo.set_log` that writes each record as a line of JSON: `time` (UTC), `level`, `message`, and what there is of `method`,
--- `session` (its number), `peer`, `trace_id`, `span_id`, `traceback`, `repeated`. Long texts are cut, and what is no UTF-8 is escaped.
---@param write? fun(line: string)  default: to standard error; the line has its newline
---@return fun(record: echostream.log.record)
function M.json(write)
  if write ~= nil and type(write) ~= "function" then
    error("log.json: wants a function or nil, got a " .. type(write), 2)
  end
  local json = require("echostream.codec").json
  write = write or function(line)
    io.stderr:write(line)
  end
  local function to_json(record)
    local session = type(record.session) == "table" and record.session or nil
    local parts = {}
    local function put(key, value)
      if value ~= nil then
        parts[#parts + 1] = json.encode(key):sub(2, -2) .. ":" .. json.encode(value):sub(2, -2)
      end
    end
    put("time", os.date("!%Y-%m-%dT%H:%M:%SZ"))
    put("level", field(record.level, 16))
    put("message", field(record.message, 4096))
    put("method", record.method and field(record.method, 256))
    put("session", session and math.type(session.id) == "integer" and session.id or nil)
    put("peer", session and field(session.peer_addr or "", 64) or nil)
    put("trace_id", record.trace_id)
    put("span_id", record.span_id)
    put("repeated", record.repeated)
    put("traceback", record.traceback and field(record.traceback, 16384))
    write("{" .. table.concat(parts, ",") .. "}\n")
  end
  M.bounded[to_json] = REPEATS
  return to_json
end

--- Writes one record.
---@param level "error"|"warn"|"info"|"debug"
---@param message string
---@param fields? { traceback?: string, session?: any, method?: string }
function M.write(level, message, fields)
  local record = fields or {}
  record.level, record.message = level, message
  pcall(deliver, record)
end

core.set_log(deliver)

return M
