-- Child processes on the loop: lua/echostream/loop/process.lua.

local busted = require "busted"
local echo = require "echostream"
local process = require "echostream.loop.process"
local shell = require "spec.support.process"
local describe, it = busted.describe, busted.it

local LIMIT = 60

local function run(name, arguments, on_line)
  local lines = {}
  local code, signal = echo.await(function(resume)
    local child
    child = assert(process.start(name, arguments, function(line)
      table.insert(lines, line)
      if on_line then on_line(child, line) end
    end, resume))
  end, LIMIT)
  echo.sleep(0) -- luv 1.44 does not bear handles that are still closing at exit
  return lines, code, signal
end

describe("child processes", function()
  it("tell every line before their end", function()
    local lines, code = run("sh", { "-c", "echo one; echo two >&2; printf 'a b\\nthree'; exit 3" })
    table.sort(lines)
    assert.same({ "a b", "one", "three", "two" }, lines)
    assert.equal(3, code)
  end)

  it("end when they are asked to", function()
    local lines, _, signal = run("sh", { "-c", "echo here; exec sleep 60" }, function(child) child:stop() end)
    assert.same({ "here" }, lines)
    assert.equal(15, signal)
  end)

  it("are missed when there is no such program", function()
    assert.is_true(process.is_there "sh")
    assert.is_false(process.is_there "no such program")
    local child, err = process.start("no such program", {}, function() end, function() end)
    assert.is_nil(child)
    assert.matches("no such program", err)
  end)

  it("end with this process, whatever ends it", function()
    if not process.is_there "setpriv" then return busted.pending "no setpriv" end
    local parent = shell.start([[.ci/env lua5.4 -e '
      local echo = require "echostream"
      local process = require "echostream.loop.process"
      process.start("sh", { "-c", "echo $$; exec sleep 300" }, function(line) print("child " .. line) io.stdout:flush() end, print)
      echo.run(60)']], { seconds = 60 })
    local pid = parent:expect "^child (%d+)"
    os.execute("kill -9 $(sed -n 's/^PPid:\\t//p' /proc/" .. pid .. "/status)")
    parent:wait()
    local left = shell.run(("while kill -0 %s 2>/dev/null && ! grep -q '^State:.Z' /proc/%s/status; do sleep 0.05; done"):format(pid, pid),
      { seconds = LIMIT })
    assert.equal(0, left.code)
  end)
end)
