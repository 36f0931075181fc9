-- WebSockets by extended CONNECT through a whole tunnel: visitors of python3-h2 and python3-wsproto, a backend of node's ws.

local backends = require "tunnel.spec.support.backends"
local certs = require "spec.support.certs"
local child = require "spec.support.child"
local net = require "spec.support.net"
local process = require "spec.support.process"
local world = require "tunnel.spec.support.world"

net.only("quic", function(env)
  if not backends.has_node or not os.execute "LD_PRELOAD= /usr/bin/python3 -c 'import h2, wsproto' >/dev/null 2>&1" then
    pending "nodejs with ws, python3-h2 and python3-wsproto are wanted"
    return
  end

  describe("WebSockets over HTTP/2", function()
    env.it("share a connection with requests, and each ends as its backend or its visitor wants", function()
      local cert = certs.issue(nil, { names = { "localhost" } })
      local node = backends.node()
      local w = world.new(env, {
        listen = { { bind = "127.0.0.1:0", name = "web", tls = { certs = { { cert = cert.cert, key = cert.key } } } } },
        agent = { services = { web = "http://127.0.0.1:" .. node.port } },
      })
      local visitor = child.start("env", { "LD_PRELOAD=", "timeout", "90", "/usr/bin/python3",
        process.root .. "/tunnel/spec/support/h2_websocket.py", w.address })
      visitor:gone()
      assert.same({
        "ok settings", "ok text", "ok binary_in_fragments", "ok ping", "ok close_by_the_backend", "ok close_by_us", "ok a_backend_that_breaks",
        "ok many_beside_requests", "ok refused",
      }, visitor.lines)
      w:wait(function() return w.agents[1].stats.in_flight == 0 end)
      node.kill()
    end, { limit = 100 })
  end)
end)
