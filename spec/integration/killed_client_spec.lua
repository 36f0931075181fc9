-- RELIABILITY O2: a client that holds 1,000 streams is gone without a word. Everything is freed at the idle time-out.

local child = require "spec.support.child"
local core = require "echostream.core"
local echo = require "echostream"
local net = require "spec.support.net"

local STREAMS = 1000

-- A server that counts; its handlers hold their streams until these end.
local function serve(env, tally)
  return env.server({ max_named_streams = STREAMS, transport = { idle_timeout = 2, max_concurrent_streams = 2 * STREAMS } },
    function(server)
      server:add_stream("hold", function(_, stream)
        tally.open, tally.begun = tally.open + 1, tally.begun + 1
        local _ <close> = setmetatable({}, { __close = function() tally.open = tally.open - 1 end })
        stream:send("here")
        repeat local frame = stream:recv() until not frame
      end)
      server:on_disconnect(function(_, err) tally.gone = err.code end)
    end)
end

local function all_gone(server, tally)
  assert.equal(0, tally.open)
  assert.equal(0, #server:sessions())
  assert.equal(0, server:stats().endpoint.connections)
  collectgarbage()
  collectgarbage()
end

net.only("sim", function(env)
  describe("a client that vanishes with its streams", function()
    env.it("costs nothing any more once the idle time-out is over", function(network)
      local tally = { open = 0, begun = 0 }
      local server = serve(env, tally)
      local memory = {}
      for round = 1, 3 do
        do
          local client = env.client(server, { bind = ("10.7.0.%d:0"):format(round), transport = { max_concurrent_streams = 2 * STREAMS } })
          assert(client:connect(server.address))
          assert(client:request "rpc.list") -- the server's HELLO is there, and says how many streams there may be
          local streams = {}
          for i = 1, STREAMS do streams[i] = assert(client:create_stream "hold") end
          for i = 1, STREAMS do assert.equal("here", streams[i]:recv().data) end
          assert.equal(STREAMS, tally.open)
          network:path({ loss = 1 }, ("10.7.0.%d"):format(round)) -- from here on nobody hears of it
          local began = echo.now()
          while tally.open > 0 do echo.sleep(0.01) end
          assert.is_true(echo.now() - began < 2.2, "at the idle time-out, not later")
          assert.truthy(tally.gone)
          client:close()
          table.remove(env.opened) -- nobody knows it any more
        end
        echo.sleep(10)
        all_gone(server, tally)
        memory[round] = core.memory().in_use
      end
      assert.equal(3 * STREAMS, tally.begun)
      assert.is_true(memory[3] < memory[2] * 1.05 + 65536, ("%d -> %d"):format(memory[2], memory[3]))
    end)
  end)
end)

net.only("quic", function(env)
  describe("a client process that is killed with its streams (kill -9)", function()
    env.it("costs nothing any more once the idle time-out is over", function()
      local tally = { open = 0, begun = 0 }
      local server = serve(env, tally)
      local client = child.start("lua5.4", { "-e", ([[
        local echo = require "echostream"
        echo.spawn(function()
          local client = assert(echo.connect("%s", { pin = "%s", transport = { max_concurrent_streams = 2000 } }))
          assert(client:request "rpc.list")
          streams = {}
          for i = 1, %d do streams[i] = assert(client:create_stream "hold") end
          for i = 1, %d do assert(streams[i]:recv()) end
          print "ready"
          io.stdout:flush()
        end)
        echo.run()]]):format(server.address, server.pin, STREAMS, STREAMS) })
      client:expect "^ready"
      assert.equal(STREAMS, tally.open)
      client:kill()
      while tally.open > 0 or not tally.gone do echo.sleep(0.01) end
      echo.sleep(0.1)
      all_gone(server, tally)
    end)
  end)
end)
