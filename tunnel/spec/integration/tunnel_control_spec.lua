-- Registration, heartbeats, configuration and drain, as an agent meets them: an ordinary client that makes the calls of tunnel/DESIGN.md.
local admission = require "echostream.tunnel.server.admission"
local control = require "echostream.tunnel.server.control"
local echo = require "echostream"
local net = require "spec.support.net"
local registry = require "echostream.tunnel.server.registry"

local function asking(with)
  local given = { protocol = 1, client_id = "a1", group = "web", version = "1.0", labels = { zone = "eu" }, weight = 2,
    services = { { name = "site" } }, boot_id = "b1" }
  for key, value in pairs(with or {}) do given[key] = value end
  return given
end

net.each(function(env)
  -- A server with the control part only; `seen` collects what happened.
  local function serve(opts)
    opts = opts or {}
    local seen = {}
    local controls = control.new {
      registry = registry.new(opts.max or 100), server_id = "s1", heartbeat = 10, replace_grace = opts.replace_grace or 0.2,
      entries = admission.check("spec", opts.agents or { { anyone = true } }), config = opts.config, config_version = opts.config_version,
      on_change = function(member, what, more) seen[#seen + 1] = { what = what, member = member, more = more } end,
    }
    local server = env.server(opts.server, function(server)
      server:plugin { name = "control", install = function(_, host) controls:install(host) end }
    end)
    return server, controls, seen
  end

  local function what(seen)
    local words = {}
    for i, event in ipairs(seen) do words[i] = event.what end
    return table.concat(words, " ")
  end

  describe("registration", function()
    env.it("puts an agent into the registry with what it said of itself", function()
      local server, controls, seen = serve()
      local client = env.connect(server)
      local answer = assert(client:request("tunnel.register", asking()))
      assert.is_true(answer.accepted)
      assert.equal("s1", answer.server_id)
      assert.equal(10, answer.heartbeat)
      local member = controls.registry:get "a1"
      assert.equal("web", member.group)
      assert.equal(2, member.weight)
      assert.equal("eu", member.labels.zone)
      assert.same({ { name = "site", kind = "http" } }, member.services)
      assert.equal("registered", what(seen))
      local list = controls.registry:list(echo.now())
      assert.equal("a1", list[1].id)
      assert.equal("up", list[1].state)
    end)

    env.it("refuses what cannot be understood, for good", function()
      local server, controls = serve()
      local client = env.connect(server)
      for _, given in ipairs { false, asking { protocol = 2 }, asking { client_id = "" }, asking { client_id = "a b" }, asking { group = 7 },
        asking { weight = 0 }, asking { weight = 0 / 0 }, asking { labels = "x" }, asking { labels = { a = 1 } }, asking { labels = { a = "\xff" } },
        asking { services = { { name = "x", kind = "udp" } } }, asking { proof = "short" } } do
        local ok, err = client:request("tunnel.register", given)
        assert.is_nil(ok)
        assert.equal("invalid_argument", err.code)
        assert.is_true(err.details.permanent)
        assert.is_string(err.details.reason)
      end
      assert.equal(0, controls.registry:count())
    end)

    env.it("has room for so many, and says when to come again", function()
      local server = serve { max = 1 }
      assert(env.connect(server):request("tunnel.register", asking()))
      local ok, err = env.connect(server):request("tunnel.register", asking { client_id = "a2" })
      assert.is_nil(ok)
      assert.equal("resource_exhausted", err.code)
      assert.is_false(err.details.permanent)
      assert.is_true(err.details.retry_after > 0)
      -- one that is there already may come again
      assert(env.connect(server):request("tunnel.register", asking()))
    end)

    env.it("slows a storm of them down", function()
      local server, controls = serve()
      local client = env.connect(server)
      local calls, refused = {}, 0
      for i = 1, 90 do calls[i] = { "tunnel.register", asking { client_id = "a" .. i } } end
      for _, result in ipairs(client:batch(calls)) do
        if not result.ok then
          refused = refused + 1
          assert.equal("unavailable", result.err.code)
          assert.is_false(result.err.details.permanent)
          assert.is_true(result.err.details.retry_after >= 0.5 and result.err.details.retry_after <= 3)
        end
      end
      -- a machine may be so slow that it is no storm; in the simulator all come at once
      if env.kind == "sim" then assert.is_true(refused > 0) end
      assert.equal(1, controls.registry:count()) -- one session is one agent: the last that was let in
    end)

    env.it("is not slowed down by those without credentials", function()
      local token = ("t"):rep(16)
      local server, controls = serve { agents = { { token = token } } }
      local client, calls = env.connect(server), {}
      for i = 1, 90 do calls[i] = { "tunnel.register", asking { client_id = "a" .. i, proof = ("x"):rep(32) } } end
      for _, result in ipairs(client:batch(calls)) do
        assert.is_falsy(result.ok)
        assert.equal("unauthenticated", result.err.code)
      end
      assert.equal(0, controls.registry:count())
    end)

    env.it("takes no more once the server drains", function()
      local server, controls = serve()
      controls.draining = true
      local ok, err = env.connect(server):request("tunnel.register", asking())
      assert.is_nil(ok)
      assert.equal("unavailable", err.code)
      assert.is_false(err.details.permanent)
    end)
  end)

  describe("a session that ends", function()
    env.it("leaves the registry at once", function()
      local server, controls, seen = serve()
      local client = env.connect(server)
      assert(client:request("tunnel.register", asking()))
      client:close()
      env.eventually(function() return controls.registry:count() == 0 end)
      assert.equal("registered lost", what(seen))
      assert.equal("gone", seen[1].member.state)
    end)

    env.it("is no loss after drain and unregister", function()
      local server, controls, seen = serve()
      local client = env.connect(server)
      assert(client:request("tunnel.register", asking()))
      assert.is_true(client:request "tunnel.drain")
      assert.equal("draining", controls.registry:get("a1").state)
      controls:drain_one(controls.registry:get "a1") -- once is enough
      assert.is_true(client:request "tunnel.unregister")
      assert.equal(0, controls.registry:count())
      local ok, err = client:request "tunnel.unregister"
      assert.is_nil(ok)
      assert.equal("failed_precondition", err.code)
      client:close()
      assert.equal("registered draining unregistered", what(seen))
      assert.equal(0, controls.registry.lost)
    end)
  end)

  describe("a twin", function()
    env.it("takes over at once; the old session ends when its streams have, or when its time is over", function()
      local server, controls, seen = serve { replace_grace = 0.3 }
      local old, new = env.connect(server), env.connect(server)
      assert(old:request("tunnel.register", asking()))
      local first = controls.registry:get "a1"
      first.streams = 1 -- something is under way
      assert(new:request("tunnel.register", asking { boot_id = "b2" }))
      assert.equal("registered replaced registered", what(seen))
      assert.equal("b2", controls.registry:get("a1").boot_id)
      assert.equal("replaced", first.state)
      env.eventually(function() return not old:is_open() end)
      env.eventually(function() return #controls.registry:members() == 1 end)
      assert.is_true(new:is_open())
      assert.equal(1, controls.registry:count())
    end)

    env.it("with other credentials does not", function()
      local server, controls = serve { agents = { { anyone = true, groups = { "web" } }, { anyone = true, groups = { "api" } } } }
      local one, other = env.connect(server), env.connect(server)
      assert(one:request("tunnel.register", asking()))
      local ok, err = other:request("tunnel.register", asking { group = "api" })
      assert.is_nil(ok)
      assert.equal("already_exists", err.code)
      assert.is_false(err.details.permanent)
      assert.equal("web", controls.registry:get("a1").group)
    end)
  end)

  describe("credentials", function()
    env.it("of a certificate: its key, for the groups and the client id that are listed", function()
      local certs = require "spec.support.certs"
      local authority = certs.authority "Agents"
      local alice, bob = certs.issue(authority, { names = { "alice" } }), certs.issue(authority, { names = { "bob" } })
      local server = serve {
        server = { ca = authority.file },
        agents = { { name = "alice", groups = { "web" } }, { name = "carol" } },
      }
      local a = env.connect(server, { cert = alice.cert, key = alice.key })
      assert.is_true(assert(a:request("tunnel.register", asking())).accepted)
      local ok, err = a:request("tunnel.register", asking { group = "api" })
      assert.is_nil(ok)
      assert.equal("permission_denied", err.code)
      assert.is_true(err.details.permanent)
      local b = env.connect(server, { cert = bob.cert, key = bob.key })
      ok, err = b:request("tunnel.register", asking { client_id = "b" })
      assert.is_nil(ok)
      assert.equal("unauthenticated", err.code)
      assert.is_true(err.details.permanent)
      local pin = server:sessions()[1].peer_cert.pin
      local second = serve { server = { ca = authority.file }, agents = { { pin = pin, client_id = "a1" } } }
      local c = env.connect(second, { cert = alice.cert, key = alice.key })
      local d = env.connect(second, { cert = bob.cert, key = bob.key })
      local let_in = { c:request("tunnel.register", asking()) ~= nil, d:request("tunnel.register", asking()) ~= nil }
      assert.is_true(let_in[1] ~= let_in[2]) -- whose pin it was
    end)
  end)

  describe("a heartbeat", function()
    env.it("is remembered, as far as it makes sense", function()
      local server, controls, seen = serve()
      local client = env.connect(server)
      local nobody = env.connect(server)
      nobody:emit("tunnel.heartbeat", { in_flight = 1 })
      nobody:close()
      assert(client:request("tunnel.register", asking()))
      client:emit("tunnel.heartbeat", { in_flight = 3, served = -1, errors = "x", backends = { site = { healthy = false, latency = 0.5 }, [7] = 1 },
        config_version = "c7", config_error = "no" })
      env.eventually(function() return controls.registry:get("a1").reported.in_flight == 3 end)
      local member = controls.registry:get "a1"
      assert.is_nil(member.reported.served)
      assert.is_nil(member.reported.errors)
      assert.same({ site = { healthy = false, latency = 0.5 } }, member.backends)
      assert.equal("c7", member.config_version)
      assert.equal("no", member.config_error)
      client:emit("tunnel.heartbeat", "nonsense")
      client:emit("tunnel.heartbeat", { in_flight = 4 })
      env.eventually(function() return controls.registry:get("a1").reported.in_flight == 4 end)
      assert.equal("registered heartbeat heartbeat", what(seen))
    end)
  end)

  describe("configuration", function()
    env.it("comes with the registration, unless the agent has that version", function()
      local server = serve { config = function(member) return { group = member.group } end, config_version = "v1" }
      local answer = assert(env.connect(server):request("tunnel.register", asking()))
      assert.equal("v1", answer.config_version)
      assert.same({ group = "web" }, answer.config)
      answer = assert(env.connect(server):request("tunnel.register", asking { client_id = "a2", config_version = "v1" }))
      assert.is_nil(answer.config)
    end)

    env.it("is pushed, and applied or refused with the reason", function()
      local server, controls = serve()
      local got = {}
      for i, id in ipairs { "a1", "a2" } do
        local client = env.client(server)
        client:add_rpc("tunnel.config", function(_, given)
          got[id] = given
          if given.version == "v3" then return nil, echo.error("failed_precondition", ("x"):rep(5000)) end
          if i == 2 then return nil, echo.error("failed_precondition", "line 3: no such backend") end
          return { applied = true }
        end)
        assert(client:connect(server.address))
        assert(client:request("tunnel.register", asking { client_id = id }))
      end
      local results = controls:push({ x = 1 }, "v2")
      assert.same({ version = "v2", config = { x = 1 } }, got.a1)
      assert.is_true(results[1].applied)
      assert.is_false(results[2].applied)
      assert.equal("line 3: no such backend", results[2].error.message)
      assert.equal("v2", controls.registry:get("a1").config_version)
      assert.equal("line 3: no such backend", controls.registry:get("a2").config_error)
      -- what is kept of an agent's words is no longer than what is shown
      controls:push({ x = 1 }, "v3")
      assert.is_true(#controls.registry:get("a1").config_error <= 1027)
      controls:push({ x = 1 }, "v2")
      -- who comes later gets it too
      assert.same({ x = 1 }, assert(env.connect(server):request("tunnel.register", asking { client_id = "a3" })).config)
    end)
  end)

  describe("drain of the server", function()
    env.it("is told to every agent", function()
      local server, controls = serve()
      local told = 0
      for i = 1, 3 do
        local client = env.client(server)
        client:add_rpc("tunnel.drain", function(_, given)
          told = told + given.grace
          return true
        end)
        assert(client:connect(server.address))
        assert(client:request("tunnel.register", asking { client_id = "a" .. i }))
      end
      controls:say_drain(5)
      assert.equal(15, told)
      assert.is_true(controls.draining)
    end)
  end)
end)

describe("the option agents", function()
  local function check(list) return function() admission.check("spec", list) end end

  it("says what is wrong with it", function()
    assert.has_error(check {}, "spec: option \"agents\" is an empty list: nobody could register")
    assert.has_error(check { {} }, "spec: agents[1]: wants one of pin, name, token and anyone")
    assert.has_error(check { { pin = "x" } }, "spec: agents[1]: pin wants \"sha256:\" and 64 hexadecimal digits")
    assert.has_error(check { { anyone = true }, { token = "short" } }, "spec: agents[2]: token wants 16 bytes or more")
    assert.error_matches(check { { tokem = "x" } }, "did you mean \"token\"")
  end)
end)
