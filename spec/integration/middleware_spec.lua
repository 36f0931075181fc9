local echo = require "echostream"
local net = require "spec.support.net"

net.each_door(function(env)
  -- A server with one of everything, `prepare(server)` before it starts.
  local function pair(prepare, options)
    local heard = {}
    local server, client = env.pair(function(server)
      server:add_rpc("add", function(_, a, b) return a + b end)
      server:add_rpc("args", function(_, ...) return ... end)
      server:add_rpc("token", function() return echo.call().metadata.token end)
      server:add_rpc("nothing", function() end)
      server:add_rpc("fail", function() return nil, echo.error("not_found", "no such thing", { id = 7 }) end)
      server:add_rpc("boom", function() error("boom 31") end)
      server:add_event("log", function(_, ...) heard[#heard + 1] = table.pack(...) end)
      server:add_stream("echo", function(_, stream)
        for frame in stream:frames() do stream:send(frame.data) end
      end)
      if prepare then prepare(server) end
    end, options)
    return server, client, heard
  end

  local function pass(call, next) return next(call) end

  describe("a middleware", function()
    env.it("sees every kind of call that comes in", function()
      local seen = {}
      local _, client, heard = pair(function(server)
        server:middleware(function(call, next)
          assert(getmetatable(call.session).__name == "echostream.session")
          seen[#seen + 1] = ("%s %s %s %d"):format(call.direction, call.kind, call.name, call.args.n)
          return next(call)
        end)
      end)
      assert.equal(3, client:request("add", 1, 2))
      assert.is_true(client:emit("log", "hello"))
      local stream = client:create_stream "echo"
      stream:send "x"
      assert.equal("x", stream:recv().data)
      stream:close()
      env.eventually(function() return #heard == 1 end)
      assert.equal("hello", heard[1][1])
      table.sort(seen)
      assert.same({ "in event log 1", "in rpc add 2", "in stream echo 0" }, seen)
    end)

    env.it("sees every kind of call that goes out", function()
      local seen = {}
      local _, client, heard = pair()
      client:middleware(function(call, next)
        assert(call.session == client.session)
        local response = next(call)
        seen[#seen + 1] = ("%s %s %s %s"):format(call.direction, call.kind, call.name, response.ok)
        return response
      end)
      assert.equal(3, client:request("add", 1, 2))
      assert.equal(5, client:with { timeout = 5 }:request("add", 2, 3))
      assert.equal(7, client:service("nope") and client.session:request("add", 3, 4))
      assert.is_true(client:emit("log", 1))
      assert.is_true(client:try_emit("log", 2))
      assert.is_true(client:with { lane = 1 }:emit("log", 3))
      local stream = client:create_stream "echo"
      stream:send "x"
      assert.equal("x", stream:recv().data)
      stream:close()
      assert.is_nil((client:request("fail")))
      env.eventually(function() return #heard == 3 end)
      assert.same({ "out rpc add true", "out rpc add true", "out rpc add true", "out event log true", "out event log true",
        "out event log true", "out stream echo true", "out rpc fail false" }, seen)
    end)

    env.it("sees what the server sends, too", function()
      local seen = {}
      local server, client = pair()
      client:add_rpc("hello", function() return "hi" end)
      client:add_event("news", function() end)
      server:middleware(function(call, next)
        seen[#seen + 1] = call.direction .. " " .. call.name
        return next(call)
      end, { direction = "out" })
      env.eventually(function() return server:sessions()[1] end)
      assert.equal("hi", server:sessions()[1]:request("hello"))
      assert.equal(1, (server:broadcast("news")))
      assert.equal(3, client:request("add", 1, 2))
      assert.same({ "out hello", "out news" }, seen)
    end)

    env.it("leaves results as they are: none, nils, errors", function()
      local _, client = pair(function(server) server:middleware(pass) end)
      client:middleware(pass)
      assert.same({ n = 4, 1, nil, "x", nil }, table.pack(client:request("args", 1, nil, "x", nil)))
      assert.is_true(client:request("nothing"))
      local value, err = client:request("fail")
      assert.is_nil(value)
      assert.equal("not_found", err.code)
      assert.equal(7, err.details.id)
      value, err = client:request("boom")
      assert.is_nil(value)
      assert.equal("unknown", err.code)
      assert.equal("boom 31", err.message)
      local record = env.logged "boom 31"
      assert.equal("boom", record.method)
      assert.matches("middleware_spec", record.traceback)
      assert.equal("method_not_found", select(2, client:request("nobody")).code)
    end)

    env.it("passes any number of arguments and results on, looked at or not", function()
      local look = false
      local function watch(call, next)
        if look then assert.equal(call.args.n, #call.args) end
        local response = next(call)
        if look then assert.equal(response.n, #response) end
        return response
      end
      local _, client = pair(function(server) server:middleware(watch) end)
      client:middleware(watch)
      for _, looked in ipairs { false, true } do
        look = looked
        for _, n in ipairs { 0, 1, 2, 7, 11, 193, 194, 195, 196, 200, 250 } do
          local sent = {}
          for i = 1, n do sent[i] = i end
          local got = table.pack(client:request("args", table.unpack(sent)))
          assert.same(n == 0 and { true, n = 1 } or table.pack(table.unpack(sent)), got)
        end
      end
    end)

    env.it("sees the options an outgoing call was made with, and leaves them alone", function()
      local seen = {}
      local _, client = pair()
      client:middleware(function(call, next)
        if call.name ~= "args" then seen = { call.deadline, call.metadata.token, call.args.n } end
        return next(call)
      end)
      assert.equal("mine", client:with { timeout = 3, metadata = { token = "mine" } }:request("token"))
      assert.same({ 3, "mine", 0 }, seen)
      assert.equal(3, client:with { timeout = 4 }:request("add", 1, 2))
      assert.same({ 4, nil, 2 }, seen)
      assert.equal(7, client:request("add", 3, 4))
      assert.same({ 30, nil, 2 }, seen)
      assert.same({ 1, 2 }, { client:with { timeout = 4 }:request("args", 1, 2) })
    end)

    env.it("keeps what it was given: a call and a response outlive it", function()
      local calls, responses = {}, {}
      local _, client = pair(function(server)
        server:middleware(function(call, next)
          local response = next(call)
          calls[#calls + 1], responses[#responses + 1] = call, response
          return response
        end)
      end)
      for i = 1, 50 do assert.equal(i + 1, client:request("add", i, 1)) end
      collectgarbage()
      for i = 1, 50 do
        assert.equal("add", calls[i].name)
        assert.equal(i, calls[i].args[1])
        assert.equal(i + 1, responses[i][1])
        assert.is_true(responses[i].ok)
        calls[i].note = i
        assert.equal(i, calls[i].note)
      end
    end)

    env.it("may look at a call while its handler runs", function()
      local _, client = pair(function(server)
        server:add_rpc("slow", function(_, x) echo.sleep(0.02) return x end)
        server:middleware(function(call, next)
          local looking = echo.spawn(function()
            echo.sleep(0.005)
            call.seen = call.args[1]
          end)
          local response = next(call)
          looking:wait()
          assert.equal(7, call.seen)
          local again = next(call)
          assert.are_not.equal(response, again)
          return again
        end)
      end)
      assert.equal(7, client:request("slow", 7))
    end)

    env.it("runs in the order of registration, the first outermost", function()
      local order = {}
      local function named(name)
        return function(call, next)
          order[#order + 1] = name .. ">"
          local response = next(call)
          order[#order + 1] = "<" .. name
          return response
        end
      end
      local _, client = pair(function(server)
        assert.equal(server, server:middleware(named "a"):middleware(named "b"))
      end)
      client:request("add", 1, 2)
      assert.same({ "a>", "b>", "<b", "<a" }, order)
    end)

    env.it("may refuse, answer, and change arguments, metadata and results", function()
      local _, client = pair(function(server)
        server:middleware(function(call, next)
          if call.name == "secret" or call.metadata.user == "eve" then
            return call:reject("permission_denied", "not for you", { why = 1 })
          elseif call.name == "token" then
            call.metadata.token = call.metadata.token .. "!"
          elseif call.args[1] == "cached" then
            return call:reply("answer", nil, 3)
          elseif call.args[1] == "more" then
            call.args[1], call.args[3] = "fewer", "third"
          end
          local response = next(call)
          if response[1] == 42 then response[1] = 43 end
          return response
        end)
      end)
      local _, err = client:request("secret")
      assert.equal("method_not_found", err.code) -- nothing is asked about what nobody offers
      _, err = client:with { metadata = { user = "eve" } }:request("add", 1, 2)
      assert.equal("permission_denied", err.code)
      assert.equal("not for you", err.message)
      assert.equal(1, err.details.why)
      assert.equal("t!", client:with { metadata = { token = "t" } }:request("token"))
      assert.same({ n = 3, "answer", nil, 3 }, table.pack(client:request("args", "cached")))
      assert.same({ "fewer", 2, "third" }, { client:request("args", "more", 2) })
      assert.equal(43, client:request("add", 40, 2))
    end)

    env.it("may change what goes out", function()
      local _, client = pair()
      client:middleware(function(call, next)
        call.metadata.token = "from middleware"
        if call.name == "plus" then call.name = "add" end
        if call.name == "slow" then call.deadline = 0.05 end
        if call.args[1] == "never" then return call:reject("unavailable", "stays here") end
        if call.args[1] == "local" then return call:reply("here", 1) end
        return next(call)
      end)
      assert.equal("from middleware", client:request "token")
      assert.equal("from middleware", client:with { metadata = { token = "x" } }:request "token")
      assert.equal(5, client:request("plus", 2, 3))
      assert.equal("unavailable", select(2, client:request("args", "never")).code)
      assert.equal("unavailable", select(2, client:emit("log", "never")).code)
      assert.same({ "here", 1 }, { client:request("args", "local") })
    end)

    env.it("may try again", function()
      local tries = 0
      local _, client = pair(function(server)
        server:add_rpc("flaky", function()
          tries = tries + 1
          if tries < 3 then return nil, echo.error("unavailable", "try " .. tries) end
          return tries
        end)
      end)
      client:middleware(function(call, next)
        for _ = 1, 5 do
          local response = next(call)
          if response.ok then return response end
        end
      end)
      assert.equal(3, client:request "flaky")
    end)

    env.it("may wait, before and after", function()
      local _, client = pair(function(server)
        server:middleware(function(call, next)
          echo.sleep(0.01)
          local response = next(call)
          echo.sleep(0.01)
          return response
        end)
      end)
      local tasks = {}
      for i = 1, 20 do
        tasks[i] = echo.spawn(function() return client:request("add", i, i) end)
      end
      for i, value in ipairs(echo.all(tasks)) do assert.equal(2 * i, value) end
    end)

    env.it("of the table form has a part for the request and one for the response", function()
      local _, client = pair(function(server)
        server:middleware {
          count = 0,
          process_request = function(self, call)
            self.count = self.count + 1
            if call.args[1] == "stop" then return nil end
            if call.args[1] == "why" then return nil, echo.error("failed_precondition", "because") end
            if call.args[1] == "at once" then return call:reply("at once!") end
            return call
          end,
          process_response = function(self, _, response)
            if response.ok then response[1] = tostring(response[1]) .. " " .. self.count end
            return response
          end,
        }
      end)
      assert.equal("3 1", client:request("add", 1, 2))
      assert.equal("permission_denied", select(2, client:request("args", "stop")).code)
      assert.equal("because", select(2, client:request("args", "why")).message)
      assert.equal("at once!", client:request("args", "at once"))
      assert.equal("fewer 5", client:request("args", "fewer"))
    end)

    env.it("that only looks may return nothing", function()
      local _, client = pair(function(server)
        server:middleware(function(call, next) next(call) end)
        server:middleware { process_response = function() end }
      end)
      assert.equal(3, client:request("add", 1, 2))
    end)

    env.it("that forgets the call refuses it, and the log says so", function()
      local _, client = pair(function(server) server:middleware(function() end) end)
      assert.equal("permission_denied", select(2, client:request("add", 1, 2)).code)
      assert.truthy(env.logged "neither passed on")
    end)

    env.it("that fails ends its call like a handler that fails, with one log record", function()
      local how = { "raise", "wrong", "table" }
      local _, client = pair(function(server)
        server:middleware(function(call, next)
          local args = call.args
          if args[1] == "raise" then error("middleware 77") end
          if args[1] == "wrong" then return "something" end
          if args[1] == "table" then error({}) end
          if args[1] == "next" then return next() end
          if args[1] == "error" then error(echo.error("aborted", "on purpose")) end
          return next(call)
        end)
      end)
      for _, word in ipairs(how) do
        env.logs = env.logs or {}
        local before = #env.logs
        local value, err = client:request("args", word)
        assert.is_nil(value)
        assert.equal(word == "wrong" and "internal" or "unknown", err.code)
        assert.not_matches("middleware_spec", err.message)
        assert.equal(before + 1, #env.logs)
      end
      assert.matches("middleware_spec", env.logged("middleware 77").traceback)
      assert.equal("unknown", select(2, client:request("args", "next")).code)
      assert.equal("aborted", select(2, client:request("args", "error")).code)
      assert.equal(1, client:request("args", 1))
    end)

    env.it("further out sees how those further in failed", function()
      local seen
      local _, client = pair(function(server)
        server:middleware(function(call, next)
          local response = next(call)
          seen = response.err
          return response
        end)
        server:middleware(function() error("inner 78") end)
      end)
      assert.equal("unknown", select(2, client:request("add", 1, 2)).code)
      assert.equal("inner 78", seen.message)
    end)

    env.it("can be taken away while calls are inside it", function()
      local inside, go = 0, false
      local function hold(call, next)
        inside = inside + 1
        while not go do echo.sleep(0.005) end
        return next(call)
      end
      local server, client = pair(function(server) server:middleware(hold) end)
      local waiting = echo.spawn(function() return client:request("add", 1, 2) end)
      env.eventually(function() return inside == 1 end)
      assert.is_true(server:remove_middleware(hold))
      assert.is_false(server:remove_middleware(hold))
      assert.equal(5, client:request("add", 2, 3))
      go = true
      assert.equal(3, waiting:wait(2))
      assert.equal(1, inside)
    end)

    env.it("knows the deadline, the id and the cancellation of an incoming call", function()
      local left, id, attempt, cancelled, told
      local _, client = pair(function(server)
        server:middleware(function(call, next)
          left, id, attempt = call.deadline, call.id, call.attempt
          if call.args[1] == "hang" then
            call:on_cancel(function() told = true end)
            echo.sleep(10)
            cancelled = call:cancelled()
          end
          return next(call)
        end)
      end)
      client:with { timeout = 5 }:request("add", 1, 2)
      assert.is_true(left > 4 and left <= 5)
      assert.is_true(id > 0)
      assert.equal(1, attempt)
      local task = echo.spawn(function() return client:request("args", "hang") end)
      env.eventually(function() return id > 1 end)
      echo.sleep(0.05)
      task:cancel()
      env.eventually(function() return cancelled and told end)
    end)

    env.it("keeps misuse an error of the caller", function()
      local _, client = pair()
      client:middleware(pass)
      assert.has_error(function() client:request("add", print, 1) end)
      assert.has_error(function() client:emit("bad name") end)
      assert.equal(3, client:request("add", 1, 2))
      local got
      client:request("add", 4, 5, function(value) got = value end)
      env.eventually(function() return got == 9 end)
      assert.equal("unavailable", select(2, echo.client { skip_verification = true }:middleware(pass):request("x")).code)
    end)

    env.it("reads as what it is, and is checked when it is registered", function()
      local text
      local server, client = pair(function(server)
        server:middleware(function(call, next) text = tostring(call) return next(call) end)
      end)
      client:request("add", 1, 2)
      assert.matches("in rpc add", text)
      assert.has_error(function() server:middleware() end)
      assert.has_error(function() server:middleware {} end)
      assert.has_error(function() server:middleware { process_request = 1 } end)
      assert.has_error(function() server:middleware(pass, { direction = "up" }) end)
    end)
  end)
end)
