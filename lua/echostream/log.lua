--- Where messages about this process go: the C core and the Lua files share one sink.

local core = require "echostream.core"

local M = {}

---@class echostream.log.record
---@field level "error"|"warn"|"info"|"debug"
---@field message string
---@field traceback? string
---@field session? any
---@field method? string

local function escape(text)
  return (tostring(text):gsub("[%c\127]", function(c)
    return c == "\n" and "\n  " or c == "\t" and "\t" or ("\\x%02x"):format(c:byte())
  end))
end

local function to_stderr(record)
  local where = record.method and (" [" .. escape(record.method):sub(1, 256) .. "]") or ""
  -- A traceback from the core begins with the message.
  local text = record.traceback and record.traceback:sub(1, #record.message) == record.message and record.traceback
    or record.message .. (record.traceback and "\n" .. record.traceback or "")
  io.stderr:write("echostream: ", record.level, where, ": ", escape(text), "\n")
end

local sink = to_stderr

--- Sends every log record of this Lua state to `fn`; nil: back to standard error. An error raised by `fn` is swallowed.
---@param fn fun(record: echostream.log.record)?
function M.set(fn)
  if fn ~= nil and type(fn) ~= "function" then
    error("echo.set_log: wants a function or nil, got a " .. type(fn), 2)
  end
  sink = fn or to_stderr
  core.set_log(sink)
end

--- Writes one record.
---@param level "error"|"warn"|"info"|"debug"
---@param message string
---@param fields? { traceback?: string, session?: any, method?: string }
function M.write(level, message, fields)
  local record = fields or {}
  record.level, record.message = level, message
  pcall(sink, record)
end

core.set_log(sink)

return M
