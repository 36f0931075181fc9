--- A plugin: a line for every call, event, stream and HTTP request that comes in, and for every session when it is over.
---
---     server:plugin(echo.plugins.access_log { path = "/var/log/echo.log", format = "json" })

local core = require "echostream.core"
local errors = require "echostream.errors"
local http_errors = require "echostream.http.errors"
local log = require "echostream.log"
local loop = require "echostream.loop"
local options = require "echostream.options"
local parts = require "echostream.plugins.parts"
local text_of = require "echostream.metrics.text"
local trace = require "echostream.trace"

local M = {}

---@class echostream.options.access_log
---@field path? string  a file that the lines are added to, in the background; made for this user only where it is not there
---@field write? fun(line: string, entry: echostream.access_log.entry)  takes the lines instead: it must not wait (default: to standard error)
---@field format? "text"|"json"|fun(entry: echostream.access_log.entry): string?  a function may return nil for no line (default: "text")
---@field sample? number  share of what ended well that gets a line, 0 to 1; what failed or was slow always does (default: 1)
---@field slow? number  seconds from which on it counts as slow (default: none)
---@field only? string[]  names that are logged, or beginnings and "*" (default: everything)
---@field sessions? boolean  a line for each session that ended (default: true)
---@field bytes? boolean  says how long arguments, results and the messages of streams are; results are encoded once more for it (default: false)
---@field max_queue? integer  bytes that may wait for the disk; more are dropped and counted (default: 1 MiB)
---@field name? string  of the plugin, when there are several (default: "access_log")

---@class echostream.access_log.entry  as it came: `who` may be any text. The formats "text" and "json" escape and cut it
---@field time number       seconds since 1970, at its beginning
---@field kind "rpc"|"event"|"stream"|"session"|"http"
---@field name string       of a session: its number here; of a request: method and path
---@field peer string       address and port
---@field who string?       its identity
---@field code string       "ok", or the error's; of a session: why it is over
---@field duration number   seconds
---@field id integer?       of the request
---@field trace_id string?
---@field status integer?    of a request's answer
---@field bytes_in integer?
---@field bytes_out integer?

local schema = {
  path = { type = "string" },
  write = { type = "function" },
  format = { type = { "string", "function" }, default = "text" },
  sample = { type = "number", min = 0, max = 1, default = 1 },
  slow = { type = "seconds" },
  only = { type = "strings" },
  sessions = { type = "boolean", default = true },
  bytes = { type = "boolean", default = false },
  max_queue = { type = "integer", min = 1, max = 1 << 30, default = 1 << 20 },
  name = { type = "string", default = "access_log" },
}

local last_second, last_text -- many lines have the same

local function stamp(time)
  local second = math.floor(time)
  if second ~= last_second then
    last_second, last_text = second, os.date("!%Y-%m-%dT%H:%M:%S", second)
  end
  return ("%s.%03dZ"):format(last_text, math.floor(time % 1 * 1000))
end

local formats, more = {}, { "status", "bytes_in", "bytes_out", "id", "trace_id" }

function formats.text(entry)
  local line = ("%s %s %s %s %s %s %.3fms"):format(stamp(entry.time), parts.word(entry.peer), entry.who and parts.word(entry.who) or "-",
    entry.kind, parts.word(entry.name), parts.word(entry.code), entry.duration * 1000)
  for _, key in ipairs(more) do
    if entry[key] then
      line = ("%s %s=%s"):format(line, key, entry[key])
    end
  end
  return line
end

function formats.json(entry)
  local out = core.map {}
  for key, value in pairs(entry) do
    out[key] = type(value) == "string" and text_of.utf8(value, 256) or value
  end
  out.time = stamp(entry.time)
  return core.codec.json.pack(out)
end

-- Of the results, which are encoded after us.
local function length(response)
  local bytes = response.ok and core.codec.msgpack.encode(table.unpack(response, 1, response.n))
  return bytes and #bytes or nil
end

---@class echostream.access_log: echostream.plugin
---@field lines integer    written so far
---@field dropped integer  that the disk was too slow for

local function open(self)
  return require("echostream.loop.appender").open(self._path, self._max_queue)
end

local function put(self, entry)
  if entry.code == "ok" and entry.duration < self._slow and self._sample < 1 and loop.random() >= self._sample then
    return
  end
  local line = self._format(entry)
  if line == nil then
    return
  end
  self.lines = self.lines + 1
  if self._path then
    local file = self._file or open(self) -- a call that was under way when the plugin went
    if not (file and file:add(line .. "\n")) then
      self.dropped = self.dropped + 1
    end
    if file and file ~= self._file then
      file:close()
    end
  elseif self._write then
    self._write(line, entry)
  else
    io.stderr:write(line, "\n")
  end
end

-- A call does not fail because its line did.
local function try(self, fn, ...)
  local ok, err = pcall(fn, self, ...)
  if not ok then
    log.write("error", "access_log: " .. errors.from(err).message)
  end
end

local function wall()
  return loop.current().core:wall()
end

local function put_call(self, call, response, began, since)
  local context, id, session = trace.parse(call.metadata.traceparent), call.id, call.session
  local entry = {
    time = began,
    kind = call.kind,
    name = call.name,
    peer = session.peer_addr,
    who = parts.who(session),
    code = response.ok and "ok" or response.err and response.err.code or "unknown",
    duration = loop.now() - since,
    id = id ~= 0 and id or nil,
    trace_id = context and context.trace_id,
  }
  if self._bytes then
    entry.bytes_in = call.bytes_in
    entry.bytes_out = call.kind ~= "event" and (call.bytes_out or length(response)) or nil
  end
  put(self, entry)
end

local function put_session(self, session, err)
  put(self, { time = session.created_at, kind = "session", name = tostring(session.id), peer = session.peer_addr, who = parts.who(session),
    code = err and err.code or "ok", duration = math.max(wall() - session.created_at, 0) })
end

-- What is asked over HTTP: "ok" is what has a status below 400.
local function put_request(self, request, response, outcome, seconds)
  local name = ("%s %s"):format(request.method, request.path or request.authority)
  if self._only and not self._only(name) then
    return
  end
  local status = math.type(outcome) == "integer" and outcome or nil
  put(self, { time = wall() - seconds, kind = "http", name = name, peer = request.peer_addr,
    code = status == nil and outcome or status < 400 and "ok" or http_errors.code(status), status = status, duration = seconds,
    bytes_out = self._bytes and response.bytes or nil })
end

local function install(self, host)
  if self._path then
    local file, err = open(self)
    if not file then
      return nil, errors.new("io", err)
    end
    self._file = file
  end
  host:middleware(function(call, next)
    if self._only and not self._only(call.name) then
      return next(call)
    end
    local began, since = wall(), loop.now()
    local response = next(call)
    try(self, put_call, call, response, began, since)
    return response
  end, { direction = "in" })
  if host.on_http then
    host:on_http(function(...)
      try(self, put_request, ...)
    end)
  end
  if self._sessions then
    host:on_disconnect(function(session, err)
      try(self, put_session, session, err)
    end)
  end
end

local function uninstall(self)
  if self._file then
    self._file:close()
    self._file = nil
  end
end

--- Makes the plugin. Install it first, so that it sees what others refuse.
---@param opts? echostream.options.access_log
---@return echostream.access_log
function M.access_log(opts)
  local checked = options.check("plugins.access_log", opts, schema)
  local format = type(checked.format) == "function" and checked.format or formats[checked.format]
  if not format then
    error(('plugins.access_log: option "format" wants "text", "json" or a function, got %s'):format(errors.show(checked.format)), 2)
  elseif checked.path and checked.write then
    error('plugins.access_log: options "path" and "write" exclude each other', 2)
  end
  return {
    name = checked.name, install = install, uninstall = uninstall, lines = 0, dropped = 0, _path = checked.path, _file = nil,
    _write = checked.write, _format = format, _sample = checked.sample, _slow = checked.slow or math.huge,
    _only = checked.only and parts.one_of(checked.only), _sessions = checked.sessions, _bytes = checked.bytes, _max_queue = checked.max_queue,
  }
end

return M
