--- What a server or client counts by itself, as a table and as Prometheus' samples. The counting is the core's and always on; what
--- costs something is looking, so that happens here, when somebody asks.

local core = require "echostream.core"
local text = require "echostream.metrics.text"
local view = require "echostream.view"

local M = {}

local NS = 1e9

---@class echostream.metrics.calls  of one method or named stream
---@field count integer      that ended, and incoming events
---@field errors integer     of them, not with "ok"
---@field running integer?   incoming: handlers at it now
---@field refused integer?   incoming: answered without a handler: a limit, or cancelled before its turn
---@field codes table<string, integer>  how many ended with which code; "ok" is one
---@field time echostream.metrics.spread  seconds: incoming until the handler's end, outgoing until the answer came

---@class echostream.metrics.spread
---@field count integer
---@field sum number
---@field max number
---@field p50 number
---@field p95 number
---@field p99 number

---@class echostream.metrics.host
---@field sessions table  `open` (now), `total`
---@field calls table     `incoming` and `outgoing`: by method (of outgoing ones 128 names and "(other)"); `refused`, `timed_out`, `cancelled`
---@field streams table   named streams and streaming calls: `incoming` and `outgoing` by name; `open_in`, `open_out` (now)
---@field events table    `incoming` (by name, those that a handler took), `received`, `sent`, `unhandled`
---@field queues table    now: `pending` calls of ours, `running` and `running_events` handlers, `unsent` and `unread` bytes of streams,
--- `queued` bytes of streams and lanes; since the start: `waits`, how often senders waited for room, and `waited`, for how many seconds
---@field http? table     `running` (now), `requests` by method and route ("GET /users/:id"; without a route "(none)"): `count`, `errors` (from
--- 400 on, or given up), `codes` (by status), `bytes` sent, `time`
---@field quic table      of all connections together, see below
---@field memory table    bytes: `core` (all of it in this process), `held` (spread over the open connections)
---@field problems table  `bad_frames` (breaches of the protocol), `checksum_errors`

local function calls_of(list, wanted)
  local out = {}
  for _, entry in ipairs(list) do
    if wanted == nil or (entry.streaming or false) == wanted then
      local summary = text.summary(entry.time or core.histogram(), NS)
      out[entry.name ~= "" and entry.name or "(other)"] = {
        count = summary.count,
        errors = summary.count - (entry.codes and entry.codes.ok or 0),
        running = entry.running,
        refused = entry.running and (entry.refused or 0) or nil,
        codes = entry.codes or {},
        time = summary,
      }
    end
  end
  return out
end

local function counts_of(list)
  local out = {}
  for _, entry in ipairs(list) do
    out[entry.name] = entry.calls
  end
  return out
end

local function with_streaming(figures)
  local list = table.move(figures.streams, 1, #figures.streams, 1, {})
  for _, entry in ipairs(figures.methods) do
    if entry.streaming then
      list[#list + 1] = entry
    end
  end
  return list
end

--- The table that `host:metrics()` returns.
---@param host echostream.host
---@return echostream.metrics.host
function M.table(host)
  local figures, stats = host._host:figures(), host._host:stats()
  local quic = {}
  for name, value in pairs(figures.quic) do
    quic[name] = value
  end
  quic.handshakes = text.summary(quic.handshakes, NS)
  quic.rtt = text.summary(quic.rtt, NS)
  quic.cwnd = text.summary(quic.cwnd, 1)
  quic.held = nil
  return view.of {
    sessions = { open = figures.open, total = stats.sessions_total },
    calls = {
      incoming = calls_of(figures.methods, false),
      outgoing = calls_of(figures.calls_out),
      refused = stats.calls_in_refused,
      timed_out = stats.calls_timed_out,
      cancelled = stats.calls_cancelled,
    },
    streams = {
      incoming = calls_of(with_streaming(figures)),
      outgoing = calls_of(figures.streams_out),
      open_in = figures.channels_in,
      open_out = figures.channels_out,
    },
    events = {
      incoming = counts_of(figures.event_handlers),
      received = stats.events_in,
      sent = stats.events_out,
      unhandled = stats.events_unhandled,
    },
    queues = {
      pending = figures.pending,
      running = figures.running,
      running_events = figures.events,
      queued = stats.queued,
      waits = stats.send_waits,
      waited = stats.send_waited,
      unsent = figures.unsent,
      unread = figures.unread,
    },
    quic = quic,
    memory = { core = core.memory().in_use, held = text.summary(figures.quic.held, 1) },
    http = host._http and require("echostream.http.tally").table(host._http.tally) or nil,
    problems = { bad_frames = stats.bad_frames, checksum_errors = stats.checksum_errors },
  }
end

-- Prometheus --------------------------------------------------------------------------------------------------

-- One for each metric: name, kind, help, labels besides `host`, and a function that gives its samples to `put(value, labels…)`.
local function numbers(name, kind, help, get)
  return { name, kind, help, {}, function(put, figures, stats, host)
    put(get(figures, stats, host))
  end }
end

local function each_call(fn)
  return function(put, figures)
    for _, kind in ipairs { { figures.methods, "in", "call", false }, { with_streaming(figures), "in", "stream" },
      { figures.calls_out, "out", "call" }, { figures.streams_out, "out", "stream" } } do
      for _, entry in ipairs(kind[1]) do
        if kind[4] == nil or (entry.streaming or false) == kind[4] then
          fn(put, entry, kind[2], kind[3], entry.name ~= "" and entry.name or "(other)")
        end
      end
    end
  end
end

local function each_request(fn)
  return function(put, _, _, host)
    if host._http then
      require("echostream.http.tally").each(host._http.tally, function(method, route, entry)
        fn(put, entry, method, route)
      end)
    end
  end
end

local function spread(field)
  return function(put, figures)
    local histogram = figures.quic[field]
    local scale = field == "rtt" and NS or 1
    for _, each in ipairs { { "p50", 0.5 }, { "p95", 0.95 }, { "p99", 0.99 }, { "max", 1 } } do
      put(histogram:quantile(each[2]) / scale, each[1])
    end
  end
end

local function both_ways(received, sent)
  return function(put, figures)
    put(figures.quic[received], "in")
    put(figures.quic[sent], "out")
  end
end

local described = {
  numbers("echostream_sessions", "gauge", "Sessions that are open.", function(figures) return figures.open end),
  numbers("echostream_sessions_total", "counter", "Sessions since the start.", function(_, stats) return stats.sessions_total end),
  { "echostream_calls_total", "counter", "Calls and streams that ended, by how.", { "direction", "kind", "method", "code" },
    each_call(function(put, entry, direction, kind, name)
      for code, n in pairs(entry.codes or {}) do
        put(n, direction, kind, name, code)
      end
    end) },
  { "echostream_call_seconds", "histogram", "How long calls and streams took.", { "direction", "kind", "method" },
    each_call(function(put, entry, direction, kind, name)
      if entry.time then
        put(entry.time, direction, kind, name)
      end
    end) },
  { "echostream_calls_running", "gauge", "Handlers of calls and streams that run now.", { "kind", "method" },
    each_call(function(put, entry, direction, kind, name)
      if direction == "in" then
        put(entry.running, kind, name)
      end
    end) },
  { "echostream_calls_refused_total", "counter", "Calls and streams of peers that were answered without a handler.", {},
    function(put, _, stats) put(stats.calls_in_refused) end },
  numbers("echostream_calls_timed_out_total", "counter", "Calls and streams whose deadline passed.",
    function(_, stats) return stats.calls_timed_out end),
  numbers("echostream_calls_cancelled_total", "counter", "Calls and streams that somebody gave up.",
    function(_, stats) return stats.calls_cancelled end),
  numbers("echostream_calls_pending", "gauge", "Calls of ours that wait to be sent.", function(figures) return figures.pending end),
  { "echostream_streams_open", "gauge", "Named streams and streaming calls that are open.", { "direction" }, function(put, figures)
    put(figures.channels_in, "in")
    put(figures.channels_out, "out")
  end },
  { "echostream_stream_bytes", "gauge", "Bytes of stream messages that are not sent yet, and that nobody has read yet.", { "queue" },
    function(put, figures)
      put(figures.unsent, "unsent")
      put(figures.unread, "unread")
    end },
  numbers("echostream_send_queue_bytes", "gauge", "Bytes of streams and event lanes that are not sent yet.",
    function(_, stats) return stats.queued end),
  numbers("echostream_send_waits_total", "counter", "Times that a sender waited for room in a queue.",
    function(_, stats) return stats.send_waits end),
  numbers("echostream_send_waited_seconds_total", "counter", "How long senders waited for room in a queue.",
    function(_, stats) return stats.send_waited end),
  { "echostream_compressed_total", "counter", "Payloads that were compressed.", { "direction" }, function(put, _, stats)
    put(stats.compressed_in, "in")
    put(stats.compressed_out, "out")
  end },
  numbers("echostream_compression_saved_bytes_total", "counter", "Bytes that compression saved on the way out.",
    function(_, stats) return stats.compression_saved end),
  { "echostream_events_total", "counter", "Events.", { "direction" }, function(put, _, stats)
    put(stats.events_in, "in")
    put(stats.events_out, "out")
  end },
  { "echostream_events_handled_total", "counter", "Events of peers that a handler took.", { "event" }, function(put, figures)
    for _, entry in ipairs(figures.event_handlers) do
      put(entry.calls, entry.name)
    end
  end },
  numbers("echostream_events_unhandled_total", "counter", "Events of peers that nobody handles.",
    function(_, stats) return stats.events_unhandled end),
  { "echostream_http_requests_total", "counter", "Requests over HTTP, by how they ended.", { "method", "route", "code" },
    each_request(function(put, entry, method, route)
      for code, n in pairs(entry.codes) do
        put(n, method, route, tostring(code))
      end
    end) },
  { "echostream_http_request_seconds", "histogram", "How long requests over HTTP took.", { "method", "route" },
    each_request(function(put, entry, method, route)
      put(entry.time, method, route)
    end) },
  { "echostream_http_sent_bytes_total", "counter", "Bytes of bodies that were sent over HTTP.", { "method", "route" },
    each_request(function(put, entry, method, route)
      put(entry.bytes, method, route)
    end) },
  numbers("echostream_bad_frames_total", "counter", "Breaches of the protocol by peers.", function(_, stats) return stats.bad_frames end),
  numbers("echostream_checksum_errors_total", "counter", "Frames whose checksum did not match.",
    function(_, stats) return stats.checksum_errors end),
  { "echostream_quic_bytes_total", "counter", "Bytes of UDP payload.", { "direction" }, both_ways("bytes_received", "bytes_sent") },
  { "echostream_quic_packets_total", "counter", "QUIC packets.", { "direction" }, both_ways("packets_received", "packets_sent") },
  numbers("echostream_quic_packets_lost_total", "counter", "QUIC packets that were lost on the way to the peer.",
    function(figures) return figures.quic.packets_lost end),
  numbers("echostream_quic_migrations_total", "counter", "Changes of a connection's path.",
    function(figures) return figures.quic.migrations end),
  numbers("echostream_quic_key_updates_total", "counter", "Changes of packet keys.", function(figures) return figures.quic.key_updates end),
  { "echostream_quic_resumptions_total", "counter", "Handshakes that went on from an earlier session, and what became of early data.",
    { "kind" }, function(put, figures)
      put(figures.quic.resumed, "resumed")
      put(figures.quic.early_accepted, "early_accepted")
      put(figures.quic.early_rejected, "early_rejected")
    end },
  { "echostream_quic_handshake_seconds", "histogram", "How long handshakes took.", {}, function(put, figures)
    put(figures.quic.handshakes)
  end },
  { "echostream_quic_rtt_seconds", "gauge", "Smoothed round trips of the open connections.", { "stat" },
    spread "rtt" },
  { "echostream_quic_cwnd_bytes", "gauge", "Congestion windows of the open connections.", { "stat" }, spread "cwnd" },
  { "echostream_connection_held_bytes", "gauge", "Memory held for what open connections received or sent.", { "stat" }, spread "held" },
}

-- Each host keeps the label that it was first seen with, so that its series go on when others come and go.
local label_by_host, n_labels = setmetatable({}, { __mode = "k" }), 0

local function label_of(host)
  local label = label_by_host[host]
  if not label then
    local base = text.label_value(("%s %s"):format(host.connect and "client" or "server", host.address or "-"))
    local taken = false
    for _, other in pairs(label_by_host) do
      taken = taken or other == base
    end
    n_labels = n_labels + 1
    label = taken and ("%s #%d"):format(base, n_labels) or base
    label_by_host[host] = label
  end
  return label
end

--- Writes the metrics of these servers and clients, each with a label `host`.
---@param out echostream.metrics.writer
---@param hosts echostream.host[]
function M.write(out, hosts)
  local looked = {}
  for i, host in ipairs(hosts) do
    looked[i] = { label_of(host), host._host:figures(), host._host:stats(), host }
  end
  for _, metric in ipairs(#hosts > 0 and described or {}) do
    local name, kind, help, names, samples = table.unpack(metric)
    local labels = table.move(names, 1, #names, 2, { "host" })
    out:family(name, kind, help)
    for _, look in ipairs(looked) do
      samples(function(value, ...)
        if kind == "histogram" then
          out:histogram(name, labels, { look[1], ... }, value, "seconds")
        else
          out:sample(name, labels, { look[1], ... }, value)
        end
      end, look[2], look[3], look[4])
    end
  end
  out:family("echostream_memory_bytes", "gauge", "Memory of the core in this process.")
  out:sample("echostream_memory_bytes", {}, {}, core.memory().in_use)
end

return M
