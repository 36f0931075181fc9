-- An agent whose network blocks UDP: it goes over TCP, and back to QUIC when that is to be had, while visitors are served.

local core = require "echostream.tunnel.core"
local echo = require "echostream"
local net = require "spec.support.net"
local tunnel = require "echostream.tunnel"
local udp_gate = require "spec.support.udp_gate"
local world = require "tunnel.spec.support.world"

net.only("quic", function(env)
  env.it("goes over TCP while UDP is blocked, and back to QUIC without a visitor noticing", function()
    local release, waiting = false, false
    local w = world.new(env, { agents = 0, echo_server = { tcp = true }, backend = function(x, head)
      if head.path == "/slow" then
        waiting = true
        while not release do echo.sleep(0.01) end
      end
      x:send_head(assert(core.head("response", { status = 200 })))
      x:write(head.path, true)
    end })
    local gate <close> = setmetatable({ gate = udp_gate.new(w.server.address) }, { __close = function(self) self.gate:close() end })
    local client = env.client(w.server, { max_named_streams = 10000, reconnect = true, transport = {
      carrier = "auto", fallback_after = 0.2, retry_quic = 0.05, tcp_port = tonumber(w.server.address:match ":(%d+)$"),
    } })
    client:plugin(tunnel.agent { client_id = "a", group = "web", backend = "http://" .. w.backend:address() })
    assert(client:connect(gate.gate.address))
    w:wait(function() return w.plugin.registry:get "a" end)
    assert.equal("tcp", client.session.door)
    assert.equal("/first", w:get("/first").body)

    local old = client.session
    local slow = echo.spawn(function() return w:get "/slow" end)
    w:wait(function() return waiting end)
    local visits, failed, enough = 0, {}, false
    local visitors = echo.spawn(function()
      repeat
        visits = visits + 1
        local response, err = w:get("/" .. visits)
        if not response or response.status ~= 200 or response.body ~= "/" .. visits then
          failed[#failed + 1] = tostring(response and response.status or err)
        end
      until enough
    end)
    w:wait(function() return visits > 3 end)
    gate.gate:open()
    w:wait(function() return client.session ~= old and not client.fallback end)
    assert.equal("native", client.session.door)
    local so_far = visits
    w:wait(function() return visits > so_far + 3 end)
    assert.is_nil(old.closed_by) -- the slow visitor is still served over TCP
    release = true
    assert.equal("/slow", slow:wait().body)
    w:wait(function() return old.closed_by end)
    so_far = visits
    w:wait(function() return visits > so_far + 3 end)
    enough = true
    visitors:wait()
    assert.same({}, failed)
  end)
end)
