-- UDP sockets on the loop, multicast among them: lua/echostream/loop/udp.lua.

local busted = require "busted"
local core = require "echostream.core"
local echo = require "echostream"
local log = require "echostream.log"
local udp = require "echostream.loop.udp"
local describe, it, after_each = busted.describe, busted.it, busted.after_each

local LIMIT = 60

describe("UDP sockets on the loop", function()
  local open = {}

  local function opened(place, take)
    local socket = assert(udp.open(place, take))
    table.insert(open, socket)
    return socket
  end

  after_each(function()
    log.set(nil)
    for _, socket in ipairs(open) do
      socket:close()
      socket:close()
    end
    open = {}
    echo.run(0.001)
  end)

  it("carry datagrams, and say who sent them", function()
    local got = table.pack(echo.await(function(resume)
      local a = opened({ ip = "127.0.0.1", port = 0 }, resume)
      local b = opened({ ip = "127.0.0.1", port = 0 }, function() end)
      assert.is_true(b:send("hello", "127.0.0.1", a.port))
    end, LIMIT))
    assert.same({ "hello", "127.0.0.1", open[2].port }, { got[1], got[2], got[3] })
    open[2]:close()
    assert.is_nil((open[2]:send("x", "127.0.0.1", 1)))
  end)

  it("share a port where they say so, and else do not", function()
    local first = opened({ ip = "127.0.0.1", port = 0, shared = true }, function() end)
    opened({ ip = "127.0.0.1", port = first.port, shared = true }, function() end)
    local none, _, name = udp.open({ ip = "127.0.0.1", port = first.port }, function() end)
    assert.is_nil(none)
    assert.equal("EADDRINUSE", name)
  end)

  it("hear a group that they joined, from this machine too", function()
    local text = core.random(16)
    local group = "239.255.77.77"
    local got = echo.await(function(resume)
      local listening = opened({ ip = group, port = 0 }, function(bytes)
        if bytes == text then resume(bytes) end
      end)
      assert.is_true(listening:join(group, "127.0.0.1"))
      local sending = opened({ ip = "0.0.0.0", port = 0 }, function() end)
      assert.is_true(sending:multicast("127.0.0.1", 1))
      assert.is_true(sending:send(text, group, listening.port))
    end, LIMIT)
    assert.equal(text, got)
    open[1]:leave(group, "127.0.0.1")
    assert.is_nil((open[1]:join("10.0.0.1", "127.0.0.1")))
  end)

  it("log what their receiver raises", function()
    local line = echo.await(function(resume)
      log.set(function(record) resume(record.message) end)
      local a = opened({ ip = "127.0.0.1", port = 0 }, function() error "broken on purpose" end)
      a:send("x", "127.0.0.1", a.port)
    end, LIMIT)
    assert.matches("broken on purpose", line)
  end)

  it("are not there in a simulation", function()
    echo.sim.run(function()
      assert.is_nil((udp.open({ ip = "127.0.0.1", port = 0 }, function() end)))
    end)
  end)

  it("know the interfaces", function()
    local loopback
    for _, interface in ipairs(udp.interfaces()) do
      loopback = loopback or interface.internal and interface
    end
    assert.equal("127.0.0.1", loopback.ip4[1].ip)
    assert.equal("255.0.0.0", loopback.ip4[1].netmask)
    assert.is_true(#udp.hostname() > 0)
  end)
end)
