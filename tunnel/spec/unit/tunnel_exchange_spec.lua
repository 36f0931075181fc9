local issued = require("spec.support.certs").issue(nil, { names = { "localhost", "*.example.org" } })
local echo = require "echostream"
local core = require "echostream.tunnel.core"
local engines = require "echostream.tunnel.engine"
local exchanges = require "echostream.tunnel.exchange"
local waiter = require "echostream.tunnel.waiter"

local T <const> = 60 -- seconds that nothing here needs

local function response(status, ...)
  return assert(core.head("response", { status = status, ... }))
end

-- What a whole exchange brings: status, body, trailers.
local function fetch(c, fields, body, trailers)
  local x = assert(exchanges.request(c, assert(core.head("request", fields)), not body))
  local sender = body and echo.spawn(function()
    for at = 1, #body, 50000 do assert(x:write(body:sub(at, at + 49999))) end
    assert(x:finish(trailers))
  end)
  local head, fin = assert(x:head(T))
  local parts = {}
  while not fin do
    local bytes, err, _ = x:read()
    assert.is_nil(err)
    if not bytes then break end
    parts[#parts + 1] = bytes
  end
  if sender then assert(sender:wait(T)) end
  return head, table.concat(parts), x:trailers(), x
end

local function connect(engine, l, options)
  local done
  options.ip, options.port = "127.0.0.1", tonumber(l:address():match ":(%d+)$")
  options.on_open = function(c) done(c) end
  options.on_closed = options.on_closed or function(_, err) done(nil, err) end
  return echo.task and nil or require("echostream.task").await(function(resume)
    done = resume
    assert(engine:dial(options))
  end, T)
end

describe("an exchange", function()
  local engine, l
  local serve -- what the listener's task does
  local refused

  before_each(function() engine = engines.new(); refused = {} end)
  after_each(function() engine:close() end)

  local function listen(options)
    options = options or {}
    options.ip, options.kind = "127.0.0.1", "http"
    options.on_refused = function(peer, status, why) refused[#refused + 1] = { peer = peer, status = status, why = why } end
    options.on_exchange = function(core_x, head, fin)
      local x = exchanges.new(core_x, fin)
      echo.spawn(function() serve(x, head, fin) end)
    end
    l = assert(engine:listen(options))
  end

  -- Answers with what was sent.
  local function mirror(x, head, fin)
    assert(x:send_head(response(200, { "content-type", "text/plain" }, { "x-path", head.path or "" })))
    while not fin do
      local bytes = x:read()
      if not bytes then break end
      assert(x:write(bytes))
    end
    local sum = x:trailers() and x:trailers():get "x-sum"
    assert(x:finish(sum and core.head("trailers", { { "x-sum", sum } }) or nil))
  end

  for _, codec in ipairs { "http/1.1", "h2" } do
    for _, tls in ipairs { false, true } do
      describe(("by %s%s"):format(codec, tls and " with TLS" or ""), function()
        local function open(options)
          local server, client
          if tls then
            server = assert(core.tls_server { certs = { { cert = issued.cert, key = issued.key } }, alpn = { "h2", "http/1.1" } })
            client = assert(core.tls_client { verify = false, alpn = { codec } })
          end
          listen { tls = server }
          options = options or {}
          options.codec, options.tls = tls and "auto" or codec, client
          return assert(connect(engine, l, options))
        end

        it("carries a request without a body, and its response", function()
          serve = mirror
          local c = open()
          assert.equal(codec, c:protocol())
          local head, body, trailers, x = fetch(c, { method = "GET", scheme = tls and "https" or "http", authority = "a.example", path = "/p?q" })
          assert.equal(200, head.status)
          assert.equal("/p?q", head:get "x-path")
          assert.equal("", body)
          assert.is_nil(trailers)
          local info = x:info()
          assert.equal(codec == "h2" and "h2" or "http/1.1", info.protocol)
          assert.equal(tls, info.tls)
          assert.equal(l:address(), info.peer)
        end)

        it("carries large bodies both ways at a time, and trailers", function()
          serve = mirror
          local c = open()
          local sent = ("0123456789abcdef"):rep(100000)
          local head, body, trailers = fetch(c, { method = "POST", scheme = "http", authority = "a", path = "/", { "te", "trailers" } }, sent,
            core.head("trailers", { { "x-sum", "42" } }))
          assert.equal(200, head.status)
          assert.is_true(sent == body)
          assert.equal("42", trailers and trailers:get "x-sum")
        end)

        it("moves messages of a data stream", function()
          local came = {}
          serve = function(x)
            while true do
              local message, over = x:take()
              came[#came + 1] = message
              if over ~= false then break end
            end
            assert.equal("nil,true", ("%s,%s"):format(x:try_take()))
            local ok, over = x:put(response(200, { "a", "b" }):part() .. core.part("body", "hello") .. core.part "end")
            assert.is_true(ok)
            assert.is_true(over)
          end
          local c = open()
          local head, body = fetch(c, { method = "PUT", scheme = "http", authority = "a", path = "/" }, "request")
          assert.equal("b", head:get "a")
          assert.equal("hello", body)
          local bytes = {}
          for kind, value in core.parts(table.concat(came)) do
            if kind == "body" then bytes[#bytes + 1] = value else assert.equal("end", kind) end
          end
          assert.equal("request", table.concat(bytes))
        end)

        it("is slowed down by who does not take, and holds little meanwhile", function()
          local x_of_server, written = nil, 0
          serve = function(x)
            x_of_server = x
            assert(x:send_head(response(200)))
            for _ = 1, 400 do
              if not x:write(("z"):rep(50000)) then return end
              written = written + 50000
            end
            x:finish()
          end
          local c = open()
          local x = assert(exchanges.request(c, assert(core.head("request", { method = "GET", scheme = "http", authority = "a", path = "/" })), true))
          assert(x:head(T))
          local got = 0
          while true do
            local bytes = x:read(30000)
            if not bytes then break end
            got = got + #bytes
            assert.is_true(engine:stats().memory < 12000000)
          end
          assert.equal(20000000, got)
          assert.equal(20000000, written)
          assert.is_table(x_of_server)
        end)

        it("tells a visitor's going at once, and a backend's", function()
          local aborted
          serve = function(x)
            x:on_abort(function(why) aborted(why) end)
            x:send_head(response(200))
            x:write "some"
            x:take()
          end
          local c = open { on_closed = function() end }
          local x = assert(exchanges.request(c, assert(core.head("request", { method = "POST", scheme = "http", authority = "a", path = "/" }))))
          assert(x:head(T))
          local why = require("echostream.task").await(function(resume)
            aborted = resume
            x:reset "cancel"
          end, T)
          assert.is_string(why)
          x:reset "cancel" -- harmless
          serve = function(other) other:reset "internal" end
          c = open { on_closed = function() end }
          x = assert(exchanges.request(c, assert(core.head("request", { method = "GET", scheme = "http", authority = "a", path = "/" })), true))
          local head, err = x:head(T)
          assert.is_nil(head)
          assert.is_string(err.details.reset)
          local seen
          x:on_abort(function(reason) seen = reason end)
          assert.is_string(seen)
        end)
      end)
    end
  end

  it("refuses what is malformed, and says so", function()
    serve = mirror
    listen()
    local s = assert(require("echostream.tunnel.socket").connect(engine, { ip = "127.0.0.1", port = tonumber(l:address():match ":(%d+)$") }))
    assert(s:write "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    local answer = {}
    while true do
      local bytes = s:read(nil, T)
      if not bytes then break end
      answer[#answer + 1] = bytes
    end
    assert.matches("^HTTP/1.1 400 ", table.concat(answer))
    assert.equal(400, refused[1].status)
    assert.matches("^127.0.0.1:", refused[1].peer)
    assert.is_string(refused[1].why)
  end)

  it("knows HTTP/2 and HTTP/1.1 apart by their first bytes, however these come", function()
    serve = mirror
    listen()
    local place = { ip = "127.0.0.1", port = tonumber(l:address():match ":(%d+)$") }
    local connect_raw = require("echostream.tunnel.socket").connect
    -- Each byte alone: the next one leaves when the one before has come.
    local function send_slowly(text)
      local s = assert(connect_raw(engine, place))
      local before = engine:stats().received
      for i = 1, #text do
        assert(s:write(text:sub(i, i)))
        while engine:stats().received < before + i do echo.sleep(0.001) end
      end
      return s
    end
    assert.matches("^HTTP/1.1 200 ", (assert(send_slowly("PUT /p HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"):read(nil, T))))
    local settings = send_slowly("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"):read(nil, T)
    assert.equal(4, settings:byte(4)) -- a SETTINGS frame
  end)

  it("goes on when its listener drains, and ends the connection then", function()
    local go
    serve = function(x)
      require("echostream.task").await(function(resume) go = resume end, T)
      assert(x:send_head(response(204), true))
    end
    listen()
    local closed
    local c = assert(connect(engine, l, { codec = "h2", on_closed = function() if closed then closed(true) end end }))
    local x = assert(exchanges.request(c, assert(core.head("request", { method = "GET", scheme = "http", authority = "a", path = "/" })), true))
    while not go do echo.sleep(0.001) end
    l:drain()
    local ended = echo.spawn(function()
      return require("echostream.task").await(function(resume) closed = resume end, T)
    end)
    go(true)
    assert.equal(204, (assert(x:head(T))).status)
    assert.is_true(ended:wait(T))
    assert.is_nil((connect(engine, l, { codec = "h2" })))
  end)

  it("logs what a function raises, and goes on", function()
    local messages = {}
    echo.set_log(function(record) messages[#messages + 1] = record.message end)
    finally(function() echo.set_log(nil) end)
    local times = 0
    l = assert(engine:listen { ip = "127.0.0.1", kind = "http", on_exchange = function(x)
      times = times + 1
      x:send_head(response(204), true)
      error "oh"
    end })
    local c = assert(connect(engine, l, { codec = "http/1.1" }))
    for _ = 1, 2 do
      local head = fetch(c, { method = "GET", scheme = "http", authority = "a", path = "/" })
      assert.equal(204, head.status)
    end
    assert.equal(2, times)
    assert.matches("a function raised: .*oh", messages[1])
  end)
end)

describe("a waiter", function()
  it("keeps an edge for who waits later, and only one", function()
    local w = waiter.new()
    w:wake()
    w:wake()
    assert.is_true(w:wait(T))
    local ok, err = w:wait(0)
    assert.is_nil(ok)
    assert.equal("timeout", err.code)
    local waiting = echo.spawn(function() return w:wait(T) end)
    echo.spawn(function() w:wake() end)
    assert.is_true(waiting:wait(T))
  end)
end)

describe("the engine", function()
  it("is one for all, and keeps the loop running only while it has something", function()
    assert.equal(engines.current(), engines.current())
    local engine = engines.new()
    local l = assert(engine:listen { ip = "127.0.0.1", kind = "raw", on_socket = function() end })
    assert.equal(1, engine:stats().listeners)
    local task = require "echostream.task"
    local ok, err = task.await(function() end, 0.01)
    assert.equal("nil timeout", ("%s %s"):format(ok, err.code))
    l:close()
    ok, err = task.await(function() end)
    assert.equal("nil deadlock", ("%s %s"):format(ok, err.code))
    engine:close()
    engine:close()
    ok, err = engine:listen { ip = "127.0.0.1", kind = "raw" }
    assert.equal("nil connection_closed", ("%s %s"):format(ok, err.code))
  end)

  it("may be closed by a function that it calls, and by nobody at all", function()
    local engine, ended = engines.new(), false
    local l = assert(engine:listen { ip = "127.0.0.1", kind = "raw", on_socket = function()
      engine:close()
      ended(true)
    end })
    assert.is_true(require("echostream.task").await(function(resume)
      ended = resume
      assert(engine:dial { ip = "127.0.0.1", port = tonumber(l:address():match ":(%d+)$"), codec = "raw", on_open = function() end,
        on_closed = function() end })
    end, T))
    assert.same({}, engine:stats())
    l:close()
    l:drain()
    assert.is_string(l:address())
    local child = assert(io.popen([[
      lua5.4 -e '
        local core, engines = require "echostream.tunnel.core", require "echostream.tunnel.engine"
        local exchanges, echo = require "echostream.tunnel.exchange", require "echostream"
        local engine = engines.current()
        local l = assert(engine:listen { ip = "127.0.0.1", kind = "http", on_exchange = function(x) kept = exchanges.new(x) end })
        engine:dial { ip = "127.0.0.1", port = tonumber(l:address():match ":(%d+)$"), codec = "h2", on_closed = function() end,
          on_open = function(c)
            asked = exchanges.request(c, core.head("request", { method = "GET", scheme = "http", authority = "a", path = "/" }))
          end }
        while not kept do echo.sleep(0.001) end
        print "open"
      ']]))
    assert.equal("open", child:read "l")
    assert.is_true((child:close()))
  end)

  it("says why it cannot listen or connect", function()
    local engine = engines.new()
    finally(function() engine:close() end)
    local l = assert(engine:listen { ip = "127.0.0.1", kind = "raw", on_socket = function() end })
    local again, err = engine:listen { ip = "127.0.0.1", port = tonumber(l:address():match ":(%d+)$"), kind = "raw" }
    assert.is_nil(again)
    assert.equal("io", err.code)
    assert.matches("in use", err.message)
    again, err = engine:listen { ip = "nowhere", kind = "raw" }
    assert.is_nil(again)
    assert.matches("nowhere is no numeric address", err.message)
    l:close()
    local s, why = require("echostream.tunnel.socket").connect(engine, { ip = "127.0.0.1", port = tonumber(l:address():match ":(%d+)$") })
    assert.is_nil(s)
    assert.equal("io", why.code)
    assert.matches("refused", why.message)
    s, why = engine:dial { ip = "nowhere", port = 1, codec = "raw" }
    assert.is_nil(s)
    assert.equal("invalid_argument", why.code)
  end)
end)
