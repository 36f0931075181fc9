-- A caller that gives a streaming call up says so three times: STOP, RESET and CANCEL. The handler of one that takes no values learnt it
-- from CANCEL alone, and when STOP came first (which packets that are lost do over QUIC, and every time over TCP) it went on for ever.

local echo = require "echostream"
local net = require "spec.support.net"

net.only("quic", function(env)
  env.it("ends the handler of a streaming call that was given up, whatever comes first", function()
    local began, ended = 0, {}
    local server = env.server { tcp = true }
    server:add_rpc("work", function()
      began = began + 1
      local _, err = echo.sleep(1000)
      ended[#ended + 1] = err.code
    end, { stream = "out" })
    local client = env.connect(server, { transport = "tcp" })
    local function wait_until(fn)
      local ends = echo.now() + 15
      while not fn() do
        assert(echo.now() < ends)
        echo.sleep(0.002)
      end
    end
    for i = 1, 10 do
      local stream = assert(client:with({ timeout = 100 }):stream("work"))
      wait_until(function() return began == i end)
      stream:reset()
      wait_until(function() return #ended == i end)
      assert.equal("cancelled", ended[i])
    end
  end)
end)
