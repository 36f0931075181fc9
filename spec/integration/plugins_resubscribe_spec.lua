-- The plugin that subscribes again in every new session.

local echo = require "echostream"
local net = require "spec.support.net"
local process = require "spec.support.process"

-- Waits until it is so; the time limit of the spec is the only one, because a busy machine may stand still for seconds.
local function till(fn)
  while not fn() do echo.sleep(0.005) end
end
local resubscribe = echo.resubscribe
assert(resubscribe == require "echostream.plugins.resubscribe")

net.each(function(env)
  describe("the plugin resubscribe", function()
    local function up(bind, seen)
      return env.server({ bind = bind, state_dir = net.state_dir() }, function(server)
        server:add_rpc("subscribe", function(session, topic)
          seen[#seen + 1] = topic
          session:emit("news", topic, #seen)
        end)
        server:add_stream("ticks", function(_, stream)
          seen.opened = (seen.opened or 0) + 1
          if seen.opened == seen.fail_at then
            return nil, echo.error("aborted", "not now")
          end
          stream:send("tick " .. seen.opened)
          stream:recv()
        end)
      end)
    end

    env.it("does everything again after the connection was lost, until it goes", function()
      local seen, ticks, news = {}, {}, {}
      local server = up(env.kind == "sim" and "10.0.0.1:5000" or "127.0.0.1:" .. process.free_port(), seen)
      local client = env.client(server, { reconnect = true })
      client:add_event("news", function(_, topic) news[#news + 1] = topic end)
      local again = resubscribe.new()
      again:each(function(session) assert(session:request("subscribe", "sports")) end)
      again:stream("ticks", function(stream)
        for frame in stream:frames() do ticks[#ticks + 1] = frame.data end
      end)
      client:plugin(again)
      assert(client:connect(server.address))
      till(function() return #news == 1 and #ticks == 1 end)
      again:each(function(session) session:request("subscribe", "weather") end) -- later: at once, and again
      till(function() return #news == 2 end)
      server:stop { grace = 0 }
      till(function() return client.state == "reconnecting" end)
      server = up(server.address, seen)
      assert(client:ready(15))
      till(function() return #news == 4 and #ticks == 2 end)
      assert.equal("tick 2", ticks[2])
      client:remove_plugin "resubscribe"
      server:stop { grace = 0 }
      till(function() return client.state == "reconnecting" end)
      up(server.address, seen)
      assert(client:ready(15))
      assert.is_nil(client:request("nothing.of.the.kind")) -- by now it would have
      assert.equal(4, #news)
      assert.equal(2, seen.opened)
    end)

    env.it("opens a stream again that failed while the session lives, and logs what raises", function()
      local seen, ticks = { fail_at = 1 }, {}
      local server = up(env.kind == "sim" and "10.0.0.1:5000" or "127.0.0.1:" .. process.free_port(), seen)
      local client = env.client(server)
      assert(client:connect(server.address))
      local again = resubscribe.new "another"
      again:stream("ticks", function(stream)
        for frame in stream:frames() do ticks[#ticks + 1] = frame.data end
      end)
      again:each(function() error "my fault" end)
      client:plugin(again) -- the session is there already
      till(function() return ticks[1] == "tick 2" end)
      assert.truthy(env.logged "my fault")
      assert.equal(2, seen.opened)
    end)
  end)
end)
