-- WebSockets through a whole tunnel: visitors and backends of node's ws and of python3-websockets, each case of
-- tunnel/spec/support/websocket_visitor.mjs and .py.

local backends = require "tunnel.spec.support.backends"
local child = require "spec.support.child"
local net = require "spec.support.net"
local process = require "spec.support.process"
local world = require "tunnel.spec.support.world"

net.only("quic", function(env)
  if not backends.has_node or not backends.has_websockets then
    pending "nodejs with ws, and python3-websockets are wanted"
    return
  end

  -- Runs a visitor to its end: what failed, and how many cases did not.
  local function visit(program, file, url)
    local visitor = child.start("env", { "LD_PRELOAD=", program, process.root .. "/tunnel/spec/support/" .. file, url })
    local bad, good = {}, 0
    repeat
      local how, what = visitor:expect "^(%l+) ?(.*)$"
      if how == "failed" and what ~= "" then table.insert(bad, what) end
      if how == "ok" then good = good + 1 end
    until how ~= "ok" and what == ""
    visitor:gone()
    return bad, good
  end

  for _, backend in ipairs { "node", "python_websockets" } do
    describe("WebSockets through a tunnel to a backend of " .. backend, function()
      for program, file in pairs { node = "websocket_visitor.mjs", ["/usr/bin/python3"] = "websocket_visitor.py" } do
        if backend == "node" or file == "websocket_visitor.py" then -- some cases of node's visitor want node's backend
          env.it("work for " .. file, function()
            local server = backends[backend]()
            local w = world.new(env, { agent = { services = { web = "http://127.0.0.1:" .. server.port } } })
            local bad, good = visit(program, file, "ws://" .. w.address .. "/ws")
            assert.same({}, bad)
            assert.equal(program == "node" and 10 or 6, good)
            assert.equal(0, w.agents[1].stats.tunnels)
            w:wait(function() return w.agents[1].stats.in_flight == 0 end)
            server.kill()
          end)
        end
      end
    end)
  end
end)
