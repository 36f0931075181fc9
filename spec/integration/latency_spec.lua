-- RELIABILITY N8: on a fresh connection the first call must not sit in ngtcp2 0.12's pacer (22 ms, from its initial round trip of
-- 333 ms). Connecting and one call over loopback sockets take less than 8 ms, median of 15.

local echo = require "echostream"
local net = require "spec.support.net"
local process = require "spec.support.process"

local LIMIT = os.getenv "ES_SANITIZED" and 0.4 or 0.008
local ROUNDS = 15
local TRIES = 20

local function median(connect_and_call)
  local times = {}
  for i = 1, ROUNDS do
    local began = echo.now()
    local close = connect_and_call()
    times[i] = echo.now() - began
    close()
  end
  table.sort(times)
  return times[(ROUNDS + 1) // 2], times[1], times[ROUNDS]
end

-- Other programs may have the processor for some seconds: the best median counts, all are told.
local function is_quick(connect_and_call)
  local told = {}
  for _ = 1, TRIES do
    local middle, least, most = median(connect_and_call)
    told[#told + 1] = ("median %.2f ms (%.2f to %.2f)"):format(middle * 1e3, least * 1e3, most * 1e3)
    if middle < LIMIT then return end
    echo.sleep(0.25)
  end
  error(("connect and first call: %s; the limit is %g ms"):format(table.concat(told, ", "), LIMIT * 1e3), 0)
end

local function call_once(address, pin)
  return function()
    local client = assert(echo.connect(address, { pin = pin }))
    assert.equal(30, client:request("math.add", 10, 20))
    return function() client:close() end
  end
end

net.only("quic", function(env)
  describe("connect and first call", function()
    env.it("take less than 8 ms within one process", function()
      local server = env.server({}, function(server)
        server:add_rpc("math.add", function(_, a, b) return a + b end)
      end)
      is_quick(call_once(server.address, server.pin))
    end)

    env.it("take less than 8 ms when the server calls back during them", function()
      local server = env.server({}, function(server)
        server:add_rpc("math.add", function(session, a, b) return assert(session:request("twice", a + b)) // 2 end)
      end)
      is_quick(function()
        local client = env.client(server)
        client:add_rpc("twice", function(_, x) return 2 * x end)
        assert(client:connect(server.address))
        assert.equal(30, client:request("math.add", 10, 20))
        return function() client:close() end
      end)
    end)
  end)
end)

describe("connect and first call, from the main thread", function()
  it("take less than 8 ms to a server in another process", function()
    local state = process.directory()
    local server <close> = setmetatable({ process = process.start("lua5.4 spec/support/quicgo_server.lua " .. process.quote(state)) },
      { __close = function(self) self.process:stop() end })
    local address, pin = server.process:expect "^ready (%S+) (%S+)"
    is_quick(call_once(address, pin))
    process.remove(state)
  end)
end)
