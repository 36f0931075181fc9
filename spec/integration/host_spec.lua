local echo = require "echostream"
local net = require "spec.support.net"

net.each(function(env)
  describe("what servers and clients have in common", function()
    env.it("a removed event handler hears nothing more", function()
      local heard = 0
      local server, client = env.pair(function(server)
        server:add_event("tick", function() heard = heard + 1 end)
        server:add_rpc("sync", function() end)
      end)
      client:emit("tick")
      env.eventually(function() return heard == 1 end)
      assert.is_true(server:remove_event("tick"))
      assert.is_false(server:remove_event("tick"))
      client:emit("tick")
      client:request("sync")
      echo.sleep(0.05)
      assert.equal(1, heard)
    end)

    env.it("a removed stream handler finishes the streams it has, and takes no more", function()
      local server, client = env.pair(function(server)
        server:add_stream("echo", function(_, stream)
          for frame in stream:frames() do stream:send(frame.data) end
        end)
      end)
      local open = client:create_stream("echo")
      assert.is_true(open:send("one"))
      assert.equal("one", open:recv().data)
      assert.is_true(server:remove_stream("echo"))
      assert.is_false(server:remove_stream("echo"))
      assert.is_true(open:send("two"))
      assert.equal("two", open:recv().data)
      open:close()
      local late = client:create_stream("echo")
      local _, err = late:recv()
      assert.equal("method_not_found", err.code)
    end)

    env.it("larger packets are tried, unless the user says no", function()
      local server, usual = env.pair(function(server)
        server:add_rpc("length", function(_, text) return #text end)
      end)
      local plain = env.connect(server, { transport = { mtu_discovery = false } })
      for _ = 1, 20 do
        assert.equal(100000, usual:request("length", ("x"):rep(100000)))
        assert.equal(100000, plain:request("length", ("x"):rep(100000)))
      end
      env.eventually(function() return usual:stats().path_mtu > 1200 end, "a larger packet passed")
      assert.equal(1200, plain:stats().path_mtu)
    end)

    env.it("no more two-way streams are open at once than the user allows; the others wait", function()
      local running, most = 0, 0
      local _, client = env.pair(function(server)
        server:add_rpc("work", function()
          running = running + 1
          most = math.max(most, running)
          echo.sleep(0.02)
          running = running - 1
          return true
        end)
      end, { transport = { max_streams_bidi = 3 } })
      local tasks = {}
      for i = 1, 12 do
        tasks[i] = echo.spawn(function() return client:request "work" end)
      end
      for _, task in ipairs(tasks) do
        assert.is_true(task:wait())
      end
      assert.equal(3, most)
    end)

    env.it("a removed method can be offered again with another handler", function()
      local server, client = env.pair(function(server)
        server:add_rpc("version", function() return 1 end)
      end)
      assert.equal(1, client:request("version"))
      assert.is_true(server:remove_rpc("version"))
      server:add_rpc("version", function() return 2 end)
      assert.equal(2, client:request("version"))
    end)
  end)
end)
