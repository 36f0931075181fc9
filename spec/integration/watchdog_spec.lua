-- The watchdog: a handler that holds the loop is named in the log.

local echo = require "echostream"
local net = require "spec.support.net"

local function spin(seconds)
  local ends = os.clock() + seconds
  repeat until os.clock() > ends
end

local function complaints(env)
  local found = {}
  for _, record in ipairs(env.logs) do
    if record.message:find("held the loop", 1, true) then found[#found + 1] = record end
  end
  return found
end

net.only("quic", function(env)
  describe("a handler that holds the loop for more than 100 ms", function()
    env.it("is named in one record, however often it does so", function()
      local _, client = env.pair(function(server)
        server:add_rpc("math.slow", function() spin(0.15) end)
        server:add_rpc("quick", function() end)
      end)
      client:request("math.slow")
      client:request("math.slow")
      client:request("quick")
      local found = complaints(env)
      assert.equal(1, #found)
      assert.equal("warn", found[1].level)
      assert.equal("math.slow", found[1].method)
      local ms = found[1].message:match "^the method math%.slow held the loop for (%d+) ms"
      assert.is_true(tonumber(ms) >= 140, -- the clock is a coarse one
        found[1].message)
    end)

    env.it("is named whatever it serves, also when it waits afterwards", function()
      local _, client = env.pair(function(server)
        server:add_event("log", function()
          spin(0.12)
          echo.sleep(0)
        end)
        server:add_stream("audio", function() spin(0.12) end)
      end)
      client:emit("log")
      assert(client:create_stream("audio")):recv()
      env.eventually(function() return #complaints(env) == 2 end)
      assert.truthy(env.logged("the event handler log held the loop"))
      assert.truthy(env.logged("the stream handler audio held the loop"))
    end)

    env.it("may be a task of one's own: the record says where its function stands", function()
      local task = echo.spawn(function()
        spin(0.12)
        echo.sleep(0.01)
      end)
      task:wait()
      assert.truthy(env.logged("task at"))
      assert.matches("watchdog_spec.lua:%d+ held the loop", complaints(env)[1].message)
    end)

    env.it("may be a task with a stack of any depth that fails", function()
      local function over(n)
        if n == 0 then spin(0.12) end
        return 1 + over(n - 1)
      end
      local began = os.clock()
      assert.is_nil((echo.spawn(over, 150000):wait()))
      assert.is_true(os.clock() - began < 5, "naming it took " .. os.clock() - began)
    end)

    env.it("is nobody's business with watchdog = false, and later or earlier with a time", function()
      local _, client = env.pair(function(server)
        server:add_rpc("slow", function() spin(0.15) end)
      end, { watchdog = false })
      client:request("slow")
      assert.equal(0, #complaints(env))
      local _, strict = env.pair(function(server)
        server:add_rpc("slow", function() spin(0.05) end)
      end, { watchdog = 0.02 })
      strict:request("slow")
      assert.equal(1, #complaints(env))
      assert.has_error(function() echo.server { watchdog = "1" } end)
    end)
  end)
end)

net.only("sim", function(env)
  describe("a simulation", function()
    env.it("is not watched, because its log must not depend on the machine", function()
      local _, client = env.pair(function(server)
        server:add_rpc("slow", function() spin(0.15) end)
      end)
      client:request("slow")
      assert.equal(0, #complaints(env))
    end)

    env.it("is when asked for", function()
      local _, client = env.pair(function(server)
        server:add_rpc("slow", function() spin(0.15) end)
      end, { watchdog = 0.1 })
      client:request("slow")
      assert.equal(1, #complaints(env))
    end)
  end)
end)
