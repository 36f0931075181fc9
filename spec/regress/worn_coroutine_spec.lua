-- A stray yield inside an xpcall ended the task, but its coroutine served the next one with that xpcall's message handler still
-- in force, or what had become of its place on the stack: errors of later tasks said "error in error handling" only.

local echo = require "echostream"
local net = require "spec.support.net"

net.each(function(env)
  describe("a task that a stray yield ended inside an xpcall", function()
    env.it("changes nothing about the errors of later ones", function()
      local server, client = env.pair()
      server:add_rpc("stray", function() return xpcall(coroutine.yield, debug.traceback) end)
      server:add_rpc("fails", function() error "what went wrong" end)
      for _ = 1, 20 do
        local value, err = client:request "stray"
        assert.is_nil(value)
        assert.equal("unknown", err.code)
        env.logs = {}
        value, err = client:request "fails"
        assert.is_nil(value)
        assert.equal("unknown", err.code)
        assert.is_truthy((env.logged "what went wrong"))
        assert.is_falsy((env.logged "error in error handling"))
      end
    end)

    env.it("closes what was to be closed", function()
      local closed = 0
      local task = echo.spawn(function()
        local _ <close> = setmetatable({}, { __close = function() closed = closed + 1 end })
        xpcall(coroutine.yield, debug.traceback)
      end)
      local ok = task:wait(5)
      assert.is_nil(ok)
      assert.equal(1, closed)
    end)
  end)
end)
