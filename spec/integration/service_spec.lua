-- Services, the options of handlers, and what a server says about itself.

local echo = require "echostream"
local net = require "spec.support.net"

local function refused(pattern, fn, ...)
  local ok, raised = pcall(fn, ...)
  assert.is_false(ok)
  assert.matches(pattern, tostring(raised))
end

net.each(function(env)
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
      assert.same({ name = "s.plain", kind = "rpc", idempotent = true, version = "1" }, (client:describe("s.plain")))
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
      local client = env.client(server)
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

  describe("a handler's options", function()
    env.it("are checked when it is added, and the message names the option", function()
      local server = env.server()
      local f = function() end
      refused('add_rpc: option "timeout" wants a number of seconds, got "1"', server.add_rpc, server, "x", f, { timeout = "1" })
      refused('add_rpc: option "timeout" wants at least 0.001, got 0', server.add_rpc, server, "x", f, { timeout = 0 })
      refused('add_rpc: option "max_calls" wants an integer, got 1.5', server.add_rpc, server, "x", f, { max_calls = 1.5 })
      refused('add_rpc: option "doc" wants a string, got 5', server.add_rpc, server, "x", f, { doc = 5 })
      refused('add_rpc: option "args" cannot be sent: .*function', server.add_rpc, server, "x", f, { args = { print } })
      refused('add_event: option "max_calls" is of methods', server.add_event, server, "x", f, { max_calls = 1 })
      refused('add_stream: option "idempotent" is of methods', server.add_stream, server, "x", f, { idempotent = true })
      refused('unknown option "docs" %(did you mean "doc"%?%)', server.add_rpc, server, "x", f, { docs = "" })
      local ok, raised = pcall(function() server:add_rpc("x", 5) end)
      assert.is_false(ok)
      assert.matches("service_spec.lua:%d+: add_rpc: handler wants a function, got 5", raised)
    end)

    env.it("timeout: cancels the handler, and the caller gets timeout at once", function()
      local seen, heedless
      local _, client = env.pair(function(server)
        server:add_rpc("slow", function()
          assert.is_true(echo.call().deadline < 0.101)
          local _, err = echo.sleep(5)
          seen = { err and err.code, echo.call():cancelled() }
        end, { timeout = 0.1 })
        server:add_rpc("heedless", function()
          echo.sleep(5)
          local ends = echo.now() + 0.05
          while echo.now() < ends do
            heedless = true
            if env.kind == "sim" then break end
          end
          return "too late"
        end, { timeout = 0.1 })
        server:add_rpc("quick", function() return "in time" end, { timeout = 0.1 })
      end)
      local before = echo.now()
      local value, err = client:request("slow")
      assert.is_nil(value)
      assert.equal("timeout", err.code)
      assert.matches("own time limit", err.message)
      assert.is_true(echo.now() - before < 0.5)
      env.eventually(function() return seen end)
      assert.same({ "cancelled", true }, seen)
      assert.equal("timeout", select(2, client:request("heedless")).code)
      env.eventually(function() return heedless end)
      assert.equal("in time", client:request("quick"))
      -- the caller's own deadline is the shorter one
      local _, mine = client:with { timeout = 0.02 }:request("slow")
      assert.equal("timeout", mine.code)
      assert.matches("^the deadline passed", mine.message)
    end)

    env.it("timeout: ends streams, streaming methods and events too", function()
      local ended = {}
      local _, client = env.pair(function(server)
        server:add_stream("s", function(_, stream)
          stream:recv()
          ended.s = true
        end, { timeout = 0.05 })
        server:add_rpc("m", function(_, stream)
          stream:recv()
          ended.m = true
        end, { timeout = 0.05, stream = "both" })
        server:add_event("e", function()
          ended.e = select(2, echo.sleep(5)).code
        end, { timeout = 0.05 })
      end)
      local stream, method = assert(client:create_stream("s")), assert(client:stream("m"))
      client:emit("e")
      assert.equal("timeout", select(2, stream:recv(2)).code)
      assert.equal("timeout", select(2, method:recv(2)).code)
      env.eventually(function() return ended.s and ended.m and ended.e end)
      assert.equal("cancelled", ended.e)
      assert.truthy(env.logged("longer than its 0.05 s"))
      stream:close()
      method:close()
    end)

    env.it("max_calls: refuses more without running them, whatever session they come from", function()
      local running, most = 0, 0
      local server, client = env.pair(function(server)
        local function work()
          running = running + 1
          most = math.max(most, running)
          echo.sleep(0.2)
          running = running - 1
        end
        server:add_rpc("work", work, { max_calls = 2 })
        server:add_rpc("free", work)
        server:add_stream("s", function(_, stream) stream:recv() end, { max_calls = 1 })
      end)
      local other = env.connect(server)
      local a, b = echo.spawn(client.request, client, "work"), echo.spawn(other.request, other, "work")
      env.eventually(function() return running == 2 end)
      local _, err = client:request("work")
      assert.equal("resource_exhausted", err.code)
      assert.equal("no", err.processed)
      assert.is_true(client:request("free"))
      assert.is_true(a:wait())
      assert.is_true(b:wait())
      assert.is_true(client:request("work"))
      assert.equal(3, most)
      local first = assert(client:create_stream("s"))
      client:request("free")
      assert.equal("resource_exhausted", select(2, assert(client:create_stream("s")):recv(2)).code)
      first:close()
    end)

    env.it("session = false: events and streams without it", function()
      local got
      local _, client = env.pair(function(server)
        server:add_event("e", function(...) got = { ... } end, { session = false })
        server:add_stream("s", function(stream) stream:send(stream:recv().data) end, { session = false })
      end)
      client:emit("e", 1, 2)
      env.eventually(function() return got end)
      assert.same({ 1, 2 }, got)
      local stream = assert(client:create_stream("s"))
      stream:send("x")
      assert.equal("x", stream:recv(2).data)
      stream:close()
    end)
  end)

  describe("introspection", function()
    local function offer(server)
      server:add_rpc("math.add", function(_, a, b) return a + b end, {
        doc = "the sum", args = { "a: a number", "b: a number" }, returns = "a number", examples = { "add(1, 2) --> 3" },
        idempotent = true, timeout = 5, max_calls = 10, version = "1.2", deprecated = "use math.sum",
      })
      server:add_event("log", function() end, { doc = "a line", concurrent = 4 })
      server:add_stream("audio", function() end, { codec = "msgpack" })
    end

    env.it("lists what there is and describes each", function()
      local server, client = env.pair(offer)
      local list = assert(client:describe())
      assert.equal(3, #list)
      assert.same({ name = "audio", kind = "stream" }, list[1])
      assert.same({ name = "log", kind = "event", doc = "a line" }, list[2])
      assert.same({ name = "math.add", kind = "rpc", doc = "the sum", deprecated = "use math.sum" }, list[3])
      assert.matches("log %(event%): a line\nmath.add %(rpc%): the sum", tostring(list))
      local one = assert(client:describe("math.add"))
      assert.same({ name = "math.add", kind = "rpc", doc = "the sum", args = { "a: a number", "b: a number" },
        returns = "a number", examples = { "add(1, 2) --> 3" }, idempotent = true, timeout = 5, max_calls = 10,
        version = "1.2", deprecated = "use math.sum" }, one)
      assert.matches("args: a: a number; b: a number\n", tostring(one))
      assert.equal(4, client:describe("log").concurrent)
      assert.equal("not_found", select(2, client:describe("nothing")).code)
      assert.equal(3, #client:request("rpc.list"))
      assert.equal("stream", client:request("rpc.describe", "audio", "stream").kind)
      server:remove_event("log")
      assert.equal(2, #client:describe())
      refused("describe: name wants a string, got 5", client.describe, client, 5)
    end)

    env.it("is an empty list where nothing is offered", function()
      local _, client = env.pair()
      assert.same({}, client:describe())
    end)

    env.it("can be turned off", function()
      local _, client = env.pair(offer, { introspection = false })
      assert.equal("method_not_found", select(2, client:describe()).code)
      assert.equal("method_not_found", select(2, client:describe("math.add")).code)
      local ok, err = pcall(client:service("math").ad)
      assert.is_false(ok)
      assert.equal("no method math.ad", err.message)
    end)
  end)
end)
