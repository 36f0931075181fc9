-- What a middleware refused before the handler began was certainly not processed, and everybody hears so.

local echo = require "echostream"
local net = require "spec.support.net"

net.each_door(function(env)
  local runs

  local function up(prepare, options)
    runs = 0
    return env.pair(function(server)
      server:add_rpc("work", function(_, x)
        runs = runs + 1
        if x == "fail" then
          return nil, echo.error("unavailable", "not today")
        end
        return x
      end)
      server:add_rpc("sum", function(_, stream)
        runs = runs + 1
        local sum = 0
        for frame in stream:frames() do sum = sum + frame.data end
        return sum
      end, { stream = "in" })
      server:add_stream("lines", function(_, stream)
        runs = runs + 1
        stream:send "x"
      end)
      prepare(server)
    end, options)
  end

  local function outcome(client, ...)
    local ok, err = client:request("work", ...)
    assert.is_nil(ok)
    return ("%s %s %d"):format(err.code, err.processed, runs)
  end

  describe("a call that a middleware ends before the handler", function()
    local ways = {
      ["call:reject"] = function(call) return call:reject("unavailable", "full") end,
      ["call:reject without a return"] = function(call) call:reject("unavailable", "full") end,
      ["nil and an error"] = function() return nil, echo.error("unavailable", "full") end,
      ["an error that is raised"] = function() error(echo.error("unavailable", "full")) end,
      ["nil of process_request"] = { process_request = function() return nil, echo.error("unavailable", "full") end },
      ["reject of process_request"] = { process_request = function(_, call) return call:reject("unavailable", "full") end },
      ["a refusal after a look at everything"] = function(call)
        assert(call.args.n == 1 and call.metadata and call.id > 0)
        return call:reject("unavailable", "full")
      end,
    }
    for name, way in pairs(ways) do
      env.it("was not processed: " .. name, function()
        local _, outermost = up(function(server) server:middleware(way) end)
        assert.equal("unavailable no 0", outcome(outermost, 1))
        local _, inner = up(function(server)
          server:middleware(function(call, next) return next(call) end)
          server:middleware(way)
        end)
        assert.equal("unavailable no 0", outcome(inner, 1))
      end)
    end

    env.it("was not processed when the middleware fails or says nothing", function()
      local _, client = up(function(server) server:middleware(function() end) end)
      assert.equal("permission_denied no 0", outcome(client, 1))
      _, client = up(function(server) server:middleware(function() error "oh 31" end) end)
      assert.equal("unknown no 0", outcome(client, 1))
      assert.is_truthy(env.logged("oh 31").traceback:find("refusals_spec", 1, true))
      env.logs = {}
    end)

    env.it("was not processed if it is a stream or a streaming call", function()
      local _, client = up(function(server)
        server:middleware(function(call) return call:reject("resource_exhausted", "enough") end)
      end)
      local _, err = client:create_stream("lines"):recv()
      assert.same({ "resource_exhausted", "no" }, { err.code, err.processed })
      local stream = client:stream("sum")
      _, err = stream:result()
      assert.same({ "resource_exhausted", "no" }, { err.code, err.processed })
      assert.equal(0, runs)
    end)

    env.it("tells the middleware around it", function()
      local seen
      local _, client = up(function(server)
        server:middleware(function(call, next)
          local response = next(call)
          seen = response.err.processed
          return response
        end)
        server:middleware(function(call) return call:reject("unavailable") end)
      end)
      assert.equal("unavailable no 0", outcome(client, 1))
      assert.equal("no", seen)
    end)
  end)

  describe("a call whose handler has begun", function()
    env.it("was processed, whatever a middleware makes of it", function()
      for _, way in ipairs {
        function(call, next) next(call); return call:reject("unavailable") end,
        function(call, next) next(call); return nil, echo.error("unavailable") end,
        function(call, next) next(call); error(echo.error("unavailable")) end,
        function(call, next) call.metadata.a = "b"; next(call); return call:reject("unavailable") end,
        function(call, next) call:reply(1); next(call); return call:reject("unavailable") end,
        function(call, next) local first = call:reject("unavailable"); next(call); return first end,
      } do
        local _, client = up(function(server) server:middleware(way) end)
        assert.equal("unavailable yes 1", outcome(client, 1))
        _, client = up(function(server)
          server:middleware(function(call, next) return next(call) end)
          server:middleware(way)
        end)
        assert.equal("unavailable yes 1", outcome(client, 1))
      end
    end)

    env.it("was processed when the handler itself says that it is unavailable, by an error of somebody else's too", function()
      local _, client = up(function(server)
        server:middleware(function(call, next) return next(call) end)
        server:add_rpc("pass", function()
          runs = runs + 1
          local err = echo.error("unavailable", "the database refused")
          err.processed = "no"
          return nil, err
        end)
      end)
      assert.equal("unavailable yes 1", outcome(client, "fail"))
      local _, err = client:request("pass")
      assert.equal("yes", err.processed)
    end)

    env.it("was processed while it runs in a task of the middleware's", function()
      local go = false
      local _, client = up(function(server)
        server:add_rpc("slow", function()
          runs = runs + 1
          while not go do echo.sleep(0.01) end
        end)
        server:middleware(function(call, next)
          echo.spawn(next, call)
          while runs == 0 do echo.sleep(0.005) end
          return call:reject("unavailable", "took too long")
        end)
      end)
      local _, err = client:request("slow")
      go = true
      assert.same({ "unavailable", "yes", 1 }, { err.code, err.processed, runs })
    end)

    env.it("was processed when its remembered failure is given again", function()
      local server, client = up(function(server)
        server:add_rpc("once", function()
          runs = runs + 1
          return nil, echo.error("not_found", "never heard of it")
        end, { idempotent = true })
      end, { dedupe = true })
      local id = client._host:request_id()
      for attempt = 1, 3 do
        local _, err = client._ud:request("once", { idempotent = true, id, attempt, attempt > 1 })
        assert.same({ "not_found", "yes", 1 }, { err.code, err.processed, runs })
      end
      assert.equal(2, server:stats().dedupe.replayed)
    end)
  end)

  env.it("arguments that cannot be read were not processed", function()
    echo.codec.register("refusing-" .. env.kind .. "-" .. env.door, {
      encode = function(value) return value end,
      decode = function() error("no", 0) end,
    })
    local _, client = up(function() end)
    local _, err = client:with { codec = "refusing-" .. env.kind .. "-" .. env.door }:request("work", "x")
    assert.same({ "serialization", "no", 0 }, { err.code, err.processed, runs })
  end)

  describe("the retry engine", function()
    local retry = { attempts = 5, backoff = 0.001, factor = 1, budget = false }

    env.it("repeats what a rate limit refused, after as long as that said, though it is not idempotent", function()
      local server = env.server({}, function(server)
        server:plugin(echo.plugins.rate_limit { rate = 5, burst = 1 })
        server:add_rpc("work", function(_, x)
          runs = runs + 1
          return x
        end)
      end)
      local client = env.connect(server, { retry = retry })
      runs = 0
      local waited, since = {}, echo.now()
      client:on("retry", function(what) waited[#waited + 1] = what.delay end)
      for i = 1, 3 do
        assert.equal(i, (client:request("work", i)))
      end
      assert.equal(3, runs)
      if env.kind == "sim" then -- 0.2 s each, after the first
        assert.is_true(echo.now() - since > 0.39, echo.now() - since)
        assert.equal(2, #waited)
      end
    end)

    env.it("leaves what a middleware refused after the handler ran", function()
      local server = env.server({}, function(server)
        server:middleware(function(call, next)
          next(call)
          return call:reject("unavailable", "the answer is lost")
        end)
        server:add_rpc("work", function() runs = runs + 1 end)
      end)
      runs = 0
      local client = env.connect(server, { retry = retry })
      assert.equal("unavailable yes 1", outcome(client))
    end)

    env.it("repeats what a middleware of ours refused before it was sent", function()
      local server = env.server({}, function(server)
        server:add_rpc("work", function(_, x)
          runs = runs + 1
          return x
        end)
      end)
      runs = 0
      local client = env.client(server, { retry = retry })
      local constant, tries = echo.error("unavailable", "not yet"), 0
      client:middleware(function(call, next)
        tries = tries + 1
        if tries == 1 then
          return call:reject("unavailable", "not yet")
        elseif tries == 2 then
          return nil, constant
        end
        return next(call)
      end)
      assert(client:connect(server.address))
      assert.equal(7, (client:request("work", 7)))
      assert.same({ 3, 1 }, { tries, runs })
      assert.is_nil(constant.processed) -- it is the middleware's
    end)
  end)
end, "tcp")
