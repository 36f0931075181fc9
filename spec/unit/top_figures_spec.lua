-- What `echostream top` makes of the answers of servers, which may be anything at all.

local core = require "echostream.core"
local errors = require "echostream.errors"
local top = require "echostream.cli.top"
local top_figures = require "echostream.introspect.figures"

local msgpack = core.codec.msgpack

local function answer()
  return { time = 10.5, uptime = 10.25, sessions = 1, sessions_total = 3, running = 0, refused = 0, events = 2, bytes_in = 1000,
    bytes_out = 2000, packets_lost = 0, memory = 123456, methods = {
      { name = "greet", kind = "call", running = 0, count = 5, errors = 1, times = { 1000, 3, 2000, 2 } },
      { name = "note", kind = "event", count = 2 } } }
end

local function paint(_, text)
  return text
end

-- A table that a value stands in, and its key, somewhere in a tree.
local function places(tree, list)
  list = list or {}
  for key, value in pairs(tree) do
    list[#list + 1] = { tree, key }
    if type(value) == "table" then
      places(value, list)
    end
  end
  return list
end

describe("a server's answer to rpc.stats", function()
  it("is taken when it is one, with whole numbers as integers", function()
    local given = assert(msgpack.unpack(msgpack.pack(answer())))
    given.sessions = 1.0
    local snapshot = assert(top_figures.check(given))
    assert.equal("integer", math.type(snapshot.sessions))
    assert.equal(10.5, snapshot.time)
    assert.same({ 1000, 3, 2000, 2 }, snapshot.methods[1].times)
    assert.is_nil(snapshot.methods[2].errors)
    local view = top_figures.between(snapshot, snapshot)
    assert.matches("^1 session %(3 since the start%), up 10%.25 s, 123%.5 kB of memory$", top.lines(view, paint)[1])
    given.methods[2].running = core.null -- as JSON has it
    assert.is_nil(assert(top_figures.check(given)).methods[2].running)
  end)

  it("is refused when something is missing or of another kind, and that is said", function()
    for name in pairs(answer()) do
      for _, wrong in ipairs { -1, 0 / 0, math.huge, 2 ^ 60, "1", false, { {} }, { 1 } } do
        local given = answer()
        given[name] = wrong
        local snapshot, err = top_figures.check(given)
        assert.is_nil(snapshot)
        assert.equal("protocol", err.code)
        assert.matches(name, err.message, 1, true)
      end
    end
    for name, wrong in pairs { name = "a b", kind = "thing", running = -1, count = 1.5, errors = "x", times = { 1 } } do
      local given = answer()
      given.methods[1][name] = wrong
      assert.matches("methods%[1%]: " .. name, select(2, top_figures.check(given)).message)
    end
    assert.matches("methods%[1%]: name", select(2, top_figures.check(
      { time = 1, uptime = 1, sessions = 1, sessions_total = 1, running = 0, refused = 0, events = 0, bytes_in = 0, bytes_out = 0,
        packets_lost = 0, memory = 0, methods = { { name = ("x"):rep(257), kind = "call", count = 0 } } })).message)
    for _, wrong in ipairs { 1, "x", true, core.null } do
      assert.matches("it is a ", select(2, top_figures.check(wrong)).message)
    end
    assert.is_nil((top_figures.check(nil)))
  end)

  it("never makes top fail, whatever it is", function()
    local state = 20261121
    local function random(n) -- 0 to n - 1, the same in each run
      state = (state * 6364136223846793005 + 1442695040888963407) & math.maxinteger
      return (state >> 20) % n
    end
    local odd = { 0, 1, -1, 0.5, 1e308, -1e308, math.huge, -math.huge, 0 / 0, math.maxinteger, math.mininteger, 2 ^ 53, 2 ^ 53 + 2, "", "call",
      "event", "rpc.stats", "a.b", "\27[2J\u{9b}\n", ("x"):rep(300), true, false, core.null }
    local function value(depth)
      local kind = random(depth > 3 and 10 or 14)
      if kind < 10 then
        return odd[random(#odd) + 1]
      elseif kind < 12 then
        local list = core.array {}
        for i = 1, random(6) do
          list[i] = value(depth + 1)
        end
        return list
      end
      local map = core.map {}
      for _ = 1, random(6) do
        map[({ "time", "methods", "name", "kind", "times", "count", "x" })[random(7) + 1]] = value(depth + 1)
      end
      return map
    end
    local taken, refused = 0, 0
    for round = 1, os.getenv "ES_VALGRIND" and 200 or 1500 do
      local given = value(0)
      if round % 4 ~= 0 then
        given = answer()
        for _ = 1, random(2) + 1 do
          local all = places(given)
          -- pairs() has no order of its own: the place is drawn from one that has.
          table.sort(all, function(a, b) return tostring(a[2]) .. tostring(a[1][a[2]]) < tostring(b[2]) .. tostring(b[1][b[2]]) end)
          local place = all[random(#all) + 1]
          place[1][place[2]] = value(1)
        end
      end
      local sent = msgpack.unpack(assert(msgpack.pack(given))) -- which may be false
      local snapshot, err = top_figures.check(sent)
      if snapshot then
        taken = taken + 1
        local before = assert(top_figures.check(answer()))
        for _, pair in ipairs { { before, snapshot }, { snapshot, before }, { snapshot, snapshot } } do
          local view = top_figures.between(pair[1], pair[2])
          for _, line in ipairs(top.lines(view, paint, random(2) == 0 and 5 or nil, random(2) == 0 and 40 or nil)) do
            assert.is_nil((line:find "%c"), line)
          end
          assert.is_string((core.codec.json.pack(view)))
        end
      else
        refused = refused + 1
        assert.is_true(errors.is_error(err))
      end
    end
    assert.is_true(taken > 2 and refused > 2, ("%d taken, %d refused"):format(taken, refused))
  end)
end)
