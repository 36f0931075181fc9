--- A line of JSON for every exchange that is over: who asked for what, which rule, group and agent took it, what came of it and how long it
--- took, with the request's id and trace id. It is made of the records that the server's plugin tells (tunnel/DESIGN.md).

local core = require "echostream.core"
local errors = require "echostream.errors"
local log = require "echostream.log"
local loop = require "echostream.loop"
local options = require "echostream.options"
local text_of = require "echostream.metrics.text"

local M = {}

---@class echostream.tunnel.options.access_log
---@field path? string  a file that the lines are added to, in the background; made for this user only where it is not there
---@field write? fun(line: string, record: table)  takes the lines instead: it must not wait (default: to standard output)
---@field sample? number  share of what ended well that gets a line, 0 to 1; what failed or was slow always does (default: 1)
---@field slow? number  seconds from which on an exchange counts as slow (default: none)
---@field only? fun(record: table): boolean  for which records there is a line (default: all)
---@field headers? string[]  names of request fields that are logged too, cut to 256 bytes; mind what they give away (default: none)
---@field max_queue? integer  bytes that may wait for the disk; more are dropped and counted (default: 4 MiB)

M.schema = {
  path = { type = "string" },
  write = { type = "function" },
  sample = { type = "number", min = 0, max = 1, default = 1 },
  slow = { type = "seconds" },
  only = { type = "function" },
  headers = { type = "strings" },
  max_queue = { type = "integer", min = 1, max = 1 << 30, default = 4 << 20 },
}

-- Fields of a record as they are, texts cut to so many bytes.
local FIELDS <const> = {
  { "id", 128 }, { "trace_id", 64 }, { "kind", 16 }, { "protocol", 16 }, { "listener", 64 }, { "port" }, { "peer_ip", 64 }, { "client_ip", 64 },
  { "host", 256 }, { "method", 32 }, { "path", 1024 }, { "query", 1024 }, { "sni", 256 }, { "user", 128 }, { "rule", 128 }, { "group", 128 },
  { "service", 128 }, { "agent", 128 }, { "status" }, { "cause", 32 }, { "reason", 512 }, { "limit", 64 }, { "bytes_in" }, { "bytes_out" },
  { "attempts" },
}

for _, field in ipairs(FIELDS) do
  field[3] = (',"%s":'):format(field[1])
end

local last_second, last_text -- many lines have the same

local function stamp(at)
  local second = math.floor(at)
  if second ~= last_second then
    last_second, last_text = second, os.date("!%Y-%m-%dT%H:%M:%S", second)
  end
  return ("%s.%03dZ"):format(last_text, math.floor(at % 1 * 1000))
end

local find, format = string.find, string.format

-- A value as JSON. Most texts are plain and stand as they are.
local function quoted(value, most)
  if type(value) == "string" then
    if #value <= most and not find(value, "[%c\"\\\127-\255]") then
      return '"' .. value .. '"'
    end
    return core.codec.json.pack(text_of.utf8(value, most))
  elseif math.type(value) == "integer" then
    return value
  end
  return core.codec.json.pack(value)
end

local function headers_of(self, head)
  local out, any = core.map {}, false
  for _, name in ipairs(self._headers) do
    local value = head:get(name)
    if value then
      out[name], any = text_of.utf8(value, 256), true
    end
  end
  return any and core.codec.json.pack(out) or nil
end

-- What the agent said of the backend.
local function note_of(note)
  return format('%s%s,"reused":%s%s', note.backend and ',"backend":' .. quoted(tostring(note.backend), 256) or "",
    note.connect_time and format(',"connect_ms":%.3f', note.connect_time * 1e3) or "", note.reused and "true" or "false",
    note.attempt and ',"agent_attempt":' .. quoted(note.attempt, 64) or "")
end

--- The line of a record, without the end of line. Times are in milliseconds.
---@param record table
---@return string
---@private
function M.line(self, record)
  local out, n = { format('{"time":"%s","ms":%.3f', stamp(record.at or 0), (record.duration or 0) * 1e3) }, 1
  if record.to_headers then
    out[2], n = format(',"headers_ms":%.3f', record.to_headers * 1e3), 2
  end
  for i = 1, #FIELDS do
    local field = FIELDS[i]
    local value = record[field[1]]
    if value ~= nil then
      out[n + 1], out[n + 2], n = field[3], quoted(value, field[2]), n + 2
    end
  end
  if type(record.backend) == "table" then
    n = n + 1
    out[n] = note_of(record.backend)
  end
  local headers = self._headers and record.request and headers_of(self, record.request)
  if headers then
    out[n + 1], out[n + 2], n = ',"headers":', headers, n + 2
  end
  out[n + 1] = "}"
  return table.concat(out, "", 1, n + 1)
end

---@class echostream.tunnel.access_log
---@field lines integer    written so far
---@field dropped integer  that the disk was too slow for
local AccessLog = {}
AccessLog.__index = AccessLog
AccessLog.__name = "echostream.tunnel.access_log"

local function put(self, record)
  local ended_well = record.cause == nil and (record.status or 0) < 500
  if ended_well and (record.duration or 0) < self._slow and self._sample < 1 and loop.random() >= self._sample then
    return
  elseif self._only and not self._only(record) then
    return
  end
  local line = M.line(self, record)
  self.lines = self.lines + 1
  if self._file then
    if not self._file:add(line .. "\n") then
      self.dropped = self.dropped + 1
    end
  elseif self._write then
    self._write(line, record)
  else
    io.stdout:write(line, "\n")
    io.stdout:flush()
  end
end

--- Takes the record of an exchange. What goes wrong with its line is logged and harms nobody.
---@param record table
function AccessLog:record(record)
  local ok, err = pcall(put, self, record)
  if not ok then
    log.write("error", "tunnel.access_log: " .. errors.from(err).message)
  end
end

local function open(self)
  return require("echostream.loop.appender").open(self._path, self._max_queue)
end

--- Opens the file again under its name: whoever rotates logs moved the old one away. When that cannot be, the old one is kept.
---@return true|nil ok, echostream.error? err  `io`
function AccessLog:reopen()
  if not self._path then
    return true
  end
  local file, err = open(self)
  if not file then
    return nil, errors.new("io", ("%s: %s"):format(self._path, tostring(err)))
  end
  if self._file then
    self._file:close()
  end
  self._file = file
  return true
end

--- Writes what is queued and closes. Harmless twice.
function AccessLog:close()
  if self._file then
    self._file:close()
  end
end

--- Opens an access log. Give its `record` what the plugin of a server tells: `plugin:on("exchange", function(r) access:record(r) end)`.
---@param opts? echostream.tunnel.options.access_log
---@return echostream.tunnel.access_log|nil access, echostream.error? err  `io`: the file cannot be opened
function M.new(opts)
  local checked = options.check("tunnel.access_log", opts, M.schema)
  if checked.path and checked.write then
    error('tunnel.access_log: options "path" and "write" exclude each other', 2)
  end
  local headers
  for i, name in ipairs(checked.headers or {}) do
    headers = headers or {}
    headers[i] = name:lower()
  end
  local self = setmetatable({ lines = 0, dropped = 0, _path = checked.path, _file = nil, _write = checked.write, _sample = checked.sample,
    _slow = checked.slow or math.huge, _only = checked.only, _headers = headers, _max_queue = checked.max_queue }, AccessLog)
  local ok, err = self:reopen()
  if not ok then
    return nil, err
  end
  return self
end

return M
