-- The stream of an exchange that was over stayed open on the server until the garbage collector came by, because nobody read the end behind
-- its last message: a server that stopped waited for it as long as it might.
local core = require "echostream.tunnel.core"
local net = require "spec.support.net"
local world = require "tunnel.spec.support.world"

net.only("quic", function(env)
  env.it("the stream of an exchange ends with it", function()
    local w = world.new(env, { backend = function(x)
      if x:send_head(assert(core.head("response", { status = 200 }))) then x:write("ok", true) end
    end })
    local session = w.server:sessions()[1]
    collectgarbage "stop"
    local ok, err = pcall(function()
      for _ = 1, 3 do assert.equal("ok", assert(w:get "/").body) end
      w:wait(function() return session._ud:in_flight() == 0 end)
    end)
    collectgarbage "restart"
    assert(ok, err)
  end)
end)
