-- Agents where UDP is blocked: over TCP, and back to QUIC, with requests under way.

local core = require "echostream.tunnel.core"
local net = require "spec.support.net"
local echo = require "echostream"
local tunnel = require "echostream.tunnel"
local udp_gate = require "spec.support.udp_gate"
local world = require "tunnel.spec.support.world"

local TOKEN = "a token of sixteen bytes and more"

local function hello(x)
  x:send_head(assert(core.head("response", { status = 200 })), false)
  x:write("hello", true)
end

net.only("quic", function(env)
  local function new(backend)
    return world.new(env, { agents = 0, echo_server = { tcp = true }, server = { agents = { { token = TOKEN } } }, backend = backend })
  end

  local function run(w, address, transport)
    return tunnel.run_agent { servers = { address }, client = { pin = w.server.pin, transport = transport }, token = TOKEN, group = "web",
      backend = "http://" .. w.backend:address(), client_id = "one" }
  end

  describe("an agent", function()
    env.it("serves over TCP alone", function()
      local w = new(hello)
      local running = run(w, w.server.address, "tcp")
      assert(running:ready(15))
      assert.equal("tcp", running.clients[1].session:stats().carrier)
      assert.equal("hello", w:get("/").body)
      running:stop { grace = 1 }
    end)

    env.it("goes over TCP while UDP is blocked, and is back with QUIC afterwards; no request fails", function()
      local w = new(hello)
      local gate = udp_gate.new(w.server.address)
      local running = run(w, gate.address, { tcp_port = tonumber(w.server.address:match ":(%d+)$"), fallback_after = 0.2, retry_quic = 0.2 })
      assert(running:ready(15))
      local client = running.clients[1]
      assert.equal("tcp", client.session:stats().carrier)
      assert.is_truthy(client.fallback.reason)
      local over, n, bad, tasks = false, 0, {}, {}
      for i = 1, 4 do
        tasks[i] = echo.spawn(function()
          while not over do
            local response, err = w:get "/"
            if response and response.body == "hello" then n = n + 1 else table.insert(bad, response and response.body or tostring(err)) end
          end
        end)
      end
      w:wait(function() return n >= 20 end)
      gate:open()
      w:wait(function()
        local stats = client.session and client.session:stats()
        return stats and stats.carrier == "quic"
      end)
      local before = n
      w:wait(function() return n >= before + 50 end)
      over = true
      for i = 1, 4 do tasks[i]:wait() end
      assert.is_nil(bad[1])
      w:wait(function() return #running.agent:links() == 1 end)
      running:stop { grace = 1 }
      gate:close()
    end)
  end)
end)
