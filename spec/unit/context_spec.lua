local context = require "echostream.context"
local task = require "echostream.task"

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

  it("tells of changes, in order, until it is told to stop", function()
    local ctx, told = context.new():set("a", 1), {}
    local function note(value, old, key) told[#told + 1] = ("%s: %s -> %s"):format(key, old, value) end
    local stop = ctx:on_change("a", note)
    ctx:on_change("a", function() error("the others hear of it all the same") end)
    ctx:on_change("b", note)
    ctx:set("a", 1):set("a", 2):set("b", true):set("c", 3)
    ctx:remove("a")
    ctx:remove("a")
    ctx:set("b", nil)
    assert.same({}, told) -- in tasks, later
    local log = require "echostream.log"
    log.set(function() end)
    task.sleep(0.01)
    assert.same({ "a: 1 -> 2", "b: nil -> true", "a: 2 -> nil", "b: true -> nil" }, told)
    assert.is_true(stop())
    assert.is_false(stop())
    ctx:set("a", 5)
    task.sleep(0.01)
    log.set(nil)
    assert.equal(4, #told)
    assert.has_error(function() ctx:on_change(nil, print) end)
    assert.has_error(function() ctx:on_change("a") end)
  end)

  it("may change its values from a watcher", function()
    local ctx = context.new()
    ctx:on_change("n", function(n) if n < 3 then ctx:set("n", n + 1) end end)
    ctx:set("n", 0)
    task.sleep(0.01)
    assert.equal(3, ctx:get("n"))
  end)

  it("lists the sessions of its host, oldest first, and broadcasts to those that have room", function()
    local got, skipped = {}, {}
    local function session(id, room)
      return {
        id = id,
        _chains = {},
        _ud = {
          emit_encoded = function(_, name, _, encoded)
            got[#got + 1] = ("%d %s %d"):format(id, name, #encoded)
            return room, not room and "again" or nil
          end,
          skip_events = function(_, lane, n) skipped[#skipped + 1] = ("%d lane %d: %d"):format(id, lane, n) end,
        },
      }
    end
    local one, two, three = session(1, true), session(2, nil), session(3, true)
    local host = { _sessions = { [three] = true, [one] = true, [two] = true } }
    local ctx = context.new(host)
    assert.same({ one, two, three }, ctx:sessions())
    assert.same({ 2, 1 }, { ctx:broadcast("news", "x") })
    assert.same({ "1 news 3", "2 news 3", "3 news 3" }, got) -- [ "x" ]
    assert.same({ "2 lane 0: 1" }, skipped) -- so that it can tell that it missed one
  end)

  it("does not keep its host alive", function()
    local ctx = context.new { _sessions = {} }
    collectgarbage()
    assert.same({}, ctx:sessions())
  end)
end)
