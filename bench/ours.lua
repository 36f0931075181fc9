--- Our side of a run: bench/server.lua and bench/client.lua, one process each, and what they report as samples of
--- the same shape as the peers'.
local proc = require "proc"

local M = {}

local lua = os.getenv("LUA") or "lua5.4"

---@class bench.ours
---@field server bench.server
---@field address string
---@field pin string
---@field root string? another checkout whose modules are used, with these programs

local function command(root, ...)
  local argv = { lua, ... }
  if root then
    argv = { "env", ("LUA_PATH=bench/?.lua;%s/lua/?.lua;%s/lua/?/init.lua;;"):format(root, root),
      ("LUA_CPATH=%s/lua/?.so;%s/?.so;;"):format(root, proc.dir), lua, ... }
  end
  for i, word in ipairs(argv) do argv[i] = tostring(word) end
  return argv
end

---@param extra? "middleware"|"http"  of bench/extras.lua
---@param root? string
---@return bench.ours
function M.start(extra, root)
  local name = "echostream" .. (extra and "-" .. extra or "") .. (root and "-old" or "")
  local server = proc.start(name, command(root, "bench/server.lua", "127.0.0.1:0", extra))
  local address, pin = proc.wait_log(server, "ready (%S+) (%S+)")
  return { server = server, address = address, pin = pin, root = root }
end

local function run(ours, mode, ...)
  local argv = command(ours.root, "bench/client.lua", mode, ours.address, ours.pin, ours.server.pid, ...)
  return proc.parse(proc.measure(argv, ours.server, 240).output)
end

local function per_call(r)
  return {
    rate = r.calls / r.wall_ns * 1e9,
    server_us = r.server_cpu_ns / r.calls / 1e3,
    client_us = r.cpu_ns / r.calls / 1e3,
    server_share = r.server_cpu_ns / r.wall_ns,
    client_share = r.cpu_ns / r.wall_ns,
    server_switches = r.server_voluntary / r.calls,
    client_switches = r.voluntary / r.calls,
    p50_us = r.p50_ns and r.p50_ns / 1e3,
    p99_us = r.p99_ns and r.p99_ns / 1e3,
  }
end

--- extra: words for the client, such as "connections=64"
function M.small(ours, n, in_flight, ...) return per_call(run(ours, "small", n, in_flight, ...)) end

--- n calls of 1 MiB, as bytes echoed in a second
function M.echo_bulk(ours, n, in_flight, bytes)
  local sample = per_call(run(ours, "small", n, in_flight, "bytes=" .. bytes))
  sample.mb_s = sample.rate * bytes / 1e6
  return sample
end

--- n calls at `rate` a second over `active` of `connections`
function M.paced(ours, n, connections, active, rate)
  return per_call(run(ours, "paced", n, active, "connections=" .. connections, "active=" .. active, "rate=" .. rate))
end
function M.sequential(ours, seconds) return per_call(run(ours, "sequential", seconds)) end

--- direction: "up" or "down"
function M.bulk(ours, direction, bytes)
  local r = run(ours, direction, bytes // (65536 - 64))
  return {
    mb_s = r.calls / r.wall_ns * 1e3,
    server_share = r.server_cpu_ns / r.wall_ns,
    client_share = r.cpu_ns / r.wall_ns,
    server_us_mb = r.server_cpu_ns / r.calls * 1e3,
    client_us_mb = r.cpu_ns / r.calls * 1e3,
  }
end

function M.connect(ours, n, at_once)
  local r = run(ours, "connect", n, at_once)
  return {
    server_us = r.server_cpu_ns / n / 1e3,
    client_us = r.cpu_ns / n / 1e3,
    p50_ms = r.p50_ns / 1e6,
    p99_ms = r.p99_ns / 1e6,
  }
end

function M.idle(ours, n)
  local r = run(ours, "idle", n)
  return { in_use_kib = r.in_use_bytes / 1024, resident_kib = r.resident_bytes / 1024, lua_kib = r.lua_bytes / 1024 }
end

return M
