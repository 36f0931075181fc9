local registry = require "echostream.tunnel.server.registry"

local function member(id, at)
  return { id = id, group = "web", session = { peer_addr = "192.0.2.1:5", door = "native" }, state = "up", version = "", labels = {}, weight = 1,
    services = {}, registered_at = at or 1, last_seen = 2, streams = 0, served = 0, errors = 0, bytes_in = 0, bytes_out = 0, backends = {},
    reported = {} }
end

describe("the registry", function()
  it("has room for so many, and always for who is there already", function()
    local r = registry.new(2)
    assert.is_nil(r:add(member "a"))
    assert.is_true(r:has_room "b")
    r:add(member "b")
    assert.is_false(r:has_room "c")
    assert.is_true(r:has_room "a")
    assert.equal(2, r:count())
  end)

  it("gives the member that a new one replaces, and keeps it in view until it is gone", function()
    local r = registry.new(2)
    local old, new = member("a", 1), member("a", 5)
    r:add(old)
    assert.equal(old, r:add(new))
    assert.equal(new, r:get "a")
    assert.equal(1, r:count())
    assert.same({ old, new }, r:members())
    assert.is_true(r:remove(old))
    assert.is_false(r:remove(old))
    assert.same({ new }, r:members())
    assert.is_true(r:remove(new))
    assert.is_nil(r:get "a")
    assert.equal(0, r:count())
  end)

  it("lists plain values, sorted by id", function()
    local r = registry.new(9)
    for _, id in ipairs { "c", "a", "b" } do r:add(member(id)) end
    local list = r:list(11)
    assert.same({ "a", "b", "c" }, { list[1].id, list[2].id, list[3].id })
    assert.equal(10, list[1].registered)
    assert.equal(9, list[1].last_seen)
    assert.equal("192.0.2.1:5", list[1].peer)
    assert.equal("native", list[1].door)
  end)
end)
