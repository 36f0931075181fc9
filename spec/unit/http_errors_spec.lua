local codec = require "echostream.codec"
local errors = require "echostream.errors"
local fields = require "echostream.http.fields"
local http_errors = require "echostream.http.errors"

describe("errors over HTTP", function()
  local function response() return { status = 200, headers = fields.new() } end

  it("have the statuses of gRPC's codes", function()
    local expected = { cancelled = 499, unknown = 500, invalid_argument = 400, timeout = 504, not_found = 404, already_exists = 409,
      permission_denied = 403, resource_exhausted = 429, failed_precondition = 400, aborted = 409, out_of_range = 400,
      method_not_found = 501, internal = 500, unavailable = 503, data_loss = 500, unauthenticated = 401 }
    for code, status in pairs(expected) do assert.equal(status, http_errors.status(code), code) end
    for code in pairs(errors.codes) do assert.is_truthy(http_errors.statuses[code], code) end
    assert.equal(500, http_errors.status "out_of_stock")
    assert.equal(404, http_errors.status(errors.new "not_found"))
  end)

  it("have a body, and come back the same", function()
    local err = errors.new("out_of_stock", "no more \"shoes\"", { left = 0, sizes = { 41, 42 } })
    err.retry_after, err.processed = 1.2, "maybe"
    local answer = http_errors.respond(response(), err)
    assert.equal(500, answer.status)
    assert.equal("application/json", answer.headers:get "content-type")
    assert.equal("2", answer.headers:get "retry-after")
    assert.same({ error = { code = "out_of_stock", message = "no more \"shoes\"", details = { left = 0, sizes = { 41, 42 } }, processed = "maybe" } },
      codec.json.unpack(answer.body))
    local back = http_errors.parse(answer.status, answer.headers, answer.body)
    assert.is_true(errors.is_error(back))
    assert.equal("out_of_stock", back.code)
    assert.equal(err.message, back.message)
    assert.same(err.details, back.details)
    assert.same({ 2, "maybe" }, { back.retry_after, back.processed })
  end)

  it("are shown also when they are not made for JSON", function()
    local answer = http_errors.respond(response(), errors.new("internal", "bytes \xff\xfe", { print }))
    assert.same({ error = { code = "internal", message = "bytes ??" } }, codec.json.unpack(answer.body))
    answer = http_errors.respond(response(), "just text")
    assert.same({ error = { code = "internal", message = "just text" } }, codec.json.unpack(answer.body))
    answer = http_errors.respond(response(), errors.new("io", ("ä"):rep(4000)))
    assert.equal(503, answer.status)
    assert.is_true(#answer.body < 4200)
  end)

  it("of others are told by the status", function()
    local plain = fields.new { ["content-type"] = "text/html", ["retry-after"] = "120" }
    for status, code in pairs { [400] = "invalid_argument", [401] = "unauthenticated", [404] = "not_found", [408] = "timeout",
      [429] = "resource_exhausted", [502] = "unavailable", [503] = "unavailable", [504] = "timeout", [418] = "failed_precondition",
      [599] = "internal", [302] = "unknown" } do
      local err = http_errors.parse(status, plain, "<html>")
      assert.equal(code, err.code)
      assert.equal(code, http_errors.code(status))
      assert.equal(120, err.retry_after)
      assert.matches(tostring(status), err.message, 1, true)
    end
    local json = fields.new { ["content-type"] = "application/json; charset=utf-8", ["retry-after"] = "Sun, 06 Nov 1994 08:49:37 GMT" }
    for _, body in ipairs { "", "{", "null", "[]", "5", '{"error":5}', '{"error":{}}', '{"error":{"code":5}}', '{"error":{"code":""}}',
      '{"error":{"code":"a b"}}' } do
      local err = http_errors.parse(503, json, body)
      assert.equal("unavailable", err.code, body)
      assert.is_nil(err.retry_after)
    end
    assert.equal("x", http_errors.parse(503, json, '{"error":{"code":"x","message":7}}').message)
    assert.equal("unavailable", http_errors.parse(503, json, nil).code)
  end)
end)
