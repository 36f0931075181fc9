-- Several handlers behind one name.

local echo = require "echostream"
local net = require "spec.support.net"

-- Waits until it is so; the time limit of the spec is the only one, because a busy machine may stand still for seconds.
local function till(fn)
  while not fn() do echo.sleep(0.005) end
end

net.each(function(env)
  describe("handlers that share a name", function()
    env.it("take turns, and one more or one less is nothing special", function()
      local server, client = env.pair()
      local function handler(name) return function() return name end end
      local a, b, c = handler "a", handler "b", handler "c"
      server:add_rpc("who", a, { balance = "round_robin", idempotent = true })
      server:add_rpc("who", b, { balance = "round_robin" })
      server:add_rpc("who", c, { balance = "round_robin", idempotent = true })
      local seen = {}
      for i = 1, 6 do seen[i] = client:request "who" end
      assert.equal("abcabc", table.concat(seen))
      assert.is_true(client:describe("who").idempotent)
      assert.is_true(server:remove_rpc("who", b))
      assert.is_false(server:remove_rpc("who", b))
      seen = {}
      for i = 1, 4 do seen[i] = client:request "who" end
      table.sort(seen)
      assert.equal("aacc", table.concat(seen))
      assert.is_true(server:remove_rpc("who", a))
      assert.is_true(server:remove_rpc("who", c))
      assert.equal("method_not_found", select(2, client:request "who").code)
      server:add_rpc("who", a)
      assert.equal("a", client:request "who")
    end)

    env.it("are chosen by how busy they are", function()
      local server, client = env.pair()
      local open, count = false, { 0, 0, 0 }
      for i = 1, 3 do
        server:add_rpc("work", function()
          count[i] = count[i] + 1
          while not open do echo.sleep(0.005) end
          if i == 3 then error "a failure is an end, too" end
          return i
        end, { balance = "least_in_flight" })
      end
      local tasks = {}
      for i = 1, 30 do tasks[i] = echo.spawn(function() return client:request "work" end) end
      till(function() return count[1] + count[2] + count[3] == 30 end)
      assert.same({ 10, 10, 10 }, count)
      open = true
      for i = 1, 30 do tasks[i]:wait() end
      for _ = 1, 3 do client:request "work" end -- nobody is thought to be busy still
      assert.same({ 11, 11, 11 }, count)
    end)

    env.it("can be of streams and of plugins, and share their options", function()
      local server, client = env.pair()
      local function say(text) return function(_, stream) stream:send(text) end end
      server:add_stream("s", say "one", { balance = "round_robin" })
      server:plugin { name = "second", install = function(_, host) host:add_stream("s", say "two", { balance = "round_robin" }) end }
      local first, second = client:create_stream("s"):recv().data, client:create_stream("s"):recv().data
      assert.same({ "one", "two" }, { first, second })
      server:remove_plugin "second"
      for _ = 1, 3 do assert.equal("one", client:create_stream("s"):recv().data) end
      local ok, raised = pcall(server.add_stream, server, "s", say "x", { balance = "round_robin", max_calls = 1 })
      assert.is_false(ok)
      assert.matches('max_calls', raised)
      assert.has_error(function() server:add_stream("s", say "x") end)
      assert.has_error(function() server:add_rpc("r", print, { balance = "best" }) end)
      assert.has_error(function() server:add_event("e", print, { balance = "round_robin" }) end)
      server:add_rpc("r", print)
      assert.has_error(function() server:add_rpc("r", print, { balance = "round_robin" }) end)
      server:remove_stream "s"
      assert.equal("method_not_found", select(2, client:create_stream("s"):recv()).code)
    end)
  end)
end)
