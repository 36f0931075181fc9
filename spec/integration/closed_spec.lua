-- RELIABILITY L3, L4: every method of every closed object, twice; and payloads whose Lua strings are gone while the network
-- still needs their bytes.

local echo = require "echostream"
local net = require "spec.support.net"

-- nil and an error object, or a result that promises nothing.
local function harmless(...)
  local value, err = ...
  assert.is_true(value ~= nil or err == nil or echo.is_error(err), tostring(err))
end

net.each(function(env)
  describe("closed objects", function()
    env.it("answer with an error object, however often they are asked", function()
      local server, client = env.pair(function(server)
        server:add_stream("s", function(_, stream) stream:recv() end)
      end)
      env.eventually(function() return #server:sessions() == 1 end)
      local session, mine = server:sessions()[1], client.session
      local stream = assert(client:create_stream("s"))
      client:close()
      env.eventually(function() return not session:is_open() end)
      for _ = 1, 2 do
        for _, who in ipairs { session, mine, client } do
          local _, err = who:request("x", 1)
          assert.equal("connection_closed", err.code)
          _, err = who:emit("x", 1)
          assert.equal("connection_closed", err.code)
          _, err = who:try_emit("x", 1)
          assert.equal("connection_closed", err.code)
          _, err = who:create_stream("x")
          assert.equal("connection_closed", err.code)
          _, err = who:stats()
          assert.equal("connection_closed", err.code)
          _, err = who:with { timeout = 1 }:request("x")
          assert.equal("connection_closed", err.code)
          assert.is_false(who:is_open())
          assert.is_false(pcall(who:service("x").y))
          assert.is_true(who:close())
        end
        harmless(session:peer_pin())
        harmless(stream:send("x"))
        harmless(stream:recv(1))
        harmless(stream:finish())
        harmless(stream:stats())
        harmless(stream:metadata())
        assert.is_true(stream:reset(1))
        assert.is_true(stream:close())
        assert.is_string(tostring(stream) .. tostring(session) .. tostring(client) .. tostring(server))
      end
      server:stop { grace = 0 }
      for _ = 1, 2 do
        assert.is_true(server:stop())
        assert.same({}, server:sessions())
        assert.equal(0, (server:broadcast("x")))
        harmless(server:stats())
        server:add_rpc("y", print)
        assert.is_true(server:remove_rpc("y"))
      end
    end)

    env.it("wake whoever waits on them", function()
      local server, client = env.pair(function(server)
        server:add_rpc("never", function() echo.sleep(100) end)
        server:add_stream("s", function() echo.sleep(1) end)
      end)
      local stream = assert(client:create_stream("s"))
      local tasks = {
        echo.spawn(function() return client:request("never") end),
        echo.spawn(function() return stream:recv() end),
        echo.spawn(function()
          repeat
            local ok, err = stream:send(("x"):rep(100000))
          until not ok or echo.is_error(err)
          return nil, echo.error("aborted")
        end),
      }
      echo.sleep(0.2)
      server:stop { grace = 0 }
      for _, task in ipairs(tasks) do
        local value, err = task:wait(5)
        assert.is_nil(value)
        assert.not_equal("timeout", err and err.code)
      end
    end)

    env.it("may be dropped and collected at any time", function()
      local server = env.server({}, function(server)
        server:add_rpc("x", function() return 1 end)
        server:add_stream("s", function(_, stream) stream:recv() end)
      end)
      for _ = 1, 5 do
        local client = assert(echo.connect(server.address, { pin = server.pin }))
        local stream = client:create_stream("s")
        stream:send("x")
        client:request("x", function() end)
        stream = nil -- luacheck: ignore
        collectgarbage()
        assert.equal(1, client:request("x"))
        client:close()
      end
      collectgarbage()
      collectgarbage()
      env.eventually(function() return #server:sessions() == 0 end)
    end)
  end)

  describe("payloads", function()
    local function run()
      local _, client = env.pair(function(server)
        server:add_rpc("echo", function(_, s) return s end)
        server:add_stream("echo", function(_, stream)
          for frame in stream:frames() do
            stream:send(frame.data)
          end
        end)
      end)
      local stream = assert(client:create_stream("echo"))
      for i = 1, 40 do
        local size = 1 << (i % 17)
        local expected = (i * 31) % 256
        local got = assert(client:request("echo", string.char(expected):rep(size)))
        collectgarbage()
        assert.equal(size, #got)
        assert.equal(string.char(expected):rep(size), got)
        assert.is_true(stream:send(string.char(expected):rep(size)))
        collectgarbage()
        assert.equal(string.char(expected):rep(size), assert(stream:recv(30)).data)
      end
    end

    env.it("outlive their strings", run)
    if env.kind == "sim" then
      for seed = 1, 5 do
        env.it("outlive their strings at 5 % loss, seed " .. seed, run, { seed = seed, loss = 0.05, reorder = 0.02, duplicate = 0.02 })
      end
    end
  end)
end)
