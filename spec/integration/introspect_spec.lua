-- What a server says about itself: rpc.list, rpc.describe, rpc.health; and what schemas let in.

local echo = require "echostream"
local net = require "spec.support.net"
local s = require "echostream.schema"

local function refused(pattern, fn, ...)
  local ok, raised = pcall(fn, ...)
  assert.is_false(ok)
  assert.matches(pattern, tostring(raised))
end

net.each(function(env)
  describe("introspection", function()
    local function offer(server)
      server:add_rpc("math.add", function(_, a, b) return a + b end, {
        doc = "the sum", arguments = { "a: a number", { "b", "number", optional = true } }, results = "the sum of both",
        examples = { { arguments = { 1, 2 }, results = { 3 } } },
        idempotent = true, timeout = 5, max_calls = 10, version = "1.2", deprecated = "use math.sum",
      })
      server:add_event("log", function() end, { doc = "a line", concurrent = 4 })
      server:add_stream("audio", function() end, { codec = "msgpack" })
    end

    env.it("lists what there is and describes each", function()
      local server, client = env.pair(offer)
      local list = assert(client:methods())
      assert.same({
        { name = "audio", kind = "stream" },
        { name = "log", kind = "event", doc = "a line" },
        { name = "math.add", kind = "rpc", doc = "the sum", idempotent = true, version = "1.2", deprecated = "use math.sum" },
      }, list)
      assert.matches("log %(event%): a line\nmath.add %(rpc%): the sum", tostring(list))
      local one = assert(client:describe("math.add"))
      assert.same({ name = "math.add", kind = "rpc", doc = "the sum",
        arguments = { { name = "a", doc = "a number" }, { name = "b", type = "number", optional = true } },
        results = { { doc = "the sum of both" } }, examples = { { arguments = { 1, 2 }, results = { 3 } } },
        idempotent = true, deadline = 5, max_calls = 10, version = "1.2", deprecated = "use math.sum",
        versions = "v1: 0 in flight" }, one)
      assert.matches("arguments: a: a number; b%?: number\n", tostring(one))
      assert.matches("examples: math.add%(1, 2%) %-%-> 3\n", tostring(one))
      local all = assert(client:describe())
      assert.same({ "audio", "log", "math.add" }, { all[1].name, all[2].name, all[3].name })
      assert.same(one, all[3])
      assert.equal(4, client:describe("log").concurrent)
      assert.equal("not_found", select(2, client:describe("nothing")).code)
      assert.equal(3, #client:request("rpc.list"))
      assert.equal("stream", client:request("rpc.describe", "audio", "stream").kind)
      server:remove_event("log")
      assert.equal(2, #client:describe())
      refused("describe: name wants a string, got 5", client.describe, client, 5)
    end)

    env.it("shows descriptions of any form", function()
      local server, client = env.pair(offer)
      server:middleware(function(call, next)
        if call.name ~= "rpc.describe" then return next(call) end
        return call:reply { name = {}, kind = 5, arguments = { { name = true, type = {} }, 7, "b" }, results = 8,
          examples = { { arguments = 9, results = "c" }, 10 }, doc = false }
      end)
      assert.matches("examples: .*%(9%) %-%-> \"c\"; 10", tostring(assert(client:describe("math.add"))))
    end)

    env.it("is an empty list where nothing is offered", function()
      local _, client = env.pair()
      assert.same({}, client:describe())
      assert.same({}, client:methods())
    end)

    env.it("counts the calls in flight", function()
      local go = false
      local _, client = env.pair(function(server)
        server:add_rpc("slow", function() while not go do echo.sleep(0.01) end end)
        server:add_rpc("begun", function() end)
      end)
      local calls = {}
      for i = 1, 3 do calls[i] = echo.spawn(function() return client:request("slow") end) end
      env.eventually(function() return client:describe("slow").versions == "v1: 3 in flight" end)
      go = true
      for _, call in ipairs(calls) do call:wait(10) end
      assert.equal("v1: 0 in flight", client:describe("slow").versions)
    end)

    env.it("has callback forms", function()
      local _, client = env.pair(offer)
      local got = {}
      client:describe(function(list) got.list = list end):wait(5)
      client:describe("math.add", function(one) got.one = one end):wait(5)
      client:describe("nobody", function(_, err) got.err = err end):wait(5)
      client:methods(function(list) got.methods = list end):wait(5)
      client:health(function(status) got.health = status end):wait(5)
      client:health("x", function(status) got.unknown = status end):wait(5)
      assert.is_true(#got.list > 0)
      assert.equal("math.add", got.one.name)
      assert.equal("not_found", got.err.code)
      assert.equal(#got.list, #got.methods)
      assert.equal("SERVING", got.health)
      assert.equal("SERVICE_UNKNOWN", got.unknown)
      assert.has_error(function() client:describe("x", 5) end)
    end)

    env.it("can be turned off", function()
      local _, client = env.pair(offer, { introspection = false })
      assert.equal("method_not_found", select(2, client:describe()).code)
      assert.equal("method_not_found", select(2, client:methods()).code)
      assert.equal("method_not_found", select(2, client:describe("math.add")).code)
      assert.equal("method_not_found", select(2, client:health()).code)
      local ok, err = pcall(client:service("math").ad)
      assert.is_false(ok)
      assert.equal("no method math.ad", err.message)
    end)

    env.it("works the other way where the client wants it", function()
      local server = env.server()
      local client = env.client(server, { introspection = true })
      client:add_rpc("of.mine", print, { doc = "mine" })
      assert(client:connect(server.address))
      env.connect(server)
      env.eventually(function() return #server:sessions() == 2 end)
      local told, silent = 0, 0
      for _, session in ipairs(server:sessions()) do
        local list, err = session:describe()
        if list then
          told = told + 1
          assert.equal("of.mine", list[1].name)
        else
          silent = silent + 1
          assert.equal("method_not_found", err.code)
        end
      end
      assert.same({ 1, 1 }, { told, silent })
    end)

    env.it("is seen by middleware, which may refuse it", function()
      local _, client = env.pair(function(server)
        server:middleware(function(call, next)
          if call.name:find "^rpc%." then return call:reject("permission_denied", "no") end
          return next(call)
        end, { direction = "in" })
      end)
      for _, ask in ipairs { "describe", "methods", "health" } do
        assert.equal("permission_denied", select(2, client[ask](client)).code)
      end
    end)

    env.it("has names that nobody else can take", function()
      local server = env.server()
      refused('add_rpc: "rpc.list": names that begin with "rpc." are what a server', server.add_rpc, server, "rpc.list", print)
      refused('add_event: "rpc.x"', server.add_event, server, "rpc.x", print)
      refused('add_stream: "rpc.x"', server.add_stream, server, "rpc.x", print)
      server:add_rpc("rpcs", print)
    end)

    env.it("takes descriptions that make sense only", function()
      local server = env.server()
      local function bad(pattern, opts) refused(pattern, server.add_rpc, server, "x", print, opts) end
      bad('option "arguments" wants a string or a table, got 5', { arguments = 5 })
      bad('option "arguments": entry 1 wants text, a schema or', { arguments = { 5 } })
      bad('option "arguments": entry 2 has an unknown field "nmae"', { arguments = { "a", { nmae = "b" } } })
      bad('option "arguments": entry 1: "doc" wants string, got 5', { arguments = { { "a", doc = 5 } } })
      bad('option "arguments": entry 1: 2 wants text or a schema, got a table', { arguments = { { "a", {} } } })
      bad('option "arguments" wants a list, and has a field "name"', { arguments = { name = "b" } })
      bad('option "examples" cannot be sent: .*function', { examples = { { arguments = { print } } } })
      bad('option "examples": entry 1 wants text or', { examples = { 5 } })
      bad("add_rpc: example 1: argument 1 %(a%): wants an integer, got a string",
        { arguments = { { "a", s.integer } }, examples = { arguments = { "x" } } })
      local endless = setmetatable({}, { __index = function() return 0 / 0 end })
      server:add_rpc("endless", print, { arguments = endless, results = endless, examples = endless })
      assert.is_string(echo.introspect.page(endless))
      refused("no value to choose", s.enum, endless)
      refused("no schema to choose", s.union, endless)
      refused("a stream has none", server.add_stream, server, "x", print, { arguments = { { "a", s.integer } } })
      refused("an event has no answer", server.add_event, server, "x", print, { results = "x" })
      server:add_stream("y", print, { arguments = "none" })
    end)
  end)

  describe("a page of documentation", function()
    local function offer(server)
      server:add_rpc("math.add", print, { doc = "the *sum* <b>of</b> both", arguments = { { "a", s.integer, doc = "a | b" }, "b?" },
        results = { s.integer }, examples = { { arguments = { 1, "`" }, results = { 3 }, doc = "adds" }, "any" }, timeout = 5,
        deprecated = true })
      server:add_event("log", print, { doc = "a\n# line" })
      server:add_stream("audio", print, { codec = "msgpack" })
    end

    env.it("is Markdown, escaped", function()
      local server, client = env.pair(offer)
      local page = server:documentation { title = "Sums & more" }
      assert.matches("^# Sums \\& more\n\n## Methods\n\n### `math.add%(a, …%)`\n\nthe \\%*sum\\%* \\<b\\>of", page)
      assert.truthy(page:find("| a | integer | a \\| b |", 1, true))
      assert.truthy(page:find('- ``math.add(1, "`") → 3`` – adds', 1, true), page)
      assert.truthy(page:find("deadline: 5 · versions: v1: 0 in flight · deprecated", 1, true))
      assert.truthy(page:find("### `log()`\n\na \\# line", 1, true))
      assert.truthy(page:find("## Streams\n\n### `audio`", 1, true))
      assert.equal(echo.introspect.page(client:describe()), server:documentation())
      refused('option "format" wants one of', server.documentation, server, { format = "pdf" })
      refused("introspect.page: description wants a table", echo.introspect.page, 5)
    end)

    env.it("is one HTML file, escaped", function()
      local server = env.server({}, offer)
      local page = server:documentation { format = "html", title = "<script>" }
      assert.matches("^<!DOCTYPE html>", page)
      assert.truthy(page:find("<title>&lt;script&gt;</title>", 1, true))
      assert.truthy(page:find("the *sum* &lt;b&gt;of&lt;/b&gt; both", 1, true))
      assert.truthy(page:find("<code>math.add(1, &quot;`&quot;) → 3</code> adds", 1, true))
      assert.is_nil(page:find("<script", 1, true))
    end)

    env.it("bears whatever a peer calls a description", function()
      local odd = { { kind = "rpc", name = "a\nb", arguments = 5, results = { 7, { name = {} } }, examples = { 1, {} }, doc = { "x" } },
        { kind = "event" }, "x", { kind = "rpc", name = "\xff\0", doc = "\xff\0" } }
      for _, format in ipairs { "markdown", "html" } do
        assert.is_string(echo.introspect.page(odd, { format = format }))
      end
      assert.is_nil(echo.introspect.page(odd, { format = "html" }):find("[\xff%z]"))
    end)
  end)

  describe("health", function()
    env.it("is the server's, or what was said about a service", function()
      local server, client = env.pair(function(server)
        server:add_service("user", { login = function() end })
      end)
      assert.equal("SERVING", client:health())
      assert.same({ status = "SERVING" }, client:request("rpc.health", ""))
      assert.equal("SERVING", client:health("user"))
      assert.equal("SERVICE_UNKNOWN", client:health("mail"))
      server:set_health("mail", "NOT_SERVING")
      assert.equal("NOT_SERVING", client:health("mail"))
      server:set_health("mail", nil)
      assert.equal("SERVICE_UNKNOWN", client:health("mail"))
      server:set_health("user", "SERVING"):set_health("", "NOT_SERVING")
      assert.equal("NOT_SERVING", client:health())
      assert.equal("NOT_SERVING", client:health("user"))
      assert.equal("invalid_argument", select(2, client:request("rpc.health", 5)).code)
      refused('set_health: status wants "SERVING", "NOT_SERVING" or nil, got "up"', server.set_health, server, "", "up")
      refused("set_health: service wants a string, got nil", server.set_health, server)
    end)

    env.it("can be watched, and a server that stops says so", function()
      local server, client = env.pair()
      local watch = assert(client:stream("rpc.health.watch"))
      local mail = assert(client:stream("rpc.health.watch", "mail"))
      assert.equal("SERVING", watch:recv(10).data.status)
      assert.equal("SERVICE_UNKNOWN", mail:recv(10).data.status)
      server:set_health("mail", "SERVING")
      assert.equal("SERVING", mail:recv(10).data.status)
      mail:close()
      assert.equal("invalid_argument", select(2, client:stream("rpc.health.watch", 5):result(10)).code)
      local stopping = echo.spawn(function() return server:stop() end)
      assert.equal("NOT_SERVING", watch:recv(10).data.status)
      assert.is_nil(watch:recv(10))
      assert.is_true(stopping:wait(10))
    end)
  end)

  describe("schemas of a handler", function()
    env.it("keep away from it what they do not take", function()
      local ran = 0
      local _, client = env.pair(function(server)
        server:add_rpc("user.add", function(_, n, user)
          ran = ran + 1
          return user.name:rep(n)
        end, { arguments = { { "n", s.integer { min = 1 } }, { "user", s.object { name = s.string { max = 10 } } } },
          results = { s.string { max = 15 } } })
      end)
      assert.equal("adaada", client:request("user.add", 2, { name = "ada" }))
      local function err(...) return select(2, client:request("user.add", ...)) end
      local wrong = err(2, { name = 5 })
      assert.equal("invalid_argument: argument 2 (user).name: wants a string of at most 10 bytes, got an integer", tostring(wrong))
      assert.same({ path = "argument 2 (user).name", wants = "a string of at most 10 bytes" }, wrong.details)
      assert.equal("argument 1 (n): wants an integer of at least 1, got nothing", err().message)
      assert.equal("arguments: wants 2 values, got 3", err(2, { name = "x" }, 1).message)
      assert.equal(1, ran)
      -- what it returns is its own affair: the caller learns no more than that it is wrong
      local broken = err(6, { name = "ada" })
      assert.equal("internal: the handler's results are not what it promised", tostring(broken))
      assert.truthy(env.logged("result 1: wants a string of at most 15 bytes, got one of 18 bytes"))
      local described = client:describe("user.add")
      assert.equal("{name}", described.arguments[2].type)
      assert.equal(10, described.arguments[2].schema.properties.name.maxLength)
      assert.equal("string", described.results[1].type)
    end)

    env.it("let a handler fail as it likes, and take optional and further arguments", function()
      local _, client = env.pair(function(server)
        server:add_rpc("fails", function() return nil, echo.error("not_found", "none") end, { results = { s.integer } })
        server:add_rpc("sum", function(first, ...)
          local sum = first or 0
          for _, value in ipairs { ... } do sum = sum + value end
          return sum
        end, { session = false, arguments = { { "first", s.integer, optional = true }, { "...", s.number } } })
      end)
      assert.equal("not_found", select(2, client:request("fails")).code)
      assert.equal(0, client:request("sum"))
      assert.equal(6.5, client:request("sum", 1, 2, 3.5))
      assert.equal("argument 3 (...): wants a number, got a string", select(2, client:request("sum", 1, 2, "x")).message)
    end)

    env.it("hold for events, which are dropped, and for streaming methods", function()
      local seen = {}
      local _, client = env.pair(function(server)
        server:add_event("log", function(_, line) seen[#seen + 1] = line end, { arguments = { { "line", s.string } } })
        server:add_rpc("count", function(_, stream, n)
          for i = 1, n do stream:send(i) end
          return n
        end, { stream = "out", arguments = { { "n", s.integer } }, results = { s.integer { max = 2 } } })
      end)
      client:emit("log", 5)
      client:emit("log", 6)
      client:emit("log", "line")
      env.eventually(function() return #seen == 1 end)
      assert.same({ "line" }, seen)
      local told = 0
      for _, record in ipairs(env.logs) do
        told = told + (record.message:find("an event was dropped: argument 1 (line): wants a string", 1, true) and 1 or 0)
      end
      assert.equal(1, told)
      local good = client:stream("count", 2)
      assert.equal(2, good:result(10))
      local bad = client:stream("count", "x")
      assert.equal("invalid_argument", select(2, bad:result(10)).code)
    end)
  end)
end)
