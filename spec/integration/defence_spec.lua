-- RELIABILITY T4 from the outside: what a peer sends that is of no use is counted, and honest work never trips the count.

local echo = require "echostream"
local net = require "spec.support.net"

net.each(function(env)
  describe("a peer's glitch budget", function()
    env.it("closes who keeps asking for what nobody offers, and nobody else", function()
      local server = env.server({ transport = { glitch_budget = 500 } }, function(server)
        server:add_rpc("echo", function(_, x) return x end)
      end)
      local client, other = env.connect(server), env.connect(server)
      local refused, err = 0, nil
      for _ = 1, 5000 do
        local _, e = client:request("no.such.method")
        if e.code ~= "method_not_found" then
          err = e
          break
        end
        refused = refused + 1
      end
      assert.is_true(refused >= 300, refused .. " calls were refused before the end")
      assert.equal("connection_closed", err.code)
      assert.matches("too many requests that cannot be served", err.message)
      assert.equal(7, other:request("echo", 7))
    end)

    env.it("is not spent by calls, cancels, events and tiny messages", function()
      local _, client = env.pair(function(server)
        server:add_rpc("echo", function(_, x) return x end)
        server:add_rpc("wait", function() echo.sleep(60) end)
        server:add_event("note", function() end)
        server:add_stream("tiny", function(_, stream)
          for frame in stream:frames() do
            stream:send(frame.data)
          end
        end)
      end)
      for _ = 1, 20 do
        local tasks = {}
        for i = 1, 50 do
          tasks[i] = echo.spawn(function() return client:request("wait") end)
          client:emit("note", i)
        end
        assert.equal(1, client:request("echo", 1))
        for i = 1, 50 do
          tasks[i]:cancel()
        end
        assert.equal(2, client:request("echo", 2))
      end
      local stream = assert(client:create_stream("tiny"))
      for i = 1, 500 do
        assert(stream:send("x"))
        if i % 10 == 0 then
          for _ = 1, 10 do
            assert.equal("x", stream:recv().data)
          end
        end
      end
      stream:close()
      assert.equal(3, client:request("echo", 3))
    end)

    env.it("of 0 lets everything pass", function()
      local _, client = env.pair(nil, { transport = { glitch_budget = 0 } })
      for _ = 1, 5000 do
        local _, err = client:request("no.such.method")
        assert.equal("method_not_found", err.code)
      end
    end)
  end)
end)

describe("transport options that defend", function()
  it("are checked", function()
    assert.has_error(function() echo.server { transport = { glitch_budget = -1 } } end)
    assert.has_error(function() echo.server { transport = { memory_cap = 0 } } end)
    assert.is_truthy(echo.server { transport = { glitch_budget = 0, memory_cap = 1 << 20 } })
  end)
end)
