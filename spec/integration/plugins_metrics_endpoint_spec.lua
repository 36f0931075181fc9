-- The plugin metrics_endpoint: GET /metrics.

local echo = require "echostream"
local net = require "spec.support.net"
local socket = require "echostream.loop.socket"

local metrics_endpoint = echo.plugins.metrics_endpoint

-- The whole answer; nil when nobody listens.
local function get(address)
  local ip, port = address:match "^(.*):(%d+)$"
  return echo.await(function(resume)
    socket.connect({ ip = ip, port = tonumber(port) }, function(connection, err)
      if not connection then return resume(nil, err) end
      connection:send "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
      local text = ""
      return function(data)
        text = text .. (data or "")
        if not data then
          connection:close()
          resume(text)
        end
      end
    end)
  end)
end

net.only("quic", function(env)
  describe("the plugin metrics_endpoint", function()
    env.it("shows what its server counts, until it goes", function()
      local plugin = metrics_endpoint { bind = "127.0.0.1:0", timeout = 20 }
      local server, client = env.pair(function(server)
        server:plugin(plugin)
        server:add_rpc("hello.endpoint", function() return true end)
      end)
      client:request "hello.endpoint"
      local text = assert(get(plugin.address))
      assert.truthy(text:find "^HTTP/1.1 200")
      assert.truthy(text:find("hello.endpoint", 1, true))
      assert.is_nil(text:find('side="client"', 1, true))
      local address = plugin.address
      assert.is_true(server:remove_plugin "metrics_endpoint")
      assert.is_nil(plugin.address)
      assert.is_nil((get(address)))
    end)

    env.it("ends with its server, and says when the address is taken", function()
      local plugin = metrics_endpoint { bind = "127.0.0.1:0", all = true }
      local server = env.server({}, function(server) server:plugin(plugin) end)
      assert.has_error(function() env.server({}, function(other) other:plugin(metrics_endpoint { bind = plugin.address }) end) end)
      server:stop { grace = 0 }
      assert.is_nil(plugin.address)
    end)
  end)
end)
