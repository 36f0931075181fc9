-- Goodput over a bad path, beside ngtcp2's own server and client (Debian: ngtcp2-server, ngtcp2-client), through the same proxy.
--   make && .ci/env lua5.4 bench/goodput.lua [SEEDS [BYTES [name=value …]]]
-- Default: 5 seeds, 5 MB, rate=1e7 delay=0.015 queue=25 loss=0.02; the names are those of spec/support/impair.lua. Times
-- are those of a whole download, connecting included. The exit status is 1 below 90 % of theirs.

local process = require "spec.support.process"

local seeds, bytes = tonumber(arg[1] or 5), math.tointeger(tonumber(arg[2] or 5000000))
local network = #arg > 2 and table.concat(arg, " ", 3) or "rate=1e7 delay=0.015 queue=25 loss=0.02"
local LIMIT = 120 -- seconds of one download
local lua = ".ci/env lua5.4 "

local dir = process.directory()

-- Runs fn(address of the proxy) with a proxy in front of `address`.
local function impaired(address, seed, fn)
  local proxy = process.start(lua .. ("spec/support/impair.lua %s seed=%d %s"):format(address, seed, network), { seconds = LIMIT + 20 })
  local took = fn((proxy:expect "^listening on (%S+)"))
  local _, counters = proxy:stop()
  return took, tonumber(counters:match "down.lost=(%d+)"), tonumber(counters:match "down.queue_dropped=(%d+)")
end

local function seconds_of(command)
  local uv = require "luv"
  local began = uv.hrtime()
  local result = process.run(command, { seconds = LIMIT })
  if result.code ~= 0 then
    error(command .. ": " .. result.err .. result.out)
  end
  return tonumber(result.out:match "took ([%d.]+)") or (uv.hrtime() - began) / 1e9
end

local function ours(algorithm, seed)
  local options = ("{ transport = { congestion_control = %q } }"):format(algorithm)
  local server = process.start(lua .. "spec/interop/server.lua 127.0.0.1:0 " .. process.quote(options), { seconds = LIMIT + 20,
    env = { XDG_STATE_HOME = dir } })
  local address, pin = server:expect "^listening on (%S+)", server:expect "^pin (%S+)"
  local took, lost, dropped = impaired(address, seed, function(proxy)
    return seconds_of(lua .. ("spec/interop/download.lua %s %s %d"):format(proxy, pin, bytes))
  end)
  server:stop()
  return took, lost, dropped
end

local function theirs(algorithm, seed)
  local port = process.free_port()
  local server = process.start(("gtlsserver -q -d %s/docs --cc=%s 127.0.0.1 %d %s/key.pem %s/cert.pem"):format(
    dir, algorithm, port, dir, dir), { seconds = LIMIT + 20 })
  server:expect "document root"
  local took, lost, dropped = impaired("127.0.0.1:" .. port, seed, function(proxy)
    return seconds_of(("gtlsclient -q --download=%s --exit-on-all-streams-close 127.0.0.1 %s https://localhost/a && cmp %s/a %s/docs/a")
      :format(dir, proxy:match ":(%d+)$", dir, dir))
  end)
  server:stop()
  return took, lost, dropped
end

local function median(list)
  table.sort(list)
  return list[(#list + 1) // 2]
end

for _, command in ipairs { "gtlsserver", "gtlsclient", "openssl" } do
  if process.run("command -v " .. command).code ~= 0 then
    print("skipped: there is no " .. command .. " (apt install ngtcp2-server ngtcp2-client openssl)")
    process.remove(dir)
    os.exit(0)
  end
end
process.run(("mkdir -p %s/docs && head -c %d /dev/urandom >%s/docs/a && cd %s && openssl req -x509 -newkey ec -pkeyopt "
  .. "ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem -days 30 -subj /CN=localhost"):format(dir, bytes, dir, dir))

print(("%d bytes, %s"):format(bytes, network))
print "                      echostream                       gtlsserver, gtlsclient"
print "algorithm  seed   Mbit/s   lost   queue full       Mbit/s   lost   queue full"
local fine = true
for _, algorithm in ipairs { "cubic", "bbr" } do
  local mine, peers = {}, {}
  for seed = 1, seeds do
    local a, al, ad = ours(algorithm, seed)
    local b, bl, bd = theirs(algorithm, seed)
    mine[seed], peers[seed] = bytes * 8 / a / 1e6, bytes * 8 / b / 1e6
    print(("%-9s  %4d   %6.2f   %4d   %10d       %6.2f   %4d   %10d"):format(algorithm, seed, mine[seed], al, ad, peers[seed], bl, bd))
  end
  local a, b = median(mine), median(peers)
  print(("%-9s  median %6.2f                           %6.2f   ours is %.0f %% of theirs"):format(algorithm, a, b, 100 * a / b))
  fine = fine and a >= 0.9 * b
end
process.remove(dir)
os.exit(fine and 0 or 1)
