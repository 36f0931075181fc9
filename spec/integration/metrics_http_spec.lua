-- The HTTP endpoint of metrics, as scrapers and worse ones meet it: lua/echostream/metrics/http.lua, lua/echostream/loop/socket.lua.

local busted = require "busted"
local echo = require "echostream"
local metrics = require "echostream.metrics"
local prometheus = require "spec.support.prometheus"
local uv = require "luv"
local describe, it, before_each, after_each = busted.describe, busted.it, busted.before_each, busted.after_each

-- The sockets of the specs end with the process: luv 1.44 wants no close just before that.
local sockets = {}

-- Connects, sends the pieces one after another, and returns what came until the server closed; `hold`: does not close after.
local function talk(address, pieces, half_close)
  local port = tonumber(address:match ":(%d+)$")
  local socket = uv.new_tcp()
  sockets[#sockets + 1] = socket
  local got = {}
  local ok, err = echo.await(function(resume)
    socket:connect("127.0.0.1", port, function(problem)
      if problem then
        return resume(nil, problem)
      end
      socket:read_start(function(broken, data)
        if data then
          got[#got + 1] = data
        else
          socket:read_stop()
          resume(true, broken)
        end
      end)
      for _, piece in ipairs(pieces) do
        socket:write(piece)
      end
      if half_close then
        socket:shutdown()
      end
    end)
  end, 30)
  if not ok then
    error(tostring(err))
  end
  if not socket:is_closing() then
    socket:close()
  end
  return table.concat(got)
end

local function status_of(answer)
  return tonumber(answer:match "^HTTP/1%.1 (%d+) ")
end

describe("the HTTP endpoint", function()
  local endpoint

  before_each(function()
    endpoint = assert(metrics.serve { bind = "127.0.0.1:0" })
  end)

  after_each(function()
    endpoint:close()
    endpoint:close()
    echo.run(0.01)
  end)

  local function get(request, half_close)
    return talk(endpoint.address, { request }, half_close)
  end

  it("answers a scraper with text of the right type and length", function()
    metrics.counter("spec_http_total", "…"):inc()
    local answer = get "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain;version=0.0.4\r\n\r\n"
    local head, body = answer:match "^(.-)\r\n\r\n(.*)$"
    assert.matches("^HTTP/1.1 200 OK", head)
    assert.matches("Content%-Type: text/plain; version=0%.0%.4; charset=utf%-8", head)
    assert.matches("Content%-Length: " .. #body, head)
    assert.equal(1, prometheus.value(prometheus.parse(body), "spec_http_total"))
  end)

  it("takes a request in pieces, from one that closes its side, and with bare newlines", function()
    assert.equal(200, status_of(talk(endpoint.address, { "GET /met", "rics HTTP/1.1\r\nHo", "st: x\r\n", "\r", "\n" })))
    assert.equal(200, status_of(get("GET /metrics HTTP/1.0\r\n\r\n", true)))
    assert.equal(200, status_of(get "GET /metrics?x=y HTTP/1.1\nHost: x\n\n"))
    assert.equal(200, status_of(get "GET http://x/metrics HTTP/1.1\r\nHost: x\r\n\r\n"))
  end)

  it("answers HEAD without a body", function()
    local answer = get "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    assert.equal(200, status_of(answer))
    assert.matches("\r\n\r\n$", answer)
  end)

  it("says what is wrong with other requests", function()
    for request, status in pairs {
      ["GET /other HTTP/1.1\r\nHost: x\r\n\r\n"] = 404,
      ["POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"] = 405,
      ["GET /metrics HTTP/1.1\r\n\r\n"] = 400,
      ["GET /metrics HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"] = 400,
      ["GET /metrics HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n"] = 400,
      ["GET  /metrics HTTP/1.1\r\nHost: x\r\n\r\n"] = 400,
      ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] = 505,
      ["\22\3\1\2\0\1\0\1\252\3\3\r\n\r\n"] = 400,
      ["GET /" .. ("a"):rep(9000)] = 431,
    } do
      assert.equal(status, status_of(get(request)), request:sub(1, 60))
    end
  end)

  it("gives up on one that is too slow, or says nothing", function()
    local hasty = assert(metrics.serve { bind = "127.0.0.1:0", timeout = 0.05 })
    assert.equal(408, status_of(talk(hasty.address, { "GET /metrics HTTP/1.1\r\n" })))
    assert.equal(408, status_of(talk(hasty.address, {})))
    hasty:close()
  end)

  it("survives a scraper that goes away in the middle", function()
    assert.equal("", get("GET /metr", true))
    assert.equal("", get("", true))
    assert.equal(200, status_of(get "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"))
  end)

  it("serves no more than 32 at once, and answers again when they are gone", function()
    local port = tonumber(endpoint.address:match ":(%d+)$")
    local idle, connected = {}, 0
    for i = 1, 32 do
      idle[i] = uv.new_tcp()
      assert.is_true((echo.await(function(resume)
        idle[i]:connect("127.0.0.1", port, function(err)
          connected = connected + (err and 0 or 1)
          resume(true)
        end)
      end, 30)))
    end
    assert.equal(32, connected)
    assert.equal("", get "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    for _, socket in ipairs(idle) do
      socket:close()
    end
    local ends = echo.now() + 30
    local answer
    repeat
      echo.run(0.01)
      local ok, text = pcall(get, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
      answer = ok and text or ""
    until status_of(answer) == 200 or echo.now() > ends
    assert.equal(200, status_of(answer))
  end)

  it("ends", function()
    endpoint:close()
    echo.run(0.01)
    assert.has_error(function() get "GET /metrics HTTP/1.1\r\n\r\n" end)
  end)
end)

describe("metrics.serve", function()
  it("says what it cannot do", function()
    assert.error_matches(function() metrics.serve { bind = "example.org:80" } end, "numeric address")
    assert.error_matches(function() metrics.serve { bind = 5 } end, "wants a string") ---@diagnostic disable-line
    assert.error_matches(function() metrics.serve { port = 5 } end, "unknown option") ---@diagnostic disable-line
    local first = assert(metrics.serve { bind = "localhost:0" })
    local second, err = metrics.serve { bind = first.address }
    assert.is_nil(second)
    assert.equal("io", err.code)
    first:close()
    echo.run(0.01)
  end)

  it("does not reach out of a simulation", function()
    echo.sim.run({ seed = 1, limit = 1 }, function()
      local endpoint, err = metrics.serve { bind = "127.0.0.1:0" }
      assert.is_nil(endpoint)
      assert.equal("io", err.code)
    end)
  end)

  it("shows only the hosts it was given", function()
    local net = require "spec.support.net"
    local server = assert(echo.server({ quiet = true, state_dir = net.state_dir() }):start())
    local one = assert(metrics.serve { bind = "127.0.0.1:0", hosts = { server } })
    local body = talk(one.address, { "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" }):match "\r\n\r\n(.*)$"
    local families = prometheus.parse(body)
    assert.equal(1, #families.echostream_sessions.samples)
    assert.matches("^server 127%.0%.0%.1:" .. server.address:match "%d+$", families.echostream_sessions.samples[1].labels.host)
    one:close()
    server:stop { grace = 0 }
    echo.run(0.01)
  end)
end)
