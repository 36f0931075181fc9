-- slowhttptest against a tunnel: heads that never end, bodies that trickle, responses that are read by a few bytes. Honest visitors beside
-- (wrk) must not notice, and the attackers' connections must be gone when they are over.
--
--   SECONDS=25 CONNECTIONS=400 lua5.4 tunnel/spec/campaigns/attackers.lua      (make campaign-tunnel-attackers)
--
-- It fails when an honest request fails, when their p99 reaches a second (they never wait for an attacker, but share two processors with
-- all of them), or when exchanges stay.

local backends = require "tunnel.spec.support.backends"
local child = require "spec.support.child"
local echo = require "echostream"
local engines = require "echostream.tunnel.engine"
local tunnel = require "echostream.tunnel"

local SECONDS, CONNECTIONS = tonumber(os.getenv "SECONDS") or 25, tonumber(os.getenv "CONNECTIONS") or 400
-- What a session may hold for visitors that do not read: else it would have to let the others wait (DESIGN, connection credit).
local HOLD = 256 << 20
local QUIET = 90 -- seconds until the last of the attackers' connections must be gone

-- Attacks: their arguments. Rates are slow enough to live, and fast enough that the connections all come at the beginning.
local attacks = {
  { "slow heads (slowloris)", { "-H", "-i", "3", "-x", "24" }, "/" },
  { "slow bodies", { "-B", "-i", "3", "-s", "8192", "-x", "10" }, "/sink/" },
  { "slow reading", { "-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "3" }, "/large" },
}

local function lines(program, arguments)
  local running, text = child.start(program, arguments), {}
  while not running.ended do echo.sleep(0.05) end
  for _, line in ipairs(running.lines) do text[#text + 1] = line end
  return table.concat(text, "\n")
end

local function milliseconds(text)
  local n, unit = text:match "99%%%s+([%d.]+)(%a+)"
  return tonumber(n) * ({ us = 0.001, ms = 1, s = 1000 })[unit]
end

-- Honest visitors: how many requests, how many of them failed, and their p99 in ms.
local function honest(url, seconds)
  local text = lines("wrk", { "-t1", "-c4", "--latency", "-d" .. seconds .. "s", url })
  local bad = tonumber(text:match "Non%-2xx or 3xx responses: (%d+)") or 0
  for n in (text:match "Socket errors: ([^\n]*)" or ""):gmatch "%d+" do bad = bad + tonumber(n) end
  return tonumber(text:match "(%d+) requests in"), bad, milliseconds(text)
end

local function campaign()
  local backend = backends.nginx { files = { ["index.html"] = "hello\n", large = ("x"):rep(1024 * 1024) },
    server = "location /sink/ { proxy_pass http://127.0.0.1:$server_port/; }" } -- which reads a body before it does anything
  local transport = { hold_cap = HOLD, connection_window = HOLD }
  local plugin = tunnel.server { agents = { { anyone = true } }, listen = { { bind = "127.0.0.1:0", name = "web" } }, rules = { { group = "web" } } }
  local server = assert(echo.server({ bind = "127.0.0.1:0", quiet = true, transport = transport }):plugin(plugin):start())
  local client = echo.client { pin = server.pin, max_named_streams = 10000, transport = transport }
  client:plugin(tunnel.agent { client_id = "a1", group = "web", backend = "http://127.0.0.1:" .. backend.port })
  assert(client:connect(server.address))
  local url = "http://" .. plugin:addresses().web
  while not plugin.registry:get "a1" do echo.sleep(0.01) end

  local n, bad, alone = honest(url .. "/", 5)
  print(("alone: %d requests, %d failed, p99 %.1f ms"):format(n, bad, alone))
  local good = bad == 0
  for _, attack in ipairs(attacks) do
    local arguments = { "-c", tostring(CONNECTIONS), "-r", "200", "-l", tostring(SECONDS), "-p", "3", "-u", url .. attack[3] }
    local attacker = child.start("slowhttptest", table.move(attack[2], 1, #attack[2], #arguments + 1, arguments))
    echo.sleep(3) -- its connections are there then
    local most = engines.current():stats().connections or 0
    local p99
    n, bad, p99 = honest(url .. "/", SECONDS - 5)
    while not attacker.ended do echo.sleep(0.1) end
    local began = echo.now()
    local stay
    repeat
      echo.sleep(0.1)
      collectgarbage() -- they are counted until nobody holds them
      stay = engines.current():stats().exchanges
    until stay == 0 or echo.now() - began > QUIET
    print(("%s from %d connections: %d requests, %d failed, p99 %.1f ms; %d exchanges stay after %.1f s"):format(attack[1], most, n, bad, p99, stay,
      echo.now() - began))
    good = good and bad == 0 and p99 <= math.max(3 * alone, 1000) and stay == 0 and most >= CONNECTIONS / 2
  end
  client:close()
  server:stop { grace = 1 }
  backend.kill()
  return good
end

local over, good
echo.spawn(function()
  local ok, result = pcall(campaign)
  if not ok then print(result) end
  good, over = ok and result, true
end)
repeat until over or not echo.run(0.5)
os.exit(good == true, true)
