-- RELIABILITY R4: calls cancelled at every stage of their life. CANCELS=100000 makes it a campaign.

local core = require "echostream.core"
local echo = require "echostream"
local net = require "spec.support.net"

local N = tonumber(os.getenv "CANCELS") or 4000

net.only("sim", function(env)
  for _, with_middleware in ipairs { false, true } do
    describe(("of %d calls cancelled at every stage%s,"):format(N, with_middleware and ", inside middleware" or ""), function()
      env.it("each has one outcome, no callback comes late, nothing is left", function()
        local begun, closed, told = 0, 0, 0
        local function pass(call, next) return next(call) end
        local server, client = env.pair(function(server)
          if with_middleware then
            server:middleware(pass)
          end
          server:add_rpc("work", function()
            begun = begun + 1
            local _ <close> = setmetatable({}, { __close = function() closed = closed + 1 end })
            echo.call():on_cancel(function() told = told + 1 end)
            echo.sleep(0.01)
            return "done"
          end)
        end, { max_calls = 10000 })
        if with_middleware then
          client:middleware(pass)
        end
        client:request "work"

        local function round(n)
          local outcomes, late, tasks, over = {}, 0, {}, {}
          for i = 1, n do
            -- Plain waiting, and the callback form, whose callback must run once and not after it was told.
            if i % 2 == 0 then
              tasks[i] = echo.spawn(function()
                local value, err = client:request "work"
                over[i] = (over[i] or 0) + 1
                outcomes[value or err.code] = (outcomes[value or err.code] or 0) + 1
              end)
            else
              tasks[i] = client:request("work", function(value, err)
                over[i] = (over[i] or 0) + 1
                outcomes[value or err.code] = (outcomes[value or err.code] or 0) + 1
              end)
            end
          end
          -- One way takes 5 ms and the handler 10: cancelled from before anything was sent until after the answer came.
          for step = 0, 49 do
            for i = 1 + step, n, 50 do
              tasks[i]:cancel()
            end
            echo.sleep(0.0005)
          end
          echo.sleep(0.1)
          for i = 1, n do
            late = late + math.max((over[i] or 0) - 1, 0)
            assert.is_not.equal("suspended", tasks[i]:status())
          end
          return outcomes, late
        end

        local total, lua_before, core_before = { done = 0, cancelled = 0 }, nil, nil
        for k = 1, N // 500 do
          local outcomes, late = round(500)
          assert.equal(0, late)
          for outcome, n in pairs(outcomes) do
            assert(total[outcome], outcome)
            total[outcome] = total[outcome] + n
          end
          env.eventually(function() return begun == closed end)
          if k == 3 or k == N // 500 then
            collectgarbage()
            collectgarbage()
            local lua_now, core_now = collectgarbage "count", core.memory().in_use
            if lua_before then
              assert.is_true(lua_now < lua_before * 1.02 + 16, ("Lua: %.0f -> %.0f KiB"):format(lua_before, lua_now))
              assert.is_true(core_now < core_before * 1.02 + 50000, ("core: %d -> %d"):format(core_before, core_now))
            end
            lua_before, core_before = lua_now, core_now
          end
        end
        assert.is_true(total.done > 0 and total.cancelled > total.done and told > 0)
        assert.equal(0, server:stats().calls_in_running)
        assert.equal("done", client:request "work")
      end, { seed = 4, loss = 0.01 })
    end)
  end
end)
