-- A handler's stream that was collected before its handler's results were sent was given up, and its answer lost.

local echo = require "echostream"
local net = require "spec.support.net"

local function collect(...)
  collectgarbage()
  collectgarbage()
  return ...
end

net.each(function(env)
  describe("a stream that its handler dropped", function()
    env.it("still gets its answer", function()
      local _, client = env.pair(function(server)
        server:add_rpc("drop", function(_, stream, n)
          stream:send("before")
          stream = nil -- luacheck: ignore
          collect()
          echo.sleep(0.01)
          collect()
          return n, setmetatable({}, { __gc = collect })
        end, { stream = "out" })
        server:add_stream("named", function(_, stream)
          stream:send("before")
          stream = nil -- luacheck: ignore
          collect()
          echo.sleep(0.01)
          collect()
        end)
      end)
      for i = 1, 20 do
        local stream = assert(client:stream("drop", i))
        assert.equal("before", stream:recv().data)
        assert.equal(i, (stream:result()))
        stream = assert(client:create_stream("named"))
        assert.equal("before", stream:recv().data)
        local frame, err = stream:recv()
        assert.is_nil(frame)
        assert.is_nil(err)
      end
    end)

    env.it("is answered while the collector works all the time", function()
      local _, client = env.pair(function(server)
        server:add_rpc("sum", function(_, stream)
          local n = 0
          for value in stream:values() do n = n + value end
          return n, ("x"):rep(100), { {}, {}, {} }
        end, { stream = "in" })
      end)
      local pause, step = collectgarbage("incremental", 10, 1000), 0
      for _ = 1, 100 do
        local stream = assert(client:stream("sum"))
        for value = 1, 20 do stream:send(value) end
        stream:finish()
        assert.equal(210, (stream:result()))
        step = step + 1
      end
      collectgarbage(pause)
      assert.equal(100, step)
    end)
  end)
end)
