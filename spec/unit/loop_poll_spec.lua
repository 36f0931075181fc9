local echo = require "echostream"
local loop = require "echostream.loop"
local poll = require "echostream.loop.poll"
local task = require "echostream.task"

-- A pipe of the kernel's: its descriptors, and what writes and reads them.
local function pipe()
  local uv = require "luv"
  local fds = assert(uv.pipe())
  return {
    fd = fds.read,
    write = function(text) uv.fs_write(fds.write, text, -1) end,
    read = function() return uv.fs_read(fds.read, 100, -1) end,
    close = function()
      uv.fs_close(fds.write)
      uv.fs_close(fds.read)
    end,
  }
end

describe("a watched descriptor", function()
  local p
  before_each(function() p = pipe() end)
  after_each(function() p.close() end)

  it("tells when there is something to read, until it is closed", function()
    local got, resume = {}, nil
    local watch = assert(poll.open(p.fd, function()
      got[#got + 1] = p.read()
      if resume then resume(true) end
    end))
    watch:ref()
    assert.equal(p.fd, watch.fd)
    for _, text in ipairs { "one", "two" } do
      assert.is_true(task.await(function(r)
        resume = r
        p.write(text)
      end, 60))
    end
    assert.same({ "one", "two" }, got)
    watch:close()
    watch:close()
    watch:ref()
    watch:unref()
    p.write "three"
    echo.sleep(0)
    assert.equal(2, #got)
  end)

  it("keeps the loop running only while it is told to", function()
    local watch = assert(poll.open(p.fd, function() end))
    local ok, err = task.await(function() end)
    assert.is_nil(ok)
    assert.equal("deadlock", err.code)
    watch:ref()
    ok, err = task.await(function() end, 0.01)
    assert.is_nil(ok)
    assert.equal("timeout", err.code)
    watch:unref()
    ok, err = task.await(function() end)
    assert.is_nil(ok)
    assert.equal("deadlock", err.code)
    watch:close()
  end)

  it("logs what its function raises, and goes on", function()
    local messages = {}
    echo.set_log(function(record) messages[#messages + 1] = record.message end)
    finally(function() echo.set_log(nil) end)
    local resume
    local watch = assert(poll.open(p.fd, function()
      p.read()
      resume(true)
      error "oh"
    end))
    watch:ref()
    for _ = 1, 2 do
      assert.is_true(task.await(function(r)
        resume = r
        p.write "x"
      end, 60))
    end
    watch:close()
    assert.matches("a descriptor's reader failed: .*oh", messages[1])
  end)

  it("is not there in a simulation", function()
    echo.sim.run({ seed = 1 }, function()
      local watch, err = poll.open(p.fd, function() end)
      assert.is_nil(watch)
      assert.matches("simulation", err)
    end)
    assert.is_table(loop.current())
  end)
end)
