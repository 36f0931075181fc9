--- What is measured, row by row: how a repetition takes the samples of each, and which ratios the table prints of them.
--- A row: `peers` it needs ("gtls", "grpc"), `take(run, keep)` and `lines`. `keep(name, fn, ...)` keeps fn's sample.
local proc = require "proc"
local peers = require "peers"
local ours = require "ours"

local M = {}

--- Every row in the order of the table.
M.order = { "P1", "P1m", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P10", "P11", "H1", "H2", "codec" }

--- How much of each; run.lua's --quick replaces some.
M.sizes = { calls = 200000, seconds = 2, bytes = 1 << 30, connects = 300, idle = 500, in_flight = 128, grpc_calls = 40000,
  mebibytes = 400, crowd = 10000, crowd_calls = 10000 }
M.quick = { calls = 50000, seconds = 0.5, bytes = 128 << 20, connects = 50, idle = 200, grpc_calls = 10000, mebibytes = 60,
  crowd = 1000, crowd_calls = 2000 }

local rows = {}
M.rows = rows

rows.P1 = {
  peers = { "gtls" },
  take = function(run, keep)
    keep("gtls small", peers.gtls_small, run.gtls, run.sizes.calls)
    if run.us then keep("our small", ours.small, run.us, run.sizes.calls, run.sizes.in_flight) end
  end,
  lines = { { "P1 small calls/s, 128 in flight", "our small", "rate", "gtls small", "rate", 0.8, 2.0 } },
}

local middleware_places = { "server", "client", "both" }

rows.P1m = {
  take = function(run, keep)
    if not run.us then return end
    run.with_middleware = run.with_middleware or run.started(ours.start "middleware")
    local function plain() keep("our small, plain", ours.small, run.us, run.sizes.calls, run.sizes.in_flight) end
    -- Both orders by turns: what comes second finds a warmer machine.
    if run.rep % 2 == 1 then plain() end
    for i = 1, 3 do
      local where = middleware_places[run.rep % 2 == 1 and i or 4 - i]
      keep("our small, middleware " .. where, ours.small, where == "client" and run.us or run.with_middleware, run.sizes.calls,
        run.sizes.in_flight, where ~= "server" and "middleware=yes" or nil)
    end
    if run.rep % 2 == 0 then plain() end
  end,
  lines = {
    { "P1 with one middleware, of the server", "our small, middleware server", "rate", "our small, plain", "rate", 0.8, 0.9 },
    { "P1 with one middleware, of the client", "our small, middleware client", "rate", "our small, plain", "rate", 0.8, 0.9 },
    { "P1 with a middleware of each", "our small, middleware both", "rate", "our small, plain", "rate" },
  },
}

rows.P2 = {
  peers = { "grpc" },
  take = function(run, keep)
    keep("grpc small", peers.grpc_calls, run.grpc, run.sizes.grpc_calls, run.sizes.in_flight, 1, 32)
    if run.us and not run.on.P1 then keep("our small", ours.small, run.us, run.sizes.calls, run.sizes.in_flight) end
  end,
  lines = { { "P2 small calls/s, 128 in flight", "our small", "rate", "grpc small", "rate", 2.5, 6 } },
}

rows.P3 = {
  take = function(run, keep)
    keep("udp ping-pong", peers.pingpong, run.sizes.seconds)
    if run.us then keep("our sequential", ours.sequential, run.us, run.sizes.seconds) end
  end,
  lines = {
    { "P3 sequential calls/s", "our sequential", "rate", "udp ping-pong", "rate", 0.6, 0.85 },
    -- The bar is 0.6 of a CPU, or what the ping-pong has, which does nothing but sleep and wake: above both somebody spins.
    { "P3 server's CPU share", "our sequential", "server_share", "udp ping-pong", "server_share", share = 0.6 },
    { "P3 client's CPU share", "our sequential", "client_share", "udp ping-pong", "client_share", share = 0.6 },
  },
}

-- The file that the peer serves.
local function make_big(run)
  if not run.big then
    local docs = os.getenv("BENCH_DOCS") or proc.dir
    proc.run { "sh", "-c", 'head -c "$1" /dev/urandom > "$2"', "sh", tostring(run.sizes.bytes), docs .. "/big" }
    run.big = true
  end
end

rows.P4 = {
  peers = { "gtls" },
  take = function(run, keep)
    make_big(run)
    keep("gtls bulk", peers.gtls_bulk, run.gtls, run.sizes.bytes)
    if run.us then
      keep("our bulk up", ours.bulk, run.us, "up", run.sizes.bytes)
      keep("our bulk down", ours.bulk, run.us, "down", run.sizes.bytes)
    end
  end,
  lines = {
    { "P4 1 GiB on one stream, MB/s, to the server", "our bulk up", "mb_s", "gtls bulk", "mb_s", 0.8, 1.8 },
    { "P4 1 GiB on one stream, MB/s, to the client", "our bulk down", "mb_s", "gtls bulk", "mb_s", 0.8, 1.8 },
  },
}

rows.P5 = {
  peers = { "grpc" },
  take = function(run, keep)
    keep("grpc 1 MiB", peers.grpc_calls, run.grpc, run.sizes.mebibytes, 4, 1, 1 << 20)
    if run.us then keep("our 1 MiB", ours.echo_bulk, run.us, run.sizes.mebibytes, 4, 1 << 20) end
  end,
  lines = { { "P5 echo of 1 MiB, 4 in flight, MB/s", "our 1 MiB", "mb_s", "grpc 1 MiB", "mb_s", 0.3, 1.0 } },
}

rows.P6 = {
  peers = { "gtls" },
  take = function(run, keep)
    if not run.us then return end -- our client measures the peer, too
    keep("gtls connect", peers.gtls_connect, run.gtls, run.sizes.connects, 32)
    keep("our connect", ours.connect, run.us, run.sizes.connects, 32)
    keep("our connect alone", ours.connect, run.us, run.sizes.connects, 1)
  end,
  lines = {
    { "P6 server CPU µs per connect + call, 32 at once", "our connect", "server_us", "gtls connect", "server_us", 1.3, 1.0,
      smaller = true },
    { "P6 connect + call, one at a time, median ms", "our connect alone", "p50_ms", nil, nil, 4, 1.5, smaller = true },
  },
}

rows.P7 = {
  take = function(run, keep)
    keep("library floor", peers.floor, run.sizes.idle)
    if run.us then
      -- A server of its own: what earlier rows left in the heap's free lists would hide what connections cost.
      local fresh = ours.start()
      keep("our idle", ours.idle, fresh, run.sizes.idle)
      proc.stop(fresh.server)
    end
  end,
  lines = {
    { "P7 KiB in use per idle connection", "our idle", "in_use_kib", "library floor", "in_use_kib", 1.25, 0.7, smaller = true },
    { "P7 KiB resident per idle connection", "our idle", "resident_kib", "library floor", "resident_kib", 1.25, 0.7, smaller = true },
  },
}

rows.P8 = {
  take = function(run, keep)
    if not run.us then return end
    local active, rate = 100, 2000
    for _, connections in ipairs { active, run.sizes.crowd } do
      local fresh = ours.start()
      keep(connections == active and "our 100 connections" or "our crowd", ours.paced, fresh, run.sizes.crowd_calls, connections,
        active, rate)
      proc.stop(fresh.server)
    end
  end,
  lines = {
    { "P8 p99 µs of 2,000 calls/s over 100 of many connections", "our crowd", "p99_us", "our 100 connections", "p99_us", 3, 1.5,
      smaller = true },
  },
}

rows.P10 = {
  take = function(run, keep)
    if not run.us then return end
    local n = run.sizes.calls
    keep("our 100 in flight", ours.small, run.us, n, 100)
    keep("our 100 in flight, 100 connections", ours.small, run.us, n, 100, "connections=100")
    keep("our 64 in flight", ours.small, run.us, n, 64)
    keep("our 512 in flight", ours.small, run.us, n, 512)
  end,
  lines = {
    { "P10 calls/s, 100 in flight, on 100 connections over 1", "our 100 in flight, 100 connections", "rate", "our 100 in flight",
      "rate", 0.2, 0.4 },
    { "P10 calls/s, 512 in flight over 64", "our 512 in flight", "rate", "our 64 in flight", "rate", 0.9, 1.0 },
  },
}

rows.P11 = {
  peers = { "grpc" },
  take = function(run, keep)
    keep("grpc 64 connections", peers.grpc_calls, run.grpc, run.sizes.grpc_calls // 2, 64, 64, 32)
    if run.us then keep("our 64 connections", ours.small, run.us, run.sizes.calls // 2, 64, "connections=64") end
  end,
  lines = { { "P11 calls/s, 64 connections, 1 in flight each", "our 64 connections", "rate", "grpc 64 connections", "rate", 0.7, 1.4 } },
}

-- HTTP/3: the peer's own client asks both servers.
local function start_http(run)
  if run.us and not run.http then
    run.http = run.started(ours.start "http")
    run.http.port = run.http.address:match ":(%d+)$"
  end
  return run.http
end

rows.H1 = {
  peers = { "gtls" },
  take = function(run, keep)
    keep("gtls small GET", peers.gtls_small, run.gtls, run.sizes.calls)
    if start_http(run) then keep("our small GET", peers.gtls_small, run.http, run.sizes.calls) end
  end,
  lines = { { "H1 small GETs/s over HTTP/3, 128 in flight", "our small GET", "rate", "gtls small GET", "rate", 0.3, 0.3 } },
}

rows.H2 = {
  peers = { "gtls" },
  take = function(run, keep)
    make_big(run)
    keep("gtls file", peers.gtls_bulk, run.gtls, run.sizes.bytes)
    if start_http(run) then keep("our file", peers.gtls_bulk, run.http, run.sizes.bytes, "files/big") end
  end,
  lines = { { "H2 static file of 1 GiB over HTTP/3, MB/s", "our file", "mb_s", "gtls file", "mb_s", 0.7, 0.7 } },
}

--- bench/codec.lua measures the codecs by themselves; the row is the first of its cases, 32 bytes in MessagePack.
local function codec()
  local output, ok = proc.run { "taskset", "-c", proc.client_cpu, os.getenv("LUA") or "lua5.4", "bench/codec.lua", "300000" }
  local encode, decode, both = output:match("msgpack%s+32 bytes%s+(%d+)%s+(%d+)%s+(%d+)")
  if not ok or not both then error("bench/codec.lua: " .. output) end
  return { ns = tonumber(both), encode_ns = tonumber(encode), decode_ns = tonumber(decode) }
end

rows.codec = {
  take = function(run, keep)
    if run.us then keep("our codec", codec) end
  end,
  lines = { { "codec: encode + decode of a small call, ns", "our codec", "ns", nil, nil, 300, 300, smaller = true } },
}

return M
