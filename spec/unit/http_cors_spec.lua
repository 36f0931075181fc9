local cors = require "echostream.http.cors"
local fields = require "echostream.http.fields"

describe("cross-origin requests", function()
  local function ask(policy, method, headers, handler)
    local response = { status = 200, headers = fields.new() }
    policy:wrap(handler or function(_, answer) answer.body = "handled" end)({ method = method, path = "/", headers = fields.new(headers) },
      response)
    return response
  end

  it("are answered for the origins that are listed", function()
    local policy = cors.new { origins = { "https://a.example", "http://localhost:8080" }, expose = { "x-count" } }
    local response = ask(policy, "POST", { origin = "https://a.example" })
    assert.equal("handled", response.body)
    assert.equal("https://a.example", response.headers:get "access-control-allow-origin")
    assert.equal("x-count", response.headers:get "access-control-expose-headers")
    assert.equal("Origin", response.headers:get "vary")
    assert.is_nil(response.headers:get "access-control-allow-credentials")
    for _, origin in ipairs { "https://a.example.evil", "http://a.example", "https://a.example:444", "null", "HTTPS://A.EXAMPLE" } do
      response = ask(policy, "POST", { origin = origin })
      assert.is_nil(response.headers:get "access-control-allow-origin", origin)
      assert.equal("Origin", response.headers:get "vary") -- caches keep these apart, too
    end
    assert.is_nil(ask(policy, "GET", {}).headers:get "access-control-allow-origin")
  end)

  it("are answered for all, or as a function says", function()
    local response = ask(cors.new { origins = "*" }, "GET", { origin = "https://any.example" })
    assert.equal("*", response.headers:get "access-control-allow-origin")
    assert.is_nil(response.headers:get "vary")
    local policy = cors.new { origins = function(origin) return origin:find "%.example$" ~= nil end, credentials = true }
    response = ask(policy, "GET", { origin = "https://b.example" })
    assert.equal("https://b.example", response.headers:get "access-control-allow-origin")
    assert.equal("true", response.headers:get "access-control-allow-credentials")
    assert.is_nil(ask(policy, "GET", { origin = "https://b.test" }).headers:get "access-control-allow-origin")
    assert.is_true(cors.new { origins = { "null" } }:allows "null")
    assert.is_false(policy:allows(nil))
  end)

  it("ask first, and learn what is allowed", function()
    local policy = cors.new { origins = "https://a.example", methods = { "PUT" }, headers = { "x-a", "x-b" }, max_age = 60.5 }
    local wanted = { origin = "https://a.example", ["access-control-request-method"] = "PUT" }
    local never = function() error "a preflight is not for handlers" end
    local response = ask(policy, "OPTIONS", wanted, never)
    assert.equal(204, response.status)
    assert.is_nil(response.body)
    assert.equal("PUT", response.headers:get "access-control-allow-methods")
    assert.equal("x-a, x-b", response.headers:get "access-control-allow-headers")
    assert.equal("60", response.headers:get "access-control-max-age")
    assert.equal("Access-Control-Request-Method, Access-Control-Request-Headers, Origin", response.headers:get "vary")
    wanted.origin = "https://b.example"
    response = ask(policy, "OPTIONS", wanted, never)
    assert.equal(204, response.status)
    assert.is_nil(response.headers:get "access-control-allow-methods")
    assert.equal("handled", ask(policy, "OPTIONS", { origin = "https://a.example" }).body) -- no preflight
    assert.is_false(policy:preflight({ method = "PUT", headers = fields.new(wanted) }, response))
    assert.is_true(policy:apply({ headers = fields.new { origin = "https://a.example" } }, response))
  end)

  it("have policies that make sense", function()
    for _, opts in ipairs { {}, { origins = "*", credentials = true }, { origins = { "a.example" } }, { origins = { "https://a/b" } },
      { origins = { "https://a.example/" } }, { origins = { "*" } }, { origins = "*", methods = { "A B" } },
      { origins = "*", headers = { "a\r\n" } }, { origins = 5 }, { origins = "*", maxage = 1 } } do
      assert.has_error(function() cors.new(opts) end)
    end
  end)
end)
