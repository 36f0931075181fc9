-- A loop that closed under open streams, suspended handlers or running timers kept their sessions and hosts alive for ever.

local echo = require "echostream"
local core = require "echostream.core"
local net = require "spec.support.net"

local function leave_open(what)
  echo.sim.run({ seed = 1, limit = 1000 }, function()
    local server = echo.server { bind = "10.0.0.1:5000", quiet = true, state_dir = net.state_dir() }
    server:add_rpc("never", function() echo.sleep(100) end)
    server:add_event("never", function() echo.sleep(100) end)
    server:add_stream("never", function() echo.sleep(100) end)
    server:add_stream("echo", function(_, stream)
      for frame in stream:frames() do stream:send(frame.data) end
    end)
    assert(server:start())
    local client = assert(echo.connect(server.address, { pin = server.pin }))
    what(client)
    echo.sleep(0.5)
  end)
  collectgarbage()
  collectgarbage()
  return core.memory().in_use
end

describe("a simulation that ends in the middle", function()
  local cases = {
    ["of a call"] = function(client) client:request("never", function() end) end,
    ["of an event's handler"] = function(client) client:emit("never") end,
    ["of a stream nobody serves"] = function(client) client:create_stream("nobody"):send("x") end,
    ["of a stream whose handler sleeps"] = function(client) client:create_stream("never"):send("x") end,
    ["of a conversation"] = function(client)
      local stream = client:create_stream("echo")
      stream:send("x")
      assert(stream:recv().data == "x")
    end,
    ["of a wait"] = function() echo.spawn(function() echo.sleep(1000) end) end,
    ["of nothing"] = function() end,
  }
  for name, what in pairs(cases) do
    it(name .. " leaves nothing behind", function()
      leave_open(what)
      local before = leave_open(what)
      for _ = 1, 5 do leave_open(what) end
      assert.equal(before, leave_open(what))
    end)
  end
end)
