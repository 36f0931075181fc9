--- What a tunnel's server counts, in the metrics of the Lua state (echo.metrics): by rule and group, from the records of exchanges, and at
--- each look from what the plugin says of agents, backends and what is under way. Names begin with `echostream_tunnel_`.
---
--- Labels are names of rules and groups, which a configuration gives; names of agents and anything of visitors are no labels.

local metrics = require "echostream.metrics"

local M = {}

local BY <const> = { "rule", "group" }

local families -- registered at the first use: who has no tunnel has no empty metrics

local function register()
  families = {
    requests = metrics.counter("echostream_tunnel_requests_total", "Exchanges that are over, by class of status; none: the visitor got none.",
      { "rule", "group", "status" }),
    headers = metrics.histogram("echostream_tunnel_headers_seconds", "From the request's head to the response's.", BY),
    duration = metrics.histogram("echostream_tunnel_duration_seconds", "From the request's head to the end of both directions.", BY),
    quantiles = metrics.gauge("echostream_tunnel_quantile_seconds", "Quantiles of the two times above since the start.",
      { "rule", "group", "of", "quantile" }),
    bytes_in = metrics.counter("echostream_tunnel_received_bytes_total", "Bytes of bodies from visitors.", BY),
    bytes_out = metrics.counter("echostream_tunnel_sent_bytes_total", "Bytes of bodies to visitors.", BY),
    failures = metrics.counter("echostream_tunnel_failures_total", "Exchanges that did not end well, by cause.", { "rule", "group", "cause" }),
    refusals = metrics.counter("echostream_tunnel_refusals_total", "Exchanges that a limit refused.", { "limit" }),
    retries = metrics.counter("echostream_tunnel_retries_total", "Further members that were tried after the first.", BY),
    kinds = metrics.counter("echostream_tunnel_kinds_total", "Exchanges by protocol of the visitor and kind.", { "protocol", "kind" }),
    in_flight = metrics.gauge("echostream_tunnel_in_flight", "Exchanges under way.", { "group" }),
    queued = metrics.gauge("echostream_tunnel_queued_bytes", "Bytes that wait on the way to agents."),
    buffered = metrics.gauge("echostream_tunnel_buffered_bytes", "Memory of visitors' connections, with what waits for them or was not taken."),
    resets = metrics.gauge("echostream_tunnel_resets", "Exchanges that visitors reset, or we, since the start."),
    agents = metrics.gauge("echostream_tunnel_agents", "Agents that are registered, by state.", { "group", "state" }),
    backends = metrics.gauge("echostream_tunnel_backends", "Backends that agents report.", { "group", "state" }),
    peak = metrics.gauge("echostream_tunnel_peak_memory_bytes", "The most memory that the process has had (VmHWM)."),
    resident = metrics.gauge("echostream_tunnel_memory_bytes", "Memory that the process has now (VmRSS)."),
    connections = metrics.gauge("echostream_tunnel_connections", "Connections of visitors that are open."),
  }
end

local classes = { "1xx", "2xx", "3xx", "4xx", "5xx" }

local function class_of(status)
  return status and classes[status // 100] or "none"
end

-- /proc/self/status has the figures in kB.
local function memory()
  local file <close> = io.open "/proc/self/status"
  local text = file and file:read "a" or ""
  return tonumber(text:match "VmHWM:%s*(%d+)") or 0, tonumber(text:match "VmRSS:%s*(%d+)") or 0
end

---@class echostream.tunnel.metrics
---@field package _source? fun(): table
---@field package _seen table<string, table<string, boolean>>
local Metrics = {}
Metrics.__index = Metrics
Metrics.__name = "echostream.tunnel.metrics"

--- Takes the record of an exchange.
---@param record table
function Metrics:record(record)
  local f, rule, group = families, record.rule or "", record.group or ""
  f.requests:inc(rule, group, class_of(record.status))
  if record.to_headers then
    f.headers:observe(record.to_headers, rule, group)
  end
  f.duration:observe(record.duration or 0, rule, group)
  if (record.bytes_in or 0) > 0 then
    f.bytes_in:add(record.bytes_in, rule, group)
  end
  if (record.bytes_out or 0) > 0 then
    f.bytes_out:add(record.bytes_out, rule, group)
  end
  if record.cause then
    f.failures:inc(rule, group, record.cause)
    if record.limit then
      f.refusals:inc(record.limit)
    end
  end
  if (record.attempts or 1) > 1 then
    f.retries:add(record.attempts - 1, rule, group)
  end
  f.kinds:inc(record.protocol or "", record.kind or "")
  local seen = self._seen[rule]
  if not seen then
    seen = {}
    self._seen[rule] = seen
  end
  seen[group] = true
end

local QUANTILES <const> = { { "p50", "0.5" }, { "p95", "0.95" }, { "p99", "0.99" } }

local function look(self)
  for rule, groups in pairs(self._seen) do
    for group in pairs(groups) do
      for of, family in pairs { headers = families.headers, ["end"] = families.duration } do
        local summary = family:value(rule, group)
        for _, q in ipairs(QUANTILES) do
          families.quantiles:set(summary[q[1]], rule, group, of, q[2])
        end
      end
    end
  end
  local peak, resident = memory()
  families.peak:set(peak * 1024)
  families.resident:set(resident * 1024)
  local now = self._source and self._source() or {}
  families.queued:set(now.queued or 0)
  families.buffered:set(now.buffered or 0)
  families.resets:set(now.resets or 0)
  families.connections:set(now.connections or 0)
  for name, family in pairs { in_flight = families.in_flight, agents = families.agents, backends = families.backends } do
    local before, there = self["_" .. name], {}
    for group, value in pairs(now[name] or {}) do
      if type(value) == "number" then
        family:set(value, group)
        there[group] = { [""] = true }
      else
        there[group] = {}
        for state, n in pairs(value) do
          family:set(n, group, state)
          there[group][state] = true
        end
      end
    end
    for group, states in pairs(before or {}) do -- what is gone is 0, not what it was
      for state in pairs(states) do
        if not (there[group] and there[group][state]) then
          family:remove(group, state ~= "" and state or nil)
        end
      end
    end
    self["_" .. name] = there
  end
end

--- Looks no longer at what the source says.
function Metrics:close()
  self._stop()
end

--- Begins to count. Give its `record` what the plugin of a server tells. `source()` is asked at each look:
--- `{ in_flight = { [group] = n }, agents = { [group] = { [state] = n } }, backends = likewise, queued = bytes,
--- buffered = bytes, resets = n, connections = n }`.
---@param source? fun(): table
---@return echostream.tunnel.metrics
function M.new(source)
  if not families then
    register()
  end
  local self = setmetatable({ _source = source, _seen = {}, _stop = nil, _in_flight = nil, _agents = nil, _backends = nil }, Metrics)
  self._stop = metrics.on_collect(function()
    look(self)
  end)
  return self
end

return M
