--- The peers of a run: what the same machine does in the same minutes without us. Every function returns one sample,
--- a flat table of numbers.
local proc = require "proc"

local M = {}

local docs = os.getenv("BENCH_DOCS") or proc.dir
local cert, key = proc.dir .. "/cert.pem", proc.dir .. "/key.pem"

--- gtlsserver with its output off, files from memory, an ECDSA P-256 key and as many streams as the bench has in flight.
---@param in_flight integer
---@return { server: bench.server, port: string }
function M.gtls_start(in_flight)
  local port = proc.free_port()
  local server = proc.start("gtlsserver", {
    "gtlsserver", "-q", "-d", docs, "--max-streams-bidi=" .. in_flight, "127.0.0.1", port, key, cert,
  })
  proc.wait_port(port)
  return { server = server, port = port }
end

--- Runs gtlsclient for n GETs of one file; its output goes nowhere.
local function gtls_get(gtls, file, n)
  return proc.measure({
    "gtlsclient", "-q", "-n", tostring(n), "--exit-on-all-streams-close", "127.0.0.1", gtls.port,
    ("https://localhost:%s/%s"):format(gtls.port, file),
  }, gtls.server)
end

--- P1's peer. The cost of starting, connecting and one GET is measured by itself and taken off, so that only the
--- steady state counts: the form that flatters the peer.
---@param gtls table from gtls_start
---@param n integer
function M.gtls_small(gtls, n)
  local one = gtls_get(gtls, "small", 1)
  local many = gtls_get(gtls, "small", n)
  local calls = n - 1
  return {
    rate = calls / (many.wall_ns - one.wall_ns) * 1e9,
    server_us = (many.server.cpu_ns - one.server.cpu_ns) / calls / 1e3,
    client_us = (many.cpu_ns - one.cpu_ns) / calls / 1e3,
    server_switches = many.server.voluntary / calls,
    client_switches = many.voluntary / calls,
  }
end

--- P4's peer: one GET of a file of `bytes` in memory, whose path is `big`.
function M.gtls_bulk(gtls, bytes, big_path)
  local one = gtls_get(gtls, "small", 1)
  local big = gtls_get(gtls, big_path or "big", 1)
  local wall = big.wall_ns - one.wall_ns
  return {
    mb_s = bytes / wall * 1e3,
    server_share = big.server.cpu_ns / big.wall_ns,
    client_share = big.cpu_ns / big.wall_ns,
    server_us_mb = (big.server.cpu_ns - one.server.cpu_ns) / bytes * 1e3,
    client_us_mb = (big.cpu_ns - one.cpu_ns) / bytes * 1e3,
  }
end

--- P6's peer: n connections with one GET each, 32 at a time, made by our own client in one process (gtlsclient would
--- start a process for each). One at a time the server would cost three times as much: it spins through the 22 ms of
--- pacing of each handshake.
function M.gtls_connect(gtls, n, at_once)
  local run = proc.measure({
    os.getenv("LUA") or "lua5.4", "bench/client.lua", "h3", "127.0.0.1:" .. gtls.port, "-", gtls.server.pid, tostring(n),
    tostring(at_once),
  }, gtls.server)
  local r = proc.parse(run.output)
  return { server_us = r.server_cpu_ns / n / 1e3, client_us = r.cpu_ns / n / 1e3 }
end

--- gRPC C++ over TLS, our own small program around it: built by run.sh when its rows are asked for.
---@return { server: bench.server, port: string }
function M.grpc_start()
  for _ = 1, 5 do -- the port is one of TCP, and may be taken
    local port = tostring(math.random(20000, 31000))
    local server = proc.start("grpc", { proc.dir .. "/grpc_peer", "server", port, cert, key })
    if pcall(proc.wait_log, server, "(ready)") then return { server = server, port = port } end
    proc.stop(server)
  end
  error("grpc_peer: " .. proc.read(proc.dir .. "/grpc.log"))
end

--- P2, P5, P11: n unary calls with echo of `bytes`.
function M.grpc_calls(grpc, n, in_flight, connections, bytes)
  local run = proc.measure({
    proc.dir .. "/grpc_peer", "calls", grpc.port, cert, tostring(connections), tostring(in_flight), tostring(bytes), tostring(n),
    grpc.server.pid,
  }, grpc.server)
  local r = proc.parse(run.output)
  return {
    rate = r.calls / r.wall_ns * 1e9,
    mb_s = r.calls * bytes / r.wall_ns * 1e3,
    server_us = r.server_cpu_ns / r.calls / 1e3,
    client_us = r.cpu_ns / r.calls / 1e3,
    server_share = r.server_cpu_ns / r.wall_ns,
    client_share = r.cpu_ns / r.wall_ns,
  }
end

--- P3's limit: UDP there and back between two processes that sleep in epoll.
function M.pingpong(seconds)
  local port = proc.free_port()
  local server = proc.start("pingpong", { proc.dir .. "/pingpong", "server", port })
  proc.wait_port(port)
  local run = proc.measure({ proc.dir .. "/pingpong", "client", port, tostring(seconds), server.pid }, server)
  proc.stop(server)
  local r = proc.parse(run.output)
  return {
    rate = r.calls / r.wall_ns * 1e9,
    p50_us = r.p50_ns / 1e3,
    p99_us = r.p99_ns / 1e3,
    server_us = r.server_cpu_ns / r.calls / 1e3,
    client_us = r.cpu_ns / r.calls / 1e3,
    server_share = r.server_cpu_ns / r.wall_ns,
    client_share = r.cpu_ns / r.wall_ns,
    server_switches = run.server.voluntary / r.calls,
    client_switches = r.voluntary / r.calls,
  }
end

--- P7's floor: the libraries alone.
function M.floor(n)
  local output, ok = proc.run({ "timeout", "120", proc.dir .. "/floor", cert, key, tostring(n) })
  if not ok then error("the memory floor failed: " .. output) end
  local r = proc.parse(output)
  return { in_use_kib = r.in_use_bytes / 1024, resident_kib = r.resident_bytes / 1024, ngtcp2 = r.ngtcp2, gnutls = r.gnutls }
end

return M
