local fake = require "tunnel.spec.support.fake_head"
fake.install()
local ids = require "echostream.tunnel.ids"
local rules = require "echostream.tunnel.rules"

local function applied(trusted, ...)
  local r = assert(rules.request.new(fake.request { ... }, { peer_ip = "::1" }))
  ids.apply(r, trusted)
  return r
end

local parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

describe("a request's id", function()
  it("is given, and told to the backend", function()
    local a, b = applied(false), applied(false)
    assert.truthy(a.id:find "^%x+$" and #a.id == 32)
    assert.are_not.equal(a.id, b.id)
    assert.equal(a.id, a.head:get "x-request-id")
  end)

  it("is kept from who is trusted only", function()
    assert.equal("abc-1", applied(true, { "x-request-id", "abc-1" }).id)
    local r = applied(false, { "x-request-id", "abc-1" })
    assert.are_not.equal("abc-1", r.id)
    assert.equal(r.id, r.head:get "x-request-id")
    for _, odd in ipairs { "a b", "", ("a"):rep(129), "a\"b" } do assert.equal(32, #applied(true, { "x-request-id", odd }).id) end
  end)
end)

describe("a trace", function()
  it("is continued as another span", function()
    local r = applied(false, { "traceparent", parent }, { "tracestate", "a=b" })
    assert.equal("0af7651916cd43dd8448eb211c80319c", r.trace_id)
    local trace, span, flags = ids.trace(r.head:get "traceparent")
    assert.same({ r.trace_id, "01", "a=b" }, { trace, flags, r.head:get "tracestate" })
    assert.are_not.equal("b7ad6b7169203331", span)
  end)

  it("begins where there is none that can be read", function()
    for _, value in ipairs { "", "x", parent:upper(), parent .. "-x", parent:gsub("^00", "ff"), parent:gsub("b7ad6b7169203331", "0000000000000000"),
      "00-" .. ("0"):rep(32) .. "-b7ad6b7169203331-01", "00-0af7651916cd43dd-b7ad6b7169203331-01" } do
      local r = applied(false, { "traceparent", value }, { "tracestate", "a=b" })
      assert.are_not.equal("0af7651916cd43dd8448eb211c80319c", r.trace_id)
      assert.equal(r.trace_id, (ids.trace(r.head:get "traceparent")))
      assert.is_nil(r.head:get "tracestate")
    end
    assert.equal("0af7651916cd43dd8448eb211c80319c", (ids.trace("01" .. parent:sub(3) .. "-more")))
  end)

  it("is there for connections without a head, too", function()
    local r = assert(rules.request.new(nil, { kind = "tcp", peer_ip = "::1" }))
    ids.apply(r)
    assert.same({ 32, 32 }, { #r.id, #r.trace_id })
  end)
end)
