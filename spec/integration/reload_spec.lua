-- Changing a server's code while it runs.

local echo = require "echostream"
local net = require "spec.support.net"
local process = require "spec.support.process"
local pty = require "spec.support.pty"

local dir

local function write(name, text)
  process.write(dir .. "/" .. name, text)
end

-- As editors do it: nobody ever sees half of the file.
local function put(name, text)
  write(name .. ".new", text)
  assert(os.rename(dir .. "/" .. name .. ".new", dir .. "/" .. name))
end

local function matches(pattern, text)
  assert.truthy(tostring(text):find(pattern), ("%s\ndoes not match %s"):format(tostring(text), pattern))
end

setup(function() dir = process.directory() end)
teardown(function() process.remove(dir) end)

net.each(function(env)
  -- A running server with the file app.lua, and a client. `prepare` runs before the file is loaded.
  local function serve(text, prepare)
    write("app.lua", text)
    local server = env.server({}, function(server)
      if prepare then
        prepare(server)
      end
      assert(server:load(dir .. "/app.lua", "an argument"))
    end)
    return server, env.connect(server)
  end

  describe("a server whose file is loaded again", function()
    env.it("runs new code for new calls, and what began goes on with the old", function()
      _G.reload_go = false
      local text = [[
        local server, argument = ...
        local echo = require "echostream"
        server:add_rpc("version", function() return "VERSION", argument end)
        server:add_rpc("slow", function() while not reload_go do echo.sleep(0.005) end return "VERSION" end)
        server:add_stream("talk", function(_, stream)
          for frame in stream:frames() do stream:send("VERSION " .. frame.data) end
        end)
      ]]
      local server, client = serve(text:gsub("VERSION", "one"), nil)
      assert.same({ "one", "an argument" }, { client:request("version") })
      local slow = {}
      for i = 1, 3 do slow[i] = echo.spawn(function() return client:request("slow") end) end
      local talk = client:create_stream("talk")
      talk:send("a")
      assert.equal("one a", talk:recv(10).data)
      env.eventually(function() return client:describe("slow").versions == "v1: 3 in flight" end)
      write("app.lua", (text:gsub("VERSION", "two")))
      assert.same({ version = 2, changed = 3, new = 0, gone = 0 }, server:reload())
      assert.equal("two", (client:request("version")))
      slow[4] = echo.spawn(function() return client:request("slow") end)
      env.eventually(function() return client:describe("slow").versions == "v2: 1 in flight, v1: 3" end)
      talk:send("b")
      assert.equal("one b", talk:recv(10).data)
      local other = client:create_stream("talk")
      other:send("c")
      assert.equal("two c", other:recv(10).data)
      assert.equal("v2: 1 in flight, v1: 1", client:describe("talk").versions)
      _G.reload_go = true
      local answers = {}
      for i = 1, 4 do answers[i] = slow[i]:wait(10) end
      _G.reload_go = nil
      assert.same({ "one", "one", "one", "two" }, answers)
      assert.equal("v2: 0 in flight", client:describe("slow").versions)
      talk:close()
      other:close()
      env.eventually(function() return client:describe("talk").versions == "v2: 0 in flight" end)
      assert.truthy(env.logged("reloaded app.lua: v2 (3 handlers changed, 0 new, 0 gone)"))
    end)

    env.it("has what the file registers now, and no more", function()
      local server, client = serve [[
        local server = ...
        server:add_rpc("same", function() return 1 end)
        server:add_rpc("gone", function() return 1 end)
        server:add_rpc("limited", function() return echo end, { max_calls = 1, idempotent = true, doc = "before" })
        server:add_event("gone", function() end)
        server:add_service("math", { add = function(_, a, b) return a + b end })
      ]]
      write("app.lua", [[
        local server = ...
        server:add_rpc("same", function() return 1 end)
        server:add_rpc("limited", function() return echo end, { doc = "after" })
        server:add_rpc("fresh", function() return "fresh" end)
        server:add_service("math", { sub = function(_, a, b) return a - b end })
      ]])
      assert.same({ version = 2, changed = 1, new = 2, gone = 3 }, server:reload())
      assert.equal(1, client:request("same"))
      assert.equal("fresh", client:request("fresh"))
      assert.equal("method_not_found", select(2, client:request("gone")).code)
      assert.equal(3, client:service("math").sub(5, 2))
      assert.equal("method_not_found", select(2, client:request("math.add", 1, 2)).code)
      assert.same({ "fresh", "limited", "math.sub", "same" }, (function()
        local names = {}
        for i, entry in ipairs(client:methods()) do names[i] = entry.name end
        return names
      end)())
      local limited = client:describe("limited")
      assert.same({ "after" }, { limited.doc, limited.max_calls, limited.idempotent })
      assert.equal("v2: 0 in flight", limited.versions)
      assert.is_true(server:remove_service("math"))
      assert.equal("method_not_found", select(2, client:request("math.sub", 1, 2)).code)
    end)

    env.it("keeps everything when the file fails, and says where and why", function()
      local good = [[
        local server = ...
        local part = require "reload_part"
        server:add_rpc("version", function() return part.version end)
        server:middleware(function(call, next) call.session:set("seen", 1) return next(call) end)
      ]]
      write("reload_part.lua", "return { version = 1 }")
      local server, client = serve(good)
      local part = package.loaded.reload_part
      local function fails(pattern, text)
        write("app.lua", text)
        local summary, err = server:reload()
        assert.is_nil(summary)
        assert.equal("failed_precondition", err.code)
        matches(pattern, err.message)
        assert.truthy(env.logged("app.lua was not loaded again, v1 stays: "))
        assert.is_nil((env.logged("reload.lua"))) -- the traceback ends with the file
        assert.equal(1, client:request("version"))
        assert.equal("v1: 0 in flight", client:describe("version").versions)
        assert.equal("method_not_found", select(2, client:request("half")).code)
        assert.equal(part, package.loaded.reload_part)
        assert.equal(1, #server._middleware)
        assert.same({}, server:plugins())
      end
      local half = "local server = ... server:add_rpc('half', print) "
      fails("app.lua:2: syntax error near", half .. "\n= 5")
      fails("app.lua:1: oops", half .. "error 'oops'")
      fails("app.lua:1: attempt to index a nil value", half .. "local x = nothing.field")
      fails("app.lua:1: add_rpc: unknown option \"timout\"", half .. "server:add_rpc('other', print, { timout = 1 })")
      fails("there is a handler of that name already", half .. "server:add_rpc('half', print)")
      fails("module 'reload_nowhere' not found", half .. "require 'reload_nowhere'")
      fails("plugin \"bad\" could not be installed: .*no", half .. "server:plugin { name = 'fine', install = function() end } "
        .. "server:plugin { name = 'bad', install = function() error('no', 0) end }")
      fails("returns 5; it may return a server, or nothing", half .. "return 5")
      write("reload_part.lua", "return { version = ")
      fails("reload_part.lua:1: ", half .. "require 'reload_part'")
      -- and the file may be mended
      write("reload_part.lua", "return { version = 2 }")
      write("app.lua", good)
      assert.equal(2, server:reload().version)
      assert.equal(2, client:request("version"))
      package.loaded.reload_part = nil
    end)

    env.it("fails to load altogether when it fails the first time", function()
      write("app.lua", "local server = ... server:add_rpc('half', print) error 'oops'")
      local server = env.server()
      local ok, err = server:load(dir .. "/app.lua")
      assert.is_nil(ok)
      matches("failed_precondition: .*app.lua:1: oops", err)
      assert.same({}, env.connect(server):describe())
      matches("cannot open", select(2, server:load(dir .. "/nowhere.lua")))
      write("app.lua", "local server = ... server:add_rpc('whole', print)")
      assert.is_true(server:load(dir .. "/app.lua"))
      assert.has_error(function() server:load(dir .. "/app.lua") end)
      matches("was loaded already", select(2, pcall(server.load, server, dir .. "/app.lua")))
      matches("nothing was loaded", select(2, pcall(server.reload, env.server())))
    end)

    env.it("keeps its state in contexts", function()
      local server, client = serve [[
        local server = ...
        local loads = (server.context:get "loads" or 0) + 1
        server.context:set("loads", loads)
        server:add_rpc("count", function(session)
          session:set("calls", (session:get "calls" or 0) + 1)
          return session:get "calls", server.context:get "loads", #server:sessions(), server.state
        end)
      ]]
      assert.same({ 1, 1, 1, "running" }, { client:request("count") })
      server:reload()
      assert.same({ 2, 2, 1, "running" }, { client:request("count") })
    end)

    env.it("is the server to whatever the file gives it to", function()
      local server, client = serve [[
        local server = ...
        local echo = require "echostream"
        local itself
        server:plugin { name = "p", install = function(_, host) itself = host:itself() end }
        local service = echo.service.new(server)
        service:offer("chat", "1.0", function(stream) stream:send("hello") end)
        server:add_rpc("same", function(session)
          return itself == server, rawequal(itself, server), server:sessions()[1] == session, tostring(server) == tostring(itself),
            #echo.metrics.prometheus(server) > 0
        end)
        server:add_rpc("later", function()
          server:add_rpc("added", function() return server.address end)
          server.context:broadcast("event", 1)
        end)
      ]]
      for _ = 1, 2 do
        assert.same({ true, false, true, true, true }, { client:request("same") })
        assert.equal("hello", echo.service.new(client):open_stream(client.session, "chat/1.0"):recv(10).data)
        assert(server:reload())
      end
      local event = echo.spawn(function() return client:wait_event("event", 10) end)
      echo.sleep(0)
      client:request("later")
      assert.equal(1, (event:wait(10)))
      assert.equal(server.address, client:request("added"))
      assert(server:reload())
      assert.equal(server.address, client:request("added"))
    end)

    env.it("gets its middleware, hooks and auth anew, between those of others", function()
      local order = {}
      _G.reload_note = function(what) order[#order + 1] = what end
      local function passes(name)
        return function(call, next) _G.reload_note(name) return next(call) end
      end
      local server, client = serve([[
        local server = ...
        server:middleware(function(call, next) reload_note "file 1" return next(call) end)
        server:on_connect(function() reload_note "connect 1" end)
        server:auth(function() reload_note "auth 1" return true end)
        server:on("retry", function() end)
        server:add_rpc("x", function() end)
      ]], function(server) server:middleware(passes "before") end)
      server:middleware(passes "after")
      client:request("x")
      order = {}
      client:request("x")
      assert.same({ "before", "file 1", "after" }, order)
      write("app.lua", [[
        local server = ...
        server:middleware(function(call, next) reload_note "file 2" return next(call) end)
        server:middleware(function(call, next) reload_note "file 3" return next(call) end)
        server:on_connect(function() reload_note "connect 2" end)
        server:add_rpc("x", function() end)
      ]])
      server:reload()
      order = {}
      client:request("x")
      assert.same({ "before", "file 2", "file 3", "after" }, order)
      order = {}
      env.connect(server):request("x")
      assert.same({ "connect 2", "before", "file 2", "file 3", "after" }, order)
      assert.is_nil(server._auth)
      assert.same({}, server._listeners.retry)
      write("app.lua", "")
      server:reload()
      order = {}
      client:methods()
      assert.same({ "before", "after" }, order)
      _G.reload_note = nil
    end)

    env.it("installs plugins anew, and undoes what the old ones do", function()
      local ticks, undone, adopted = { 0, 0, 0 }, {}, {}
      _G.reload_ticks, _G.reload_undone, _G.reload_adopted = ticks, undone, adopted
      local text = [[
        local server = ...
        server:plugin { name = "clock", version = VERSION, install = function(self, host)
          host:add_rpc("clock", function() return VERSION end)
          host:every(0.01, function() reload_ticks[VERSION] = reload_ticks[VERSION] + 1 end)
        end, uninstall = function() reload_undone[#reload_undone + 1] = VERSION end,
        adopt = function(self, old) reload_adopted[#reload_adopted + 1] = old.version end }
        server:alert { kind = "timeout", fn = function() end }
        server:on_unload(function(context) context:set("unloaded", VERSION) end)
      ]]
      local server, client = serve(text:gsub("VERSION", "1"), function(server)
        server:plugin { name = "other", install = function(_, host) host:add_rpc("other", function() return "other" end) end }
      end)
      env.eventually(function() return ticks[1] > 1 end)
      write("app.lua", (text:gsub("VERSION", "2")))
      assert(server:reload())
      assert.equal(2, client:request("clock"))
      assert.equal("other", client:request("other"))
      assert.same({ "other", "clock" }, server:plugins())
      env.eventually(function() return server.context:get "unloaded" == 1 end)
      local before = ticks[1]
      env.eventually(function() return ticks[2] > 3 end)
      assert.equal(before, ticks[1])
      assert.equal(1, #server._watchers)
      -- a file that fails leaves no timer of its plugins behind
      write("app.lua", (text:gsub("VERSION", "3")) .. " error 'oops'")
      assert.is_nil(server:reload())
      before = ticks[3]
      local so_far = ticks[2]
      env.eventually(function() return ticks[2] > so_far + 3 end)
      assert.equal(before, ticks[3])
      assert.equal(1, #server._watchers)
      assert.is_true(server:remove_plugin("clock"))
      assert.equal("method_not_found", select(2, client:request("clock")).code)
      assert.same({ 1, 3, 2 }, undone)
      assert.same({ 1, 2 }, adopted)
      _G.reload_ticks, _G.reload_undone, _G.reload_adopted = nil, nil, nil
    end)

    env.it("lets the plugins that come along keep what they hold", function()
      local text = [[
        local server = ...
        local plugins = require "echostream".plugins
        local presence = plugins.presence()
        server:plugin(presence):plugin(plugins.rate_limit { rate = 0.001, burst = 2, only = { "rare" } })
        server:add_rpc("rare", function() return presence:list "hall"[1].meta end)
      ]]
      local server, client = serve(text)
      local here = echo.plugins.presence()
      client:plugin(here)
      env.eventually(function() return #server:sessions() == 1 end)
      assert.truthy(client:request("presence.join", "hall", "ann"))
      assert.equal("ann", client:request("rare"))
      for _ = 1, 3 do assert(server:reload()) end
      assert.equal("ann", client:request("rare"))
      assert.equal("resource_exhausted", select(2, client:request("rare")).code)
    end)

    if env.kind == "quic" then
      env.it("lets the endpoint of its metrics listen on", function()
        local text = [[
          local server = ...
          local endpoint = require "echostream".plugins.metrics_endpoint { bind = "127.0.0.1:0" }
          server:plugin(endpoint)
          server:add_rpc("address", function() return endpoint.address end)
        ]]
        local server, client = serve(text)
        local address = client:request("address")
        assert(server:reload())
        assert.equal(address, client:request("address"))
        write("app.lua", text .. " error 'oops'")
        assert.is_nil(server:reload())
        assert.equal(1, server._unit.owned.plugins[1].plugin._endpoint.holders)
        write("app.lua", text)
        assert(server:reload())
        assert.equal(address, client:request("address"))
        write("app.lua", "")
        local endpoint = server._unit.owned.plugins[1].plugin._endpoint
        assert(server:reload())
        assert.equal(0, endpoint.holders)
      end)
    end

    env.it("keeps the subscribers of its topics", function()
      local text = [[
        local server = ...
        local news = server:topic("news", { replay = VERSION })
        server:add_rpc("publish", function(_, text) return news:publish("VERSION " .. text) end)
      ]]
      local server, client = serve(text:gsub("VERSION", "1") .. " server:topic 'old'")
      local news, old = client:subscribe("news"), client:subscribe("old")
      env.eventually(function() return client:request("publish", "a") == 1 end)
      assert.equal("1 a", news:next(10))
      env.eventually(function() return server._topics.old:subscribers() == 1 end)
      write("app.lua", (text:gsub("VERSION", "2")))
      assert(server:reload())
      assert.equal(1, (client:request("publish", "b")))
      assert.equal("2 b", news:next(10))
      assert.is_nil((old:next(10)))
      assert.equal(2, server._topics.news._options.replay)
      news:close()
    end)

    env.it("leaves alone what others registered, and takes no name of theirs", function()
      local server, client = serve("local server = ... server:add_rpc('mine', function() return 1 end)", function(server)
        server:add_rpc("theirs", function() return "theirs" end)
      end)
      for _, line in ipairs { "server:add_rpc('theirs', print)", "server:add_stream('stream', print)",
        "server:add_service('service', { f = print })" } do
        if line:find "stream" then server:add_rpc("stream", print, { stream = "out" }) end
        if line:find "service" then server:add_service("service", { g = print }) end
        write("app.lua", "local server = ... server:add_rpc('fresh', print) " .. line)
        local summary, err = server:reload()
        assert.is_nil(summary)
        matches("which the file did not make", err)
        assert.equal(1, client:request("mine"))
        assert.equal("theirs", client:request("theirs"))
        assert.equal("method_not_found", select(2, client:request("fresh")).code)
      end
    end)

    env.it("may change what a name is", function()
      local server, client = serve [[
        local server = ...
        server:add_rpc("x", function() return "plain" end)
        server:add_stream("y", function(_, stream) stream:send("stream") end)
        server:add_rpc("z", function() return "one" end)
      ]]
      assert.equal("plain", client:request("x"))
      write("app.lua", [[
        local server = ...
        server:add_rpc("x", function(_, stream) stream:send("streaming") end, { stream = "out" })
        server:add_rpc("y", function(_, stream) stream:send("streaming") end, { stream = "out" })
        for i = 1, 2 do server:add_rpc("z", function() return "two" end, { balance = "round_robin" }) end
      ]])
      assert(server:reload())
      assert.equal("streaming", client:stream("x"):recv(10).data)
      assert.equal("streaming", client:stream("y"):recv(10).data)
      assert.equal("two", client:request("z"))
      write("app.lua", [[local server = ... server:add_rpc("x", function() return "plain" end)]])
      assert(server:reload())
      assert.equal("plain", client:request("x"))
    end)

    env.it("hands over waiting for events, and events in a lane keep their order", function()
      local server, client = serve [[
        local server = ...
        local echo = require "echostream"
        server:add_event("e", function(session, n)
          local list = session:get "list" or {}
          session:set("list", list)
          if n == 1 then echo.sleep(0.02) end
          list[#list + 1] = "a" .. n
        end)
      ]]
      env.eventually(function() return #server:sessions() == 1 end)
      local session = server:sessions()[1]
      local waiting = echo.spawn(function() return session:wait_event("e", 10) end)
      for n = 1, 3 do client:emit("e", n) end
      assert.equal(1, (waiting:wait(10)))
      local another = echo.spawn(function() return session:wait_event("later", 10) end)
      echo.sleep(0)
      write("app.lua", [[
        local server = ...
        server:add_event("e", function(session, n)
          local list = session:get "list"
          list[#list + 1] = "b" .. n
        end, { concurrent = 1 })
        server:add_event("later", function(session) session:set("later", true) end)
      ]])
      assert(server:reload())
      for n = 4, 5 do client:emit("e", n) end
      client:emit("later", "now")
      assert.equal("now", (another:wait(10)))
      env.eventually(function() return session:get "later" and #session:get "list" == 5 end)
      local numbers = table.concat(session:get "list"):gsub("%a", "")
      assert.equal("12345", numbers)
      assert.equal("b5", session:get "list"[5])
    end)

    env.it("says what counts only when the server is started anew", function()
      local text = [[
        local server = ...
        server:add_rpc("version", function() return 1 end)
        server:on_start(function(context) context:set("word", "WORD") end)
      ]]
      local server = serve((text:gsub("WORD", "one")))
      write("app.lua", (text:gsub("return 1", "return 2"):gsub("WORD", "one")))
      assert.same({ version = 2, changed = 1, new = 0, gone = 0 }, server:reload())
      write("app.lua", (text:gsub("WORD", "two")))
      assert.same({ "on_start" }, server:reload().restart)
      assert.equal("one", server.context:get "word")
      assert.truthy(env.logged("app.lua: what changed of on_start counts only when the server is started anew"))
    end)

    env.it("is loaded once at a time", function()
      local server = serve [[
        local server = ...
        if server.context:get "again" then require "echostream".sleep(0.05) end
        server.context:set("again", true)
      ]]
      local first = echo.spawn(function() return server:reload() end)
      echo.sleep(0)
      env.eventually(function() return server._unit.busy end)
      assert.equal("aborted", select(2, server:reload()).code)
      assert.equal(2, first:wait(10).version)
    end)

    env.it("bears a file that computes forever", function()
      local text = 'local server = ... server:add_rpc("version", function() return "VERSION" end)'
      local server, client = serve((text:gsub("VERSION", "one")))
      write("app.lua", text:gsub("VERSION", "two") .. "\nwhile true do end")
      local clock, ahead = os.clock, 0 -- seconds go by quickly
      os.clock = function() -- luacheck: ignore 122
        ahead = ahead + 0.5
        return clock() + ahead
      end
      local ok, err = server:reload()
      os.clock = clock -- luacheck: ignore 122
      assert.is_nil(ok)
      matches("it computed for 5 s without waiting", err)
      assert.equal("one", (client:request "version"))
      write("app.lua", (text:gsub("VERSION", "three")))
      assert(server:reload())
      assert.equal("three", (client:request "version"))
    end)

    env.it("bears a file that yields out of everything", function()
      local good = "local server = ... server:add_rpc('version', function() return require('reload_yields') end)"
      write("reload_yields.lua", "return 1")
      local server, client = serve(good)
      assert.equal(1, client:request("version"))
      write("app.lua", good .. " server:plugin { name = 'p', install = function() end, uninstall = function() reload_undone = true end } "
        .. "coroutine.yield()")
      write("reload_yields.lua", "return 2")
      local task = echo.spawn(function() return server:reload() end)
      local ok, err = task:wait(10)
      assert.is_nil(ok)
      matches("coroutine.yield%(%) was called outside", err.message)
      assert.is_true(_G.reload_undone)
      _G.reload_undone = nil
      assert.equal(1, client:request("version"))
      assert.same({}, server:plugins())
      write("app.lua", good)
      assert.equal(2, server:reload().version)
      assert.equal(2, client:request("version"))
      package.loaded.reload_yields = nil
    end)

    env.it("loses no call in fifty reloads under load", function()
      local text = [[
        local server = ...
        local echo = require "echostream"
        server:add_rpc("now", function(_, n) return n + 1 end)
        server:add_rpc("soon", function(_, n) echo.sleep(0.002) return n + 1 end, { doc = "VERSION" })
        server:middleware(function(call, next) return next(call) end)
      ]]
      local server, client = serve(text)
      local over, calls, failed = false, 0, nil
      local workers = {}
      for i = 1, 8 do
        workers[i] = echo.spawn(function()
          while not over do
            calls = calls + 1
            local n = calls
            local answer, err = client:request(n % 2 == 0 and "now" or "soon", n)
            if answer ~= n + 1 then failed = failed or tostring(err) end
          end
        end)
      end
      for i = 2, 51 do
        write("app.lua", (text:gsub("VERSION", tostring(i))))
        assert.equal(i, assert(server:reload()).version)
        local seen = calls
        env.eventually(function() return calls > seen + 8 end)
      end
      over = true
      for _, worker in ipairs(workers) do worker:wait(10) end
      assert.is_nil(failed)
      assert.equal("v51: 0 in flight", client:describe("now").versions)
    end)
  end)
end)

describe("echostream serve", function()
  local started

  local function start(options, text)
    write("served.lua", text)
    started = process.start(("%s serve %s %s/served.lua"):format(process.echostream, options, dir),
      { env = { XDG_STATE_HOME = dir }, seconds = 120 })
    local address = started:expect "^listening on (%S+)$"
    local pin = started:expect "^pin (%S+)$"
    return function(method)
      local result = process.run(("%s call %s --pin %s %s"):format(process.echostream, address, pin, method))
      return result.out .. result.err
    end
  end

  after_each(function() started:stop() end)

  it("--watch loads the file again when it or a module beside it changes", function()
    write("served_part.lua", "return 1")
    local call = start("--bind 127.0.0.1:0 --watch", [[
      local server = ...
      local part = require "served_part"
      server:add_rpc("version", function() return part end)
    ]])
    assert.equal("1\n", call "version")
    put("served_part.lua", "return 2")
    started:expect "reloaded served.lua: v2 %(1 handler changed, 0 new, 0 gone%)"
    assert.equal("2\n", call "version")
    put("served.lua", "local server = ... server:add_rpc('other', function() return 'three' end)")
    started:expect "reloaded served.lua: v3 %(0 handlers changed, 1 new, 1 gone%)"
    assert.equal('"three"\n', call "other")
    put("served.lua", "this is not Lua")
    started:expect "served.lua was not loaded again, v3 stays: .*served.lua:1:"
    assert.equal('"three"\n', call "other")
    assert(os.remove(dir .. "/served.lua"))
    started:expect "warn: served.lua is gone; what was loaded from it stays"
    assert.equal('"three"\n', call "other")
    put("served.lua", "local server = ... server:add_rpc('other', function() return 'four' end)")
    started:expect "info: served.lua is back"
    started:expect "reloaded served.lua: v4 "
    assert.equal('"four"\n', call "other")
  end)

  it("loads a server that the file makes and runs itself again on SIGHUP", function()
    local text = [[
      local echo = require "echostream"
      local server = echo.server { bind = "127.0.0.1:0", quiet = true, timeout = 30 + VERSION }
      server:add_rpc("version", function() return VERSION end)
      server:start()
      if VERSION == 1 then
        print("pid", (io.open "/proc/self/stat":read "n"))
        io.stdout:flush()
      end
      return server
    ]]
    write("served.lua", (text:gsub("VERSION", "1")))
    started = process.start(("%s serve %s/served.lua"):format(process.echostream, dir), { env = { XDG_STATE_HOME = dir }, seconds = 120 })
    local pid = started:expect "^pid%s+(%d+)"
    local address, pin = started:expect "^listening on (%S+)$", started:expect "^pin (%S+)$"
    write("served.lua", (text:gsub("VERSION", "2")))
    os.execute("kill -HUP " .. pid)
    started:expect "reloaded served.lua: v2 %(1 handler changed, 0 new, 0 gone%)"
    started:expect "served.lua: what changed of timeout counts only when the server is started anew"
    local result = process.run(("%s call %s --pin %s version"):format(process.echostream, address, pin))
    assert.equal("2\n", result.out, result.err)
  end)

  it("stops when its terminal is closed", function()
    started = process.start("true")
    if not pty.available() then pending "script(1) or stty(1) is missing" end
    write("served.lua", ([[
      local server = ...
      server:on_stop(function() io.open("DIR/stopped", "w"):close() end)
    ]]):gsub("DIR", dir))
    local terminal <close> = pty.spawn(("%s serve --bind 127.0.0.1:0 %s/served.lua"):format(process.echostream, dir),
      { env = { XDG_STATE_HOME = dir }, seconds = 120 })
    terminal:expect "listening on"
    terminal:close()
    local ends = echo.now() + 30
    local file
    repeat
      file = io.open(dir .. "/stopped")
      echo.sleep(0.02)
    until file or echo.now() > ends
    assert(file, "it did not stop"):close()
  end)

  it("cannot watch standard input", function()
    started = process.start("true")
    local result = process.run(process.echostream .. " serve --watch -", { input = "" })
    assert.equal(2, result.code)
    matches("standard input is none", result.err)
  end)
end)
