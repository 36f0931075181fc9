-- The tunnel beside what else stands between visitors and nginx, in one run on this machine (row P9 of docs/PERFORMANCE.md):
--   make && .ci/env lua5.4 bench/tunnel.lua [ROW…] [SECONDS=5] [REPS=3]
-- Rows: small   wrk -c64 with keep-alive, a small file: requests/s, p99, CPU of everybody but wrk
--       bulk    a body of 1 GiB over TLS (MIB=1024)
--       rate    h2load at a fixed rate, half of what the tunnel makes in `small`: p99
-- What idle WebSockets and long downloads take of memory is measured by the campaigns in tunnel/spec/campaigns.
-- Peers: nginx itself, nginx as a proxy, HAProxy in front of nginx (one thread). Medians of REPS runs, taken in turns.

local process = require "spec.support.process"

local knobs = { SECONDS = 5, REPS = 3, MIB = 1024 }
local wanted = {}
for _, word in ipairs(arg) do
  local name, value = word:match "^(%u+)=(%d+)$"
  if name then knobs[name] = math.tointeger(tonumber(value)) else wanted[word] = true end
end
if next(wanted) == nil then wanted = { small = true, bulk = true, rate = true } end

local dir = process.directory()
local limit = 3600
local running = {}

local function start(name, command, ready)
  local one = process.start(command, { seconds = limit, env = { XDG_STATE_HOME = dir .. "/state", XDG_RUNTIME_DIR = dir .. "/run" } })
  running[#running + 1] = one
  one.name = name
  if ready then return one, one:expect(ready) end
  return one
end

local function port() return process.free_port() end

-- The pids of a process and what it started.
local function tree(pid)
  local pids, queue = {}, { pid }
  while #queue > 0 do
    local one = table.remove(queue)
    pids[#pids + 1] = one
    for child in process.run(("cat /proc/%s/task/*/children 2>/dev/null"):format(one)).out:gmatch "%d+" do queue[#queue + 1] = child end
  end
  return pids
end

local function cpu_of(processes)
  local ticks = 0
  for _, one in ipairs(processes) do
    for _, pid in ipairs(tree(one.pid)) do
      local file = io.open("/proc/" .. pid .. "/stat")
      if file then
        local user, system = file:read("a"):match "%) %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ (%d+) (%d+)"
        file:close()
        ticks = ticks + user + system
      end
    end
  end
  return ticks / 100
end

local function wait_port(p)
  for _ = 1, 400 do
    if process.run(("curl -so /dev/null --max-time 2 -k http://127.0.0.1:%d/ || test $? != 7"):format(p)).code == 0 then return end
    os.execute "sleep 0.05"
  end
  error("nobody listens on port " .. p)
end

-- Certificates and files --------------------------------------------------------------------------------------

process.run((([[mkdir -p %s/www %s/run %s/state && chmod 700 %s/run && printf 'hello, tunnel\n' >%s/www/small
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
    -keyout %s/key.pem -out %s/cert.pem 2>/dev/null; cat %s/cert.pem %s/key.pem >%s/both.pem]])
  :gsub("%%s", dir)))
process.run(("head -c %dM /dev/zero | openssl enc -aes-128-ctr -K 00 -iv 00 2>/dev/null >%s/www/big"):format(knobs.MIB, dir), { seconds = 120 })

local nginx_conf = [[
daemon off; master_process off; pid DIR/NAME.pid; error_log stderr error; worker_processes 1;
events { worker_connections 8192; }
http {
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; keepalive_timeout 600; client_body_temp_path DIR/NAME.body;
  proxy_temp_path DIR/NAME.proxy; fastcgi_temp_path DIR/NAME.f; uwsgi_temp_path DIR/NAME.u; scgi_temp_path DIR/NAME.s;
  SERVERS
}
]]

local function nginx(name, servers)
  local path = ("%s/%s.conf"):format(dir, name)
  process.write(path, (nginx_conf:gsub("SERVERS", function() return servers end):gsub("DIR", dir):gsub("NAME", name)))
  return start(name, ("nginx -c %s -e stderr"):format(path))
end

local ports = { direct = port(), direct_tls = port(), proxy = port(), proxy_tls = port(), haproxy = port(), haproxy_tls = port(), tunnel = port(),
  tunnel_tls = port() }

local backend = nginx("nginx", ([[
  server { listen 127.0.0.1:%d; listen 127.0.0.1:%d ssl http2; ssl_certificate DIR/cert.pem; ssl_certificate_key DIR/key.pem; root DIR/www; }
]]):format(ports.direct, ports.direct_tls))
local proxy = nginx("proxy", ([[
  upstream up { server 127.0.0.1:%d; keepalive 128; keepalive_requests 100000000; }
  server { listen 127.0.0.1:%d; listen 127.0.0.1:%d ssl http2; ssl_certificate DIR/cert.pem; ssl_certificate_key DIR/key.pem;
    location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_max_temp_file_size 0; } }
]]):format(ports.direct, ports.proxy, ports.proxy_tls))

process.write(dir .. "/haproxy.cfg", ([[
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 10s
  timeout client 600s
  timeout server 600s
frontend f
  bind 127.0.0.1:%d
  bind 127.0.0.1:%d ssl crt %s/both.pem alpn h2,http/1.1
  default_backend b
backend b
  http-reuse always
  server s 127.0.0.1:%d
]]):format(ports.haproxy, ports.haproxy_tls, dir, ports.direct))
local haproxy = process.run("command -v haproxy").code == 0 and start("haproxy", ("haproxy -db -f %s/haproxy.cfg"):format(dir)) or nil

process.write(dir .. "/server.lua", ([[return {
  server = { bind = "127.0.0.1:0" },
  agents = { { token = "a token of the bench" } },
  listen = { { bind = "127.0.0.1:%d" }, { bind = "127.0.0.1:%d", tls = { certs = { { cert = here "cert.pem", key = here "key.pem" } } } } },
  rules = { { group = "default" } },
}]]):format(ports.tunnel, ports.tunnel_tls))
local tunnel, address = start("tunnel server", process.echostream .. " tunnel server " .. dir .. "/server.lua", "^agents (%S+)")
local pin = tunnel:expect "^pin (%S+)"
process.write(dir .. "/agent.lua", ([[return { servers = { "%s" }, client = { pin = "%s" }, token = "a token of the bench",
  backend = "http://127.0.0.1:%d" }]]):format(address, pin, ports.direct))
local agent = start("tunnel agent", process.echostream .. " tunnel agent " .. dir .. "/agent.lua", "^agent ")
for _, name in ipairs { "direct", "proxy", "tunnel" } do wait_port(ports[name]) end
if haproxy then wait_port(ports.haproxy) end
local through
for _ = 1, 200 do -- until the agent is registered
  through = process.run(("curl -sf --max-time 2 http://127.0.0.1:%d/small"):format(ports.tunnel)).code == 0
  if through then break end
  os.execute "sleep 0.05"
end
assert(through, "nothing comes through the tunnel")

-- Measuring ---------------------------------------------------------------------------------------------------

local function median(list)
  table.sort(list)
  return list[(#list + 1) // 2]
end

local systems = {
  { name = "nginx direct", port = ports.direct, tls = ports.direct_tls, processes = { backend } },
  { name = "nginx proxy", port = ports.proxy, tls = ports.proxy_tls, processes = { proxy, backend } },
  haproxy and { name = "HAProxy", port = ports.haproxy, tls = ports.haproxy_tls, processes = { haproxy, backend } } or false,
  { name = "echostream tunnel", port = ports.tunnel, tls = ports.tunnel_tls, processes = { tunnel, agent, backend } },
}
for i = #systems, 1, -1 do
  if not systems[i] then table.remove(systems, i) end
end

local function milliseconds(text)
  local value, unit = text:match "^([%d.]+)(%a+)$"
  return tonumber(value) * ({ us = 0.001, ms = 1, s = 1000 })[unit]
end

-- In turns, so that what the machine does meanwhile is the same for all. Results: { rate = {…}, p99 = {…}, cpu = {…} } by system.
local function in_turns(one)
  local out = {}
  for _, system in ipairs(systems) do out[system] = {} end
  for _ = 1, knobs.REPS do
    for _, system in ipairs(systems) do
      for name, value in pairs(one(system)) do
        out[system][name] = out[system][name] or {}
        table.insert(out[system][name], value)
      end
    end
  end
  for _, figures in pairs(out) do
    for name, list in pairs(figures) do figures[name] = median(list) end
  end
  return out
end

local function small(system)
  local before = cpu_of(system.processes)
  local said = process.run(("wrk -t1 -c64 -d%ds --latency http://127.0.0.1:%d/small"):format(knobs.SECONDS, system.port),
    { seconds = knobs.SECONDS + 30 }).out
  local count = tonumber(said:match "(%d+) requests in")
  if said:find "Non%-2xx" or said:find "Socket errors" then io.stderr:write(system.name, ": ", said:match "Non%-2xx[^\n]*" or said:match
    "Socket errors[^\n]*", "\n") end
  return { rate = tonumber(said:match "Requests/sec:%s*([%d.]+)"), p99 = milliseconds(said:match "\n%s+99%%%s+([%d.]+%a+)"),
    cpu = (cpu_of(system.processes) - before) / count * 1e6 }
end

local function bulk(system)
  local said = process.run(("curl -sk --http1.1 -o /dev/null --max-time 120 -w '%%{size_download} %%{time_total} %%{http_code}' "
    .. "https://127.0.0.1:%d/big"):format(system.tls), { seconds = 130 }).out
  local size, seconds = said:match "^(%d+) ([%d.]+) 200$"
  if tonumber(size) ~= knobs.MIB << 20 then io.stderr:write(system.name, ": ", said, "\n") end
  return { rate = (tonumber(size) or 0) / (tonumber(seconds) or 1) / 1e6 }
end

-- h2load's own percentiles are none: each request's time is in its log.
local function at_rate(system, rate)
  local log = dir .. "/h2load.log"
  os.remove(log)
  process.run(("h2load -t1 -c16 -m10 --rps=%d -D%d --log-file=%s https://127.0.0.1:%d/small"):format(rate // 16, knobs.SECONDS, log, system.tls),
    { seconds = knobs.SECONDS + 60 })
  local times = {}
  for line in io.lines(log) do
    local status, took = line:match "^%d+%s+(%-?%d+)%s+(%d+)"
    times[#times + 1] = status == "200" and tonumber(took) or nil
  end
  table.sort(times)
  return { p99 = (times[math.ceil(#times * 0.99)] or 0) / 1000, p50 = (times[math.ceil(#times * 0.5)] or 0) / 1000, rate = #times / knobs.SECONDS }
end

print(("%d processors, %d s a run, medians of %d"):format(tonumber((process.run "nproc").out), knobs.SECONDS, knobs.REPS))
local best
if wanted.small or wanted.rate then
  local figures = in_turns(small)
  local direct = figures[systems[1]].rate
  print "\n| wrk -c64, 14 bytes | requests/s | of nginx direct | p99 ms | CPU us a request |\n|---|---|---|---|---|"
  for _, system in ipairs(systems) do
    local f = figures[system]
    print(("| %s | %.0f | %.3f | %.2f | %.1f |"):format(system.name, f.rate, f.rate / direct, f.p99, f.cpu))
  end
  best = figures[systems[#systems]].rate
end
if wanted.bulk then
  local figures = in_turns(bulk)
  local direct = figures[systems[1]].rate
  print(("\n| %d MiB over TLS | MB/s | of nginx direct |\n|---|---|---|"):format(knobs.MIB))
  for _, system in ipairs(systems) do
    print(("| %s | %.0f | %.3f |"):format(system.name, figures[system].rate, figures[system].rate / direct))
  end
end
if wanted.rate then
  local rate = math.floor(best / 2)
  local figures = in_turns(function(system) return at_rate(system, rate) end)
  print(("\n| h2load at %d requests/s over TLS | requests/s | p50 ms | p99 ms |\n|---|---|---|---|"):format(rate))
  for _, system in ipairs(systems) do
    local f = figures[system]
    print(("| %s | %.0f | %.2f | %.2f |"):format(system.name, f.rate, f.p50, f.p99))
  end
end
for i = #running, 1, -1 do running[i]:stop() end
process.remove(dir)
