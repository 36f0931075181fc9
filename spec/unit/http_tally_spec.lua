local tallies = require "echostream.http.tally"

describe("what an HTTP server counts", function()
  it("is bounded, whatever clients ask", function()
    local tally = tallies.new()
    for i = 1, 100 do
      tallies.note(tally, { method = "X" .. i, path = "/" .. i }, 404, 0.001, 10)
    end
    tallies.note(tally, { method = "GET", route = "/a" }, 200, 0.5, 0)
    local n = 0
    tallies.each(tally, function()
      n = n + 1
    end)
    assert.equal(2, n)
    local all = tallies.table(tally)
    local others = all.requests["(other) (none)"]
    assert.same({ 100, 100, 1000, { [404] = 100 } }, { others.count, others.errors, others.bytes, others.codes })
    assert.is_true(math.abs(all.requests["GET /a"].time.max - 0.5) < 0.1)
    assert.is_nil(tallies.table(nil))
  end)

  it("is how a request ended", function()
    local function outcome(late, err)
      return tallies.outcome({ _x = { late = function() return late end, error = function() return err end } }, { status = 201 })
    end
    assert.equal(201, outcome(false))
    assert.equal(504, outcome(true))
    assert.equal("cancelled", outcome(false, { code = "cancelled" }))
  end)
end)
