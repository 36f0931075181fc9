local echo = require "echostream"
local fallback = require "echostream.fallback"
local host = require "echostream.host"

local function ways(opts)
  local _, _, extra = host.split_transport("echo.client", opts, true)
  return extra
end

describe("the way of a client", function()
  it("is QUIC unless it is said", function()
    assert.is_nil(fallback.check("echo.client", ways(nil), {}))
    assert.is_nil(fallback.check("echo.client", ways "quic", {}))
    assert.is_nil(fallback.check("echo.client", ways { idle_timeout = 3 }, {}))
  end)

  it("may be said as a word, or with other transport options", function()
    local way = fallback.check("echo.client", ways "auto", {})
    assert.are.same({ carrier = "auto", fallback_after = 2, retry_quic = 30 }, way)
    way = fallback.check("echo.client", ways { carrier = "tcp", tcp_port = 443, idle_timeout = 3 }, {})
    assert.are.same({ carrier = "tcp", fallback_after = 2, retry_quic = 30, tcp_port = 443 }, way)
  end)

  it("is checked", function()
    assert.has_error(function()
      echo.client { transport = "pigeon" }
    end)
    assert.has_error(function()
      echo.client { transport = { fallback_after = "soon" } }
    end)
    assert.has_error(function()
      echo.server { transport = { fallback_after = 1 } }
    end, 'echo.server: transport option "fallback_after" is for clients')
  end)

  it("is an option of the commands that talk to a server", function()
    local settings = require("echostream.cli.connection").settings
    assert.are.equal("tcp", settings({ insecure = true, over = "tcp" }).transport)
    assert.is_nil(settings({ insecure = true }).transport)
    local made, problem = settings { insecure = true, over = "pigeon" }
    assert.is_nil(made)
    assert.are.equal("--over wants quic, tcp or auto, got pigeon", problem)
  end)

  it("is what dial goes", function()
    local gone = {}
    local function go(carrier)
      gone[#gone + 1] = carrier
      return carrier
    end
    assert.are.equal("quic", fallback.dial({}, go, 1))
    assert.are.equal("tcp", fallback.dial({ _way = { carrier = "tcp" } }, go, 1))
    assert.are.same({ "quic", "tcp" }, gone)
  end)

  it("is tried again only when TCP stands in for QUIC", function()
    local client = {}
    fallback.watch(client, {}, nil, nil)
    assert.is_nil(client._way_back)
    fallback.stop(client)
  end)
end)
