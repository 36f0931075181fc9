-- Services: tables of functions, offered and called.

local echo = require "echostream"
local net = require "spec.support.net"

local function refused(pattern, fn, ...)
  local ok, raised = pcall(fn, ...)
  assert.is_false(ok)
  assert.matches(pattern, tostring(raised))
end

net.each_door(function(env)
  describe("a service", function()
    env.it("makes methods of the functions of a table, nested ones too", function()
      local server, client = env.pair(function(server)
        assert.equal(server, server:add_service("user", {
          login = function(session, name) return name .. "@" .. type(session) end,
          logout = function() end,
          admin = { kick = function(_, id) return "kicked " .. id end },
          _private = function() return "nobody calls me" end,
        }))
      end)
      assert.equal("ada@table", client:request("user.login", "ada"))
      assert.is_true(client:request("user.logout"))
      assert.equal("kicked 7", client:request("user.admin.kick", 7))
      assert.equal("method_not_found", select(2, client:request("user._private")).code)
      assert.is_true(server:remove_service("user"))
      assert.is_false(server:remove_service("user"))
      assert.equal("method_not_found", select(2, client:request("user.login", "ada")).code)
      server:add_service("user", { login = function() return "again" end })
      assert.equal("again", client:request("user.login"))
    end)

    env.it("may be a module, whose constants are left out", function()
      package.loaded["spec.some_service"] = { VERSION = "1.0", twice = function(_, n) return 2 * n end }
      local server, client = env.pair(function(server) server:add_service("some", "spec.some_service") end)
      package.loaded["spec.some_service"] = nil
      assert.equal(14, client:request("some.twice", 7))
      refused('the module "no.such" cannot be loaded', server.add_service, server, "none", "no.such")
    end)

    env.it("passes session and request: (session, req)", function()
      local _, client = env.pair(function(server)
        server:add_service("s", { f = function(session, req) return session.incoming, req end })
      end)
      assert.same({ true, 5 }, { client:request("s.f", 5) })
    end)

    env.it("passes the request alone with session = false: (req)", function()
      local _, client = env.pair(function(server)
        server:add_service("s", { f = function(req) return req end }, { session = false })
        server:add_rpc("g", function(...) return select("#", ...), ... end, { session = false })
      end)
      assert.equal(5, client:request("s.f", 5))
      assert.same({ 2, 1, 2 }, { client:request("g", 1, 2) })
    end)

    env.it("passes the session alone when there are no arguments: (session)", function()
      local _, client = env.pair(function(server)
        server:add_service("s", { f = function(session, ...) return session.incoming, select("#", ...) end })
      end)
      assert.same({ true, 0 }, { client:request("s.f") })
    end)

    env.it("passes nothing at all with session = false and no arguments: ()", function()
      local _, client = env.pair(function(server)
        server:add_service("s", { f = { function(...) return select("#", ...) end, session = false } })
      end)
      assert.equal(0, client:request("s.f"))
    end)

    env.it("gives one function options of its own and all of them common ones", function()
      local _, client = env.pair(function(server)
        server:add_service("s", {
          plain = function() return 1 end,
          special = { function(_, a) return a end, doc = "gives it back", version = "2" },
        }, { idempotent = true, version = "1" })
      end)
      assert.same({ name = "s.plain", kind = "rpc", idempotent = true, version = "1", versions = "v1: 0 in flight" },
        (client:describe("s.plain")))
      local special = assert(client:describe("s.special"))
      assert.equal("2", special.version)
      assert.equal("gives it back", special.doc)
      assert.is_true(special.idempotent)
    end)

    env.it("is added whole or not at all, and says what is wrong", function()
      local server, client = env.pair(function(server) server:add_rpc("s.b", function() return "mine" end) end)
      refused("s%.b.*there is a handler of that name already", server.add_service, server, "s",
        { a = print, b = print, c = print })
      assert.equal("method_not_found", select(2, client:request("s.a")).code)
      assert.equal("mine", client:request("s.b"))
      refused('t%.x: .*unknown option "idempotant" %(did you mean "idempotent"%?%)', server.add_service, server, "t",
        { x = { print, idempotant = true } })
      refused('t%.x: wants a function.*got 5', server.add_service, server, "t", { x = 5 })
      refused("has no functions", server.add_service, server, "t", {})
      local itself = {}
      itself.itself = itself
      refused("contains itself", server.add_service, server, "t", itself)
      refused('add_service: service wants a table or a string, got nil', server.add_service, server, "t")
      refused('unknown option "sesion"', server.add_service, server, "t", { x = print }, { sesion = false })
      server:add_service("t", { x = print })
      refused('there is a service "t" already', server.add_service, server, "t", { y = print })
    end)

    env.it("may be offered by a client", function()
      local server = env.server()
      local client = env.client(server, { introspection = true })
      client:add_service("screen", { size = function() return 80, 25 end })
      assert(client:connect(server.address))
      env.eventually(function() return #server:sessions() == 1 end)
      local session = server:sessions()[1]
      assert.same({ 80, 25 }, { session:service("screen").size() })
      assert.equal("screen.size", session:describe()[1].name)
      assert.is_true(client:remove_service("screen"))
      assert.equal("method_not_found", select(2, session:request("screen.size")).code)
    end)
  end)

  describe("a service of the other side", function()
    local function offer(server)
      server:add_service("math", {
        add = function(_, a, b) return a + b end,
        args = function(_, ...) return select("#", ...) end,
        slow = function() echo.sleep(5) end,
        trig = { pi = function() return 3 end },
      })
    end

    env.it("is a table of functions that raise when the call fails", function()
      local _, client = env.pair(offer)
      local math_service = client:service("math")
      assert.equal(3, math_service.add(1, 2))
      assert.equal(3, math_service:add(1, 2))
      assert.equal(3, math_service.trig.pi())
      assert.equal(0, math_service.args())
      assert.equal(1, math_service.args(nil))
      assert.equal(2, math_service.args(nil, nil))
      assert.equal("echostream.service math.trig", tostring(math_service.trig))
      local ok, err = pcall(math_service.add, 1)
      assert.is_false(ok)
      assert.equal("unknown", err.code)
    end)

    env.it("may have options: with", function()
      local _, client = env.pair(offer)
      local ok, err = pcall(client:service("math"):with { timeout = 0.05 }.slow)
      assert.is_false(ok)
      assert.equal("timeout", err.code)
      assert.equal(7, client:with { timeout = 1 }:service("math").add(3, 4))
      refused('unknown option "timeuot"', function() client:service("math"):with { timeuot = 1 } end)
    end)

    env.it("can be spawned, and takes a callback", function()
      local _, client = env.pair(offer)
      local math_service = client:service("math")
      assert.equal(5, echo.spawn(math_service.add, 2, 3):wait())
      local got
      math_service.add(20, 3, function(sum) got = sum end):wait()
      assert.equal(23, got)
    end)

    env.it("says what there is when a name is wrong", function()
      local _, client = env.pair(offer)
      refused("no method math%.ad %(did you mean math%.add%?%)", client:service("math").ad)
      refused("no method math%.elephant %(there are math%.add, math%.args", client:service("math").elephant)
      refused("no method maths%.elephant %(there is no service maths%)", client:service("maths").elephant)
      refused("a method has a name, got 5", function() return client:service("math")[5] end)
      refused("service: name wants a string, got 5", client.service, client, 5)
    end)
  end)
end)
