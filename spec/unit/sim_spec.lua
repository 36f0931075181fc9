local echo = require "echostream"
local sim = require "echostream.sim"

describe("a simulation", function()
  it("runs a function in virtual time and gives its results", function()
    local began = os.clock()
    local now, name = sim.run({ seed = 3 }, function(net)
      assert.is_true(echo.sleep(3600))
      return net:now(), "x"
    end)
    assert.is_true(now >= 3600 and now < 3600.1)
    assert.equal("x", name)
    assert.is_true(os.clock() - began < 1)
  end)

  it("passes on what the function raises", function()
    local ok, err = pcall(sim.run, function() error("inside") end)
    assert.is_false(ok)
    assert.matches("inside", err)
    ok, err = pcall(sim.run, function() error(echo.error("aborted", "x")) end)
    assert.is_false(ok)
    assert.equal("aborted", err.code)
  end)

  it("tells when nothing can happen any more", function()
    local ok, err = pcall(sim.run, function()
      require "echostream.task".await(function() end)
    end)
    assert.is_false(ok)
    assert.equal("deadlock", err.code)
  end)

  it("has a limit of virtual time", function()
    local ok, err = pcall(sim.run, { limit = 5 }, function() echo.sleep(100) end)
    assert.is_false(ok)
    assert.equal("timeout", err.code)
  end)

  it("leaves the real loop as it was", function()
    local before = require "echostream.loop".current()
    pcall(sim.run, function() error("x") end)
    assert.equal(before, require "echostream.loop".current())
  end)

  it("can be run inside a task of the real loop", function()
    assert.equal(7, echo.spawn(function() return sim.run(function() echo.sleep(7) return 7 end) end):wait())
  end)

  it("checks its options", function()
    assert.has_error(function() sim.run({ los = 1 }, print) end)
    assert.has_error(function() sim.run({ loss = 2 }, print) end)
    assert.has_error(function() sim.run({}) end)
  end)
end)
