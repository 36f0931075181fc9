local echo = require "echostream"
local loop = require "echostream.loop"
local task = require "echostream.task"

-- Calls fn from a bare callback of luv's, and waits until it was called.
local function in_callback(fn)
  return task.await(function(resume)
    local timer = require("luv").new_timer()
    timer:start(0, 0, function()
      loop.close_handle(timer)
      local ok, err = pcall(fn)
      resume(ok, err)
    end)
  end, 60)
end

describe("work that is a part of the loop's steps", function()
  it("runs the tasks that it made ready before it returns", function()
    local order = {}
    assert(in_callback(function()
      loop.inside(function(a, b)
        order[#order + 1] = a .. b
        echo.spawn(function()
          order[#order + 1] = "task"
          echo.spawn(function() order[#order + 1] = "another" end)
        end)
        order[#order + 1] = "fn"
      end, "a", "b")
      order[#order + 1] = "after"
    end))
    assert.same({ "ab", "fn", "task", "another", "after" }, order)
  end)

  it("raises what it raises, when the tasks ran, and may be called inside of a step", function()
    local ran = 0
    local ok, err = in_callback(function()
      loop.inside(function()
        echo.spawn(function() ran = ran + 1 end)
        error("oh", 0)
      end)
    end)
    assert.is_false(ok)
    assert.equal("oh", err)
    assert.equal(1, ran)
    assert.is_true(echo.spawn(function()
      local inner
      loop.inside(function() inner = true end)
      return inner
    end):wait(60))
    assert(in_callback(function()
      loop.inside(function()
        local again, why = pcall(loop.current().core.run, loop.current().core, function() end)
        assert(not again and why:find "running already")
      end)
    end))
  end)

  it("is told before and after each of them, until that ends", function()
    local order = {}
    local remove = loop.around_steps(function() order[#order + 1] = "before" end, function() order[#order + 1] = "after" end)
    echo.spawn(function() order[#order + 1] = "task" end):wait(60)
    remove()
    assert.equal("before task after", table.concat(order, " ", 1, 3))
    local n = #order
    echo.spawn(function() end):wait(60)
    assert.equal(n, #order)
  end)

  it("may run tasks of its own afterwards, and only logs what it raises", function()
    local messages, ran = {}, 0
    echo.set_log(function(record) messages[#messages + 1] = record.message end)
    finally(function() echo.set_log(nil) end)
    local remove = loop.around_steps(function() error("before", 0) end, function()
      loop.inside(function()
        if ran == 0 then
          ran = 1
          echo.spawn(function() ran = 2 end)
        end
      end)
    end)
    echo.spawn(function() end):wait(60)
    remove()
    assert.equal(2, ran)
    assert.equal("what goes with the loop's steps failed: before", messages[1])
  end)
end)
