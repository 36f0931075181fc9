-- Metadata that goes with an answer: set by handlers and middleware, read by the caller's middleware and streams.

local core = require "echostream.core"
local echo = require "echostream"
local net = require "spec.support.net"

net.each_door(function(env)
  -- A client whose middleware notes what came with each answer.
  local function pair(prepare)
    local came = {}
    local server = env.server({}, function(server)
      server:add_rpc("priced", function(_, x)
        echo.call():set_trailers { cost = "7" }
        return x
      end)
      server:add_rpc("free", function(_, x) return x end)
      server:add_rpc("fails", function()
        echo.call():set_trailers { cost = "8" }
        return nil, echo.error("not_found", "nothing here")
      end)
      server:add_rpc("raises", function()
        echo.call():set_trailers { cost = "9" }
        error("boom")
      end)
      if prepare then prepare(server) end
    end)
    local client = env.client(server)
    client:middleware(function(call, next)
      local response = next(call)
      came[#came + 1] = call.trailers
      return response
    end, { direction = "out" })
    return server, assert(client:connect(server.address)), came
  end

  describe("metadata of answers", function()
    env.it("comes with results and with failures", function()
      local _, client, came = pair()
      assert.equal(1, client:request("priced", 1))
      assert.equal(2, client:request("free", 2))
      assert.equal("not_found", select(2, client:request("fails")).code)
      assert.equal("unknown", select(2, client:request("raises")).code)
      assert.equal("method_not_found", select(2, client:request("nobody")).code)
      assert.same({ { cost = "7" }, {}, { cost = "8" }, { cost = "9" }, {} }, came)
    end)

    env.it("is set, read and changed by the server's middleware", function()
      local _, client, came = pair(function(server)
        server:middleware(function(call, next)
          call.trailers.before = "yes"
          if call.name == "free" then return call:reject("permission_denied", "no") end
          local response = next(call)
          if call.trailers.cost then call.trailers.cost = call.trailers.cost .. " EUR" end
          call.trailers.after = tostring(response.ok)
          return response
        end)
      end)
      client:request("priced", 1)
      client:request("free", 2)
      client:request("fails")
      -- The handler's own replace what stood there before it.
      assert.same({ { cost = "7 EUR", after = "true" }, { before = "yes" }, { cost = "8 EUR", after = "false" } }, came)
    end)

    env.it("may be replaced as a whole", function()
      local _, client, came = pair(function(server)
        server:middleware(function(call, next)
          local response = next(call)
          call.trailers = { instead = "of all" }
          assert(call.trailers.instead == "of all")
          return response
        end)
      end)
      assert.equal(1, client:request("priced", 1))
      assert.same({ { instead = "of all" } }, came)
    end)

    env.it("belongs to the answer it came with, also of calls at once, of callbacks and of a second try", function()
      local tries = 0
      local server, client, came = pair(function(server)
        server:add_rpc("echo", function(_, n)
          if n % 2 == 0 then echo.call():set_trailers { n = tostring(n) } end
          echo.sleep(0.01 * (n % 3))
          return n
        end)
        server:add_rpc("second", function()
          tries = tries + 1
          if tries == 1 then
            echo.call():set_trailers { try = "1" }
            return nil, echo.error("aborted")
          end
          return "done"
        end)
      end)
      local seen = {}
      client:middleware(function(call, next)
        local response = next(call)
        if call.name == "echo" then seen[response[1]] = call.trailers.n or false end
        if call.name == "second" and not response.ok then response = next(call) end
        return response
      end, { direction = "out" })
      local tasks = {}
      for n = 1, 20 do
        tasks[n] = n % 5 == 0 and client:request("echo", n, function() end) or echo.spawn(client.request, client, "echo", n)
      end
      for n = 1, 20 do assert.equal(n, (tasks[n]:wait(5))) end
      for n = 1, 20 do assert.equal(n % 2 == 0 and tostring(n), seen[n]) end
      assert.equal("done", client:request("second"))
      assert.same({}, came[#came])
      assert.is_true(#server:sessions() == 1)
    end)

    env.it("comes with the end of streams and streaming calls", function()
      local _, client = pair(function(server)
        server:add_rpc("rows", function(_, stream)
          stream:send(1)
          echo.call():set_trailers { rows = "1" }
          return "end"
        end, { stream = "out" })
        server:add_rpc("broken", function(_, stream)
          stream:send(1)
          echo.call():set_trailers { rows = "0" }
          error(echo.error("aborted", "half way"))
        end, { stream = "both" })
        server:add_stream("bytes", function(_, stream)
          echo.call():set_trailers { sum = "42" }
          stream:send("x")
        end)
      end)
      local rows = assert(client:stream("rows"))
      assert.same({}, rows:trailers())
      assert.equal(1, rows:recv(2).data)
      assert.equal("end", rows:result(2))
      assert.same({ rows = "1" }, rows:trailers())
      local broken = assert(client:stream("broken"))
      assert.equal("aborted", select(2, broken:result(2)).code)
      assert.same({ rows = "0" }, broken:trailers())
      local bytes = assert(client:create_stream("bytes"))
      assert.equal("x", bytes:recv(2).data)
      assert.is_nil((bytes:recv(2)))
      assert.same({ sum = "42" }, bytes:trailers())
      bytes:close()
      assert.equal("connection_closed", select(2, bytes:trailers()).code)
    end)

    env.it("is checked where it is set, and when it is sent", function()
      local problem
      local _, client, came = pair(function(server)
        server:add_rpc("wrong", function(_, given)
          local ok, err = pcall(echo.call().set_trailers, echo.call(), given)
          return ok, not ok and tostring(err) or nil
        end)
        server:add_rpc("late", function(_, key, size)
          echo.call():set_trailers { [key] = ("x"):rep(size) }
          return "sent"
        end)
        server:add_event("event", function() problem = select(2, pcall(function() echo.call():set_trailers {} end)) end)
      end)
      local ok, message = client:request("wrong", { n = 5 })
      assert.is_false(ok)
      assert.matches("keys and values are strings", message)
      assert.is_false((client:request("wrong", 7)))
      assert.equal("sent", client:request("late", "k", 16000))
      assert.equal(16000, #came[#came].k)
      for _, wrong in ipairs { { "UPPER", 1 }, { "k", 17000 } } do
        local value, err = client:request("late", table.unpack(wrong))
        assert.is_nil(value)
        assert.equal("internal", err.code)
      end
      assert.truthy(env.logged "trailers: keys are lower case")
      client:emit("event")
      env.eventually(function() return problem end)
      assert.matches("an event has no answer", problem)
      assert.has_error(function() core.set_call_trailers(5) end)
      assert.is_false(core.set_call_trailers {})
    end)
  end)
end, "tcp")
