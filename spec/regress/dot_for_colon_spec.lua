-- `client.request("x")` complained about a field `_chains` that no user knows; a name of a megabyte was shown whole.

local net = require "spec.support.net"

net.only("sim", function(env)
  describe("a method that is called with a dot", function()
    env.it("says that it wants a colon, at the line of the mistake", function()
      local server, client = env.pair()
      env.eventually(function() return #server:sessions() == 1 end)
      for _, name in ipairs { "request", "emit", "try_emit", "create_stream", "stream", "service", "ping", "clock", "close" } do
        for _, thing in ipairs { client, server:sessions()[1] } do
          if thing[name] and (name ~= "close" or thing == client) then
            local ok, err = pcall(function() return (thing[name]("x")) end)
            assert.is_false(ok)
            assert.matches("dot_for_colon_spec.lua:%d+: .*call it with a colon[:,] object:" .. name, err)
          end
        end
      end
      for _, name in ipairs { "start", "stop" } do
        assert.error_matches(function() server[name]("x") end, "call it with a colon")
      end
    end)
  end)

  describe("a name that cannot be one", function()
    env.it("is shown as far as it is of use", function()
      local _, client = env.pair()
      for name, call in pairs { request = client.request, emit = client.emit, create_stream = client.create_stream, stream = client.stream } do
        local ok, err = pcall(call, client, ("x"):rep(1 << 20))
        assert.is_false(ok)
        assert.matches(name .. ": an? %w+ name is 1 to 256 bytes of .*got 'x+'%.%.%. %(1048576 bytes%)$", err)
        assert.is_true(#err < 300)
        assert.error_matches(function() call(client, "a b\27[2J") end, "got 'a b?[2J'", 1, true)
        assert.error_matches(function() call(client, "") end, "1 to 256 bytes", 1, true)
      end
    end)
  end)
end)
