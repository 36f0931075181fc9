-- HTTP/3 beside the native protocol on one port, with the core's own client.
local core = require "echostream.core"
local echo = require "echostream"
local connections = require "echostream.quic.connection"
local loop = require "echostream.loop"
local tls = require "echostream.tls"

local TIMEOUT <const> = 30

local function serve(fn)
  local server = echo.server { bind = "127.0.0.1:0", quiet = true }
  server:http(fn)
  server:add_rpc("math.add", function(_, a, b)
    return a + b
  end)
  assert(server:start())
  return server
end

-- A connection of the core's client that is open.
local function dial(server)
  local endpoint = assert(loop.endpoint { bind = "127.0.0.1:0" })
  local context = assert(tls.client({}, tls.trust("spec", { pin = server.pin }), "127.0.0.1"))
  local conn = assert(core.h3_dial(endpoint, { remote = server.address, tls = context, transport = {} }))
  local waiters = connections.waiters()
  local opened = false
  conn:notify(function(what)
    opened = opened or what == "open"
    waiters:wake "any"
  end)
  while not opened do
    assert(not conn:closed(), conn:closed())
    assert(waiters:wait("any", TIMEOUT))
  end
  return conn, function()
    conn:close()
    loop.close_endpoint(loop.current(), endpoint)
  end
end

local function again(waiters, kind, try, ...)
  return connections.repeat_until(waiters, kind, TIMEOUT, loop.now, try, ...)
end

local function fetch(conn, method, path, body, fields)
  local x = assert(conn:request({ method = method, scheme = "https", authority = "127.0.0.1", path = path }, fields or {}, not body))
  local waiters = connections.waiters()
  x:notify(function(what)
    waiters:wake(what)
    if what == "aborted" then
      waiters:wake_all()
    end
  end)
  for _, piece in ipairs(body or {}) do
    assert(again(waiters, "writable", x.write, x, piece))
  end
  if body then
    assert(x:finish())
  end
  local status = assert(again(waiters, "response", x.status, x))
  local pieces = {}
  while true do
    local piece, err = again(waiters, "readable", x.read, x)
    assert(not err, err)
    if not piece then
      break
    end
    pieces[#pieces + 1] = piece
  end
  local list, headers = x:fields(), {}
  for i = 1, #list, 2 do
    headers[list[i]] = list[i + 1]
  end
  local trailers = x:fields(true)
  x:release()
  return status, table.concat(pieces), headers, trailers
end

local function run(fn)
  local task = echo.spawn(fn)
  assert(task:wait(TIMEOUT * 2))
end

describe("HTTP/3", function()
  it("answers requests on the port of the native protocol", function()
    run(function()
      local server = serve(function(request, response)
        response.headers["content-type"] = "text/plain"
        response:send(("%s %s %s"):format(request.method, request.path, request.headers["x-test"]))
      end)
      local conn, close = dial(server)
      local status, body, headers = fetch(conn, "GET", "/a?b=c", nil, { "x-test", "1" })
      assert.equal(200, status)
      assert.equal("GET /a?b=c 1", body)
      assert.equal("text/plain", headers["content-type"])
      assert.equal("12", headers["content-length"])
      close()
      local client = assert(echo.connect(server.address, { pin = server.pin }))
      assert.equal(30, client:request("math.add", 10, 20))
      client:close()
      server:stop()
    end)
  end)

  it("streams bodies both ways, with trailers, and waits for the slower side", function()
    run(function()
      local server = serve(function(request, response)
        local size = 0
        for piece in request:chunks() do
          size = size + #piece
          assert(response:write(piece))
        end
        response:finish { ["x-size"] = tostring(size) }
      end)
      local conn, close = dial(server)
      local piece = ("0123456789abcdef"):rep(4096)
      local pieces = {}
      for i = 1, 4 do
        pieces[i] = piece
      end
      local status, body, _, trailers = fetch(conn, "POST", "/", pieces)
      assert.equal(200, status)
      assert.equal(4 * #piece, #body)
      assert.equal(piece:rep(4), body)
      assert.same({ "x-size", tostring(4 * #piece) }, trailers)
      close()
      server:stop()
    end)
  end)

  it("sends early hints before the answer", function()
    run(function()
      local server = serve(function(_, response)
        assert(response:early_hints { link = "</a.css>; rel=preload" })
        response:send("late", 404)
      end)
      local conn, close = dial(server)
      local x = assert(conn:request({ method = "GET", scheme = "https", authority = "a", path = "/" }, {}, true))
      local waiters = connections.waiters()
      x:notify(function(what)
        waiters:wake(what)
      end)
      assert.equal(404, (again(waiters, "response", x.status, x)))
      local status, fields = x:informed()
      assert.equal(103, status)
      assert.same({ "link", "</a.css>; rel=preload" }, fields)
      assert.is_nil(x:informed())
      x:release()
      close()
      server:stop()
    end)
  end)

  it("answers 500 when the handler raises, and tells only the log why", function()
    run(function()
      local said
      echo.set_log(function(record)
        said = record.message
      end)
      local server = serve(function()
        error "the secret"
      end)
      local conn, close = dial(server)
      local status, body = fetch(conn, "GET", "/")
      echo.set_log(nil)
      assert.equal(500, status)
      assert.equal("", body)
      assert.truthy(said:find("the secret", 1, true))
      close()
      server:stop()
    end)
  end)
end)
