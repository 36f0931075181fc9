local outbox = require "echostream.session.outbox"

-- An outbox whose queue takes what `room` allows, and what was sent.
local function made(room)
  local state = { room = room, sent = {}, over = 0 }
  state.box = outbox.new(function(item)
    if state.room == 0 then return nil, "again" end
    state.room = state.room - 1
    state.sent[#state.sent + 1] = item
    return true
  end, function(fn)
    state.writable = fn
  end, function()
    state.over = state.over + 1
  end)
  return state
end

describe("an outbox", function()
  it("sends in order when there is room, as much as there is", function()
    local s = made(2)
    for i = 1, 3 do assert.equal(0, outbox.push(s.box, i, 1, 10)) end
    assert.same({}, s.sent)
    s.writable()
    assert.same({ 1, 2 }, s.sent)
    assert.equal(1, outbox.count(s.box))
    assert.equal(0, s.over)
    s.room = 5
    s.writable()
    assert.same({ 1, 2, 3 }, s.sent)
    assert.equal(1, s.over)
    assert.equal(0, s.box.bytes)
  end)

  it("keeps the newest within its number and its bytes, and at least one", function()
    local s = made(0)
    for i = 1, 3 do outbox.push(s.box, i, 10, 3) end
    assert.equal(1, outbox.push(s.box, 4, 10, 3))
    assert.equal(2, outbox.push(s.box, 5, 10, 3, 25))
    assert.equal(20, s.box.bytes)
    assert.equal(2, outbox.push(s.box, 6, 1000, 3, 25))
    assert.equal(1, outbox.count(s.box))
    s.room = 9
    outbox.flush(s.box)
    assert.same({ 6 }, s.sent)
  end)

  it("can be emptied", function()
    local s = made(0)
    outbox.push(s.box, 1, 1, 9)
    outbox.push(s.box, 2, 1, 9)
    assert.equal(2, outbox.clear(s.box))
    s.room = 1
    s.writable()
    assert.same({}, s.sent)
    assert.equal(1, s.over)
  end)
end)
