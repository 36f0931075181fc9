local echo = require "echostream"
local net = require "spec.support.net"

local function math_server(server)
  server:add_rpc("math.add", function(_, a, b) return a + b end, { idempotent = true })
  server:add_rpc("echo", function(_, ...) return ... end)
  server:add_rpc("nothing", function() end)
end

net.each_door(function(env)
  describe("a request", function()
    env.it("brings every result of the handler, nils inside too", function()
      local _, client = env.pair(math_server)
      assert.equal(30, client:request("math.add", 10, 20))
      assert.same({ n = 4, nil, 2, nil, "x" }, table.pack(client:request("echo", nil, 2, nil, "x")))
      assert.same({ n = 1, true }, table.pack(client:request("nothing")))
    end)

    env.it("keeps kinds: integers, floats, bytes, booleans, tables", function()
      local _, client = env.pair(math_server)
      local bytes = {}
      for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
      bytes = table.concat(bytes)
      for _, value in ipairs { 0, -1, math.maxinteger, math.mininteger, 1.0, 0.1, 1e300, -0.0, "", bytes, true, false } do
        local got = client:request("echo", value)
        assert.equal(value, got)
        assert.equal(math.type(value), math.type(got))
      end
      local deep = { 1, { a = { "x", 2.5 } }, "y" }
      assert.same(deep, client:request("echo", deep))
      assert.equal(echo.null, client:request("echo", { echo.null })[1])
    end)

    env.it("carries large payloads both ways", function()
      local _, client = env.pair(math_server)
      local big = ("0123456789abcdef"):rep(65536) -- 1 MiB
      assert.equal(big, client:request("echo", big))
    end)

    env.it("of an unknown method fails with method_not_found, unprocessed", function()
      local _, client = env.pair(math_server)
      local value, err = client:request("math.sub", 1, 2)
      assert.is_nil(value)
      assert.equal("method_not_found", err.code)
      assert.equal("no", err.processed)
      assert.equal(12, err.status)
    end)

    env.it("raises on misuse: no name, a value that cannot be sent", function()
      local _, client = env.pair(math_server)
      assert.has_error(function() client:request() end)
      assert.has_error(function() client:request("bad name") end)
      assert.has_error(function() client:request("") end)
      assert.has_error(function() client:request("echo", print, 1) end)
      assert.has_error(function() client:request("echo", coroutine.create(print)) end)
      assert.equal(1, client:request("echo", 1))
    end)

    env.it("may be made many times at once", function()
      local _, client = env.pair(math_server)
      local tasks = {}
      for i = 1, 300 do
        tasks[i] = echo.spawn(function() return client:request("math.add", i, i) end)
      end
      local results = assert(echo.all(tasks, 10))
      for i = 1, 300 do
        assert.equal(2 * i, results[i])
      end
    end)

    env.it("has a callback form with the same results, whose task can be waited for", function()
      local _, client = env.pair(math_server)
      local got
      local task = client:request("echo", 1, nil, 3, function(...) got = table.pack(...) end)
      assert.same({ n = 3, 1, nil, 3 }, table.pack(task:wait(5)))
      assert.same({ n = 3, 1, nil, 3 }, got)
      local err
      client:request("math.sub", function(_, problem) err = problem end):wait(5)
      assert.equal("method_not_found", err.code)
    end)

    env.it("goes both ways, also while a call is under way", function()
      local server, client = env.pair(function(server)
        server:add_rpc("ask.back", function(session, x)
          return "server got " .. assert(session:request("client.double", x))
        end)
      end)
      client:add_rpc("client.double", function(_, x) return 2 * x end)
      assert.equal("server got 14", client:request("ask.back", 7))
      local session = server:sessions()[1]
      assert.equal(8, session:request("client.double", 4))
    end)

    env.it("waits inside handlers without delaying others", function()
      local _, client = env.pair(function(server)
        server:add_rpc("slow", function() echo.sleep(0.2) return "slow" end)
        server:add_rpc("fast", function() return "fast" end)
      end)
      local order = {}
      local slow = echo.spawn(function() table.insert(order, (client:request("slow"))) end)
      local fast = echo.spawn(function() table.insert(order, (client:request("fast"))) end)
      assert(echo.all({ slow, fast }, 5))
      assert.same({ "fast", "slow" }, order)
    end)

    env.it("through a service table raises its failures", function()
      local _, client = env.pair(math_server)
      local service = client:service("math")
      assert.equal(3, service.add(1, 2))
      local ok, err = pcall(service.sub, 1, 2)
      assert.is_false(ok)
      assert.equal("method_not_found", err.code)
    end)
  end)

  describe("call options", function()
    env.it("are checked", function()
      local _, client = env.pair(math_server)
      assert.has_error(function() client:with { timout = 1 } end)
      assert.has_error(function() client:with { priority = 8 } end)
    end)

    env.it("set a deadline that the caller keeps and the handler sees", function()
      local _, client = env.pair(function(server)
        server:add_rpc("left", function() return echo.call().deadline end)
        server:add_rpc("never", function() echo.sleep(60) end)
      end)
      local left = client:with { timeout = 2 }:request("left")
      assert.is_true(left > 1 and left <= 2, tostring(left))
      local began = echo.now()
      local value, err = client:with { timeout = 0.1 }:request("never")
      local took = echo.now() - began
      assert.is_nil(value)
      assert.equal("timeout", err.code)
      assert.is_true(took >= 0.099 and took < 0.2, tostring(took))
    end)

    env.it("carry metadata, priority and idempotence", function()
      local _, client = env.pair(function(server)
        server:add_rpc("who", function()
          local call = echo.call()
          return call.kind, call.name, call.metadata.user, call.attempt, call.id > 0
        end)
      end)
      local calls = client:with { metadata = { user = "ann" }, priority = 1, idempotent = true }
      assert.same({ "rpc", "who", "ann", 1, true }, { calls:request("who") })
      local _, _, user = calls:with { timeout = 5 }:request("who")
      assert.equal("ann", user)
    end)

    env.it("may turn the deadline off", function()
      local _, client = env.pair(function(server)
        server:add_rpc("left", function() return echo.call().deadline == nil end)
      end)
      assert.is_true(client:with { timeout = false }:request("left"))
    end)
  end)

  describe("cancelling", function()
    env.it("the task that waits for a call cancels the handler", function()
      local cancelled_with, outcome
      local _, client = env.pair(function(server)
        server:add_rpc("long", function()
          local call = echo.call()
          call:on_cancel(function(code) cancelled_with = code end)
          local _, err = echo.sleep(100)
          outcome = { err and err.code, call:cancelled() }
        end)
      end)
      local task = echo.spawn(function() return client:request("long") end)
      echo.sleep(0.1)
      task:cancel()
      local value, err = task:wait(5)
      assert.is_nil(value)
      assert.equal("cancelled", err.code)
      env.eventually(function() return outcome and cancelled_with end, "the handler heard of it")
      assert.same({ "cancelled", true }, outcome)
      assert.equal(0x10, cancelled_with)
    end)

    env.it("a deadline cancels the handler too", function()
      local heard
      local _, client = env.pair(function(server)
        server:add_rpc("long", function()
          local _, err = echo.sleep(100)
          heard = err and err.code
        end)
      end)
      client:with { timeout = 0.1 }:request("long")
      env.eventually(function() return heard == "cancelled" end)
    end)
  end)

  describe("echo.call", function()
    env.it("is nil outside handlers", function()
      assert.is_nil(echo.call())
    end)

    env.it("knows its session", function()
      local _, client = env.pair(function(server)
        server:add_rpc("same", function(session) return echo.call().session == session end)
      end)
      assert.is_true(client:request("same"))
    end)
  end)

  describe("methods", function()
    env.it("can be added and removed while sessions are open", function()
      local server, client = env.pair()
      local _, err = client:request("late")
      assert.equal("method_not_found", err.code)
      server:add_rpc("late", function() return "here" end)
      assert.equal("here", client:request("late"))
      assert.is_true(server:remove_rpc("late"))
      assert.is_false(server:remove_rpc("late"))
      _, err = client:request("late")
      assert.equal("method_not_found", err.code)
    end)

    env.it("have names of their own kind, once", function()
      local server = env.server()
      assert.equal(server, server:add_rpc("x", print):add_event("x", print):add_stream("x", print))
      assert.has_error(function() server:add_rpc("x", print) end)
      assert.has_error(function() server:add_event("x", print) end)
      assert.has_error(function() server:add_stream("x", print) end)
      assert.has_error(function() server:add_rpc("no spaces", print) end)
      assert.has_error(function() server:add_rpc(("x"):rep(257), print) end)
      assert.has_error(function() server:add_rpc("y", 5) end)
      assert.has_error(function() server:add_rpc("y", print, { idempotnt = true }) end)
      server:add_rpc(("x"):rep(256), print)
    end)
  end)
end, "tcp")
