-- Calls whose arguments nobody can read counted against a peer's budget, streaming ones with the same arguments did not.

local echo = require "echostream"
local net = require "spec.support.net"

net.each(function(env)
  describe("a peer whose arguments cannot be read", function()
    for _, stream in ipairs { false, "out" } do
      env.it(("is closed when there are too many, %s"):format(stream and "of streaming calls" or "of calls"), function()
        local codec = ("unreadable-%s-%s"):format(env.kind, stream or "call")
        echo.codec.register(codec, { encode = function() return "x" end, decode = function() error("no", 0) end })
        local _, client = env.pair(function(server)
          server:add_rpc("work", function() return true end, { stream = stream or nil })
        end, { transport = { glitch_budget = 100 } })
        local calls, err = client:with { codec = codec }, nil
        for _ = 1, 300 do
          if stream then
            local opened
            opened, err = calls:stream("work", 1)
            if opened then _, err = opened:result() end
          else
            _, err = calls:request("work", 1)
          end
          if err.code ~= "serialization" then break end
        end
        assert.equal("connection_closed", err.code)
        assert.matches("too many", err.message) -- or what came with them: their resets
      end)
    end
  end)
end)
