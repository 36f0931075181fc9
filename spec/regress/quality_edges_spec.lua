-- Edges of what keeps calls dependable, found by reading: a client without a time-out that gave up at once while its server was away,
-- middleware that runs a handler twice under deduplication, callers that gave up and were held against the target, streams of a
-- service that were counted as open for ever, plugins that left topics and alerts behind, misuse in calls to many at once, or in what
-- prepares clients, that hung for ever, and parts of split data that kept a stopped server's loop alive.

local echo = require "echostream"
local net = require "spec.support.net"

local function place(env, prepare)
  return env.server({ bind = "10.0.0.1:5000", state_dir = net.state_dir(), secret = ("edges"):rep(8) }, prepare)
end

net.only("sim", function(env)
  env.it("a client without a time-out waits for its server, however long that takes", function()
    local function prepare(server) server:add_rpc("x", function() return "there" end) end
    local server = place(env, prepare)
    local client = env.client(server, { reconnect = true, timeout = 0, connect_timeout = 5 })
    assert(client:connect(server.address))
    server:stop { grace = 0 }
    env.eventually(function() return client.state == "reconnecting" end)
    local call = echo.spawn(client.request, client, "x")
    echo.sleep(40)
    assert.equal("suspended", call:status())
    place(env, prepare)
    assert.equal("there", (call:wait()))
  end)

  env.it("middleware may run an idempotent handler again, with deduplication", function()
    local runs, after = 0, nil
    local server, client = env.pair(function(server)
      server:middleware(function(call, next)
        local response = next(call)
        if not response.ok then
          response = next(call)
        end
        return response
      end)
      server:add_rpc("second", function()
        runs = runs + 1
        if runs == 1 then return nil, echo.error("unavailable", "not yet") end
        return runs
      end, { idempotent = true })
    end, { dedupe = true })
    assert.equal(2, (client:with { idempotent = true }:request "second"))
    assert.equal(2, runs)
    -- and what middleware does after the answer is given up with the caller, as without deduplication
    server:middleware(function(call, next)
      local response = next(call)
      after = table.pack(echo.sleep(30))
      return response
    end)
    local call = echo.spawn(function() return client:with { idempotent = true }:request "second" end)
    env.eventually(function() return runs == 3 end)
    echo.sleep(0.1)
    for peer in pairs(server._sessions) do peer._ud:close(0x14, "a fault") end
    env.eventually(function() return after end, "the end of the middleware")
    assert.equal("cancelled", after[2].code)
    call:wait()
  end)

  env.it("callers that give up while a target is being dialled are not the target's failures", function()
    local server = place(env, function(server) server:add_rpc("x", function() return 1 end) end)
    local recorded = {}
    local fleet = echo.fleet.new { targets = { a = "10.0.0.1:5000", b = "10.0.0.9:1" }, client = { pin = server.pin },
      breaker = function()
        return { allow = function() return true end, record = function(_, ok) recorded[#recorded + 1] = tostring(ok) end }
      end }
    table.insert(env.opened, fleet)
    for _ = 1, 6 do
      local results
      local call = echo.spawn(function() results = table.pack(fleet:with { target = "b" }:request "x") end)
      echo.sleep(0.01)
      call:cancel()
      env.eventually(function() return results end)
      assert.equal("cancelled", results[2].code)
      assert.equal("no", results[2].processed)
    end
    assert.is_false(fleet:stats().b.ejected)
    assert.same({ "nil", "nil", "nil", "nil", "nil", "nil" }, recorded)
    fleet:close()
  end)

  env.it("a fleet refuses clients that dial again by themselves, whom no pool would ever close", function()
    assert.has_error(function() echo.fleet.new { targets = { "10.0.0.1:5000" }, client = { reconnect = true } } end,
      'fleet.new: option "client.reconnect" is not for fleets: pools dial again by themselves')
  end)

  env.it("a fleet survives a prepare that raises, and addresses that are none are refused at once", function()
    local server = place(env, function(server) server:add_rpc("x", function() return 1 end) end)
    local times = 0
    local fleet = echo.fleet.new { targets = { "10.0.0.1:5000" }, client = { pin = server.pin }, prepare = function()
      times = times + 1
      if times == 1 then error "not the first time" end
    end }
    table.insert(env.opened, fleet)
    assert.equal(1, (fleet:request "x"))
    assert.equal(2, times)
    assert.is_table(env.logged "not the first time")
    for _, wrong in ipairs { { targets = { "10.0.0.1" } }, { targets = { a = 0 } }, { pool = { paths = { "10.0.0.1" } } } } do
      wrong.client = { pin = server.pin }
      assert.has_error(function() echo.fleet.new(wrong) end)
    end
    assert.has_error(function() fleet:add("b", "nowhere") end)
    fleet:close()
  end)

  env.it("misuse in calls to many at once is raised, and a caller that is cancelled hears so", function()
    local server = place(env, function(server) server:add_rpc("slow", function() echo.sleep(5) end) end)
    local client = env.connect(server)
    local fleet = echo.fleet.new { targets = { "10.0.0.1:5000" }, client = { pin = server.pin } }
    table.insert(env.opened, fleet)
    local function raises(pattern, fn, ...)
      local results
      local call = echo.spawn(function(...) results = table.pack(pcall(fn, ...)) end, ...)
      call:wait(10)
      assert.is_table(results, "it hangs")
      assert.is_false(results[1])
      assert.matches(pattern, tostring(results[2]))
    end
    raises("a method name is", fleet.request_all, fleet, "no name!")
    raises("a function cannot be sent", fleet.request_all, fleet, "slow", { print })
    raises("a method name is", echo.split.send, client, "no name!", "data")
    local results
    local call = echo.spawn(function() results = table.pack(fleet:request_all "slow") end)
    echo.sleep(0.5)
    call:cancel()
    env.eventually(function() return results end)
    assert.is_nil(results[1])
    assert.equal("cancelled", results[2].code)
    fleet:close()
  end)

  env.it("a plugin takes its topics, alerts and listeners along", function()
    local alarms, told = 0, 0
    local server, client = env.pair(nil, nil, { retry = { attempts = 2, backoff = 0 } })
    server:plugin { name = "news", install = function(_, host)
      host:topic "news"
      host:alert { kind = "aborted", window = 1, fn = function() alarms = alarms + 1 end }
    end }
    client:plugin { name = "told", install = function(_, host)
      host:on("retry", function() told = told + 1 end)
    end }
    local over
    local before = assert(client:subscribe("news", { on_end = function() over = true end }))
    env.eventually(function() return #server:sessions() == 1 end)
    echo.sleep(0.5)
    assert.is_true(server:remove_plugin "news")
    assert.is_true(client:remove_plugin "told")
    assert.is_nil((before:next(2)))
    env.eventually(function() return over end, "the end of the subscription")
    local _, err = assert(client:subscribe "news"):next(2)
    assert.equal("method_not_found", err.code)
    server:add_rpc("fails", function() return nil, echo.error("aborted", "as asked") end)
    assert.is_nil((client:request "fails"))
    echo.sleep(2)
    assert.equal(0, alarms)
    server:stop { grace = 0 }
    assert.is_nil((client:request "nothing"))
    assert.equal(0, told)
    assert.same({}, client._listeners.retry)
  end)

  env.it("streams of a service are open no longer, however they ended", function()
    local server, client = env.pair()
    echo.service.new(server):offer("chat", "1.0", function(stream) stream:recv() end)
    local service = echo.service.new(client)
    local function open() return assert(service:open_stream(client.session, "chat")) end
    local whole = open()
    assert.equal(1, #service:streams())
    whole:finish()
    assert.is_nil((whole:recv()))
    open():close()
    open():reset()
    env.eventually(function() return #service:streams() == 0 end, "none is open")
    open()
    client:close()
    env.eventually(function() return #service:streams() == 0 end, "nor when the session is over")
    local stats = service:stats().chat
    assert.same({ 4, 0 }, { stats.opened, stats.open })
  end)
end)

-- Over sockets, where every spec ends by looking whether anything is alive.
net.only("quic", function(env)
  env.it("split data of which a part never came does not keep a stopped server's loop alive", function()
    local server, client = env.pair()
    echo.split.receive(server, "up", function() end, { timeout = 60 })
    local part = assert(client:stream("up", ("i"):rep(16), 1, 2, 10))
    part:send "12345"
    part:finish()
    assert.is_false((part:result()))
  end)
end)
