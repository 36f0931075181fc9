local fake = require "tunnel.spec.support.fake_head"
fake.install()
local members = require "echostream.tunnel.groups.members"
local sticky = require "echostream.tunnel.groups.sticky"

describe("a cookie's token", function()
  local keep = sticky.compile("sticky", { cookie = "s" }, ("k"):rep(32))
  local options = { balance = "round_robin", sticky = keep, failures = 5, eject = 10 }

  it("stands for a member that may be chosen", function()
    local group = members.new("web", options)
    local a, b = group:add { id = "a" }, group:add { id = "b" }
    assert.equal(a, group:by_token(keep:token("web", "a")))
    assert.equal(b, group:by_token(keep:token("web", "b")))
    assert.is_nil(group:by_token(keep:token("other", "a")))
    assert.is_nil(group:by_token "a")
    group:set(a, "draining", true)
    assert.is_nil(group:by_token(keep:token("web", "a")))
    group:remove(b)
    assert.is_nil(group:by_token(keep:token("web", "b")))
    group:add { id = "b" }
    assert.truthy(group:by_token(keep:token("web", "b")))
  end)

  it("is found among other cookies, whole only", function()
    local function shown(...) return keep:shown { head = fake.head("request", { ... }) } end
    assert.equal("v", shown { "cookie", "a=b; s=v; c=d" })
    assert.equal("v", shown({ "cookie", "a=b" }, { "cookie", "s=v" }))
    assert.is_nil(shown { "cookie", "as=v; s2=w" })
    assert.is_nil(shown())
    assert.is_nil(keep:shown {})
    assert.equal("w", sticky.shown({ head = fake.head("request", { { "cookie", "s2=w" } }) }, "s2"))
  end)
end)
