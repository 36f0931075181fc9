-- RELIABILITY L5, R3, R4 in small: many calls that end in every way; each ends once, and nothing stays behind.

local core = require "echostream.core"
local echo = require "echostream"
local net = require "spec.support.net"

net.each(function(env)
  describe("of many calls that answer, time out, are cancelled or lose their connection", function()
    env.it("each ends exactly once, its <close> variables are closed, and memory comes back", function()
      local closed_here, closed_there, begun_there = 0, 0, 0
      local function counter(which)
        return setmetatable({}, { __close = function()
          if which == "here" then closed_here = closed_here + 1 else closed_there = closed_there + 1 end
        end })
      end
      local server = env.server({ max_calls = 10000 }, function(server)
        server:add_rpc("work", function(_, how)
          begun_there = begun_there + 1
          local _ <close> = counter("there")
          if how == "slow" then
            local ok, err = echo.sleep(3600)
            assert(ok, err)
          else
            echo.sleep(0.001)
          end
          return how
        end)
      end)

      local function round(n)
        local client = env.connect(server)
        local ended, outcomes, tasks = 0, {}, {}
        for i = 1, n do
          local kind = i % 10
          tasks[i] = echo.spawn(function()
            local _ <close> = counter("here")
            local value, err
            if kind == 0 then
              value, err = client:with { timeout = 0.05 }:request("work", "slow")
            elseif kind <= 2 then
              value, err = client:request("work", "slow") -- cancelled, or the connection is closed
            else
              value, err = client:request("work", "fast")
            end
            ended = ended + 1
            local outcome = value or err.code
            outcomes[outcome] = (outcomes[outcome] or 0) + 1
          end)
        end
        echo.sleep(0.2)
        for i = 1, n do
          if i % 10 == 1 then
            tasks[i]:cancel()
          end
        end
        echo.sleep(0.1)
        client:close() -- those with i % 10 == 2 are still waiting
        for i = 1, n do
          tasks[i]:wait(10)
        end
        assert.equal(n, ended)
        assert.equal(n // 10 * 7, outcomes.fast)
        assert.equal(n // 10, outcomes.timeout)
        assert.equal(n // 10, outcomes.cancelled)
        assert.equal(n // 10, (outcomes.connection_closed or 0) + (outcomes.unavailable or 0))
        for i = #env.opened, 1, -1 do
          if env.opened[i] == client then
            table.remove(env.opened, i)
          end
        end
      end

      local function settled()
        env.logs = {} -- busted's assert makes strings of error objects, so that every cancelled handler is logged
        -- In the simulator the closing packet may be lost: then the server ends the session when it was idle for too long.
        for _ = 1, env.kind == "sim" and 30 or 1 do
          if begun_there ~= closed_there then
            pcall(env.eventually, function() return begun_there == closed_there end)
          end
        end
        assert.equal(begun_there, closed_there)
        echo.sleep(0.05)
        for _ = 1, 3 do
          collectgarbage()
        end
        return collectgarbage("count") * 1024, core.memory().in_use
      end

      -- Coroutines are pooled, and how many a round needs at once depends on the moment, over sockets: memory grows now and
      -- then, to what the busiest round has needed. What is lost with every call grows with every round: it must be seen to
      -- stand still.
      local n, rounds, grown = 300, 0, {}
      local lua_before, c_before
      for _ = 1, 12 do
        for _ = 1, 4 do
          round(n)
          rounds = rounds + 1
        end
        local lua_now, c_now = settled()
        if lua_before then
          grown[#grown + 1] = ("Lua %+d, core %+d bytes"):format(lua_now - lua_before, c_now - c_before)
          if lua_now < lua_before * 1.01 and c_now < c_before * 1.01 + 20000 then
            grown = nil
            break
          end
        end
        lua_before, c_before = lua_now, c_now
      end
      assert.equal(rounds * n, closed_here)
      assert.is_true(begun_there <= rounds * n)
      assert.is_nil(grown, grown and "every four rounds: " .. table.concat(grown, "; "))
    end, { seed = 5, loss = 0.02 })
  end)

  describe("a deadline", function()
    for _, seconds in ipairs { 0.001, 0.01, 0.1, 1 } do
      env.it(("of %g s ends the call at most 20 ms late, with the network gone"):format(seconds), function(sim)
        local server, client = env.pair(function(server)
          server:add_rpc("x", function() echo.sleep(3600) end)
        end)
        if sim then
          sim:blackout(0, 1000)
        end
        local began = echo.now()
        local value, err = client:with { timeout = seconds }:request("x")
        local late = echo.now() - began - seconds
        assert.is_nil(value)
        assert.equal("timeout", err.code)
        assert.is_true(late >= -0.001 and late <= (env.kind == "sim" and 0.02 or 0.1), tostring(late))
        assert.is_truthy(server)
      end, { seed = 2 })
    end

    env.it("is handed on to nested calls, what is left of it", function()
      local left
      local _, client = env.pair(function(server)
        server:add_rpc("outer", function(session)
          echo.sleep(0.2)
          return session:request("inner")
        end)
      end)
      client:add_rpc("inner", function()
        left = echo.call().deadline
        return "x"
      end)
      assert.equal("x", client:with { timeout = 2 }:request("outer"))
      assert.is_true(left <= 1.81, tostring(left))
    end)
  end)
end)
