-- gRPC's interop cases through a tunnel again and again: each pair of clients and servers, visitors with TLS, a client after the other.
--
--   ROUNDS=20 lua5.4 tunnel/spec/campaigns/grpc.lua      (make campaign-tunnel-grpc)
--
-- One process is the server and the agent. It fails when a case fails, when anything is still in flight at the end, or when after all rounds more
-- than 3 MiB of memory are in use beyond what was after the second.

local certs = require "spec.support.certs"
local echo = require "echostream"
local engine = require "echostream.tunnel.engine"
local grpc = require "tunnel.spec.support.grpc"
local world = require "tunnel.spec.support.world"

local ROUNDS, SPARE = tonumber(os.getenv "ROUNDS") or 20, 3 * 1024 * 1024

local env = { opened = {} }
function env.server(_, prepare)
  local server = echo.server { bind = "127.0.0.1:0", quiet = true, state_dir = require("spec.support.scratch").path ".state" }
  prepare(server)
  return assert(server:start())
end
function env.client(server, opts)
  opts.pin = server.pin
  return echo.client(opts)
end

local missing = grpc.missing_js() or not grpc.has_python and "python3-grpcio is wanted"
if missing then
  print("skipped: " .. missing)
  os.exit(0)
end

local function memory()
  collectgarbage()
  collectgarbage()
  return engine.current():stats().memory + math.floor(collectgarbage "count" * 1024)
end

local failures = 0
echo.spawn(function()
  local cert = certs.issue(nil, { names = { "localhost" } })
  local ca = certs.file(cert.cert)
  local tunnels = {}
  for _, server in ipairs { "js", "python" } do
    local port, stop = grpc.server(server, "gzip")
    local w = world.new(env, {
      listen = { { bind = "127.0.0.1:0", name = "web", tls = { certs = { { cert = cert.cert, key = cert.key } } } } },
      agent = { services = { app = { backends = "http://127.0.0.1:" .. port, protocol = "h2c" } } },
    })
    table.insert(tunnels, { server = server, stop = stop, world = w, address = "localhost:" .. w.address:match ":(%d+)$" })
  end
  local base
  local from = echo.now()
  for round = 1, ROUNDS do
    for _, tunnel in ipairs(tunnels) do
      for _, client in ipairs { "js", "python" } do
        local ok, problems = grpc.client(client, tunnel.address, { ca = ca })
        if ok ~= grpc.cases or #problems > 0 then
          failures = failures + 1
          print(("round %d, %s to %s: %d of %d\n  %s"):format(round, client, tunnel.server, ok, grpc.cases, table.concat(problems, "\n  ")))
        end
      end
    end
    for _, tunnel in ipairs(tunnels) do
      tunnel.world:wait(function() return tunnel.world.plugin.registry:get("a1").streams == 0 end)
      tunnel.world.records = {}
    end
    if round == 2 then base = memory() end
  end
  local now = memory()
  print(("%d rounds of 4 pairs in %.1f s; memory %.2f MiB after the second round, %.2f MiB at the end"):format(ROUNDS, echo.now() - from,
    (base or now) / 1048576, now / 1048576))
  if now - (base or now) > SPARE then
    failures = failures + 1
    print "memory grew"
  end
  for _, tunnel in ipairs(tunnels) do tunnel.stop() end
  echo.stop()
end)
echo.run()
os.exit(failures == 0 and 0 or 1)
