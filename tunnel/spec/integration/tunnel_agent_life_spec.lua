-- What an agent lives through with requests under way: another local address, a drain, a session that is replaced.

local world = require "tunnel.spec.support.agent_world"
local backends = require "tunnel.spec.support.backends"
local echo = require "echostream"
local net = require "spec.support.net"

net.only("quic", function(env)
  if not backends.has_node then
    pending "nodejs with ws is wanted"
    return
  end

  -- Four visitors that ask again and again until `stop()`, which says how many answers there were and fails when one was no 200.
  local function load(w)
    local over, n, bad, tasks = false, 0, {}, {}
    for i = 1, 4 do
      tasks[i] = echo.spawn(function()
        while not over do
          local words = world.words((world.collect(world.request(w, world.head { path = "/hello" }))))
          if words == "note head:200 body:hello end" then n = n + 1 else table.insert(bad, words) end
        end
      end)
    end
    return function() return n end, function()
      over = true
      for i = 1, 4 do tasks[i]:wait() end
      assert.same({}, bad)
    end
  end

  describe("an agent with requests under way", function()
    env.it("moves to other local addresses, and none fails", function()
      local node = backends.node()
      local w = world.new(env, { real = true, agent = { backend = "http://127.0.0.1:" .. node.port } })
      local count, stop = load(w)
      for _, ip in ipairs { "127.0.0.2", "127.0.0.3", "127.0.0.1" } do
        local before = count()
        assert(w.client:migrate { bind = ip .. ":0" })
        while count() < before + 20 do echo.sleep(0.005) end
        assert.matches("^" .. ip:gsub("%.", "%%."), w.session.peer_addr)
      end
      stop()
      node.kill()
    end)

    env.it("changes its services, and none fails", function()
      local a, b = backends.node(), backends.node()
      local w = world.new(env, { real = true, agent = { backend = "http://127.0.0.1:" .. a.port } })
      local count, stop = load(w)
      for i = 1, 10 do
        local before = count()
        assert(w.agent:set_services { default = "http://127.0.0.1:" .. (i % 2 == 0 and a or b).port })
        while count() < before + 10 do echo.sleep(0.005) end
      end
      stop()
      a.kill()
      b.kill()
    end)

    env.it("drains: what it has is finished", function()
      local node = backends.node()
      local w = world.new(env, { real = true, agent = { backend = "http://127.0.0.1:" .. node.port } })
      local held = world.request(w, world.head { path = "/events" })
      held:recv()
      local draining = echo.spawn(function() return w.agent:drain { grace = 60 } end)
      while not w.drained[1] do echo.sleep(0.005) end
      assert.equal(0, w.unregistered)
      held:reset(1)
      assert.is_true(draining:wait(15))
      assert.equal(1, w.unregistered)
      node.kill()
    end)
  end)
end)
