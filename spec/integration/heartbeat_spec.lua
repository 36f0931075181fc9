-- Pings and heartbeats: lua/echostream/heartbeat.lua; and the time-outs of streams. What measures time does so in virtual time.

local busted = require "busted"
local echo = require "echostream"
local net = require "spec.support.net"
local describe, it = busted.describe, busted.it

net.each(function(env)
  env.it("asks either side for a sign of life", function()
    local server, client = env.pair()
    local answer = assert(client:ping())
    assert.is_true(answer.rtt >= 0 and answer.rtt < 5)
    assert.is_true(math.abs(answer.clock) < 5)
    env.eventually(function() return #server:sessions() == 1 end)
    assert.is_table(server:sessions()[1]:ping(5))
    assert.equal(1, client.session.heartbeat.answered)
    local given
    local task = client:ping(function(each) given = each end)
    local result = task:wait()
    assert.is_table(result)
    assert.equal(given, result)
    local session = client.session
    client:close()
    local nobody, err = client:ping()
    assert.is_nil(nobody)
    assert.equal("connection_closed", err.code)
    nobody, err = session:ping()
    assert.is_nil(nobody)
    assert.equal("connection_closed", err.code)
    assert.error_matches(function() session:ping "soon" end, "wants a number of seconds")
  end)

  env.it("does so again and again with the option, until the session is over", function()
    local server = env.server { heartbeat = { interval = 0.1, timeout = 20 } }
    local client = env.connect(server, { heartbeat = { interval = 0.1, timeout = 20 } })
    local function heard(session)
      return session and session.heartbeat and session.heartbeat.answered >= 2
    end
    while not (heard(server:sessions()[1]) and heard(client.session)) do -- the spec's own limit is the only one
      echo.sleep(0.02)
    end
    assert.is_true(client.session.heartbeat.at <= echo.now())
    client:close()
  end)

  env.it("refuses nonsense", function()
    assert.error_matches(function() echo.client { heartbeat = { interval = 0 } } end, "at least 0.1")
    assert.error_matches(function() echo.server { heartbeat = "often" } end, "heartbeat")
    assert.error_matches(function() echo.client { heartbeat = { often = 1 } } end, "unknown option")
  end)
end)

describe("in virtual time", function()
  local function world(fn, server_options, client_options)
    echo.sim.run({ seed = 3, limit = 600, delay = 0.02 }, function(network)
      echo.set_log(function() end)
      server_options = server_options or {}
      server_options.bind, server_options.quiet = "10.0.0.1:5000", true
      local server = assert(echo.server(server_options):start())
      client_options = client_options or {}
      client_options.pin = server.pin
      local client = assert(echo.connect(server.address, client_options))
      local ok, err = pcall(fn, server, client, network)
      client:close()
      server:stop { grace = 0 }
      echo.set_log()
      if not ok then error(err, 0) end
    end)
  end

  it("a ping takes as long as the path, and clocks agree", function()
    world(function(_, client)
      echo.sleep(1)
      local answer = assert(client:ping())
      assert.is_true(answer.rtt >= 0.04 and answer.rtt < 0.045, answer.rtt)
      assert.is_true(math.abs(answer.clock) < 0.001, answer.clock)
    end)
  end)

  it("a peer that is silent for three heartbeats is given up, long before the idle time-out", function()
    world(function(_, client, network)
      echo.sleep(3)
      assert.is_true(client.session.heartbeat.answered >= 2)
      local session, since = client.session, echo.now()
      network:blackout(0, 100)
      while not session.closed_by do
        assert.is_true(echo.now() - since < 20)
        echo.sleep(0.1)
      end
      assert.is_true(echo.now() - since < 8, echo.now() - since)
      assert.equal(3, session.heartbeat.silent)
    end, nil, { heartbeat = 1, transport = { idle_timeout = 60 } })
  end)

  it("fewer misses than allowed close nothing, and it goes on as before", function()
    world(function(_, client, network)
      echo.sleep(3)
      local session = client.session
      network:blackout(0, 1.5)
      echo.sleep(20)
      assert.is_true(client:is_open())
      assert.equal(session, client.session)
      assert.is_true(session.heartbeat.missed >= 1)
      assert.equal(0, session.heartbeat.silent)
    end, nil, { heartbeat = 1 })
  end)

  it("so many misses as the user allows, or any number, close nothing", function()
    for _, misses in ipairs { 1, 0 } do
      world(function(_, client, network)
        echo.sleep(3)
        local session, since = client.session, echo.now()
        network:blackout(0, 30)
        while not session.closed_by and echo.now() - since < 20 do
          echo.sleep(0.1)
        end
        if misses == 1 then
          assert.is_true(echo.now() - since < 4, echo.now() - since)
          assert.equal(1, session.heartbeat.silent)
        else
          assert.is_nil(session.closed_by)
          assert.is_true(session.heartbeat.silent >= 5, session.heartbeat.silent)
        end
      end, nil, { heartbeat = { interval = 1, misses = misses }, transport = { idle_timeout = 60 } })
    end
  end)

  it("a ping says when nobody answers", function()
    world(function(_, client, network)
      echo.sleep(1)
      network:blackout(0, 5)
      local since = echo.now()
      local answer, err = client:ping(2)
      assert.is_nil(answer)
      assert.equal("timeout", err.code)
      assert.is_true(echo.now() - since >= 2 and echo.now() - since < 2.05)
    end)
  end)

  it("a stream waits no longer than it was told, to read and to write", function()
    world(function(server, client)
      server:add_stream("deaf", function(_, stream)
        stream:set_timeouts { read = 0.25 }
        local _, err = stream:recv()
        stream:set_timeouts { read = false }
        stream:send(err.code)
        echo.sleep(100)
        for _ in stream:frames() do end -- luacheck: ignore 542
      end)
      local stream = assert(client:create_stream "deaf")
      local since = echo.now()
      assert.equal("timeout", stream:recv().data)
      assert.is_true(echo.now() - since >= 0.25 and echo.now() - since < 0.4)
      assert.equal(stream, stream:set_timeouts { write = 3 })
      local sent, ok, err = 0, true, nil
      while ok do
        since = echo.now()
        ok, err = stream:send(("x"):rep(16384))
        sent = sent + (ok and 1 or 0)
      end
      assert.equal("timeout", err.code)
      assert.is_true(echo.now() - since >= 3 and echo.now() - since < 3.05)
      assert.is_true(sent > 0)
      stream:set_timeouts { write = false }
      assert.is_true(stream:send "x") -- waits until the reader wakes up
      assert.error_matches(function() stream:set_timeouts { read = true } end, "wants a number of seconds")
      assert.error_matches(function() stream:set_timeouts { reed = 1 } end, "unknown option")
      stream:reset(0)
    end)
  end)
end)
