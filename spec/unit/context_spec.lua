local context = require "echostream.context"

describe("a context", function()
  it("stores, gives and removes", function()
    local ctx = context.new()
    assert.equal(ctx, ctx:set("a", 1))
    assert.equal(1, ctx:get("a"))
    assert.is_nil(ctx:get("b"))
    assert.is_nil(ctx:get(nil))
    assert.equal(1, ctx:remove("a"))
    assert.is_nil(ctx:get("a"))
    assert.is_nil(ctx:remove("a"))
    assert.has_error(function() ctx:set(nil, 1) end)
  end)

  it("keeps false apart from nothing", function()
    local ctx = context.new():set("flag", false)
    assert.is_false(ctx:get("flag"))
  end)

  it("lists the sessions of its host, oldest first, and broadcasts to those that have room", function()
    local got = {}
    local function session(id, room)
      return {
        id = id,
        _chains = {},
        _ud = {
          emit_encoded = function(_, name, _, encoded)
            got[#got + 1] = ("%d %s %d"):format(id, name, #encoded)
            return room, not room and "again" or nil
          end,
        },
      }
    end
    local one, two, three = session(1, true), session(2, nil), session(3, true)
    local host = { _sessions = { [three] = true, [one] = true, [two] = true } }
    local ctx = context.new(host)
    assert.same({ one, two, three }, ctx:sessions())
    assert.same({ 2, 1 }, { ctx:broadcast("news", "x") })
    assert.same({ "1 news 3", "2 news 3", "3 news 3" }, got) -- [ "x" ]
  end)

  it("does not keep its host alive", function()
    local ctx = context.new { _sessions = {} }
    collectgarbage()
    assert.same({}, ctx:sessions())
  end)
end)
