-- The plugin tracing: spans to a function, a file and a collector.

local echo = require "echostream"
local net = require "spec.support.net"
local otlp = require "echostream.plugins.otlp"
local process = require "spec.support.process"
local scratch = require "spec.support.scratch"
local socket = require "echostream.loop.socket"

local tracing = echo.plugins.tracing
local json = echo.codec.json

local function till(fn)
  while not fn() do echo.sleep(0.005) end
end

describe("plugins.tracing", function()
  it("says what it wants", function()
    assert.has_error(function() tracing {} end, 'plugins.tracing: wants one of "url", "path" and "export"')
    assert.has_error(function() tracing { url = "http://example.org/x" } end,
      'plugins.tracing: option "url" wants http:// and a numeric address, got "http://example.org/x"')
    assert.has_error(function() tracing { url = "https://127.0.0.1/x" } end)
    assert.equal(80, tracing({ url = "http://localhost" })._place.port)
    assert.has_error(function() tracing { path = "x", resource = { "shop" } } end)
    assert.has_error(function() tracing { path = "x", resource = { a = {} } } end)
    assert.has_error(function() tracing { path = "x", service = "\255" } end)
  end)
end)

describe("OTLP", function()
  it("is what collectors read", function()
    local span = { name = "add", kind = "rpc", direction = "in", trace_id = ("a"):rep(32), span_id = ("b"):rep(16), sampled = true,
      start = 1700000000.25, duration = 0.5, code = "not_found" }
    local resource = otlp.resource("shop", { ["deployment.environment.name"] = "test", shard = 7, weight = 0.5, canary = true })
    local sent = assert(json.unpack(otlp.encode(resource, { span })))
    local got = sent.resourceSpans[1].scopeSpans[1].spans[1]
    local said = {}
    for _, each in ipairs(sent.resourceSpans[1].resource.attributes) do said[each.key] = each.value end
    assert.same({ stringValue = "shop" }, said["service.name"])
    assert.same({ stringValue = "lua" }, said["telemetry.sdk.language"])
    assert.same({ stringValue = "test" }, said["deployment.environment.name"])
    assert.same({ { intValue = "7" }, { doubleValue = 0.5 }, { boolValue = true } }, { said.shard, said.weight, said.canary })
    assert.same({ ("a"):rep(32), ("b"):rep(16) }, { got.traceId, got.spanId })
    assert.is_nil(got.parentSpanId)
    assert.same({ "add", 2, "1700000000250000000", "1700000000750000000", 2, "not_found" },
      { got.name, got.kind, got.startTimeUnixNano, got.endTimeUnixNano, got.status.code, got.status.message })
    assert.equal("error.type", got.attributes[3].key)
  end)
end)

net.each(function(env)
  describe("the plugin tracing", function()
    local function pair(plugin)
      return env.pair(function(server)
        server:plugin(plugin)
        server:add_rpc("hello", function() return "hello" end)
      end)
    end

    env.it("gives spans to a function", function()
      local got = {}
      local plugin = tracing { export = function(spans) for _, span in ipairs(spans) do got[#got + 1] = span end end, batch = 2,
        interval = 1000, max_queue = 3 }
      local server, client = pair(plugin)
      local mine = tracing { export = function(spans) for _, span in ipairs(spans) do got[span.span_id] = span end end }
      client:plugin(mine)
      client:request "hello"
      client:request "hello" -- the batch is full
      till(function() return #got == 2 end)
      client:request "hello"
      mine:flush()
      plugin:flush()
      assert.equal(3, #got)
      assert.equal("client", got[got[3].parent_id].direction == "out" and "client")
      assert.same({ 3, 0, 0, 3 }, { plugin.exported, plugin.dropped, plugin.failed, mine.exported })
      client:request "hello"
      server:remove_plugin "tracing" -- what waits is still exported
      till(function() return #got == 4 end)
    end)

    env.it("counts what fails and what there is no room for", function()
      local go
      local plugin = tracing { export = function() echo.await(function(resume) go = resume end) error "no" end, batch = 1, max_queue = 2,
        interval = 1000, timeout = 100, attempts = 1 }
      local _, client = pair(plugin)
      for _ = 1, 5 do client:request "hello" end
      till(function() return go ~= nil end)
      assert.equal(2, plugin.dropped)
      plugin._opts.export = function() return nil, "no" end
      go(true)
      till(function() return plugin.failed == 3 end)
      assert.equal(0, plugin.exported)
      assert.truthy(env.logged "spans could not be exported")
    end)

    env.it("writes a file, of traces that are recorded", function()
      local path = scratch.path ".jsonl"
      local plugin = tracing { path = path, service = "shop", sample = 0 }
      local _, client = pair(plugin)
      client:request "hello"
      client:with { metadata = { traceparent = "00-" .. ("a"):rep(32) .. "-" .. ("b"):rep(16) .. "-01" } }:request "hello"
      plugin:flush()
      till(function() return (process.read(path) or ""):find "\n" end)
      local spans = assert(json.unpack(process.read(path))).resourceSpans[1].scopeSpans[1].spans
      assert.same({ 1, ("a"):rep(32), ("b"):rep(16) }, { #spans, spans[1].traceId, spans[1].parentSpanId })
    end)

    env.it("writes what was under way when it was taken away", function()
      local path = scratch.path ".jsonl"
      local plugin = tracing { path = path }
      local began, go
      local server, client = env.pair(function(server)
        server:plugin(plugin)
        server:add_rpc("long", function() began = true return echo.await(function(resume) go = resume end) end)
      end)
      local call = echo.spawn(function() return client:request "long" end)
      till(function() return began end)
      server:remove_plugin "tracing"
      echo.sleep(0)
      go(true)
      assert.is_true(call:wait(10))
      till(function() return (process.read(path) or ""):find "\n" end)
      assert.same({ 1, 0, 0 }, { plugin.exported, plugin.failed, plugin.dropped })
    end)
  end)
end)

net.only("quic", function(env)
  describe("the plugin tracing", function()
    -- A collector that gives these answers, one after another.
    local function collector(answers)
      local bodies = {}
      local listener = assert(socket.listen({ ip = "127.0.0.1", port = 0 }, function(connection)
        local text = ""
        return function(data)
          if not data then return connection:close() end
          text = text .. data
          local head, body = text:match "^(.-)\r\n\r\n(.*)$"
          if head and #body == tonumber(head:match "Content%-Length: (%d+)") then
            bodies[#bodies + 1] = { head = head, body = body }
            connection:send(table.remove(answers, 1))
          end
        end
      end))
      return listener, bodies
    end

    local function traced(url, opts)
      opts.url, opts.interval = url, 1000
      local plugin = tracing(opts)
      local _, client = env.pair(function(server)
        server:plugin(plugin)
        server:add_rpc("hello", function() return "hello" end)
      end)
      return plugin, function()
        client:request "hello"
        plugin:flush()
        return plugin.exported, plugin.failed, plugin.retried
      end
    end

    env.it("sends them to a collector", function()
      local listener, bodies = collector { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 503 Busy\r\nRetry-After: 1\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nA: b\r\n\r\nHTTP/1.1 202 Accepted\r\n\r\n", "HTTP/1.1 400 No\r\n\r\n" }
      local _, export = traced(("http://127.0.0.1:%d/v1/traces"):format(listener.port), { service = "shop" })
      assert.same({ 1, 0, 0 }, { export() })
      assert.truthy(bodies[1].head:find("^POST /v1/traces HTTP/1.1\r\nHost: 127.0.0.1:" .. listener.port))
      assert.equal("hello", json.unpack(bodies[1].body).resourceSpans[1].scopeSpans[1].spans[1].name)
      local since = echo.now()
      assert.same({ 2, 0, 1 }, { export() }) -- it was busy, and said when to come again
      assert.is_true(echo.now() - since > 0.9)
      assert.equal(bodies[2].body, bodies[3].body)
      assert.same({ 2, 1, 1 }, { export() }) -- this must not be sent again
      assert.truthy(env.logged "1 spans could not be exported: unavailable: the collector answered 400")
      listener.close()
    end)

    env.it("gives up in the end", function()
      local listener = collector { "what?" .. ("x"):rep(20000), "HTTP/1.1 503 Busy\r\n\r\n" }
      local _, export = traced(("http://127.0.0.1:%d"):format(listener.port), { attempts = 1 })
      assert.same({ 0, 1, 0 }, { export() })
      assert.same({ 0, 2, 0 }, { export() })
      listener.close()
      assert.same({ 0, 3, 0 }, { export() })
    end)
  end)
end)

net.only("sim", function(env)
  describe("the plugin tracing", function()
    env.it("tries a batch again, after growing pauses, and counts it only when that is over", function()
      local times, plugin = {}, nil
      plugin = tracing { interval = 1, max_queue = 3, export = function(spans)
        if #times == 4 then return end
        times[#times + 1] = echo.now()
        assert(plugin.failed == 0 and plugin.exported == 0)
        if #times < 4 then return nil, echo.error("unavailable", "busy") end
        assert(#spans == 1)
      end }
      local _, client = env.pair(function(server)
        server:plugin(plugin)
        server:add_rpc("hello", function() return "hello" end)
      end)
      client:request "hello"
      till(function() return #times == 1 end)
      for _ = 1, 5 do client:request "hello" end -- these wait behind it, as many as may
      assert.equal(2, plugin.dropped)
      till(function() return #times == 4 end)
      for i, least in ipairs { 0.5, 1, 2 } do
        local waited = times[i + 1] - times[i]
        assert.is_true(waited > least * 0.99 and waited < least * 2.1, waited)
      end
      assert.equal(3, plugin.retried)
      plugin:flush()
      assert.same({ 4, 0 }, { plugin.exported, plugin.failed })
    end)

    env.it("has one more attempt, at once, when its server stops", function()
      local n = 0
      local plugin = tracing { interval = 1, export = function()
        n = n + 1
        return nil, echo.error("unavailable", "never")
      end }
      local server, client = env.pair(function(server)
        server:plugin(plugin)
        server:add_rpc("hello", function() return "hello" end)
      end)
      client:request "hello"
      till(function() return plugin.retried == 4 end) -- now it waits for long
      local since = echo.now()
      server:stop { grace = 0 }
      assert.same({ 5, 1 }, { n, plugin.failed })
      assert.is_true(echo.now() - since < 4)
      assert.truthy(env.logged "1 spans could not be exported: unavailable: never")
    end)
  end)
end)
