--- A plugin: W3C traces of all calls, and their spans exported: to a collector (OTLP/JSON over HTTP/1.1), to a file, or to a function.
---
---     server:plugin(echo.plugins.tracing { url = "http://127.0.0.1:4318/v1/traces", service = "shop" })

local address = require "echostream.address"
local batches = require "echostream.plugins.batches"
local core = require "echostream.core"
local errors = require "echostream.errors"
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
---@field service? string  the service's name, `service.name` (default: the environment's OTEL_SERVICE_NAME, else "unknown_service:lua")
---@field resource? table<string, string|number|boolean>  what else is said of where spans come from: `["deployment.environment.name"] = "test"`
---@field sample? number  share of the traces begun here that are recorded, 0 to 1; of those that come in their beginner decides (default: 1)
---@field interval? number  seconds after which spans are exported (default: 5)
---@field batch? integer  spans in one export at most, and from how many on it does not wait for `interval` (default: 512)
---@field max_queue? integer  spans that wait; more are dropped and counted (default: 4,096)
---@field timeout? number  seconds for one attempt (default: 10)
---@field attempts? integer  to export a batch, after growing pauses; what must not be sent again is not (default: 5)

local schema = {
  url = { type = "string" },
  path = { type = "string" },
  export = { type = "function" },
  service = { type = "string" },
  resource = { type = "table", default = {} },
  sample = { type = "number", min = 0, max = 1, default = 1 },
  interval = { type = "seconds", min = 0.001, max = 1e6, default = 5 },
  batch = { type = "integer", min = 1, max = 1 << 20, default = 512 },
  max_queue = { type = "integer", min = 1, max = 1 << 24, default = 4096 },
  timeout = { type = "seconds", min = 0.001, max = 1e6, default = 10 },
  attempts = { type = "integer", min = 1, max = 100, default = 5 },
}

---@class echostream.tracing: echostream.plugin
---@field exported integer  spans, so far
---@field dropped integer   that there was no room for
---@field failed integer    whose export failed, for good
---@field retried integer   batches that were sent again, each time
local Tracing = { __name = "echostream.tracing" }
local counters = { exported = true, dropped = true, failed = true, retried = true }

function Tracing.__index(self, key)
  if counters[key] then
    return self._batches[key]
  end
  return Tracing[key]
end

local exporters = {}

function exporters.url(self, spans)
  return otlp.post(self._place, otlp.encode(self._resource, spans), self._opts.timeout)
end

local function open(self)
  return require("echostream.loop.appender").open(self._opts.path, 16 << 20)
end

function exporters.path(self, spans)
  local file, err = self._file
  if not file then -- of calls that were under way when the plugin went
    file, err = open(self)
    if not file then
      return nil, errors.new("io", err)
    end
  end
  local ok = file:add(otlp.encode(self._resource, spans) .. "\n")
  if file ~= self._file then
    file:close()
  end
  if not ok then
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

--- Exports what waits now, and waits until that is done or has failed for good.
---@return self
function Tracing:flush()
  task.block(self._batches.flush, self._batches)
  return self
end

function Tracing:install(host)
  if self._opts.path then
    local file, err = open(self)
    if not file then
      return nil, errors.new("io", err)
    end
    self._file = file
  end
  host:middleware(trace.middleware {
    sample = self._opts.sample,
    on_span = function(span)
      if span.sampled then
        self._batches:add(span)
      end
    end,
  })
  self._batches:reopen()
  host:on_start(function()
    self._batches:reopen()
  end)
  host:on_stop(function()
    self._batches:finish()
  end)
end

function Tracing:uninstall()
  task.spawn(function()
    self._batches:finish()
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

-- What is said of where the spans come from.
local function resource_of(opts)
  for key, value in pairs(opts.resource) do
    options.argument("plugins.tracing", ("option \"resource\", %s"):format(errors.show(key)), type(key) == "string" and value or key,
      type(key) == "string" and { "string", "number", "boolean" } or "string", 4)
  end
  local service = opts.service or os.getenv "OTEL_SERVICE_NAME"
  local resource = otlp.resource(service and service ~= "" and service or "unknown_service:lua", opts.resource)
  local ok, err = core.codec.json.pack(resource)
  if not ok then
    error("plugins.tracing: the resource cannot be sent: " .. tostring(err), 3)
  end
  return resource
end

--- Makes the plugin. It has the trace middleware in it: do not install that too. While a batch is tried again the spans behind it wait, up to
--- `max_queue`; a server that stops has one more attempt.
---@param opts echostream.options.tracing
---@return echostream.tracing
function M.tracing(opts)
  local checked = options.check("plugins.tracing", opts, schema)
  local way = checked.url and "url" or checked.path and "path" or "export"
  if (checked.url and 1 or 0) + (checked.path and 1 or 0) + (checked.export and 1 or 0) ~= 1 then
    error('plugins.tracing: wants one of "url", "path" and "export"', 2)
  end
  local self = setmetatable({ name = "tracing", _opts = checked, _file = nil, _place = checked.url and place_of(checked.url),
    _resource = resource_of(checked) }, Tracing)
  self._batches = batches.new { what = "spans", batch = checked.batch, interval = checked.interval, max_queue = checked.max_queue,
    attempts = checked.attempts, send = function(spans)
      return exporters[way](self, spans)
    end }
  return self
end

return M
