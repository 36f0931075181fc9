--- A plugin: W3C traces of all calls, and their spans exported: to a collector (OTLP/JSON over HTTP/1.1), to a file, or to a function.
---
---     server:plugin(echo.plugins.tracing { url = "http://127.0.0.1:4318/v1/traces", service = "shop" })

local address = require "echostream.address"
local errors = require "echostream.errors"
local log = require "echostream.log"
local options = require "echostream.options"
local otlp = require "echostream.plugins.otlp"
local task = require "echostream.task"
local trace = require "echostream.trace"

local M = {}

---@class echostream.options.tracing
---@field url? string  of a collector, "http://127.0.0.1:4318/v1/traces": a numeric address or localhost
---@field path? string  a file instead: a line of OTLP/JSON for each batch
---@field export? fun(spans: echostream.trace.span[]): any, any  a function instead, in a task: it may wait; it fails by raising, or by nil
--- and an error
---@field service? string  the service's name (default: "echostream")
---@field sample? number  share of the traces begun here that are recorded, 0 to 1; of those that come in their beginner decides (default: 1)
---@field interval? number  seconds after which spans are exported (default: 5)
---@field batch? integer  spans in one export at most, and from how many on it does not wait for `interval` (default: 512)
---@field max_queue? integer  spans that wait; more are dropped and counted (default: 4,096)
---@field timeout? number  seconds for one export (default: 10)

local schema = {
  url = { type = "string" },
  path = { type = "string" },
  export = { type = "function" },
  service = { type = "string", default = "echostream" },
  sample = { type = "number", min = 0, max = 1, default = 1 },
  interval = { type = "seconds", min = 0.001, max = 1e6, default = 5 },
  batch = { type = "integer", min = 1, max = 1 << 20, default = 512 },
  max_queue = { type = "integer", min = 1, max = 1 << 24, default = 4096 },
  timeout = { type = "seconds", min = 0.001, max = 1e6, default = 10 },
}

---@class echostream.tracing: echostream.plugin
---@field exported integer  spans, so far
---@field dropped integer   that there was no room for
---@field failed integer    whose export failed; they are not sent again
local Tracing = { __name = "echostream.tracing" }
Tracing.__index = Tracing

local exporters = {}

function exporters.url(self, spans)
  return otlp.post(self._place, otlp.encode(self._opts.service, spans), self._opts.timeout)
end

function exporters.path(self, spans)
  if not self._file or not self._file:add(otlp.encode(self._opts.service, spans) .. "\n") then
    return nil, errors.new("resource_exhausted", "the disk is too slow")
  end
  return true
end

function exporters.export(self, spans)
  local running = task.spawn(pcall, self._opts.export, spans)
  local ok, value, err = running:wait(self._opts.timeout)
  if running:result() == nil then
    running:cancel()
    return nil, errors.new("timeout", "the export took too long")
  elseif not ok then
    return nil, errors.from(value)
  elseif value == nil and err ~= nil then
    return nil, errors.from(err)
  end
  return true
end

-- Exports what waits, batch after batch; one at a time.
local function flush(self)
  if self._busy then
    return
  end
  self._busy = true
  local _ <close> = setmetatable({}, {
    __close = function()
      self._busy = false
    end,
  })
  while #self._queue > 0 do
    local n = math.min(#self._queue, self._opts.batch)
    local spans = table.move(self._queue, 1, n, 1, {})
    self._queue = table.move(self._queue, n + 1, #self._queue, 1, {})
    local ok, err = self._send(self, spans)
    self.exported, self.failed = self.exported + (ok and n or 0), self.failed + (ok and 0 or n)
    if not ok then
      log.write("warn", "spans could not be exported: " .. tostring(err))
    end
  end
end

local function keep(self, span)
  if not span.sampled then
    return
  elseif #self._queue >= self._opts.max_queue then
    self.dropped = self.dropped + 1
    return
  end
  self._queue[#self._queue + 1] = span
  if self._busy then -- which goes on as long as there is something
    return
  elseif #self._queue >= self._opts.batch or self._over then
    task.spawn(flush, self)
  elseif not self._timer then -- only while something waits: it keeps the process alive
    self._timer = task.spawn(function()
      if task.sleep(self._opts.interval) then
        self._timer = nil
        flush(self)
      end
    end)
  end
end

-- Nothing waits from now on.
local function finish(self)
  self._over = true
  flush(self)
  if self._timer then
    self._timer:cancel()
    self._timer = nil
  end
end

--- Exports what waits now. Waits for it, unless an export is under way.
---@return self
function Tracing:flush()
  task.block(flush, self)
  return self
end

function Tracing:install(host)
  if self._opts.path then
    local file, err = require("echostream.loop.appender").open(self._opts.path, 16 << 20)
    if not file then
      return nil, errors.new("io", err)
    end
    self._file = file
  end
  host:middleware(trace.middleware {
    sample = self._opts.sample,
    on_span = function(span)
      keep(self, span)
    end,
  })
  self._over = false
  host:on_stop(function()
    finish(self)
  end)
end

function Tracing:uninstall()
  task.spawn(function()
    finish(self)
    if self._file then
      self._file:close()
      self._file = nil
    end
  end)
end

-- "http://127.0.0.1:4318/v1/traces" -> where to connect, and what to ask for.
local function place_of(url)
  local host, path = url:match "^http://([^/?#]+)(/?[^#]*)$"
  local ok, ip, port = pcall(address.parse, "plugins.tracing", host and (host:find ":%d+$" and host or host .. ":80") or "", "127.0.0.1")
  ip = ip == "localhost" and "127.0.0.1" or ip
  if not host or not ok or not address.literal(ip) or url:find "[%c ]" then
    error(('plugins.tracing: option "url" wants http:// and a numeric address, got %s'):format(errors.show(url)), 3)
  end
  return { ip = ip, port = port, host = host, path = path == "" and "/" or path }
end

--- Makes the plugin. It has the trace middleware in it: do not install that too.
---@param opts echostream.options.tracing
---@return echostream.tracing
function M.tracing(opts)
  local checked = options.check("plugins.tracing", opts, schema)
  local way = checked.url and "url" or checked.path and "path" or "export"
  if (checked.url and 1 or 0) + (checked.path and 1 or 0) + (checked.export and 1 or 0) ~= 1 then
    error('plugins.tracing: wants one of "url", "path" and "export"', 2)
  end
  return setmetatable({ name = "tracing", exported = 0, dropped = 0, failed = 0, _opts = checked, _send = exporters[way], _queue = {},
    _busy = false, _over = false, _timer = nil, _file = nil, _place = checked.url and place_of(checked.url) }, Tracing)
end

return M
