-- Tasks need only a loop: these specs run on the real one, and those about time in a simulation.

local echo = require "echostream"
local loop = require "echostream.loop"
local log = require "echostream.log"
local sim = require "echostream.sim"
local task = require "echostream.task"

local function quietly(fn)
  local records = {}
  log.set(function(record) records[#records + 1] = record end)
  local ok, err = pcall(fn, records)
  log.set(nil)
  if not ok then
    error(err, 0)
  end
end

-- Something that is resumed from outside.
local function gate()
  local self = { undone = 0 }
  function self.start(resume)
    self.open = resume
    return function() self.undone = self.undone + 1 end
  end
  return self
end

describe("a task", function()
  it("runs a function and hands back every result", function()
    local t = echo.spawn(function(a, b) return a + b, nil, "x", nil end, 1, 2)
    assert.equal("ready", t:status())
    assert.same({ n = 4, 3, nil, "x" }, table.pack(t:wait()))
    assert.equal("done", t:status())
    assert.same({ n = 4, 3, nil, "x" }, table.pack(t:wait()))
  end)

  it("that returns nothing gives true", function()
    assert.same({ n = 1, true }, table.pack(echo.spawn(function() end):wait()))
  end)

  it("that raises gives nil and an error object, and is logged with its traceback", function()
    quietly(function(records)
      local t = echo.spawn(function() error("boom") end)
      local value, err = t:wait()
      assert.is_nil(value)
      assert.equal("internal", err.code)
      assert.matches("boom", err.message)
      assert.equal("failed", t:status())
      assert.equal(1, #records)
      assert.matches("boom", records[1].message)
      assert.matches("task_spec", records[1].traceback)
    end)
  end)

  it("keeps the error objects it raises", function()
    quietly(function()
      local _, err = echo.spawn(function() error(echo.error("not_found", "gone")) end):wait()
      assert.equal("not_found", err.code)
    end)
  end)

  it("survives every kind of raised value", function()
    quietly(function()
      local bad = setmetatable({}, { __tostring = function() error("worse") end })
      for _, value in ipairs { "s", 5, {}, bad, print } do
        local _, err = echo.spawn(function() error(value) end):wait()
        assert.equal("internal", err.code)
      end
      local _, err = echo.spawn(function() error(nil) end):wait()
      assert.equal("internal", err.code)
      local function deep() return 1 + deep() end
      _, err = echo.spawn(deep):wait()
      assert.matches("overflow", err.message)
    end)
  end)

  it("waits for others", function()
    local slow = echo.spawn(function() echo.sleep(0.01) return "slow" end)
    local both = echo.spawn(function() return slow:wait(), slow:wait() end)
    assert.same({ "slow", "slow" }, { both:wait() })
  end)

  it("gives up waiting in time, while the other goes on", function()
    sim.run(function(net)
      local slow = echo.spawn(function() echo.sleep(10) return 1 end)
      local value, err = slow:wait(2)
      assert.is_nil(value)
      assert.equal("timeout", err.code)
      assert.equal("suspended", slow:status())
      assert.equal(1, slow:wait())
      assert.equal(10, net:now() // 1)
    end)
  end)

  it("is cancelled where it waits, and at every later wait", function()
    sim.run(function(net)
      local seen = {}
      local t = echo.spawn(function()
        local ok, err = echo.sleep(100)
        seen[1] = ok == nil and err.code
        ok, err = echo.sleep(100)
        seen[2] = ok == nil and err.code
        error(err)
      end)
      echo.sleep(1)
      assert.is_true(t:cancel())
      local _, err = t:wait()
      assert.equal("cancelled", err.code)
      assert.same({ "cancelled", "cancelled" }, seen)
      assert.equal("cancelled", t:status())
      assert.is_false(t:cancel())
      assert.equal(1, net:now() // 1)
    end)
  end)

  it("that was cancelled before its start never starts", function()
    local started = false
    local t = echo.spawn(function() started = true end)
    assert.is_true(t:cancel())
    local _, err = t:wait()
    assert.equal("cancelled", err.code)
    assert.is_false(started)
  end)

  it("cannot wait for itself", function()
    quietly(function()
      local t
      t = echo.spawn(function() return t:wait() end)
      local _, err = t:wait()
      assert.matches("wait for itself", err.message)
    end)
  end)

  it("wants a function", function()
    assert.has_error(function() echo.spawn(5) end, "echo.spawn: function wants a function, got 5")
    assert.has_error(function() echo.sleep(-1) end)
    assert.has_error(function() echo.sleep("x") end)
  end)
end)

describe("echo.all", function()
  it("has a callback form", function()
    local got = {}
    local function note(results, err) got[#got + 1] = results or err end
    local tasks = { echo.spawn(function() return 1 end), echo.spawn(function() echo.sleep(0.01) return 2 end) }
    echo.all(tasks, note):wait(2)
    echo.all(tasks, 1, note):wait(2)
    local endless = echo.spawn(echo.sleep, 60)
    echo.all({ endless }, 0.01, note):wait(2)
    endless:cancel() -- it would keep the loop going, and a later test waits until nothing is left to do
    assert.same({ n = 2, 1, 2 }, got[1])
    assert.same({ n = 2, 1, 2 }, got[2])
    assert.equal("timeout", got[3].code)
    assert.has_error(function() echo.all(tasks, 1, "callback") end)
  end)

  it("waits for every task and gives the first results", function()
    sim.run(function(net)
      local results = echo.all {
        echo.spawn(function() echo.sleep(2) return "a", "b" end),
        echo.spawn(function() end),
        echo.spawn(function() echo.sleep(1) return "c" end),
      }
      assert.same({ n = 3, "a", nil, "c" }, results)
      assert.equal(2, net:now() // 1)
    end)
  end)

  it("gives the first failure", function()
    quietly(function()
      local results, err = echo.all {
        echo.spawn(function() return 1 end),
        echo.spawn(function() error(echo.error("aborted")) end),
      }
      assert.is_nil(results)
      assert.equal("aborted", err.code)
    end)
  end)

  it("has a time limit for all together", function()
    sim.run(function(net)
      local tasks = { echo.spawn(echo.sleep, 3), echo.spawn(echo.sleep, 6) }
      local _, err = echo.all(tasks, 5)
      assert.equal("timeout", err.code)
      assert.equal(5, net:now() // 1)
      tasks[2]:wait()
    end)
  end)
end)

describe("await", function()
  it("hands over what the resumer gives, from the main thread too", function()
    local g = gate()
    local t = echo.spawn(function() echo.sleep(0.005) g.open(1, nil, 3) end)
    assert.same({ n = 3, 1, nil, 3 }, table.pack(task.await(g.start)))
    t:wait()
    assert.equal(0, g.undone)
  end)

  it("may be resumed before it waits, and only once", function()
    assert.equal("now", task.await(function(resume)
      assert.is_true(resume("now"))
      assert.is_false(resume("again"))
    end))
  end)

  it("undoes what was begun when time is up or it is cancelled", function()
    sim.run(function()
      local g = gate()
      local _, err = task.await(g.start, 1)
      assert.equal("timeout", err.code)
      assert.equal(1, g.undone)
      assert.is_false(g.open())
      local t = echo.spawn(function() return task.await(g.start) end)
      echo.sleep(1)
      t:cancel()
      _, err = t:wait()
      assert.equal("cancelled", err.code)
      assert.equal(2, g.undone)
    end)
  end)

  it("on the main thread tells a deadlock", function()
    local g = gate()
    local value, err = task.await(g.start)
    assert.is_nil(value)
    assert.equal("deadlock", err.code)
  end)

  it("raises what begins it raises", function()
    assert.has_error(function() task.await(function() error("no", 0) end) end, "no")
  end)
end)

describe("who may wait", function()
  local uv = require "luv"

  it("a bare luv callback may not, and is told to use echo.spawn", function()
    local message
    local timer = uv.new_timer()
    timer:start(1, 0, function()
      local ok, err = pcall(echo.sleep, 1)
      message = not ok and err
      timer:stop()
    end)
    uv.run()
    assert.matches("echo.spawn", message)
  end)

  it("what a luv callback spawns runs, and luv waits for it", function()
    local done
    local timer = uv.new_timer()
    timer:start(1, 0, function()
      timer:stop()
      echo.spawn(function() echo.sleep(0.01) done = true end)
    end)
    uv.run()
    assert.is_true(done)
  end)

  it("a foreign coroutine in a task may not, and is told of echo.wrap", function()
    local message = echo.spawn(function()
      local ok, err = coroutine.wrap(function() return pcall(echo.sleep, 0) end)()
      return not ok and err
    end):wait()
    assert.matches("echo.wrap", message)
    assert.matches("echo.spawn", message)
  end)

  it("a callback of string.gsub or table.sort may not, and is told why", function()
    local a, b = echo.spawn(function()
      local _, one = pcall(string.gsub, "x", "x", function() echo.sleep(0) end)
      local _, two = pcall(table.sort, { 1, 2, 3 }, function(x, y) echo.sleep(0) return x < y end)
      return one, two
    end):wait()
    assert.matches("cannot wait.*echo.wrap", a)
    assert.matches("cannot wait.*echo.wrap", b)
  end)

  it("a bare coroutine.yield in a task ends that task with an error that names echo.wrap", function()
    quietly(function()
      local _, err = echo.spawn(function() coroutine.yield(1) end):wait()
      assert.matches("echo.wrap", err.message)
    end)
  end)

  it("a coroutine of the main thread may while the loop is not running", function()
    assert.is_true(coroutine.wrap(function() return echo.sleep(0.001) end)())
  end)

  it("a host's own pump is used when there is one", function()
    local asked = 0
    loop.set_pump(function(done)
      asked = asked + 1
      while not done() do
        uv.run("once")
      end
    end)
    local ok, err = pcall(echo.sleep, 0.001)
    loop.set_pump(nil)
    assert.is_true(ok, err)
    assert.equal(1, asked)
  end)
end)

describe("echo.wrap", function()
  it("makes a generator whose body waits, inside a task", function()
    sim.run(function(net)
      local got = {}
      for v in echo.wrap(function() for i = 1, 3 do echo.sleep(1) coroutine.yield(i) end end) do
        got[#got + 1] = v
      end
      assert.same({ 1, 2, 3 }, got)
      assert.equal(3, net:now() // 1)
    end)
  end)

  it("works on the main thread too", function()
    local g = echo.wrap(function(a) local b = coroutine.yield(a + 1) echo.sleep(0.001) return b, "end" end)
    assert.equal(2, g(1))
    assert.same({ "x", "end" }, { g("x") })
    assert.has_error(function() g() end)
  end)

  it("nests", function()
    sim.run(function(net)
      local inner = function() return echo.wrap(function() echo.sleep(1) coroutine.yield("i") end) end
      local outer = echo.wrap(function() coroutine.yield(inner()()) coroutine.yield(inner()()) end)
      assert.same({ "i", "i" }, { outer(), outer() })
      assert.equal(2, net:now() // 1)
    end)
  end)

  it("passes errors on, those of the waiting call into the body", function()
    local g = echo.wrap(function()
      local ok = pcall(task.await, function() error("inner", 0) end)
      coroutine.yield(ok)
      error("outer", 0)
    end)
    assert.is_false(g())
    local ok, err = pcall(g)
    assert.is_false(ok)
    assert.matches("outer", err)
  end)
end)

describe("callback forms", function()
  it("call back with the same results and return a task", function()
    local got
    local t = echo.sleep(0.001, function(...) got = table.pack(...) end)
    assert.is_nil(got)
    assert.is_true(t:wait())
    assert.same({ n = 1, true }, got)
  end)
end)

describe("echo.run", function()
  it("runs for a while", function()
    local began = echo.now()
    assert.is_true(echo.run(0.02))
    assert.is_true(echo.now() - began >= 0.019)
  end)

  it("ends when echo.stop is called", function()
    local t = echo.spawn(function() echo.sleep(0.005) echo.stop() end)
    assert.is_true(echo.run(5))
    assert.is_true(t:wait())
  end)

  it("ends when nothing is left to do", function()
    local done
    echo.spawn(function() echo.sleep(0.005) done = true end)
    assert.is_true(echo.run())
    assert.is_true(done)
  end)

  it("is not for tasks", function()
    quietly(function()
      local _, err = echo.spawn(function() echo.run(1) end):wait()
      assert.matches("the loop runs already", err.message)
    end)
  end)
end)

describe("the loop", function()
  it("is not kept alive by anything that ended", function()
    echo.sleep(0.001)
    collectgarbage()
    collectgarbage()
    assert.is_false(loop.current().core:alive())
    assert.is_false(require "luv".loop_alive() and true or false)
  end)
end)
