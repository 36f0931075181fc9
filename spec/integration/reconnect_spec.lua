-- Clients that come back by themselves.

local echo = require "echostream"
local net = require "spec.support.net"
local process = require "spec.support.process"

-- Waits until it is so; the time limit of the spec is the only one, because a busy machine may stand still for seconds.
local function till(fn)
  while not fn() do echo.sleep(0.005) end
end

local KEY = { secret = ("a secret of the specs, 32 bytes "):rep(2) }

-- A server on one address that can go away at once and come back.
local function place(env, opts)
  local self = { handlers = {}, bind = "10.0.0.1:5000", runs = {} }
  if env.kind == "quic" then
    self.bind = "127.0.0.1:" .. process.free_port() -- not one that a client's socket may get meanwhile
  end
  function self.up()
    local given = { bind = self.bind, secret = KEY.secret, state_dir = net.state_dir() }
    for key, value in pairs(opts or {}) do given[key] = value end
    self.server = env.server(given, function(server)
      server:add_rpc("echo", function(_, x) return x end, { idempotent = true })
      server:add_rpc("slow", function(_, seconds) echo.sleep(seconds) return "done" end)
      server:add_rpc("gate", function()
        while not self.open do echo.sleep(0.01) end
        return "done"
      end)
      server:add_event("note", function(_, x) table.insert(self.runs, x) end)
      server:add_stream("ticks", function(_, stream)
        for i = 1, 1000000 do
          if not stream:send(tostring(i)) then return end
          echo.sleep(0.1)
        end
      end)
      if self.prepare then self.prepare(server) end
    end)
    self.bind = self.server.address
    return self.server
  end
  function self.down()
    self.server:stop { grace = 0 }
  end
  return self
end

net.each_door(function(env)
  describe("a client with reconnect", function()
    env.it("is one by set_reconnect too, at any time, and ceases to be one", function()
      local at = place(env)
      local client = env.connect(at.up())
      local what = {}
      assert.is_false(client:set_reconnect { first = 0.01, cap = 0.1, on_change = function(_, word) what[word] = true end })
      at.down()
      till(function() return what.failed end)
      at.up()
      assert.equal(client, client:ready())
      assert.equal(7, (client:request("echo", 7)))
      assert.equal(1, client.reconnects)

      -- Switched off while it is away: who waits is told at once.
      at.down()
      till(function() return client.state == "reconnecting" end)
      local waiting, stopped = echo.spawn(client.request, client, "echo", 8), false
      client:on_stop(function() stopped = true end)
      echo.sleep(0)
      local before = client:set_reconnect(false)
      assert.equal(0.1, before.cap)
      local _, err = waiting:wait()
      assert.same({ "unavailable", "no" }, { err.code, err.processed })
      assert.equal("closed", client.state)
      till(function() return stopped end)
      assert.equal("unavailable", select(2, client:emit("note", 1)).code)

      -- Switched off while it is connected: this connection is the last.
      at.up()
      assert(client:connect(at.bind))
      client:set_reconnect(before)
      client:set_reconnect(true)
      assert.equal(0.1, before.cap)
      assert.equal(5, client:set_reconnect(false).cap)
      at.down()
      till(function() return client.state == "closed" end)
      assert.has_error(function() client:set_reconnect(7) end)
      assert.has_error(function() client:set_reconnect { cap = "long" } end)
    end)

    env.it("that is told to stop while its on_connect hooks run keeps the connection that it got", function()
      local at = place(env)
      local client, times = env.client(at.up(), { reconnect = { first = 0.01, cap = 0.1 } }), 0
      client:on_connect(function()
        times = times + 1
        if times == 2 then client:set_reconnect(false) end
      end)
      assert(client:connect(at.bind))
      at.down()
      till(function() return client.state == "reconnecting" end)
      at.up()
      assert.equal(client, client:ready())
      assert.equal(7, (client:request("echo", 7)))
      at.down()
      till(function() return client.state == "closed" end)
    end)

    env.it("comes back after its server has, with its handlers and hooks, as a new session", function()
      local at = place(env)
      local names, sessions, gone = {}, {}, {}
      at.prepare = function(server)
        server:on_connect(function(session) names[#names + 1] = session.metadata.name end)
        server:add_rpc("ask", function(session) return session:request "name" end)
      end
      local client = env.client(at.up(), { reconnect = true, metadata = { name = "ann" } })
      client:add_rpc("name", function() return "ann" end)
      client:on_connect(function(session) sessions[#sessions + 1] = session end)
      client:on_disconnect(function(session, err) gone[#gone + 1] = { session, err.code } end)
      local stops, starts = 0, 0
      client:on_start(function() starts = starts + 1 end)
      client:on_stop(function() stops = stops + 1 end)
      assert(client:connect(at.server.address))
      assert.equal("ann", client:request "ask")
      local first = client.session
      first:set("x", 1)
      for round = 1, 2 do
        at.down()
        till(function() return #gone == round end)
        assert.equal("reconnecting", client.state)
        at.up()
        assert.equal("ann", client:request "ask") -- which waited
        assert.equal("connected", client.state)
        assert.equal(round, client.reconnects)
      end
      assert.equal(3, #sessions)
      assert.equal(3, #names)
      assert.equal(first, sessions[1])
      assert.equal(client.session, sessions[3])
      assert.not_equal(first, client.session)
      assert.is_nil(client.session:get "x")
      assert.equal(first, gone[1][1])
      client:close()
      till(function() return stops == 1 end)
      assert.equal(1, starts)
      assert.equal("closed", client.state)
      local _, err = client:request("echo", 1)
      assert.equal("connection_closed", err.code)
    end)

    env.it("ends calls under way with what is known of them, and holds new ones within their deadline", function()
      local at = place(env)
      local client = env.client(at.up(), { reconnect = true })
      assert(client:connect(at.server.address))
      local under_way = echo.spawn(function() return client:request("slow", 30) end)
      assert.equal(1, client:request("echo", 1))
      at.down()
      local _, err = under_way:wait(5)
      assert.is_true(err.code == "connection_closed" or err.code == "unavailable" or err.code == "cancelled", tostring(err))
      assert.truthy(err.processed)
      till(function() return client.state == "reconnecting" end)
      local began = echo.now()
      local ok, late = client:with { timeout = 0.2 }:request("echo", 2)
      assert.is_nil(ok)
      assert.equal("timeout", late.code)
      assert.equal("no", late.processed)
      assert.is_true(echo.now() - began >= 0.19)
      local ready, not_ready = client:ready(0.05)
      assert.is_nil(ready)
      assert.equal("timeout", not_ready.code)
      -- all the forms wait: calls, callbacks, events, streams
      local called
      local form = client:request("echo", 3, function(x) called = x end)
      local event = echo.spawn(function() return client:emit("note", "held") end)
      local stream = echo.spawn(function() return client:create_stream("ticks"):recv().data end)
      for _, policy in ipairs { "drop_newest", "drop_oldest", "error" } do -- never waits, and has no queue
        local kept, why = client:with { when_full = policy }:emit("note", "not held")
        assert.is_nil(kept)
        assert.equal("unavailable", why.code)
      end
      local tried, full = client:try_emit("note", "not held")
      assert.is_nil(tried)
      assert.equal("unavailable", full.code)
      echo.sleep(0.01)
      at.up()
      assert.equal(client, client:ready(20))
      assert.equal(3, form:wait())
      assert.equal(3, called)
      assert.is_true(event:wait())
      assert.equal("1", stream:wait())
      till(function() return at.runs[1] == "held" end)
      assert.same({ "held" }, at.runs)
    end)

    env.it("fails fast where it is told to, and says what happens", function()
      local at = place(env)
      local told = {}
      local client = env.client(at.up(), { reconnect = { wait = false, first = 0.01, cap = 0.05, attempts = 2,
        on_change = function(_, what) told[#told + 1] = what end } })
      assert(client:connect(at.server.address))
      at.down()
      till(function() return client.state == "reconnecting" end)
      for _, result in ipairs { table.pack(client:request("echo", 1)), table.pack(client:emit("note", 1)),
        table.pack(client:create_stream "ticks"), table.pack(client:stats()) } do
        assert.is_nil(result[1])
        assert.equal("unavailable", result[2].code)
      end
      assert.is_false(client:is_open())
      for _, policy in ipairs { "drop_newest", "drop_oldest", "error" } do
        local ok, err = client:with { when_full = policy }:emit("note", 1)
        assert.is_nil(ok)
        assert.equal("unavailable", err.code)
        assert.equal("no", err.processed)
      end
      client:ready(20) -- it gives up
      assert.equal("closed", client.state)
      till(function() return told[#told] == "gave_up" end)
      assert.equal("lost waiting failed waiting failed gave_up", table.concat(told, " "))
      local _, err = client:request("echo", 1)
      assert.truthy(err)
      at.up()
      assert(client:connect(at.server.address)) -- as ever
      assert.equal(1, client:request("echo", 1))
    end)

    env.it("does not come back to who refuses it", function()
      local at = place(env)
      local refuse = false
      at.prepare = function(server)
        server:auth(function()
          if refuse then return nil, echo.error("permission_denied", "not you") end
          return true
        end)
      end
      local client = env.client(at.up(), { reconnect = true })
      assert(client:connect(at.server.address))
      assert.equal(1, client:request("echo", 1))
      at.down()
      refuse = true
      till(function() return client.state == "reconnecting" end)
      at.up()
      while client.state ~= "closed" do echo.sleep(0.01) end
      local _, err = client:request("echo", 1)
      assert.equal("permission_denied", err.code)
    end)

    env.it("ends when it is closed while it is away", function()
      local at = place(env)
      local client = env.client(at.up(), { reconnect = true })
      local stopped = 0
      client:on_stop(function() stopped = stopped + 1 end)
      assert(client:connect(at.server.address))
      at.down()
      till(function() return client.state == "reconnecting" end)
      local waiting = echo.spawn(function() return client:request("echo", 1) end)
      echo.sleep(0.02)
      assert.is_true(client:close())
      local _, err = waiting:wait(2)
      assert.equal("connection_closed", err.code)
      assert.equal("no", err.processed)
      assert.equal(1, stopped)
      assert.equal("closed", client.state)
    end)

    env.it("moves on to the next server while the one that goes away ends what it has", function()
      local at = place(env, { grace = 5 })
      local client = env.client(at.up(), { reconnect = { first = 0.02, cap = 0.1 } })
      assert(client:connect(at.server.address))
      local under_way = echo.spawn(function() return client:request "gate" end)
      assert.equal(1, client:request("echo", 1))
      local old = at.server
      local stopping = echo.spawn(function() return old:stop() end)
      till(function() return client.state == "reconnecting" end)
      assert.equal(1, #client:sessions())
      local held = echo.spawn(function() return client:request("echo", 2) end)
      at.open = true
      assert.equal("done", under_way:wait(10)) -- nothing is lost
      stopping:wait()
      at.up()
      assert.equal(2, held:wait(20))
    end)

    env.it("wants options that make sense", function()
      for name, value in pairs { first = -1, factor = 0.5, cap = "x", jitter = 2, attempts = 0, wait = 1, on_change = 1, what = 1 } do
        local ok, raised = pcall(echo.client, { pin = "sha256:" .. ("0"):rep(64), reconnect = { [name] = value } })
        assert.is_false(ok)
        assert.matches(name, raised)
      end
      assert.has_error(function() echo.client { reconnect = 1 } end)
      assert.has_error(function() echo.server { reconnect = true } end)
    end)
  end)
end)

net.only("sim", function(env)
  describe("a client with reconnect, when the network is gone", function()
    for _, seconds in ipairs { 2, 10, 40 } do
      env.it(("for %d s, comes back by itself (N4)"):format(seconds), function(network)
        local at = place(env)
        local client = env.client(at.up(), { reconnect = true })
        assert(client:connect(at.server.address))
        assert.equal(1, client:request("echo", 1))
        network:blackout(0, seconds)
        -- calls end at their deadline, never 50 ms late
        local began = echo.now()
        for i = 1, 3 do
          local due = began + i * seconds / 4
          local ok, err = client:with { timeout = due - echo.now() }:request("echo", i)
          assert.is_nil(ok)
          assert.is_true(err.code == "timeout" or err.code == "connection_closed", tostring(err))
          if err.code == "timeout" then
            assert.is_true(echo.now() >= due - 1e-3 and echo.now() <= due + 0.05)
          end
          echo.sleep(math.max(due - echo.now(), 0))
        end
        assert.equal(7, client:with { timeout = 60 }:request("echo", 7))
        local back = echo.now() - began - seconds
        assert.is_true(back < 11, ("it took %.1f s"):format(back))
        assert.equal(seconds == 40 and 1 or 0, client.reconnects)
        assert.equal("connected", client.state)
      end)
    end

    env.it("asks a server that is silent under a call, and so hears of its restart", function(network)
      -- Packets of a connection that the server lost are answered with a reset; without any there is nothing to answer.
      local sent = {}
      for i, probe in ipairs { 0.5, 0 } do
        local at = place(env)
        at.bind = ("10.0.1.%d:5000"):format(i)
        local server = at.up()
        local client = env.client(server, { reconnect = { probe = probe } })
        assert(client:connect(server.address))
        local call = echo.spawn(function() return client:request("slow", 1000) end)
        echo.sleep(1)
        local before = client:stats().packets_sent
        network:blackout(0, 3)
        echo.sleep(3)
        sent[i] = client:stats().packets_sent - before
        call:cancel()
      end
      -- Without ours ngtcp2 0.12 sends one packet in that time, 1.11 eleven.
      assert.is_true(sent[1] >= sent[2] + 2, ("%d and %d packets"):format(sent[1], sent[2])) -- the answer may take an hour
    end)

    env.it("is back at once again after a connection that worked, and waits longer and longer for one that never does", function()
      local at = place(env)
      local flapping = false
      at.prepare = function(server)
        server:on_connect(function(session)
          if flapping then session:close() end
        end)
      end
      local pauses = {}
      local client = env.client(at.up(), { reconnect = { jitter = 0, on_change = function(_, what, seconds)
        if what == "waiting" then pauses[#pauses + 1] = seconds end
      end } })
      assert(client:connect(at.server.address))
      echo.sleep(1)
      flapping = true
      at.server:sessions()[1]:close()
      while #pauses < 8 do echo.sleep(0.1) end
      assert.same({ 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5 }, { table.unpack(pauses, 1, 8) })
      flapping = false
      repeat echo.sleep(0.1) until client:request("echo", 1) == 1
      local n = #pauses
      echo.sleep(0.5) -- long enough, however long the pause before it was
      at.server:sessions()[1]:close()
      while #pauses == n do echo.sleep(0.01) end
      assert.equal(0.1, pauses[n + 1])
    end)

    env.it("keeps its pauses long until a connection was stable, when it is told how long that is", function()
      local at = place(env)
      local pauses = {}
      local client = env.client(at.up(), { reconnect = { jitter = 0, stable = 30, on_change = function(_, what, seconds)
        if what == "waiting" then pauses[#pauses + 1] = seconds end
      end } })
      assert(client:connect(at.server.address))
      for _, seconds in ipairs { 20, 20, 31 } do
        echo.sleep(seconds)
        local n = #pauses
        at.server:sessions()[1]:close()
        repeat echo.sleep(0.1) until #pauses > n and client.state == "connected"
      end
      assert.same({ 0.1, 0.2, 0.1 }, pauses)
    end)

    env.it("does what its own on_connect hooks say: later, never again, or in spite of the code", function()
      local at = place(env)
      local pauses, over, refusal = {}, nil, nil
      local client = env.client(at.up(), { reconnect = { jitter = 0, on_change = function(_, what, detail)
        if what == "waiting" then pauses[#pauses + 1] = detail end
        if what == "gave_up" then over = detail end
      end } })
      client:on_connect(function()
        local err = refusal
        refusal = nil
        return err == nil or nil, err
      end)
      local function refuse(code, fields)
        refusal = echo.error(code, "not now")
        for name, value in pairs(fields) do refusal[name] = value end
      end
      assert(client:connect(at.server.address))
      echo.sleep(1)
      refuse("unauthenticated", { permanent = false, retry_after = 7 })
      at.server:sessions()[1]:close()
      repeat echo.sleep(0.1) until client.state == "connected"
      assert.same({ 0.1, 7.2 }, pauses)
      echo.sleep(1)
      refuse("unavailable", { permanent = true })
      at.server:sessions()[1]:close()
      while not over do echo.sleep(0.1) end
      assert.equal("unavailable", over.code)
      assert.equal(3, #pauses)
    end)
  end)
end)
