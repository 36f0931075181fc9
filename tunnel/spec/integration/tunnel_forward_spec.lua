-- One exchange over one stream, and every way in which it can end. The visitor is a fake, the sessions are real, the agent is a handler.
local core = require "echostream.tunnel.core"
local echo = require "echostream"
local errors = require "echostream.tunnel.errors"
local fake = require "tunnel.spec.support.fake_exchange"
local forward = require "echostream.tunnel.server.forward"
local net = require "spec.support.net"
local watch = require "echostream.tunnel.watch"

local function head(with)
  local fields = { method = "GET", scheme = "https", authority = "example.org", path = "/" }
  for name, value in pairs(with or {}) do fields[name] = value end
  return assert(core.head("request", fields))
end

local function response(status, fields)
  fields = fields or {}
  fields.status = status
  return assert(core.head("response", fields))
end

net.each(function(env)
  -- A server with agents, each a function that handles `tunnel.http`; `go(exchange, job)` forwards.
  local function world(agents, opts)
    opts = opts or {}
    local members, w = {}, { finished = {} }
    local server = env.server(nil, function(server)
      server:add_rpc("here", function(session, id)
        members[#members + 1] = { id = id, group = "web", session = session, streams = 0, served = 0, errors = 0, bytes_in = 0, bytes_out = 0 }
        return true
      end)
    end)
    w.clients = {}
    for i, fn in ipairs(agents) do
      local client = env.client(server)
      client:add_stream("tunnel.http", fn)
      assert(client:connect(server.address))
      assert(client:request("here", "a" .. i))
      w.clients[i] = client
    end
    w.groups = {
      begin = function() end,
      finish = function(_, member, ok) table.insert(w.finished, { member.id, ok }) end,
      pick = function(_, _, _, tried)
        for _, member in ipairs(members) do
          if not (tried and tried[member]) then return member, {} end
        end
        return nil, errors.new(503, "the group web has no agent", { retry_after = 1 })
      end,
    }
    w.members = members
    w.watch = watch.new(function(run, now) run.check(run, now) end)
    table.insert(env.opened, { close = function() w.watch:stop() end })

    -- Forwards in the background: a task whose result is the error that the visitor still has to be told.
    function w.go(exchange, job)
      job = job or {}
      job.exchange, job.head = exchange, job.head or head()
      job.request = { method = job.head.method, kind = "http", head = job.head }
      job.record = { received = echo.now(), bytes_in = 0, bytes_out = 0, attempts = 0 }
      job.groups, job.group, job.watch = w.groups, "web", w.watch
      job.timeouts = opts.timeouts or { headers = 60, idle = 60, tunnel_idle = 60 }
      job.fin = job.fin ~= false
      local told
      local running = echo.spawn(function() told = forward.run(job) or false end)
      return function()
        assert(running:wait(15))
        return told, job.record
      end
    end
    return w
  end

  local function read(stream)
    local message = assert(stream:recv()).data
    return core.split(message)
  end

  describe("an exchange", function()
    env.it("is one message each way when it is small", function()
      local seen = {}
      local w = world { function(_, stream)
        local asked, rest = read(stream)
        seen = { asked.method, asked.path, asked:get "accept", rest }
        stream:send(response(200, { { "content-type", "text/plain" } }):part(false) .. core.part("body", "hello") .. core.part "end")
        stream:finish()
      end }
      local x = fake.new()
      local told, record = w.go(x, { head = head { path = "/x", { "accept", "*/*" } } })()
      assert.is_false(told)
      assert.same({ "GET", "/x", "*/*", core.part "end" }, seen)
      assert.equal(200, x:head().status)
      assert.equal("hello", x:text())
      assert.is_true(x.over)
      assert.equal(1, x.puts)
      assert.equal(200, record.status)
      assert.equal(5, record.bytes_out)
      assert.equal("a1", record.agent)
      assert.equal(1, record.attempts)
      assert.is_nil(record.cause)
      assert.is_number(record.to_headers)
      assert.same({ { "a1", true } }, w.finished)
      assert.equal(1, w.members[1].served)
      assert.equal(0, w.members[1].streams)
    end)

    env.it("streams both ways, with trailers, informational heads and a NOTE", function()
      local w = world { function(_, stream)
        local asked, rest = read(stream)
        assert.equal("POST", asked.method)
        stream:send(core.part("note", require("echostream.codec").msgpack.pack { backend = "site", reused = true }) .. response(103):part())
        local got = {}
        while true do
          for kind, value in core.parts(rest ~= "" and rest or core.part("note", "")) do
            got[#got + 1] = kind == "body" and value or kind ~= "note" and kind or nil
          end
          local frame = stream:recv()
          if not frame then break end
          rest = frame.data
        end
        stream:send(response(200):part(false))
        stream:send(core.part("body", table.concat(got, " ")))
        stream:send(assert(core.head("trailers", { { "grpc-status", "0" } })):part())
        stream:finish()
      end }
      local x = fake.new()
      local done = w.go(x, { head = head { method = "POST" }, fin = false })
      x:wait_until(function() return #x.heads == 1 end)
      assert.equal(103, x:head().status)
      x:push "one"
      echo.sleep(0.01)
      x:push "two"
      x:push_end()
      local told, record = done()
      assert.is_false(told)
      assert.equal(200, x:head().status)
      assert.equal("one two end", x:text())
      assert.equal("0", x.trailers:get "grpc-status")
      assert.equal(6, record.bytes_in)
      assert.equal(11, record.bytes_out)
      assert.same({ backend = "site", reused = true }, record.backend)
    end)

    env.it("delivers an early answer, and asks for the rest of the request no more", function()
      local w = world { function(_, stream)
        read(stream)
        stream:send(response(403):part(true))
        stream:finish()
      end }
      local x = fake.new()
      local told, record = w.go(x, { head = head { method = "POST" }, fin = false })()
      assert.is_false(told)
      assert.equal(403, record.status)
      assert.equal("no_error", x.was_reset)
      assert.is_nil(record.cause)
    end)

    env.it("goes no faster than the visitor reads", function()
      local sent = 0
      local w = world { function(_, stream)
        read(stream)
        stream:send(response(200):part(false))
        for _ = 1, 200 do
          assert(stream:send(core.part("body", ("x"):rep(60000))))
          sent = sent + 1
        end
        stream:send(core.part "end")
      end }
      local x = fake.new { stuck = true }
      local done = w.go(x)
      x:wait_until(function() return #x.heads == 1 end)
      echo.sleep(0.5)
      assert.is_true(sent < 100, sent .. " were sent") -- 6 MB would be more than all the queues between hold
      x:unstick()
      local told, record = done()
      assert.is_false(told)
      assert.equal(200 * 60000, record.bytes_out)
    end)

    env.it("of a WebSocket goes on in the other direction when one has ended", function()
      local w = world { function(_, stream)
        read(stream)
        stream:send(response(200):part(false) .. core.part("body", "bye") .. core.part "end")
        stream:finish()
        local frame = assert(stream:recv())
        assert.equal(core.part("body", "late") .. core.part "end", frame.data)
      end }
      local x = fake.new()
      local done = w.go(x, { head = head { method = "CONNECT", protocol = "websocket" }, fin = false })
      x:wait_until(function() return x.over end)
      assert.equal("bye", x:text())
      x:push "late"
      x:push_end()
      local told, record = done()
      assert.is_false(told)
      assert.is_nil(record.cause)
      assert.is_nil(x.was_reset)
      assert.equal(4, record.bytes_in)
    end)
  end)

  describe("a visitor who goes", function()
    for name, when in pairs {
      ["before the head"] = function() end,
      ["in the middle of the body"] = function(x, stream)
        stream:send(response(200):part(false) .. core.part("body", "x"))
        x:wait_until(function() return #x.heads == 1 end)
      end,
    } do
      env.it(name .. " resets the stream at once", function()
        local aborted, begun
        local x = fake.new()
        local w = world { function(_, stream)
          read(stream)
          when(x, stream)
          begun = true
          local frame, err = stream:recv()
          if not frame and err then aborted = err.details and err.details.reset end
        end }
        local done = w.go(x, { head = head { method = "POST" }, fin = false })
        env.eventually(function() return begun end)
        x:abort()
        local told, record = done()
        assert.is_false(not not told)
        env.eventually(function() return aborted end)
        assert.equal(1, aborted)
        assert.equal("visitor", record.cause)
        assert.same({ { "a1", true } }, w.finished) -- it was not the agent's doing
      end)
    end

    env.it("is noticed when something cannot be sent, and that is not the agent's doing", function()
      local w = world { function(_, stream)
        read(stream)
        stream:send(response(200):part(false) .. core.part("body", "one"))
        echo.sleep(0.05)
        while stream:send(core.part("body", "two")) do echo.sleep(0.01) end
      end }
      local x = fake.new()
      local done = w.go(x)
      x:wait_until(function() return #x.body == 1 end)
      x:vanish()
      local told, record = done()
      assert.is_false(told)
      assert.equal("visitor", record.cause)
      assert.same({ { "a1", true } }, w.finished)
    end)

    env.it("before anything was sent costs nothing", function()
      local w = world { function() error "nobody asked" end }
      local x = fake.new()
      x:abort()
      local told, record = w.go(x)()
      assert.is_false(told)
      assert.equal("visitor", record.cause)
      assert.equal(0, record.attempts)
    end)
  end)

  describe("an agent that fails", function()
    env.it("before the head gives 502", function()
      local w = world { function(_, stream)
        read(stream)
        stream:reset(6)
      end }
      local x = fake.new()
      local told, record = w.go(x)()
      assert.equal(502, errors.status(told))
      assert.equal("backend", record.cause)
      assert.equal(0, #x.heads)
      assert.same({ { "a1", false } }, w.finished)
      assert.equal(1, w.members[1].errors)
    end)

    env.it("by going away gives 502 for a POST, and another agent for a GET", function()
      local function vanish(_, stream)
        read(stream)
        stream.session:close "crash"
      end
      local w = world { vanish, function(_, stream)
        read(stream)
        stream:send(response(200):part(false) .. core.part("body", "second") .. core.part "end")
      end }
      local x = fake.new()
      local told, record = w.go(x)()
      assert.is_false(told)
      assert.equal("second", x:text())
      assert.equal(2, record.attempts)
      assert.equal("a2", record.agent)
      assert.is_nil(record.cause)

      w = world { vanish, function() error "a POST may not be sent twice" end }
      x = fake.new()
      x:push "body"
      x:push_end()
      told, record = w.go(x, { head = head { method = "POST" }, fin = false })()
      assert.equal(502, errors.status(told))
      assert.equal("agent", record.cause)
      assert.equal(1, record.attempts)
    end)

    env.it("in the middle of the body cuts the response off", function()
      for _, how in ipairs { "reset", "end", "close", "part" } do
        local w = world { function(_, stream)
          read(stream)
          stream:send(response(200):part(false) .. core.part("body", "half"))
          if how == "reset" then
            echo.sleep(0.05)
            stream:reset(6)
          elseif how == "close" then
            echo.sleep(0.05)
            stream.session:close "crash"
          elseif how == "part" then
            stream:send(core.part("reset", { why = "truncated", text = "the backend went" }))
          end
        end }
        local x = fake.new()
        local told, record = w.go(x)()
        assert.is_false(told, how)
        assert.equal(200, record.status)
        assert.equal("internal", x.was_reset)
        assert.equal(how == "close" and "agent" or "backend", record.cause, how)
        assert.same({ { "a1", false } }, w.finished)
      end
    end)

    env.it("that is not there gives 503", function()
      local w = world {}
      local told, record = w.go(fake.new())()
      assert.equal(503, errors.status(told))
      assert.equal("no_agent", record.cause)
    end)

    env.it("and has gone already is passed over, also for a POST", function()
      local w = world { function() end, function(_, stream)
        read(stream)
        stream:send(response(204):part(true))
      end }
      w.clients[1]:close()
      env.eventually(function() return not w.members[1].session:is_open() end)
      local x = fake.new()
      x:push "body"
      x:push_end()
      local told, record = w.go(x, { head = head { method = "POST" }, fin = false })()
      assert.is_false(told)
      assert.equal(204, record.status)
      assert.equal(2, record.attempts)
      assert.equal(4, record.bytes_in)
    end)
  end)

  describe("a limit", function()
    env.it("on the time to the head gives 504, and the agent learns it", function()
      local code
      local w = world({ function(_, stream)
        read(stream)
        local _, err = stream:recv()
        code = err and err.details and err.details.reset
      end }, { timeouts = { headers = 0.3, idle = 60, tunnel_idle = 60 } })
      local told, record = w.go(fake.new(), { head = head { method = "POST" }, fin = false })()
      assert.equal(504, errors.status(told))
      assert.equal("timeout", record.cause)
      env.eventually(function() return code end)
      assert.equal(5, code)
    end)

    env.it("on the time between two pieces of a response cuts it off", function()
      local w = world({ function(_, stream)
        read(stream)
        stream:send(response(200):part(false) .. core.part("body", "half"))
        echo.sleep(30) -- ends when the stream is reset
      end }, { timeouts = { headers = 60, idle = 0.3, tunnel_idle = 60 } })
      local x = fake.new()
      local told, record = w.go(x)()
      assert.is_false(told)
      assert.equal("timeout", record.cause)
      assert.equal("timeout", x.was_reset)
    end)

    env.it("cuts a visitor off who reads no more", function()
      local w = world({ function(_, stream)
        read(stream)
        stream:send(response(200):part(false))
        stream:send(core.part("body", "half"))
        stream:recv() -- until it is reset
      end }, { timeouts = { headers = 60, idle = 0.3, tunnel_idle = 60 } })
      local x = fake.new { stuck = true }
      local told, record = w.go(x)()
      assert.is_false(told)
      assert.equal("timeout", record.cause)
      assert.equal("timeout", x.was_reset)
      assert.equal(0, w.members[1].streams)
    end)

    env.it("on the body gives 413, also in the middle of it", function()
      local aborted
      local w = world { function(_, stream)
        read(stream)
        while true do
          local frame, err = stream:recv()
          if not frame then
            aborted = err ~= nil
            return
          end
        end
      end }
      local x = fake.new()
      local done = w.go(x, { head = head { method = "POST" }, fin = false, max_body = 10 })
      x:push "12345678"
      echo.sleep(0.01)
      x:push "12345678"
      local told, record = done()
      assert.equal(413, errors.status(told))
      assert.equal("limit", record.cause)
      assert.equal("body", record.limit)
      env.eventually(function() return aborted end)
    end)

    env.it("on bytes in flight gives 503 and what was counted is given back", function()
      local w = world { function(_, stream)
        read(stream)
        stream:recv()
      end }
      local x, held = fake.new(), 0
      x:push "12345678"
      local told, record = w.go(x, { head = head { method = "POST" }, fin = false, slot = { pace = function() return 0 end, bytes = function(_, n)
        if n > 8 then return nil, errors.new(503, "too many bytes are in flight", { limit = "global bytes", retry_after = 1 }) end
        held = held + n
        return true
      end } })()
      assert.equal(503, errors.status(told))
      assert.equal("global bytes", record.limit)
      assert.equal(0, held)
    end)

    env.it("on bandwidth makes it wait", function()
      local w = world { function(_, stream)
        read(stream)
        stream:send(response(200):part(false) .. core.part("body", ("x"):rep(1000)))
        stream:send(core.part("body", ("x"):rep(1000)) .. core.part "end")
      end }
      local x = fake.new()
      local began, paced = echo.now(), 0
      local told = w.go(x, { slot = { bytes = function() return true end, pace = function(_, direction, n)
        paced = paced + n
        return direction == "out" and 0.1 or 0
      end } })()
      assert.is_false(told)
      assert.is_true(echo.now() - began >= 0.19)
      assert.is_true(paced >= 2000)
    end)
  end)

  describe("what an agent must not do", function()
    env.it("is to send informational heads without end", function()
      local w = world { function(_, stream)
        read(stream)
        stream:send(response(103):part():rep(200000) .. response(200):part(true))
        stream:recv()
      end }
      local x = fake.new()
      local told, record = w.go(x, { head = head { method = "POST" } })()
      assert.equal(502, errors.status(told))
      assert.same({ "agent", "too many informational heads" }, { record.cause, record.reason })
      assert.equal(128, #x.heads)
    end)
  end)

  describe("a wait for bandwidth", function()
    env.it("ends when the visitor goes", function()
      local w = world { function(_, stream)
        read(stream)
        stream:send(response(200):part(false) .. core.part("body", "half"))
        stream:recv()
      end }
      local x = fake.new()
      local waits = false
      local done = w.go(x, { slot = { bytes = function() return true end, pace = function()
        waits = true
        return 1e6
      end } })
      env.eventually(function() return waits end)
      x:abort()
      local told, record = done()
      assert.is_nil(told or nil)
      assert.equal("visitor", record.cause)
    end)

    env.it("is no idleness", function()
      if env.kind ~= "sim" then return end -- a machine that stands still for a second would be idle
      local w = world({ function(_, stream)
        read(stream)
        stream:send(response(200):part(false) .. core.part("body", "half"))
        stream:send(core.part "end")
      end }, { timeouts = { headers = 60, idle = 0.6, tunnel_idle = 60 } })
      local x, paced = fake.new(), 0
      local told, record = w.go(x, { slot = { bytes = function() return true end, pace = function()
        paced = paced + 1
        return paced == 1 and 2 or 0
      end } })()
      assert.is_false(told)
      assert.is_nil(record.cause)
      assert.equal("half", x:text())
    end)
  end)

  env.it("the final head can be changed on its way to the visitor", function()
    local w = world { function(_, stream)
      read(stream)
      stream:send(response(200):part(true))
    end }
    local x = fake.new()
    w.go(x, { on_response = function(given, info)
      assert.is_table(info)
      given:add("set-cookie", "a=b")
    end })()
    assert.equal("a=b", x:head():get "set-cookie")
  end)
end)
