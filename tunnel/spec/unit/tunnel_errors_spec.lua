local fake = require "tunnel.spec.support.fake_head"
fake.install()
local codec = require "echostream.codec"
local echo_errors = require "echostream.errors"
local errors = require "echostream.tunnel.errors"
local loop = require "echostream.loop"
local request = require "echostream.tunnel.rules.request"

local function of(fields)
  local r = assert(request.new(fake.request(fields), { peer_ip = "192.0.2.1" }))
  r.id = "id-7"
  return r
end

describe("an answer of ours", function()
  it("is text with the request's id", function()
    local head, body = errors.response(of {}, errors.new(503, "the group web has no agent", { retry_after = 0.2 }))
    assert.same({ 503, "text/plain; charset=utf-8", tostring(#body), "1", "id-7", "no-store" }, { head.status, head:get "content-type",
      head:get "content-length", head:get "retry-after", head:get "x-request-id", head:get "cache-control" })
    assert.equal("503 Service Unavailable\nthe group web has no agent\nrequest id: id-7\n", body)
    assert.is_nil(head:get "x-echostream-tunnel")
  end)

  it("is JSON for who asks for it", function()
    for accept, json in pairs { ["application/json"] = true, ["application/problem+json"] = true, ["application/json, text/plain, */*"] = true,
      ["text/html,application/json"] = false, ["*/*"] = false } do
      local head, body = errors.response(of { { "accept", accept } }, errors.new(429, "too \"many\" \xff", { limit = "client requests" }))
      assert.equal(json and "application/json" or "text/plain; charset=utf-8", head:get "content-type", accept)
      if json then
        local value = assert(codec.json.unpack(body))
        assert.equal(429, value.error.status)
      end
    end
    local _, body = errors.response(of { { "accept", "application/json" } }, errors.new(429, "slower", { limit = "client requests" }))
    assert.same({ status = 429, message = "slower", limit = "client requests", request_id = "id-7" }, codec.json.unpack(body).error)
  end)

  it("has no body for HEAD, but its length", function()
    local head, body = errors.response(of { method = "HEAD" }, errors.new(404, "no"))
    assert.equal("", body)
    assert.is_true(tonumber(head:get "content-length") > 0)
  end)

  it("to gRPC is trailers only", function()
    local r = of { method = "POST", { "content-type", "application/grpc+proto" } }
    local head, body = errors.response(r, errors.new(503, "nobody is h\xc3\xa9re: 100%", { retry_after = 3 }), "agent")
    assert.equal("", body)
    assert.same({ 200, "application/grpc", "14", "nobody is h%C3%A9re: 100%25", "3", "agent" }, { head.status, head:get "content-type",
      head:get "grpc-status", head:get "grpc-message", head:get "retry-after", head:get "x-echostream-tunnel" })
    head = errors.response(r, errors.new(504, "late", { grpc_status = 4 }))
    assert.equal("4", head:get "grpc-status")
  end)

  it("to gRPC is DEADLINE_EXCEEDED when the caller's own time is over", function()
    local function status(received, timeout)
      local r = of { { "content-type", "application/grpc" }, timeout and { "grpc-timeout", timeout } or nil }
      r.received = received
      return errors.response(r, errors.new(504, "late")):get "grpc-status"
    end
    assert.equal("4", status(loop.now() - 10, "5S"))
    assert.equal("14", status(loop.now() - 10, "50S"))
    assert.equal("14", status(loop.now() - 10))
  end)

  it("can be made without a request, and with fields of its own", function()
    local head = errors.response(nil, errors.new(401, "who are you?", { headers = { { "www-authenticate", "Basic realm=\"x\"" } } }))
    assert.same({ 401, "Basic realm=\"x\"" }, { head.status, head:get "www-authenticate" })
  end)

  it("is sent to an exchange", function()
    local said = {}
    local exchange = {
      send_head = function(_, head, fin) said[#said + 1] = ("head %d %s"):format(head.status, fin) return true end,
      write = function(_, bytes, fin) said[#said + 1] = ("body %d %s"):format(#bytes, fin) return true end,
    }
    assert.equal(404, errors.send(exchange, of {}, errors.new(404, "no")))
    assert.equal(404, errors.send(exchange, of { method = "HEAD" }, errors.new(404, "no")))
    assert.equal(503, errors.send(exchange, of { { "content-type", "application/grpc" } }, errors.new(503, "no")))
    assert.same({ "head 404 false", "body 34 true", "head 404 true", "head 200 true" }, said)
  end)
end)

describe("statuses", function()
  it("of errors without one are those of a gateway", function()
    for code, status in pairs { timeout = 504, unavailable = 503, connection_closed = 502, io = 502, protocol = 502, cancelled = 499, own = 502 } do
      assert.equal(status, errors.status(echo_errors.new(code, "x")), code)
    end
    local err = echo_errors.new("io", "x")
    err.http_status = 413
    assert.equal(413, errors.status(err))
  end)

  it("map to gRPC's as it documents, and back", function()
    for status, code in pairs { [400] = 13, [401] = 16, [403] = 7, [404] = 12, [429] = 14, [502] = 14, [503] = 14, [504] = 14, [418] = 2,
      [500] = 2 } do
      assert.equal(code, errors.grpc_status(status), status)
    end
    for code, status in pairs { [0] = 200, [1] = 499, [3] = 400, [4] = 504, [5] = 404, [7] = 403, [8] = 429, [12] = 501, [13] = 500, [14] = 503,
      [16] = 401,
      [77] = 500 } do
      assert.equal(status, errors.http_status(code), code)
    end
  end)

  it("of gRPC have time-outs", function()
    assert.equal(2, errors.grpc_timeout "2S")
    assert.equal(7200, errors.grpc_timeout "2H")
    assert.equal(0.25, errors.grpc_timeout "250m")
    for _, value in ipairs { "", "2", "S", "2s", "-1S", "123456789S", "1.5S" } do assert.is_nil(errors.grpc_timeout(value)) end
    assert.is_nil(errors.grpc_timeout(nil))
  end)
end)
