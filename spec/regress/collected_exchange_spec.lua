-- A request on an HTTP/3 connection that was over: making its userdata could collect the last exchange of that connection, which was then
-- read after it was freed.

local core = require "echostream.core"
local h3_peer = require "spec.support.h3_peer"
local loop = require "echostream.loop"
local net = require "spec.support.net"
local task = require "echostream.task"
local tls = require "echostream.tls"

local target = { method = "GET", scheme = "https", authority = "a", path = "/" }

local function wait_for(conn, event)
  assert(task.await(function(resume)
    conn:notify(function(what)
      if what == event then
        resume(true)
      end
    end)
  end, 15))
end

net.each(function(env)
  describe("a connection that is over", function()
    env.it("says so, whatever is collected meanwhile", function()
      local peer = h3_peer.serve(env, function(x)
        x:answer(200, {}, "")
      end)
      local context = assert(tls.client({}, tls.trust("spec", { pin = peer.pin }), "127.0.0.1"))
      local endpoint = assert(loop.endpoint { bind = "127.0.0.1:0" })
      for _ = 1, 20 do
        local conn = assert(core.h3_dial(endpoint, { remote = peer.address, tls = context, transport = {} }))
        wait_for(conn, "open")
        collectgarbage "stop"
        for _ = 1, 3 do
          assert(conn:request(target, nil, true)) -- nobody has it
        end
        conn:close()
        wait_for(conn, "closed")
        local pause, multiplier = collectgarbage("setpause", 0), collectgarbage("setstepmul", 1000)
        collectgarbage "restart"
        for _ = 1, 50 do
          local x, err = conn:request(target, nil, true)
          assert.is_nil(x)
          assert(err)
        end
        collectgarbage("setpause", pause)
        collectgarbage("setstepmul", multiplier)
      end
      loop.close_endpoint(loop.current(), endpoint)
    end)
  end)
end)
