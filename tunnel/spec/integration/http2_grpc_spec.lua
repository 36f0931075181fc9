-- gRPC's interop cases through the codec of HTTP/2 in both roles: real clients, our listener, our connection to a backend, real servers.

local grpc = require "tunnel.spec.support.grpc"
local net = require "spec.support.net"
local relay = require "tunnel.spec.support.h2_relay"

net.only("quic", function(env)
  local function passes(client, server, ...)
    local port, stop = grpc.server(server, ...)
    local between = relay.to(port)
    local ok, problems = grpc.client(client, between.address)
    between.stop()
    stop()
    assert.same({}, problems)
    assert.equal(grpc.cases, ok)
    assert.same({}, between.refused)
  end

  describe("gRPC over HTTP/2 in both roles", function()
    env.it("passes between grpcio and grpcio", function()
      if not grpc.has_python then pending "python3-grpcio is wanted" end
      passes("python", "python")
    end, { limit = 100 })
  end)
end)
