-- What processes that share a directory agree by: csrc/lua/local.c.

local core = require "echostream.core"
local echo = require "echostream"
local process = require "spec.support.process"
local socket = require "echostream.loop.socket"

describe("a lock on a file", function()
  local dir

  before_each(function() dir = process.directory() end)
  after_each(function() process.remove(dir) end)

  it("is had by one at a time, and ends with release, its scope, its collection and its process", function()
    local path = dir .. "/lock"
    local taken = assert(core.lock_file(path))
    assert.equal("600\n", process.run("stat -c %a " .. path).out)
    local none, err = core.lock_file(path)
    assert.is_nil(none)
    assert.matches(path, err, 1, true)
    taken:release()
    taken:release()
    do
      local _ <close> = assert(core.lock_file(path))
    end;
    (function() assert(core.lock_file(path)) end)()
    collectgarbage()
    assert(core.lock_file(path)):release()
    process.run((".ci/env lua5.4 -e 'left = assert(require [[echostream.core]].lock_file [[%s]]) os.exit(0, false)'"):format(path))
    assert(core.lock_file(path)):release()
  end)

  it("is none where no file can be made", function()
    assert.is_false((pcall(core.lock_file, 5))) -- it made a file of that name
    assert.is_nil((core.lock_file(dir .. "/nowhere/lock")))
    os.execute(("ln -s /etc/passwd '%s/link'"):format(dir))
    assert.is_nil((core.lock_file(dir .. "/link")))
  end)
end)

describe("a socket", function()
  it("answers while somebody listens", function()
    local dir = process.directory()
    local path = dir .. "/s"
    assert.is_false(core.socket_answers(path))
    local listener = assert(socket.listen({ path = path }, function(connection)
      return function(data)
        if not data then connection:close() end
      end
    end))
    assert.is_true(core.socket_answers(path))
    os.rename(path, path .. "2")
    assert.is_true(core.socket_answers(path .. "2"))
    listener.close()
    assert.is_false(core.socket_answers(path .. "2"))
    local unknown, err = core.socket_answers(("x"):rep(200))
    assert.is_nil(unknown)
    assert.matches("name too long", err)
    echo.run(0.001)
    process.remove(dir)
  end)
end)
