-- session:wait_event, on both sides.

local core = require "echostream.core"
local echo = require "echostream"
local net = require "spec.support.net"

net.each_door(function(env)
  local function session_of(server)
    env.eventually(function() return server:sessions()[1] end, "the session is there")
    return server:sessions()[1]
  end

  describe("waiting for an event", function()
    env.it("gives its arguments", function()
      local server, client = env.pair()
      local session = session_of(server)
      local task = echo.spawn(client.wait_event, client, "news", 2)
      echo.sleep(0.01)
      assert.is_true(session:emit("news", 1, nil, "three", nil))
      assert.same({ n = 4, 1, nil, "three", nil }, table.pack(task:wait(2)))
      task = echo.spawn(session.wait_event, session, "hello", 2)
      echo.sleep(0.01)
      assert.is_true(client:emit("hello"))
      assert.is_true(task:wait(2))
    end)

    env.it("leaves the handler of that name alone", function()
      local server, client = env.pair()
      local session = session_of(server)
      local got = {}
      client:add_event("news", function(_, n) got[#got + 1] = n end)
      local tasks = {}
      for i = 1, 3 do tasks[i] = echo.spawn(client.wait_event, client, "news", 2) end
      echo.sleep(0.01)
      for n = 1, 3 do assert.is_true(session:emit("news", n)) end
      for i = 1, 3 do assert.equal(1, (tasks[i]:wait(2))) end
      env.eventually(function() return #got == 3 end)
      assert.same({ 1, 2, 3 }, got)
      assert.equal("already_exists", select(2, pcall(client.add_event, client, "news", print)):find "already" and "already_exists")
    end)

    env.it("lets a handler come and go meanwhile", function()
      local server, client = env.pair()
      local session = session_of(server)
      local got = {}
      local function note(_, n) got[#got + 1] = n end
      local task = echo.spawn(client.wait_event, client, "news", 2)
      echo.sleep(0.01)
      assert.equal(client, client:add_event("news", note))
      assert.is_true(client:remove_event("news"))
      assert.is_false(client:remove_event("news"))
      client:add_event("news", note, { concurrent = 3 })
      session:emit("news", 7)
      assert.equal(7, (task:wait(2)))
      session:emit("news", 8)
      env.eventually(function() return #got == 2 end)
      assert.same({ 7, 8 }, got)
      assert.is_true(client:remove_event("news"))
      session:emit("news", 9)
      echo.sleep(0.05)
      assert.equal(2, #got)
    end)

    env.it("hears one session only", function()
      local server, one = env.pair()
      local first = session_of(server)
      local two = env.connect(server)
      env.eventually(function() return #server:sessions() == 2 end)
      local task = echo.spawn(first.wait_event, first, "hello", 2)
      echo.sleep(0.01)
      two:emit("hello", "two")
      echo.sleep(0.05)
      assert.equal("suspended", task:status())
      one:emit("hello", "one")
      assert.equal("one", (task:wait(2)))
    end)

    env.it("ends in time, when it is cancelled, and with the session", function()
      local server, client = env.pair()
      local session = session_of(server)
      assert.equal("timeout", select(2, client:wait_event("news", 0.02)).code)
      local cancelled = echo.spawn(client.wait_event, client, "news")
      local lost = echo.spawn(session.wait_event, session, "news")
      local before = core.memory().in_use
      echo.sleep(0.01)
      cancelled:cancel()
      assert.equal("cancelled", select(2, cancelled:wait(1)).code)
      assert.equal("suspended", lost:status())
      client:close()
      assert.equal("connection_closed", select(2, lost:wait(2)).code)
      assert.equal("unavailable", select(2, client:wait_event("news", 1)).code)
      assert.equal("connection_closed", select(2, session:wait_event("news", 1)).code)
      assert.is_true(core.memory().in_use < before + 100000)
      assert.is_nil(next(server._event_waits))
    end)

    env.it("calls back", function()
      local server, client = env.pair()
      local session = session_of(server)
      local got
      local task = client:wait_event("news", 2, function(...) got = table.pack(...) end)
      client:wait_event("news", function() end):cancel()
      echo.sleep(0.01)
      session:emit("news", "called")
      assert.equal("called", (task:wait(2)))
      assert.same({ n = 1, "called" }, got)
    end)

    env.it("sees what middleware lets through", function()
      local server = env.server()
      local client = env.client(server)
      client:middleware(function(call, next)
        if call.args[1] == "secret" then return call:reject("permission_denied") end
        return next(call)
      end, { direction = "in" })
      assert(client:connect(server.address))
      local task = echo.spawn(client.wait_event, client, "news", 2)
      local session = session_of(server)
      session:emit("news", "secret")
      session:emit("news", "public")
      assert.equal("public", (task:wait(2)))
    end)

    env.it("is not needed for a tap, which hears all of them beside the handler, whichever was first", function()
      local server, client = env.pair()
      local session = session_of(server)
      local heard, handled = {}, {}
      local function tap(from, ...)
        assert.equal(client.session, from)
        heard[#heard + 1] = table.concat({ ... }, " ")
        if ... == 2 then error "a tap that fails 23" end
      end
      client:tap("news", tap):tap("news", tap)
      local waiting = echo.spawn(client.wait_event, client, "news")
      echo.sleep(0.01)
      assert.is_true(session:emit("news", 1, "first"))
      assert.equal(1, (waiting:wait()))
      client:add_event("news", function(_, n) handled[#handled + 1] = n end) -- as if nobody heard yet
      assert.has_error(function() client:add_event("news", print) end)
      assert.is_true(client:untap("news", tap))
      assert.is_true(session:emit("news", 2))
      assert.is_true(session:emit("news", 3))
      env.eventually(function() return #handled == 2 end)
      assert.same({ 2, 3 }, handled)
      assert.same({ "1 first", "1 first", "2", "3" }, heard)
      assert.truthy(env.logged("a tap that fails 23").traceback:find("wait_event_spec", 1, true))
      assert.is_true(client:remove_event "news")
      assert.is_true(client:untap("news", tap))
      assert.is_false(client:untap("news", tap))
      assert.is_nil(next(client._event_waits))

      -- The other way round, and gone with a plugin.
      client:add_event("late", function(_, n) handled[#handled + 1] = n end)
      client:plugin { name = "tap", install = function(_, host) host:tap("late", function(_, n) heard[#heard + 1] = n end) end }
      assert.is_true(session:emit("late", 7))
      env.eventually(function() return #handled == 3 end)
      assert.equal(7, heard[5])
      client:remove_plugin "tap"
      assert.is_true(session:emit("late", 8))
      env.eventually(function() return #handled == 4 end)
      assert.is_nil(heard[6])
      assert.has_error(function() client:tap("two words", print) end)
      assert.has_error(function() client:tap("news") end)
      env.logs = {}
    end)

    env.it("wants a name and seconds", function()
      local _, client = env.pair()
      for _, wrong in ipairs { 5, {}, "two words", "" } do
        assert.has_error(function() client:wait_event(wrong) end)
      end
      assert.has_error(function() client:wait_event("news", "soon") end)
      assert.has_error(function() client:wait_event("news", 1, 2) end)
    end)
  end)
end)
