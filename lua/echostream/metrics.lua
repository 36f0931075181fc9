--- Metrics: counters, gauges and histograms by name, always on, as tables and in Prometheus' text format.
---
---     local metrics = require "echostream.metrics"
---     local retries = metrics.counter("echostream_retries_total", "Attempts after the first.", { "method" })
---     retries:inc("math.add")
---     print(metrics.prometheus())
---
--- What servers and clients count by themselves comes with it: see `server:metrics()`. Everything here is of this Lua state.
--- Values of labels may come from peers: they are cut to 128 bytes, what is no printable text in them is escaped, and a metric
--- has at most 1,000 combinations of them; what is beyond is counted together under "(other)".

local core = require "echostream.core"
local errors = require "echostream.errors"
local options = require "echostream.options"
local text = require "echostream.metrics.text"

local M = {}

-- Combinations of label values one metric may have.
local MAX_SERIES = 1000
local OTHER = "(other)"

local families = {} -- by name
local order = {}    -- the names as they were registered
local collectors = {} -- functions run before everything is read, in order

---@class echostream.metric
---@field name string
---@field kind "counter"|"gauge"|"histogram"
---@field help string
---@field labels string[]  names of the labels
local Metric = {}
Metric.__index = Metric
Metric.__name = "echostream.metric"
Metric.__tostring = function(self)
  return ("echostream.metric %s (%s)"):format(self.name, self.kind)
end

-- The series of these label values, made when it is new. `cells` is a tree of tables, one level for each label, so that
-- a known series costs no string.
local function series_of(self, ...)
  local n, cell = #self.labels, self._cells
  for i = 1, n do
    local value = (select(i, ...))
    local nearer = cell[value == nil and "" or value]
    if not nearer then
      return nil
    end
    cell = nearer
  end
  return cell
end

local function new_series(self, values)
  local series = { values = values }
  if self.kind == "histogram" then
    series.histogram = core.histogram()
  else
    series.value = 0
  end
  self._list[#self._list + 1] = series
  return series
end

local function plain(self, ...)
  local values = {}
  for i = 1, #self.labels do
    local value = (select(i, ...))
    values[i] = value == nil and "" or text.label_value(value)
  end
  return values
end

-- By their text: what looks the same is the same series.
local function make_series(self, ...)
  local n = #self.labels
  local values = plain(self, ...)
  local key = table.concat(values, "\0")
  local series = self._by_text[key]
  if not series then
    if #self._list >= MAX_SERIES then
      for i = 1, n do
        values[i] = OTHER
      end
      self._rest = self._rest or new_series(self, values)
      return self._rest
    end
    series = new_series(self, values)
    self._by_text[key] = series
  end
  local cell = self._cells
  for i = 1, n do -- found at once the next time, unless the value needed more than looking at
    if (select(i, ...)) ~= values[i] then
      return series
    end
  end
  for i = 1, n - 1 do
    cell[values[i]] = cell[values[i]] or {}
    cell = cell[values[i]]
  end
  if n > 0 then
    cell[values[n]] = series
  end
  return series
end

local function find(self, ...)
  return series_of(self, ...) or make_series(self, ...)
end

-- For reading: nothing is made.
local function look(self, ...)
  return series_of(self, ...) or self._by_text[table.concat(plain(self, ...), "\0")]
end

local function check_kind(self, where, a, b)
  if self.kind ~= a and self.kind ~= b then
    error(("metric:%s: %s is a %s"):format(where, self.name, self.kind), 3)
  end
end

local function check_number(where, value)
  if type(value) ~= "number" or value ~= value then
    error(("metric:%s: wants a number, got %s"):format(where, errors.show(value)), 3)
  end
end

--- Adds one to a counter or gauge.
---@param ... any  the values of its labels, in their order
function Metric:inc(...)
  check_kind(self, "inc", "counter", "gauge")
  local series = find(self, ...)
  series.value = series.value + 1
end

--- Adds to a counter (nothing negative) or a gauge.
---@param n number
---@param ... any  the values of its labels, in their order
function Metric:add(n, ...)
  check_kind(self, "add", "counter", "gauge")
  check_number("add", n)
  if n < 0 and self.kind == "counter" then
    error("metric:add: a counter only rises: " .. self.name, 2)
  end
  local series = find(self, ...)
  series.value = series.value + n
end

--- Sets a gauge.
---@param value number
---@param ... any  the values of its labels, in their order
function Metric:set(value, ...)
  check_kind(self, "set", "gauge")
  check_number("set", value)
  find(self, ...).value = value
end

--- Records a value in a histogram: seconds, or whatever its unit is; below 0 counts as 0.
---@param value number
---@param ... any  the values of its labels, in their order
function Metric:observe(value, ...)
  check_kind(self, "observe", "histogram")
  check_number("observe", value)
  find(self, ...).histogram:add(value * self._scale)
end

--- What a counter or gauge stands at; of a histogram `{ count, sum, max, p50, p95, p99 }`. 0 (or an empty one) where nothing was
--- counted.
---@param ... any  the values of its labels, in their order
---@return number|table
function Metric:value(...)
  local series = look(self, ...)
  if self.kind == "histogram" then
    return text.summary(series and series.histogram or core.histogram(), self._scale)
  end
  return series and series.value or 0
end

--- Forgets one combination of labels: what it was about is gone.
---@param ... any  the values of its labels, in their order
function Metric:remove(...)
  local series = look(self, ...)
  if not series then
    return
  elseif #self.labels == 0 then
    series.value, series.histogram = 0, series.histogram and core.histogram()
    return
  end
  for i, other in ipairs(self._list) do
    if other == series then
      table.remove(self._list, i)
      break
    end
  end
  self._by_text[table.concat(series.values, "\0")] = nil
  local cell, n = self._cells, #self.labels
  for i = 1, n - 1 do
    cell = cell and cell[series.values[i]]
  end
  if cell then
    cell[series.values[n]] = nil
  end
end

-- Registering -------------------------------------------------------------------------------------------------

local units = { seconds = 1e9, bytes = 1, count = 1 }

local function same(a, b)
  return table.concat(a, "\0") == table.concat(b, "\0")
end

local function register(kind, name, help, labels, unit)
  local where = "metrics." .. kind
  options.argument(where, "name", name, "string", 3)
  options.argument(where, "help", help, "string", 3)
  if not name:find "^[%a_:][%w_:]*$" or #name > 200 then
    error(("%s: a name is up to 200 letters, digits, _ and :, got %s"):format(where, errors.show(name)), 3)
  end
  labels = labels or {}
  options.argument(where, "labels", labels, "strings", 3)
  for _, label in ipairs(labels) do
    if not label:find "^[%a_][%w_]*$" or label:find "^__" or label == "le" then
      error(("%s: a label's name is letters, digits and _ (and not \"le\"), got %s"):format(where, errors.show(label)), 3)
    end
  end
  local there = families[name]
  if there then
    if there.kind ~= kind or not same(there.labels, labels) or there.unit ~= unit then
      error(("%s: %s is registered already, as a %s with the labels { %s }"):format(where, name, there.kind,
        table.concat(there.labels, ", ")), 3)
    end
    return there
  end
  local self = setmetatable({
    name = name,
    kind = kind,
    help = help,
    labels = table.move(labels, 1, #labels, 1, {}),
    unit = unit,
    _scale = units[unit or "count"],
    _cells = {},
    _by_text = {},
    _list = {},
    _rest = nil,
  }, Metric)
  if #labels == 0 then
    self._cells = make_series(self) -- there from the beginning, at 0
  end
  families[name] = self
  order[#order + 1] = name
  return self
end

--- A number that only rises. The same name again gives the same metric; with another kind or other labels it raises.
---@param name string  by custom with the unit and `_total` at its end
---@param help string  one sentence
---@param labels? string[]  names; then every use gives their values, in this order
---@return echostream.metric
function M.counter(name, help, labels)
  return register("counter", name, help, labels)
end

--- A number that rises and falls.
---@param name string
---@param help string
---@param labels? string[]
---@return echostream.metric
function M.gauge(name, help, labels)
  return register("gauge", name, help, labels)
end

--- How values are spread: count, sum, and how many were at most 2^k. A quantile is off by at most an eighth.
---@param name string
---@param help string
---@param labels? string[]
---@param unit? "seconds"|"bytes"|"count"  default "seconds", kept to the nanosecond; the others are whole numbers
---@return echostream.metric
function M.histogram(name, help, labels, unit)
  if unit ~= nil and not units[unit] then
    error(("metrics.histogram: a unit is \"seconds\", \"bytes\" or \"count\", got %s"):format(errors.show(unit)), 2)
  end
  return register("histogram", name, help, labels, unit or "seconds")
end

--- Runs `fn` before metrics are read: the place to set gauges that nobody keeps up to date. What it raises is logged.
---@param fn fun()
---@return fun() stop  takes it out again
function M.on_collect(fn)
  options.argument("metrics.on_collect", "function", fn, "function")
  local entry = { fn }
  collectors[#collectors + 1] = entry
  return function()
    for i, other in ipairs(collectors) do
      if other == entry then
        table.remove(collectors, i)
        return
      end
    end
  end
end

-- Reading -----------------------------------------------------------------------------------------------------

local function run_collectors()
  for _, entry in ipairs(table.move(collectors, 1, #collectors, 1, {})) do
    local ok, err = pcall(entry[1])
    if not ok then
      require("echostream.log").write("error", "a collector of metrics failed: " .. tostring(err))
    end
  end
end

--- What the registered metrics stand at: `{ [name] = value }`, or `{ [name] = { { labels = {…}, value = … }, … } }` for those with
--- labels; histograms as `{ count, sum, max, p50, p95, p99 }`.
---@return table<string, any>
function M.table()
  run_collectors()
  local out = {}
  for name, family in pairs(families) do
    local function value_of(series)
      return series.histogram and text.summary(series.histogram, family._scale) or series.value
    end
    if #family.labels == 0 then
      out[name] = value_of(family._list[1])
    else
      local list = {}
      for i, series in ipairs(family._list) do
        local labels = {}
        for j, label in ipairs(family.labels) do
          labels[label] = series.values[j]
        end
        list[i] = { labels = labels, value = value_of(series) }
      end
      out[name] = list
    end
  end
  return out
end

-- Weak: every server and client that this state made.
local hosts = setmetatable({}, { __mode = "k" })
local born = 0

--- For host.lua: a server or client was made.
---@param host echostream.host
---@private
function M.remember(host)
  born = born + 1
  hosts[host] = born
end

--- Servers and clients of this Lua state that are running, oldest first.
---@return echostream.host[]
---@private
function M.hosts()
  local list = {}
  for host in pairs(hosts) do
    if host.state ~= "new" and host.state ~= "starting" and host.state ~= "stopped" and host.state ~= "closed" then
      list[#list + 1] = host
    end
  end
  table.sort(list, function(a, b)
    return hosts[a] < hosts[b]
  end)
  return list
end

--- Everything in Prometheus' text format, version 0.0.4: what was registered, and what the given servers and clients count.
---@param ... echostream.host  servers and clients; none: all of this Lua state that are running
---@return string
function M.prometheus(...)
  local wanted = select("#", ...) > 0 and { ... } or M.hosts()
  for i, host in ipairs(wanted) do
    if type(host) == "table" and type(host._real) == "table" then -- in a file that was loaded by server:load
      host = host._real
      wanted[i] = host
    end
    if type(host) ~= "table" or type(rawget(host, "_host")) ~= "userdata" then
      error(("metrics.prometheus: wants servers and clients, got %s as number %d"):format(errors.show(host), i), 2)
    end
  end
  run_collectors()
  local out = text.writer()
  for _, name in ipairs(order) do
    local family = families[name]
    if #family._list > 0 then
      out:family(name, family.kind, family.help)
      for _, series in ipairs(family._list) do
        if series.histogram then
          out:histogram(name, family.labels, series.values, series.histogram, family.unit)
        else
          out:sample(name, family.labels, series.values, series.value)
        end
      end
    end
  end
  require("echostream.metrics.host").write(out, wanted)
  return out:text()
end

--- Answers `GET /metrics` over HTTP/1.1 with what `prometheus` gives, for Prometheus or curl. Not over TLS and open to whoever
--- reaches the address, so leave it on the loopback interface. It ends with the process and does not keep it alive.
---@param opts? { bind?: string, hosts?: echostream.host[], timeout?: number }  "127.0.0.1:9464"; all that run; 10 seconds for each request
---@return echostream.metrics.endpoint|nil endpoint, echostream.error? err  `address` (with the real port), `close()`; `io`: the address is taken
function M.serve(opts)
  return require("echostream.metrics.http").serve(opts, 2)
end

return M
