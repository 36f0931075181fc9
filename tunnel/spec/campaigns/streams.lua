-- What streams through a tunnel whose parts are processes of their own: memory while a large body passes, the time that the tunnel adds to
-- the first byte of a response, and what an idle WebSocket costs each process.
--
--   MIB=1024 SOCKETS=1000 EVENTS=200 lua5.4 tunnel/spec/campaigns/streams.lua      (make campaign-tunnel-streams)
--
-- It fails when a process's memory grew by more than 32 MiB during the download, when the first byte passes later than 2 ms (the median,
-- on a machine with nothing else to do), or when an idle WebSocket costs more than 40 KiB in either process.

local echo = require "echostream"

local MIB, SOCKETS, EVENTS = tonumber(os.getenv "MIB") or 1024, tonumber(os.getenv "SOCKETS") or 1000, tonumber(os.getenv "EVENTS") or 200
local GROWTH, ADDED, IDLE = 32 * 1024, 2, 40 -- KiB, ms, KiB

local tunnel = require "echostream.tunnel"
local role = arg[1]

if role == "server" then
  local plugin = tunnel.server { agents = { { anyone = true } }, listen = { { bind = "127.0.0.1:0", name = "web" } }, rules = { { group = "web" } } }
  local server = echo.server { bind = "127.0.0.1:0", state_dir = arg[2], quiet = true }
  server:plugin(plugin)
  assert(server:start())
  print("ready " .. server.address .. " " .. server.pin .. " " .. plugin:addresses().web)
  io.stdout:flush()
  return echo.run()
elseif role == "agent" then
  local running = tunnel.run_agent { servers = { arg[2] }, client = { pin = arg[3] }, group = "web", backend = "http://127.0.0.1:" .. arg[4] }
  echo.spawn(function()
    assert(running:ready(30))
    print "ready"
    io.stdout:flush()
  end)
  return echo.run()
end

local backends = require "tunnel.spec.support.backends"
local child = require "spec.support.child"
local engine = require "echostream.tunnel.engine"
local exchanges = require "echostream.tunnel.exchange"
local heads = require "echostream.tunnel.core"
local scratch = require "spec.support.scratch"

local failed = 0
local function judge(ok, ...)
  print((ok and "ok     " or "FAILED ") .. string.format(...))
  failed = failed + (ok and 0 or 1)
end

-- KiB of a process, now or at most.
local function memory(process, what)
  local file <close> = assert(io.open("/proc/" .. process.pid .. "/status"))
  return tonumber(file:read("a"):match((what or "VmRSS") .. ":%s+(%d+)"))
end

local function dial(address)
  local ip, port = address:match "^(.*):(%d+)$"
  return echo.await(function(resume)
    assert(engine.current():dial { ip = ip, port = tonumber(port), codec = "http/1.1", on_open = resume,
      on_closed = function(_, err) resume(nil, err) end })
  end)
end

local function request(connection, path, fields)
  local given = { method = "GET", scheme = "http", authority = "example.org", path = path }
  for name, value in pairs(fields or {}) do given[name] = value end
  return assert(exchanges.request(connection, assert(heads.head("request", given)), fields == nil))
end

local function download(address, server, agent)
  request(assert(dial(address)), "/hello"):head()
  local before_server, before_agent = memory(server), memory(agent)
  local x = request(assert(dial(address)), "/big?bytes=" .. MIB * 1024 * 1024)
  local began, n = echo.now(), 0
  assert(x:head().status == 200)
  while true do
    local bytes, err = x:read()
    if not bytes then
      assert(not err, err)
      break
    end
    n = n + #bytes
  end
  local seconds = echo.now() - began
  judge(n == MIB * 1024 * 1024, "%d MiB came in %.1f s: %.0f MB/s", MIB, seconds, n / seconds / 1e6)
  for name, figures in pairs { server = { server, before_server }, agent = { agent, before_agent } } do
    local grown = memory(figures[1], "VmHWM") - figures[2]
    judge(grown <= GROWTH, "the %s held %d KiB more at most, of %d", name, grown, GROWTH)
  end
end

-- Milliseconds from asking for an event until it is there, over a connection and a stream of events that are open.
local function event_times(address)
  local stream, times = request(assert(dial(address)), "/events"), {}
  stream:head()
  stream:read()
  local connection = assert(dial(address))
  for i = 1, EVENTS do
    local began = echo.now()
    local x = request(connection, "/next")
    stream:read()
    times[i] = (echo.now() - began) * 1000
    x:head()
    x:read()
    while x:read() do end
    echo.sleep(0.002)
  end
  stream:reset "cancel"
  table.sort(times)
  return times[(EVENTS + 1) // 2]
end

local function idle(address, server, agent)
  local held = {}
  local function open(n)
    for _ = 1, n do
      local x = request(assert(dial(address)), "/ws", { method = "CONNECT", protocol = "websocket" })
      local head = assert(x:head())
      assert(head.status // 100 == 2 or head.status == 101, head.status)
      held[#held + 1] = x
    end
  end
  open(SOCKETS // 10) -- what is allocated once
  local before_server, before_agent = memory(server), memory(agent)
  open(SOCKETS)
  for name, figures in pairs { server = { server, before_server }, agent = { agent, before_agent } } do
    local each = (memory(figures[1]) - figures[2]) / SOCKETS
    judge(each <= IDLE, "an idle WebSocket costs the %s %.1f KiB, of %d (%d of them)", name, each, IDLE, SOCKETS)
  end
end

local function campaign()
  local node = backends.node()
  local server = child.start("lua5.4", { arg[0], "server", scratch.path ".state" })
  local at, pin, address = server:expect "^ready (%S+) (%S+) (%S+)$"
  local agent = child.start("lua5.4", { arg[0], "agent", at, pin, tostring(node.port) })
  agent:expect "^ready"
  idle(address, server, agent)
  download(address, server, agent)
  local direct, through = event_times("127.0.0.1:" .. node.port), event_times(address)
  -- The request that asks for the event passes the tunnel too: half of what is added is the event's.
  judge((through - direct) / 2 <= ADDED, "the first byte of an event comes %.2f ms later than without (%.2f and %.2f ms for a request and its event)",
    (through - direct) / 2, through, direct)
  agent:kill()
  server:kill()
  node.kill()
end

local ok, err = echo.spawn(campaign):wait(3600)
if not ok then
  print(err)
end
os.exit(ok and failed == 0 and 0 or 1)
