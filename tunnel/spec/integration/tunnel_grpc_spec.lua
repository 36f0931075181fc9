-- gRPC through a whole tunnel: real clients before its server, real servers behind its agent.

local grpc = require "tunnel.spec.support.grpc"
local net = require "spec.support.net"
local world = require "tunnel.spec.support.world"

net.only("quic", function(env)
  local function through(client, server, ...)
    local port, stop = grpc.server(server, ...)
    local w = world.new(env, { agent = { services = { app = { backends = "http://127.0.0.1:" .. port, protocol = "h2c" } } } })
    local ok, problems = grpc.client(client, w.address)
    stop()
    assert.same({}, problems)
    assert.equal(grpc.cases, ok)
    return w
  end

  describe("a tunnel", function()
    env.it("passes gRPC's interop cases between grpcio and grpcio", function()
      if not grpc.has_python then pending "python3-grpcio is wanted" end
      local w = through("python", "python")
      w:wait(function() return #w.records >= grpc.cases end)
      for _, record in ipairs(w.records) do
        assert.equal("grpc", record.kind)
      end
    end, { limit = 100 })

    for _, pair in ipairs { { "js", "python" }, { "python", "js" } } do
      env.it(("passes them compressed from a client of %s to a server of %s"):format(pair[1], pair[2]), function()
        local missing = grpc.missing_js() or not grpc.has_python and "python3-grpcio is wanted"
        if missing then pending("skipped: " .. missing) end
        through(pair[1], pair[2], "gzip")
      end, { limit = 100 })
    end

    env.it("answers calls that it cannot pass on with a status of gRPC", function()
      if not grpc.has_python then pending "python3-grpcio is wanted" end
      local w = world.new(env, { agents = 0 })
      local ok, problems = grpc.client("python", w.address, { cases = { "empty_unary" } })
      assert.equal(0, ok)
      assert.matches("StatusCode.UNAVAILABLE", problems[1], 1, true)
      assert.not_matches("RST_STREAM", problems[1], 1, true)
    end, { limit = 100 })
  end)
end)
