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
  end)
end)

describe("OTLP", function()
  it("is what collectors read", function()
    local span = { name = "add", kind = "rpc", direction = "in", trace_id = ("a"):rep(32), span_id = ("b"):rep(16), sampled = true,
      start = 1700000000.25, duration = 0.5, code = "not_found" }
    local sent = assert(json.unpack(otlp.encode("shop", { span })))
    local got = sent.resourceSpans[1].scopeSpans[1].spans[1]
    assert.equal("shop", sent.resourceSpans[1].resource.attributes[1].value.stringValue)
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
        interval = 1000, timeout = 100 }
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

    env.it("sends them to a collector", function()
      local listener, bodies = collector { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 503 Busy\r\n\r\n", "what?" .. ("x"):rep(5000) }
      local plugin = tracing { url = ("http://127.0.0.1:%d/v1/traces"):format(listener.port), interval = 1000 }
      local _, client = env.pair(function(server)
        server:plugin(plugin)
        server:add_rpc("hello", function() return "hello" end)
      end)
      client:request "hello"
      plugin:flush()
      assert.same({ 1, 0 }, { plugin.exported, plugin.failed })
      assert.truthy(bodies[1].head:find("^POST /v1/traces HTTP/1.1\r\nHost: 127.0.0.1:" .. listener.port))
      assert.equal("hello", json.unpack(bodies[1].body).resourceSpans[1].scopeSpans[1].spans[1].name)
      for failed = 1, 2 do
        client:request "hello"
        plugin:flush()
        assert.equal(failed, plugin.failed)
      end
      assert.truthy(env.logged "the collector answered 503")
      listener.close()
      client:request "hello"
      plugin:flush()
      assert.equal(3, plugin.failed)
    end)
  end)
end)
