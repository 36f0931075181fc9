-- What an agent and its server say to each other: simulated sessions.

local world = require "tunnel.spec.support.agent_world"
local agents = require "echostream.tunnel.agent"
local sessions = require "echostream.tunnel.session"
local echo = require "echostream"
local net = require "spec.support.net"
local scratch = require "spec.support.scratch"

net.only("sim", function(env)
  describe("an agent", function()
    env.it("registers, proves its token, and says how it is", function()
      local w = world.new(env, { agent = {
        client_id = "one", group = "web", token = "a secret of the group", version = "7", labels = { zone = "a" }, weight = 3,
        services = { site = "http://127.0.0.1:1", db = { kind = "tcp", backends = "127.0.0.1:2" } },
      } })
      local given = w.registrations[1]
      assert.equal(1, given.protocol)
      assert.equal("one", given.client_id)
      assert.equal("web", given.group)
      assert.equal("7", given.version)
      assert.same({ zone = "a" }, given.labels)
      assert.equal(3, given.weight)
      assert.same({ { name = "db", kind = "tcp" }, { name = "site", kind = "http" } }, given.services)
      local exporter = assert(w.session:export_key(sessions.EXPORTER, 32))
      assert.equal(sessions.proof("a secret of the group", "one", "web", ("n"):rep(32), exporter), given.proof)
      env.eventually(function() return #w.heartbeats == 1 end, "a heartbeat")
      assert.same({ healthy = true, in_flight = 0, served = 0 }, w.heartbeats[1].backends["site 127.0.0.1:1"])
      echo.sleep(10)
      env.eventually(function() return #w.heartbeats == 2 end, "another one")
      assert.is_true(w.agent:links()[1]:heartbeat())
      assert.equal("s1", w.agent:status().links[1].server_id)
      assert.equal("one", w.agent:status().client_id)
    end)

    env.it("is refused with what the server says, for now or for good", function()
      local w = world.new(env, { connect = false })
      local told = {}
      w.agent:listen(function(_, what, detail) told[what] = detail end)
      w.refuse = echo.error("unavailable", "many come at once", { permanent = false, retry_after = 2 })
      local ok, err = w.client:connect(w.server.address)
      assert.is_nil(ok)
      assert.equal("unavailable", err.code)
      assert.is_false(err.permanent)
      assert.equal(2, err.retry_after)
      assert.equal(err.message, told.refused.message)
      w.refuse = echo.error("unauthenticated", "not this token", { permanent = true })
      assert.is_true(select(2, w.client:connect(w.server.address)).permanent)
      w.refuse = nil
      assert(w.client:connect(w.server.address))
      assert.equal(1, #w.agent:links())
    end)

    env.it("comes back after the server was gone", function()
      local w = world.new(env, { client = { reconnect = { first = 0.5, cap = 60, stable = 30 } } })
      local lost = 0
      local function count(_, what) lost = lost + (what == "lost" and 1 or 0) end
      w.agent:listen(count)
      w.session:close()
      while #w.registrations < 2 or #w.agent:links() ~= 1 do echo.sleep(0.1) end
      assert.equal(1, lost)
      assert.equal(w.registrations[1].boot_id, w.registrations[2].boot_id)
      w.agent:unlisten(count)
      w.session:close()
      while #w.registrations < 3 or #w.agent:links() ~= 1 do echo.sleep(0.1) end
      assert.equal(1, lost)
    end)

    env.it("does what the server's configuration says, keeps it, and refuses a bad one", function()
      local path = scratch.path ".agent"
      local w = world.new(env, { agent = { state = path } })
      assert.same({}, w.registrations[1].services)
      local answer = assert(w.session:request("tunnel.config", { version = "1", config = { services = { web = "http://10.0.0.1:80" } } }))
      assert.same({ applied = true }, answer)
      assert.equal("1", w.agent.config_version)
      local kept = w.agent.backends.services.web
      local none, err = w.session:request("tunnel.config", { version = "2", config = { services = { web = "ftp://10.0.0.1" } } })
      assert.is_nil(none)
      assert.equal("failed_precondition", err.code)
      assert.matches("config.services.web", w.agent.config_error)
      assert.equal("1", w.agent.config_version)
      assert.equal(kept, w.agent.backends.services.web)
      -- what did not change goes on with its connections
      assert(w.session:request("tunnel.config", { version = "3", config = { services = { web = "http://10.0.0.1:80", b = "http://10.0.0.2" } } }))
      assert.equal(kept, w.agent.backends.services.web)
      assert.is_nil(w.agent.config_error)
      -- another start, before any server answers
      local again = agents.new({ state = path }, w.engine)
      local client = env.client(w.server)
      client:plugin(again)
      assert.equal("3", again.config_version)
      assert.is_truthy(again.backends.services.b)
      none, err = again:apply_config("4", 7)
      assert.is_nil(none)
      assert.matches("a map", err.message)
      client:remove_plugin "tunnel.agent"
    end)

    env.it("takes the configuration that comes with the registration", function()
      local w = world.new(env, { connect = false, agent = {} })
      w.answer = { accepted = true, server_id = "s", heartbeat = 1, config_version = "9", config = { services = { web = "http://10.0.0.1" } } }
      assert(w.client:connect(w.server.address))
      assert.equal("9", w.agent.config_version)
      assert.same({ { name = "web", kind = "http" } }, w.agent.backends:list())
    end)

    env.it("with services of its own takes none from the server, and can change its own", function()
      local w = world.new(env)
      local none, err = w.session:request("tunnel.config", { version = "1", config = { services = { web = "http://10.0.0.1" } } })
      assert.is_nil(none)
      assert.matches("services of its own", err.message)
      assert(w.session:request("tunnel.config", { version = "2", config = {} }))
      assert(w.agent:set_services { other = "http://10.0.0.3" })
      assert.is_nil(w.agent.backends.services.default)
      assert.matches("unknown option", select(2, w.agent:set_services { other = { x = 1 } }))
      assert.is_truthy(w.agent.backends.services.other)
    end)

    env.it("drains: nothing new, what is under way ends, then it unregisters", function()
      local w = world.new(env)
      w.engine.on_dial = function(dial) echo.spawn(function() dial:open("h2", 10) end) end
      local stream = world.request(w, world.head())
      local x = world.exchange(world.dial(w).connection)
      local draining = echo.spawn(function() return w.agent:drain { grace = 20 } end)
      echo.sleep(5)
      assert.equal(20, w.drained[1].grace)
      assert.equal(0, w.unregistered)
      assert.is_true(w.agent:status().links[1].draining)
      x:respond(world.response(200), true)
      assert.equal("note head:200 end", world.words((world.collect(stream))))
      assert.is_true(draining:wait(10))
      assert.equal(1, w.unregistered)
      -- what does not end is waited for as long as the grace is
      world.request(w, world.head())
      world.exchange(w.engine.dials[1].connection, 2)
      local ok, err = w.agent:wait_idle(3)
      assert.is_nil(ok)
      assert.equal("timeout", err.code)
    end)

    env.it("is told that the server stops", function()
      local w = world.new(env)
      assert(w.session:request("tunnel.drain", { grace = 5 }))
      assert.is_true(w.agent:links()[1].draining)
    end)

    env.it("goes with its plugin: it unregisters, and its connections end", function()
      local w = world.new(env)
      w.engine.on_dial = function(dial) echo.spawn(function() dial:open "http/1.1" end) end
      local stream = world.request(w, world.head())
      local c = world.dial(w).connection
      world.exchange(c):respond(world.response(200), true)
      world.collect(stream)
      c.exchanges[1]:done()
      w.client:remove_plugin "tunnel.agent"
      env.eventually(function() return w.unregistered == 1 end, "unregistered")
      assert.is_true(c.closed)
      local _, err = assert(w.session:create_stream "tunnel.http"):recv()
      assert.equal("method_not_found", err.code)
    end)

    env.it("wants options that make sense", function()
      local function complaint(given) return select(2, pcall(agents.new, given)) end
      assert.matches("exclude each other", complaint { backend = "http://x", services = {} })
      assert.matches('unknown option "toke"', complaint { toke = "x" })
      assert.matches('option "token" is empty', complaint { token = "" })
      assert.matches("tunnel.agent.services.a: option \"backends\" is missing", complaint { services = { a = {} } })
      assert.matches("rules%[1%].rate: is for rules of the server", complaint { rules = { { group = "a", rate = { rate = 1 } } } })
      assert.matches("rules%[1%]", complaint { rules = { { grup = "a" } } })
      assert.matches("labels", complaint { labels = { 1 } })
      local refused = select(2, pcall(function() env.server():plugin(agents.new {}) end))
      assert.matches("it is for clients", tostring(refused))
      assert.is_truthy(agents.new({ client_id = "x", drain_grace = 3, remote = true, on_change = function() end }).options.remote)
    end)
  end)
end)
