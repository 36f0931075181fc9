-- The room of the loop: files that change, and signals.

local echo = require "echostream"
local process = require "spec.support.process"
local signal = require "echostream.loop.signal"
local watch = require "echostream.loop.watch"

local function eventually(fn)
  local ends = echo.now() + 20
  while not fn() do
    assert(echo.now() < ends, "it did not happen within 20 s")
    echo.sleep(0.01)
  end
end

describe("a watch of files", function()
  local dir, told, went, watcher
  local poll = watch.POLL

  setup(function() watch.POLL = 0.3 end)
  teardown(function() watch.POLL = poll end)

  local function put(name, text)
    process.write(dir .. "/" .. name .. ".new", text)
    assert(os.rename(dir .. "/" .. name .. ".new", dir .. "/" .. name))
  end

  before_each(function()
    dir, told, went = process.directory(), {}, {}
    put("a", "1")
    put("b", "1")
    watcher = watch.files({ dir .. "/a", dir .. "/b", dir .. "/later" }, function(paths)
      for _, path in ipairs(paths) do told[#told + 1] = path:match "[^/]+$" end
    end, function(path, back)
      went[#went + 1] = path:match "[^/]+$" .. (back and " is back" or " is gone")
    end)
  end)

  after_each(function()
    watcher:stop()
    process.remove(dir)
  end)

  it("tells which changed, once each", function()
    put("a", "2")
    eventually(function() return #told == 1 end)
    put("other", "2")
    put("b", "3")
    put("later", "there it is")
    eventually(function() return #told == 3 end)
    assert.same({ "a", "b", "later" }, told)
  end)

  it("looks by itself where the kernel says nothing", function()
    for _, event in pairs(watcher._events) do event:stop() end
    put("b", "longer")
    eventually(function() return #told == 1 end)
    assert.same({ "b" }, told)
  end)

  it("does not take a file that is gone for changed, until it is back", function()
    os.remove(dir .. "/a")
    put("b", "2")
    eventually(function() return #told == 1 end)
    assert.same({ "b" }, told)
    put("a", "back")
    eventually(function() return #told == 2 end)
    assert.equal("a", told[2])
    assert.same({ "a is gone", "a is back" }, went)
  end)

  it("tells that a whole directory is gone and back, and goes on watching it", function()
    assert(os.rename(dir, dir .. ".away"))
    eventually(function() return #went == 2 end)
    assert.same({ "a is gone", "b is gone" }, went)
    assert.same({}, told)
    assert(os.rename(dir .. ".away", dir))
    eventually(function() return #went == 4 end)
    assert.same({ "a is back", "b is back" }, { went[3], went[4] })
    local before = #told -- nothing in it is another file; renaming a directory changes none of them
    put("b", "2")
    eventually(function() return #told == before + 1 end)
    assert.equal("b", told[#told])
  end)

  it("may be given other files", function()
    watcher:update { dir .. "/b" }
    put("a", "2")
    put("b", "2")
    eventually(function() return #told == 1 end)
    assert.same({ "b" }, told)
    watcher:update {}
    watcher:stop()
    watcher:stop()
  end)
end)

describe("a signal", function()
  it("runs its function until it is taken back", function()
    local times = 0
    local pid = io.open("/proc/self/stat"):read "n"
    signal.on("sigusr2", function() times = times + 1 end)
    for n = 1, 2 do
      os.execute("kill -USR2 " .. pid)
      eventually(function() return times == n end)
    end
    signal.on("sigusr2", function() times = times + 10 end)
    os.execute("kill -USR2 " .. pid)
    eventually(function() return times == 12 end)
    signal.on("sigusr2", nil)
    signal.on("sigwinch", nil)
  end)
end)
