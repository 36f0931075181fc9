-- The plugin reconnect: comes back, and does everything again.

local echo = require "echostream"
local net = require "spec.support.net"
local process = require "spec.support.process"

local reconnect = echo.plugins.reconnect

local function till(fn)
  while not fn() do echo.sleep(0.005) end
end

describe("plugins.reconnect", function()
  it("says what it wants", function()
    assert.has_error(function() reconnect { subscribe = { prices = 7 } } end)
    assert.has_error(function() reconnect { register = { "x" } } end)
    assert.has_error(function() reconnect { register = { { 7 } } } end)
    assert.has_error(function() reconnect { policy = { cap = "long" } } end)
    assert.has_error(function() echo.server { quiet = true }:plugin(reconnect()) end,
      'plugin "reconnect" could not be installed: it is for clients')
  end)
end)

net.each(function(env)
  describe("the plugin reconnect", function()
    local seen

    local function up(bind)
      local topic
      local server = env.server({ bind = bind, state_dir = net.state_dir() }, function(server)
        topic = server:topic("prices", { replay = 1 })
        server:add_rpc("join", function(_, name) seen.joined[#seen.joined + 1] = name end)
        server:add_stream("ticks", function(_, stream) stream:send "tick" stream:recv() end)
      end)
      return server, topic
    end

    env.it("registers and subscribes again", function()
      seen = { joined = {}, prices = {}, ticks = 0, each = 0 }
      local server, topic = up(env.kind == "sim" and "10.0.0.1:5000" or "127.0.0.1:" .. process.free_port())
      local address = server.address
      topic:publish "first"
      local client = env.client(server)
      client:plugin(reconnect { policy = { first = 0.01, cap = 0.1 }, register = { { "join", "ann" }, { "no.such.method" } },
        subscribe = { prices = function(price) table.insert(seen.prices, price) end },
        streams = { ticks = function(stream) if stream:recv() then seen.ticks = seen.ticks + 1 end stream:recv() end },
        each = function() seen.each = seen.each + 1 end })
      assert(client:connect(address))
      assert.has_error(function() client:plugin(reconnect()) end)
      till(function() return #seen.joined == 1 and #seen.prices == 1 and seen.ticks == 1 and seen.each == 1 end)
      server:stop { grace = 0 }
      till(function() return client.state == "reconnecting" end)
      server, topic = up(address)
      topic:publish "second"
      till(function() return #seen.joined == 2 and #seen.prices == 2 and seen.ticks == 2 and seen.each == 2 end)
      assert.same({ "first", "second" }, seen.prices)
      assert.truthy(env.logged "reconnect: no.such.method failed")
      assert.is_true(client:remove_plugin "reconnect")
      server:stop { grace = 0 }
      till(function() return client.state == "closed" end)
    end)

    env.it("may come after the client has connected", function()
      seen = { joined = {}, prices = {}, ticks = 0 }
      local server, topic = up(env.kind == "sim" and "10.0.0.1:5000" or "127.0.0.1:" .. process.free_port())
      local address = server.address
      topic:publish "first"
      local client = env.connect(server)
      client:plugin(reconnect { policy = { first = 0.01, cap = 0.1 }, register = { { "join", "ann" } },
        subscribe = { prices = function(price) table.insert(seen.prices, price) end } })
      till(function() return #seen.joined == 1 and #seen.prices == 1 end)
      server:stop { grace = 0 }
      till(function() return client.state == "reconnecting" end)
      server, topic = up(address)
      topic:publish "second"
      till(function() return #seen.joined == 2 and #seen.prices == 2 end)
      assert.same({ "first", "second" }, seen.prices)
      server:stop { grace = 0 }
      till(function() return client.state == "reconnecting" end)
      client:remove_plugin "reconnect" -- it is what it was: one that does not come back
      assert.equal("closed", client.state)
    end)
  end)
end)
