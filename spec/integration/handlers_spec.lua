-- The options of handlers, and what a server says about itself.

local echo = require "echostream"
local net = require "spec.support.net"

local function refused(pattern, fn, ...)
  local ok, raised = pcall(fn, ...)
  assert.is_false(ok)
  assert.matches(pattern, tostring(raised))
end

net.each(function(env)
  describe("a handler's options", function()
    env.it("are checked when it is added, and the message names the option", function()
      local server = env.server()
      local f = function() end
      refused('add_rpc: option "timeout" wants a number of seconds, got "1"', server.add_rpc, server, "x", f, { timeout = "1" })
      refused('add_rpc: option "timeout" wants at least 0.001, got 0', server.add_rpc, server, "x", f, { timeout = 0 })
      refused('add_rpc: option "max_calls" wants an integer, got 1.5', server.add_rpc, server, "x", f, { max_calls = 1.5 })
      refused('add_rpc: option "doc" wants a string, got 5', server.add_rpc, server, "x", f, { doc = 5 })
      refused('add_rpc: option "args" is called "arguments"', server.add_rpc, server, "x", f, { args = "a" })
      refused('add_rpc: option "returns" is called "results"', server.add_rpc, server, "x", f, { returns = "a" })
      refused('add_event: option "max_calls" is of methods', server.add_event, server, "x", f, { max_calls = 1 })
      refused('add_stream: option "idempotent" is of methods', server.add_stream, server, "x", f, { idempotent = true })
      refused('unknown option "docs" %(did you mean "doc"%?%)', server.add_rpc, server, "x", f, { docs = "" })
      local ok, raised = pcall(function() server:add_rpc("x", 5) end)
      assert.is_false(ok)
      assert.matches("handlers_spec.lua:%d+: add_rpc: handler wants a function, got 5", raised)
    end)

    env.it("have a name, and what is wrong with it is said to whoever adds them", function()
      local server = env.server()
      for _, name in ipairs { "", "a name", ("x"):rep(257) } do
        for _, add in ipairs { "add_rpc", "add_event", "add_stream" } do
          local ok, problem = pcall(function() server[add](server, name, print) end)
          assert.is_false(ok)
          assert.truthy(problem:find("handlers_spec.lua:%d+: " .. add .. ": a name is 1 to 256 characters of A%-Z"), problem)
        end
      end
      server:add_rpc("shared", print, { balance = "round_robin" })
      local ok, problem = pcall(server.add_rpc, server, "shared", print)
      assert.is_false(ok)
      assert.truthy(problem:find("by the option balance, which this one has not", 1, true), problem)
    end)

    env.it("timeout: cancels the handler, and the caller gets timeout at once", function()
      local seen, heedless
      local _, client = env.pair(function(server)
        server:add_rpc("slow", function()
          assert.is_true(echo.call().deadline < 0.101)
          local _, err = echo.sleep(5)
          seen = { err and err.code, echo.call():cancelled() }
        end, { timeout = 0.1 })
        server:add_rpc("heedless", function()
          echo.sleep(5)
          local ends = echo.now() + 0.05
          while echo.now() < ends do
            heedless = true
            if env.kind == "sim" then break end
          end
          return "too late"
        end, { timeout = 0.1 })
        server:add_rpc("quick", function() return "in time" end, { timeout = 0.1 })
      end)
      local before = echo.now()
      local value, err = client:request("slow")
      assert.is_nil(value)
      assert.equal("timeout", err.code)
      assert.matches("own time limit", err.message)
      assert.is_true(echo.now() - before < 0.5)
      env.eventually(function() return seen end)
      assert.same({ "cancelled", true }, seen)
      assert.equal("timeout", select(2, client:request("heedless")).code)
      env.eventually(function() return heedless end)
      assert.equal("in time", client:request("quick"))
      -- the caller's own deadline is the shorter one
      local _, mine = client:with { timeout = 0.02 }:request("slow")
      assert.equal("timeout", mine.code)
      assert.matches("^the deadline passed", mine.message)
    end)

    env.it("timeout: ends streams, streaming methods and events too", function()
      local ended = {}
      local _, client = env.pair(function(server)
        server:add_stream("s", function(_, stream)
          stream:recv()
          ended.s = true
        end, { timeout = 0.05 })
        server:add_rpc("m", function(_, stream)
          stream:recv()
          ended.m = true
        end, { timeout = 0.05, stream = "both" })
        server:add_event("e", function()
          ended.e = select(2, echo.sleep(5)).code
        end, { timeout = 0.05 })
      end)
      local stream, method = assert(client:create_stream("s")), assert(client:stream("m"))
      client:emit("e")
      assert.equal("timeout", select(2, stream:recv(2)).code)
      assert.equal("timeout", select(2, method:recv(2)).code)
      env.eventually(function() return ended.s and ended.m and ended.e end)
      assert.equal("cancelled", ended.e)
      assert.truthy(env.logged("longer than its 0.05 s"))
      stream:close()
      method:close()
    end)

    env.it("priority: what it sends goes before, or after, what others send", function()
      -- The order in which large answers end that were asked for at once, on a path where they take a while.
      local function order(last, first)
        local ended = {}
        local server = env.server({}, function(server)
          local function big() return ("x"):rep(300000) end
          server:add_rpc("last", big, last)
          server:add_rpc("first", big, first)
          server:add_stream("bytes", function(_, stream)
            for _ = 1, 30 do stream:send(("y"):rep(10000)) end
          end, first)
        end)
        local client = env.connect(server, { max_message = 1 << 20 })
        client:request "rpc.list"
        local tasks = {}
        for i, name in ipairs { "last", "last", "first", "first" } do
          tasks[i] = echo.spawn(function()
            assert.equal(300000, #client:request(name))
            ended[#ended + 1] = name
          end)
        end
        local stream = client:create_stream "bytes"
        for _ in stream:frames() do end -- luacheck: ignore 542
        ended[#ended + 1] = "stream"
        for _, task in ipairs(tasks) do task:wait(10) end
        return ended
      end
      local asked = order({ priority = 7 }, { priority = 0 })
      assert.same({ "last", "last" }, { asked[4], asked[5] })
      if env.kind == "sim" then
        asked = order({ priority = 1 }, { priority = 5 })
        assert.same({ "last", "last" }, { asked[1], asked[2] })
      end
    end, { seed = 3, rate = 10e6, queue = 100 })

    env.it("priority: is for what sends", function()
      local server = env.server()
      refused('option "priority" is of methods and streams', server.add_event, server, "x", print, { priority = 1 })
      refused('option "priority" wants at most 7, got 8', server.add_rpc, server, "x", print, { priority = 8 })
      server:add_rpc("urgent", print, { priority = 0, doc = "soon" })
      local client = env.connect(server)
      assert.matches("priority: 0", tostring(client:describe "urgent"))
    end)

    env.it("max_calls: refuses more without running them, whatever session they come from", function()
      local running, most = 0, 0
      local server, client = env.pair(function(server)
        local function work()
          running = running + 1
          most = math.max(most, running)
          echo.sleep(0.2)
          running = running - 1
        end
        server:add_rpc("work", work, { max_calls = 2 })
        server:add_rpc("free", work)
        server:add_stream("s", function(_, stream) stream:recv() end, { max_calls = 1 })
      end)
      local other = env.connect(server)
      local a, b = echo.spawn(client.request, client, "work"), echo.spawn(other.request, other, "work")
      env.eventually(function() return running == 2 end)
      local _, err = client:request("work")
      assert.equal("resource_exhausted", err.code)
      assert.equal("no", err.processed)
      assert.is_true(client:request("free"))
      assert.is_true(a:wait())
      assert.is_true(b:wait())
      assert.is_true(client:request("work"))
      assert.equal(3, most)
      local first = assert(client:create_stream("s"))
      client:request("free")
      assert.equal("resource_exhausted", select(2, assert(client:create_stream("s")):recv(2)).code)
      first:close()
    end)

    env.it("session = false: events and streams without it", function()
      local got
      local _, client = env.pair(function(server)
        server:add_event("e", function(...) got = { ... } end, { session = false })
        server:add_stream("s", function(stream) stream:send(stream:recv().data) end, { session = false })
      end)
      client:emit("e", 1, 2)
      env.eventually(function() return got end)
      assert.same({ 1, 2 }, got)
      local stream = assert(client:create_stream("s"))
      stream:send("x")
      assert.equal("x", stream:recv(2).data)
      stream:close()
    end)
  end)
end)
