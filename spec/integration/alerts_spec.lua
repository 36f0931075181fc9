local echo = require "echostream"
local errors = require "echostream.errors"
local net = require "spec.support.net"

local function offer(server)
  server:add_rpc("fail", function(_, code) return nil, echo.error(code) end)
  server:add_rpc("fine", function() return true end)
end

net.only("sim", function(env)
  local function fail(client, n, code)
    for _ = 1, n do
      client:request("fail", code)
    end
  end

  env.it("calls a function once when there are too many errors, and again after they were fewer", function()
    local server, client = env.pair(offer)
    local told, recovered = {}, 0
    server:alert { kind = "not_found", threshold = 10, window = 10, fn = function(info)
      told[#told + 1] = info
    end, recovered = function() recovered = recovered + 1 end }
    fail(client, 9, "not_found")
    fail(client, 50, "aborted")
    echo.sleep(2)
    assert.equal(0, #told)
    fail(client, 1, "not_found")
    echo.sleep(2)
    assert.equal(1, #told)
    assert.same({ { "not_found" }, 10, 60, 10 }, { told[1].kinds, told[1].count, told[1].calls, told[1].window })
    fail(client, 20, "not_found")
    echo.sleep(2)
    assert.equal(1, #told) -- it was over all the time
    assert.equal(0, recovered)
    echo.sleep(12)
    assert.equal(1, recovered)
    fail(client, 10, "not_found")
    echo.sleep(2)
    assert.equal(2, #told)
  end)

  env.it("watches the share of calls that fail, of one direction, and of any kind", function()
    local server, client = env.pair(offer)
    local told = {}
    local function tell(name)
      return function(info) told[name] = (told[name] or 0) + 1; told[name .. " calls"] = info.calls end
    end
    local alert = client:alert { share = 0.5, min_calls = 20, window = 5, direction = "out", fn = tell "share" }
    client:alert { direction = "in", window = 5, fn = tell "in" }
    server:alert { window = 5, fn = tell "any" }
    for _ = 1, 10 do
      client:request "fine"
    end
    fail(client, 9, "internal")
    echo.sleep(1)
    assert.is_nil(told.share) -- too few to say
    fail(client, 1, "internal")
    echo.sleep(1)
    assert.equal(1, told.share)
    assert.equal(20, told["share calls"])
    assert.is_nil(told["in"])
    assert.equal(1, told.any)
    assert.is_true(alert.over)
    echo.sleep(10)
    alert:stop()
    fail(client, 100, "internal")
    echo.sleep(2)
    assert.equal(1, told.share)
    assert.equal(2, told.any)
  end)

  env.it("says whether errors become more", function()
    local server, client = env.pair(offer)
    server:errors()
    fail(client, 5, "not_found")
    fail(client, 3, "aborted")
    local now = server:errors().incoming
    assert.same({ total = 5, recent = 5, before = 0, trend = "rising" }, now.not_found)
    echo.sleep(67) -- a minute, and the step in which it is looked at
    fail(client, 5, "not_found")
    now = server:errors().incoming
    assert.same({ total = 10, recent = 5, before = 5, trend = "steady" }, now.not_found)
    assert.same({ total = 3, recent = 0, before = 3, trend = "falling" }, now.aborted)
    assert.is_nil(now.ok)
    assert.same({}, server:errors().outgoing)
    assert.equal(10, client:errors().outgoing.not_found.total)
  end)

  env.it("goes on with a server that starts later, and with a client that comes back", function()
    local told = 0
    local server = env.server({}, function(server)
      offer(server)
      server:alert { window = 1, fn = function() told = told + 1 end }
    end)
    local client = env.connect(server)
    fail(client, 1, "internal")
    echo.sleep(1)
    assert.equal(1, told)
  end)
end)

net.only("quic", function(env)
  env.it("calls a function over sockets too", function()
    local server, client = env.pair(offer)
    local told
    server:alert { kind = { "aborted", "io" }, window = 0.1, fn = function(info) told = info end }
    env.eventually(function()
      client:request("fail", "aborted")
      return told
    end)
    assert.same({ "aborted", "unavailable" }, told.kinds)
  end)
end)

describe("kinds of errors", function()
  it("say what may still work", function()
    local function kinds(code)
      local err = echo.error(code)
      return err.fatal, err.recoverable, err.retryable
    end
    assert.same({ true, false, true }, { kinds "connection_closed" })
    assert.same({ false, true, true }, { kinds "resource_exhausted" })
    assert.same({ false, true, false }, { kinds "not_found" })
    assert.same({ false, true, false }, { kinds "my.own" })
    assert.equal("unavailable", errors.counted_as "io")
    assert.equal("internal", errors.counted_as "protocol")
    assert.equal("unknown", errors.counted_as "my.own")
    for code, number in pairs(errors.codes) do
      assert.equal(number, errors.codes[errors.counted_as(code)])
    end
  end)

  it("are checked by alerts", function()
    local server = echo.server { quiet = true }
    assert.has_error(function() server:alert {} end)
    local ok, err = pcall(server.alert, server, { kind = "timout", fn = print })
    assert.is_false(ok)
    assert.matches('did you mean "timeout"', err, 1, true)
    server:alert({ fn = print }):stop()
    server:stop()
  end)
end)
