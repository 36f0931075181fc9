local echo = require "echostream"
local tunnel = require "echostream.tunnel"

local HOLD <const> = 256 * 1024 * 1024

describe("the transport that a tunnel's session wants", function()
  it("lets a connection hold a thousand windows", function()
    assert.same({ hold_cap = HOLD, connection_window = HOLD }, tunnel.transport())
  end)

  it("is what was given, over that", function()
    local given = { hold_cap = 1 << 20, max_streams_bidi = 7 }
    assert.same({ hold_cap = 1 << 20, connection_window = HOLD, max_streams_bidi = 7 }, tunnel.transport(given))
    assert.same({ hold_cap = 1 << 20, max_streams_bidi = 7 }, given)
    assert.same({ hold_cap = HOLD, connection_window = HOLD, carrier = "tcp" }, tunnel.transport "tcp")
  end)

  it("is taken by servers and clients", function()
    local server <close> = assert(echo.server { bind = "127.0.0.1:0", quiet = true, transport = tunnel.transport() }:start())
    local client <close> = assert(echo.connect(server.address, { pin = server.pin, transport = tunnel.transport() }))
    assert.is_true(client:is_open())
  end)
end)
