local echo = require "echostream"
local reader = require "echostream.loop.reader"
local scratch = require "spec.support.scratch"

describe("a reader of files", function()
  local dir
  setup(function()
    dir = scratch.path()
    os.execute(("mkdir -p '%s/sub'; mkfifo '%s/pipe'; ln -s file '%s/link'; ln -s nobody '%s/dangling'; ln -s '%s' '%s.link'"):format(dir, dir,
      dir, dir, dir, dir))
    local file <close> = assert(io.open(dir .. "/file", "wb"))
    file:write "0123456789"
  end)
  teardown(function() os.remove(dir .. ".link") end)

  it("says what a file is, and where it really lies", function()
    local file = assert(reader.open(dir .. ".link/link"))
    assert.equal("file", file.kind)
    assert.equal(10, file.size)
    assert.equal(assert(reader.real_path(dir)) .. "/file", file.path)
    assert.is_true(math.abs(os.time() - file.mtime) < 3600)
    assert.equal("integer", math.type(file.mtime_nsec))
    file:close()
    local directory = assert(reader.open(dir .. "/sub"))
    assert.equal("directory", directory.kind)
    assert.is_nil((directory:read(0, 1)))
    directory:close()
  end)

  it("reads pieces, from a script and from tasks", function()
    local file = assert(reader.open(dir .. "/file"))
    assert.equal("234", file:read(2, 3))
    assert.equal("89", file:read(8, 100))
    assert.equal("", file:read(10, 1))
    local one = echo.spawn(function() return file:read(0, 4) end)
    assert.equal("0123", one:wait(30))
    file:close()
    file:close()
    assert.equal("io: the file is closed", tostring(select(2, file:read(0, 1))))
  end)

  it("in a simulation, too", function()
    assert.equal("0123456789", echo.sim.run({ seed = 1 }, function()
      local file = assert(reader.open(dir .. "/file"))
      local data = file:read(0, 20)
      file:close()
      return data
    end))
  end)

  it("lets others go on while it reads, and closes afterwards", function()
    local file = assert(reader.open(dir .. "/file"))
    local order = {}
    local reading = echo.spawn(function()
      local data = file:read(0, 5)
      order[#order + 1] = data
    end)
    local other = echo.spawn(function()
      local _, err = file:read(0, 1) -- one at a time
      order[#order + 1] = err.message
      file:close()
    end)
    assert(echo.all({ reading, other }, 30))
    assert.same({ "the file is being read", "01234" }, order)
    assert.equal("io: the file is closed", tostring(select(2, file:read(0, 1))))
  end)

  it("that is cancelled leaves nothing open", function()
    local file = assert(reader.open(dir .. "/file"))
    local task = echo.spawn(function() return file:read(0, 5) end)
    echo.spawn(function()
      task:cancel()
      file:close()
    end):wait(30)
    local data, err = task:wait(30)
    assert.is_nil(data)
    assert.equal("cancelled", err.code)
    local again
    repeat -- the read itself cannot be called back; when it is over the file is closed
      again = select(2, file:read(0, 1)).message
      echo.sleep(0.001)
    until again ~= "the file is being read"
    assert.equal("the file is closed", again)
  end)

  it("finds files only", function()
    for _, name in ipairs { "/nothing", "/pipe", "/dangling", "/file/x", "/a\0b", "/" .. ("x"):rep(300) } do
      assert.same({ nil, "not_found" }, { reader.open(dir .. name) })
    end
    assert.same({ nil, "not_found" }, { reader.open "/dev/null" })
    assert.is_nil(reader.real_path(dir .. "/nothing"))
  end)
end)
