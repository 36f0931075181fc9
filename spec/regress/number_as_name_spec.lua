-- A number was taken for the name of a method or event: client:request(5) asked for the method "5".

local echo = require "echostream"
local net = require "spec.support.net"

net.each(function(env)
  env.it("a number is no name", function()
    local server, client = env.pair(function(server) server:add_rpc("5", function() return "five" end) end)
    for _, calls in ipairs { client, client.session, client:with { timeout = 1 } } do
      for _, method in ipairs { "request", "emit", "create_stream", "stream" } do
        local ok, err = pcall(calls[method], calls, 5)
        assert.is_false(ok, method)
        assert.matches("string", tostring(err))
      end
    end
    assert.has_error(function() client:try_emit(5) end)
    assert.has_error(function() client:wait_event(5) end)
    assert.has_error(function() server:broadcast(5) end)
    for _, kind in ipairs { "rpc", "event", "stream" } do
      assert.has_error(function() server["add_" .. kind](server, 5, print) end)
    end
    local task = echo.spawn(pcall, client.request, client, 5)
    assert.is_false((task:wait(2)))
    assert.equal("five", client:request("5"))
  end)
end)
