local echo = require "echostream"
local net = require "spec.support.net"

net.each_door(function(env)
  describe("events", function()
    env.it("arrive in order, both ways", function()
      local at_server, at_client = {}, {}
      local server, client = env.pair(function(server)
        server:add_event("log", function(_, i) at_server[#at_server + 1] = i end)
      end)
      client:add_event("news", function(_, i) at_client[#at_client + 1] = i end)
      for i = 1, 200 do
        assert.is_true(client:emit("log", i))
      end
      client:request("sync")
      local session = server:sessions()[1]
      for i = 1, 200 do
        assert.is_true(session:emit("news", i))
      end
      env.eventually(function() return #at_server == 200 and #at_client == 200 end)
      for i = 1, 200 do
        assert.equal(i, at_server[i])
        assert.equal(i, at_client[i])
      end
    end)

    env.it("carry all their values", function()
      local got
      local _, client = env.pair(function(server)
        server:add_event("e", function(_, ...) got = table.pack(...) end)
      end)
      client:emit("e", 1, nil, "x", nil)
      env.eventually(function() return got end)
      assert.same({ n = 4, 1, nil, "x" }, got)
    end)

    env.it("of one lane are handled one after another", function()
      local running, most, done = 0, 0, 0
      local function slow()
        running = running + 1
        most = math.max(most, running)
        echo.sleep(0.01)
        running = running - 1
        done = done + 1
      end
      local _, client = env.pair(function(server)
        server:add_event("one", slow)
        server:add_event("many", slow, { concurrent = 4 })
      end)
      for _ = 1, 6 do client:emit("one") end
      env.eventually(function() return done == 6 end)
      assert.equal(1, most)
      most, done = 0, 0
      for _ = 1, 8 do client:emit("many") end
      env.eventually(function() return done == 8 end)
      assert.equal(4, most)
    end)

    env.it("that nobody handles are dropped and counted", function()
      local server, client = env.pair(function(server)
        server:add_rpc("ping", function() return "pong" end)
      end)
      client:emit("nobody", 1)
      assert.equal("pong", client:request("ping"))
      env.eventually(function() return server:stats().events_unhandled == 1 end)
    end)

    env.it("that nobody handles are logged once for each name, and for so many names", function()
      local server, client = env.pair()
      for i = 1, 100 do
        client:emit("nobody." .. i)
        client:emit("nobody.1")
      end
      env.eventually(function() return server:stats().events_unhandled == 200 end)
      local records, first = 0, 0
      for _, record in ipairs(env.logs) do
        if record.message:find "nobody handles" then
          records = records + 1
          first = first + (record.method == "nobody.1" and 1 or 0)
        end
      end
      assert.same({ 64, 1 }, { records, first })
      assert.truthy(env.logged "not logged any more")
    end)

    env.it("are handled once by a handler for one", function()
      local got = {}
      local server, client = env.pair(function(server)
        assert.equal(server, server:once("ready", function(_, i)
          got[#got + 1] = i
          echo.sleep(0.01)
          if i == 1 then
            server:once("ready", function(_, j) got[#got + 1] = -j end, { concurrent = 4 })
          end
        end, { concurrent = 4 }))
      end)
      for i = 1, 5 do client:emit("ready", i) end
      env.eventually(function() return #got == 1 and server:stats().events_in == 5 end)
      echo.sleep(0.05)
      client:emit("ready", 6)
      env.eventually(function() return #got == 2 end)
      client:emit("ready", 7)
      server:once("never", function() got[3] = true end)
      assert.is_true(server:remove_event "never")
      client:emit "never"
      client:request "sync"
      echo.sleep(0.02)
      assert.same({ 1, -6 }, got)
      assert.has_error(function() server:once("x") end)
    end)

    env.it("may lose their handler while it runs", function()
      local ran, over = 0, 0
      local server, client
      server, client = env.pair(function(s)
        s:add_event("e", function()
          ran = ran + 1
          server:remove_event "e"
          collectgarbage()
          echo.sleep(0.02)
          over = over + 1
        end)
      end)
      for _ = 1, 10 do client:emit "e" end
      env.eventually(function() return over == 1 end)
      server:add_event("e", function() ran = ran + 100 end)
      client:emit "e"
      env.eventually(function() return ran == 101 end)
    end)

    env.it("keep their order within a lane, and lanes do not wait for each other", function()
      local got, hold = {}, true
      local _, client = env.pair(function(server)
        server:add_event("slow", function(_, i)
          while hold do echo.sleep(0.005) end
          got[#got + 1] = "slow" .. i
        end)
        server:add_event("fast", function(_, i) got[#got + 1] = "fast" .. i end)
      end)
      for i = 1, 3 do
        client:with { lane = 1 }:emit("slow", i)
        client:with { lane = 2 }:emit("fast", i)
      end
      env.eventually(function() return #got == 3 end)
      hold = false
      env.eventually(function() return #got == 6 end)
      assert.same({ "fast1", "fast2", "fast3", "slow1", "slow2", "slow3" }, got)
    end)

    env.it("have metadata for their handler", function()
      local token
      local _, client = env.pair(function(server)
        server:add_event("e", function()
          echo.sleep(0.005)
          token = echo.call().metadata.token
        end)
      end)
      client:with { metadata = { token = "t" } }:emit "e"
      env.eventually(function() return token == "t" end)
    end)

    env.it("arrive when the client closes right after", function()
      local got
      local _, client = env.pair(function(server)
        server:add_event("last", function(_, text) got = text end)
      end)
      client:emit("last", "words")
      client:close()
      env.eventually(function() return got == "words" end)
    end)

    env.it("fill the queue and then wait, none is lost", function()
      local received, size = 0, 0
      local _, client = env.pair(function(server)
        server:add_event("bulk", function(_, data)
          received, size = received + 1, size + #data
        end)
      end)
      local chunk = ("x"):rep(100000)
      for _ = 1, 100 do -- 10 MB through a lane that holds 1 MiB
        assert.is_true(client:emit("bulk", chunk))
      end
      env.eventually(function() return received == 100 end)
      assert.equal(100 * 100000, size)
    end)

    env.it("can be tried without waiting", function()
      local _, client = env.pair(function(server)
        server:add_event("bulk", function() echo.sleep(1) end)
      end)
      local chunk, ok, err = ("x"):rep(100000), true, nil
      for _ = 1, 1000 do
        ok, err = client:try_emit("bulk", chunk)
        if not ok then
          break
        end
      end
      assert.is_nil(ok)
      assert.equal("resource_exhausted", err.code)
    end)

    env.it("may travel as datagrams", function()
      local got = 0
      local _, client = env.pair(function(server)
        server:add_rpc("ready", function() return true end)
        server:add_event("tick", function() got = got + 1 end)
      end)
      client:request("ready") -- datagrams need the peer's HELLO
      assert.is_true(client:with { unreliable = true }:emit("tick", 1))
      env.eventually(function() return got == 1 end)
      local ok, err = client:with { unreliable = true }:emit("tick", ("x"):rep(100000))
      assert.is_nil(ok)
      assert.equal("resource_exhausted", err.code)
      assert.matches("must fit one datagram: 1%d%d%d bytes now", err.message)
    end)

    env.it("have a callback form", function()
      local _, client = env.pair()
      local got
      local task = client:emit("x", function(ok) got = ok end)
      assert.is_true(task:wait(5))
      assert.is_true(got)
    end)

    env.it("are broadcast to every session", function()
      local server = env.server()
      local heard = {}
      local clients = {}
      for i = 1, 3 do
        clients[i] = env.connect(server)
        clients[i]:add_event("news", function(_, text) heard[i] = text end)
      end
      env.eventually(function() return #server:sessions() == 3 end)
      assert.equal(3, (server.context:broadcast("news", "hello")))
      env.eventually(function() return heard[1] and heard[2] and heard[3] end)
      assert.same({ "hello", "hello", "hello" }, heard)
      assert.equal(3, (server:broadcast("news", "again")))
    end)

    env.it("with bad names raise", function()
      local _, client = env.pair()
      assert.has_error(function() client:emit("bad name") end)
      assert.has_error(function() client:emit() end)
    end)
  end)
end)
