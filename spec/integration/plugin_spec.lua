local echo = require "echostream"
local net = require "spec.support.net"

net.each(function(env)
  local function everything(state)
    state = state or {}
    return {
      name = "everything",
      install = function(self, host)
        assert(self.name == "everything")
        local same = host
          :add_rpc("p.rpc", function() return "rpc" end)
          :add_event("p.event", function() state.event = (state.event or 0) + 1 end)
          :add_stream("p.stream", function(_, stream) stream:send "stream" end)
          :add_service("p.service", { hello = function() return "service" end })
          :middleware(function(call, next)
            state.seen = (state.seen or 0) + 1
            return next(call)
          end)
          :on_connect(function() state.connects = (state.connects or 0) + 1 end)
          :on_disconnect(function() end)
          :on_start(function() end)
          :on_stopping(function() end)
          :on_stop(function() end)
        assert(rawequal(same, host))
        host:every(0.01, function() state.ticks = (state.ticks or 0) + 1 end)
        host:after(0.02, function(word) state.after = word end, "later")
        state.host = host
      end,
      uninstall = function() state.uninstalled = true end,
    }
  end

  describe("a plugin", function()
    env.it("installs everything, and takes everything away", function()
      local state = {}
      local server, client = env.pair(function(server)
        assert.equal(server, server:plugin(everything(state)))
      end)
      assert.same({ "everything" }, server:plugins())
      assert.equal("rpc", client:request "p.rpc")
      assert.equal("service", client:request "p.service.hello")
      assert.equal("stream", client:create_stream("p.stream"):recv().data)
      client:emit "p.event"
      env.eventually(function() return state.event == 1 and (state.ticks or 0) >= 2 and state.after == "later" end)
      assert.equal(1, state.connects)
      assert.is_true(state.seen >= 4)
      assert.equal(server.address, state.host.address)
      assert.equal(1, #state.host:sessions())

      assert.is_true(server:remove_plugin "everything")
      assert.is_true(state.uninstalled)
      assert.is_false(server:remove_plugin "everything")
      assert.same({}, server:plugins())
      local seen, ticks = state.seen, state.ticks
      for _, name in ipairs { "p.rpc", "p.service.hello" } do
        assert.equal("method_not_found", select(2, client:request(name)).code)
      end
      assert.equal("method_not_found", select(2, client:create_stream("p.stream"):recv()).code)
      client:emit "p.event"
      env.connect(server):request "x"
      echo.sleep(0.05)
      assert.same({ seen, ticks, 1, 1 }, { state.seen, state.ticks, state.event, state.connects })
      for _, kind in ipairs { "start", "stopping", "stop", "connect", "disconnect" } do
        assert.same({}, server._hooks[kind])
      end
      assert.has_error(function() state.host:every(1, print) end)
      assert.has_error(function() state.host:add_rpc("late", print) end)
      assert.is_true((server:plugin(everything(state)):remove_plugin "everything"))
    end)

    env.it("takes its topics, alerts and listeners with it", function()
      local topic, ended, called = nil, nil, 0
      local server, client = env.pair()
      local function news()
        return {
          name = "news",
          install = function(_, host)
            topic = host:topic "news"
            host:alert { fn = function() called = called + 1 end, window = 0.2 }
            host:on("retry", function() called = called + 1 end)
          end,
        }
      end
      server:plugin(news())
      client:subscribe("news", function() end, { on_end = function(err) ended = { err } end })
      env.eventually(function() return topic:subscribers() == 1 end, "the subscriber")
      server:remove_plugin "news"
      env.eventually(function() return ended end, "the end of the subscription")
      assert.same({}, ended)
      assert.equal("method_not_found", select(2, client:subscribe("news"):next()).code)
      assert.same({}, server._watchers)
      assert.same({}, server._listeners.retry or {})
      server:plugin(news())
      local sub = client:subscribe "news"
      env.eventually(function() return topic:subscribers() == 1 end, "the subscriber")
      topic:publish "again"
      assert.equal("again", sub:next())
      assert.equal(0, called)
    end)

    env.it("whose installation fails leaves nothing behind", function()
      for _, how in ipairs { "raise", "return", "twice" } do
        local server = env.server()
        local ok, err = pcall(server.plugin, server, {
          name = "broken",
          install = function(_, host)
            host:add_rpc("b.rpc", function() end)
            host:middleware(function(call, next) return next(call) end)
            host:on_connect(function() return nil, "never" end)
            host:every(0.001, function() error "still here" end)
            if how == "raise" then error "no database" end
            if how == "return" then return nil, echo.error("unavailable", "no database") end
            host:add_rpc("b.rpc", function() end)
          end,
        })
        assert.is_false(ok)
        assert.matches('plugin "broken" could not be installed', err)
        assert.matches(how == "twice" and "handler of that name already" or "no database", err)
        assert.same({}, server:plugins())
        local client = env.connect(server)
        assert.equal("method_not_found", select(2, client:request "b.rpc").code)
        assert.is_nil(env.logged "still here")
        server:plugin { name = "broken", install = function(_, host) host:add_rpc("b.rpc", function() return 1 end) end }
        assert.equal(1, client:request "b.rpc")
      end
    end)

    env.it("has a name of its own, and may need others before it", function()
      local server = env.server()
      local function plugin(name, requires)
        return { name = name, requires = requires, install = function() end }
      end
      server:plugin(plugin "a")
      assert.error_matches(function() server:plugin(plugin "a") end, 'a plugin "a" already; a second one needs another name')
      server:plugin(echo.plugins.access_log { write = print }):plugin(echo.plugins.access_log { write = print, name = "another log" })
      assert.error_matches(function() server:plugin(plugin("b", { "c" })) end, 'requires plugin "c"')
      server:plugin(plugin("b", { "a" }))
      local removed, err = server:remove_plugin "a"
      assert.is_nil(removed)
      assert.equal("failed_precondition", err.code)
      assert.is_true(server:remove_plugin "b")
      assert.is_true(server:remove_plugin "a")
      for _, wrong in ipairs { 1, {}, { name = "x" }, { install = print }, { name = "x", install = print, uninstall = 1 } } do
        assert.has_error(function() server:plugin(wrong) end)
      end
    end)

    env.it("that fails in uninstall or in a timer is taken away all the same", function()
      local server, client = env.pair(function(server)
        server:plugin {
          name = "clumsy",
          install = function(_, host)
            host:add_rpc("c", function() return 1 end)
            host:every(0.005, function() error "timer 41" end)
          end,
          uninstall = function() error "uninstall 42" end,
        }
      end)
      env.eventually(function() return env.logged "timer 41" end)
      assert.is_true(server:remove_plugin "clumsy")
      assert.truthy(env.logged "uninstall 42")
      assert.equal("method_not_found", select(2, client:request "c").code)
    end)

    env.it("may be taken away by a call of its own, which ends well", function()
      local server, client = env.pair()
      server:plugin {
        name = "brief",
        install = function(_, host)
          host:middleware(function(call, next) return next(call) end)
          host:add_rpc("bye", function()
            server:remove_plugin "brief"
            echo.sleep(0.01)
            return "gone"
          end)
        end,
      }
      assert.equal("gone", client:request "bye")
      assert.equal("method_not_found", select(2, client:request "bye").code)
    end)

    env.it("can ask for the server or client itself, which remembers nothing", function()
      local server = env.server {}
      local real
      server:plugin {
        name = "stays",
        install = function(_, host)
          real = host:itself()
          real:add_rpc("stays", function() return "still here" end)
          host:add_rpc("goes", function() end)
        end,
      }
      assert.equal(server, real)
      server:remove_plugin "stays"
      local client = env.connect(server)
      assert.equal("still here", (client:request "stays"))
      assert.equal("method_not_found", select(2, client:request "goes").code)
    end)

    env.it("installs on clients, and may bring another plugin", function()
      local server, client = env.pair()
      client:plugin {
        name = "outer",
        install = function(_, host)
          host:plugin { name = "inner", install = function(_, inner) inner:add_rpc("inner", function() return 2 end) end }
          host:middleware(function(call, next)
            call.metadata.trace = "7"
            return next(call)
          end, { direction = "out" })
        end,
      }
      server:add_rpc("trace", function() return echo.call().metadata.trace end)
      env.eventually(function() return server:sessions()[1] end)
      assert.equal(2, server:sessions()[1]:request "inner")
      assert.equal("7", client:request "trace")
      client:remove_plugin "outer"
      assert.same({}, client:plugins())
      assert.equal(true, client:request "trace" == nil or true)
      assert.equal("method_not_found", select(2, server:sessions()[1]:request "inner").code)
    end)
  end)
end)
