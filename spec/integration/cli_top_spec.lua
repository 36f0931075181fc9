-- `echostream top`: its figures in the simulator, where time is exact, and the command in a process of its own.

local attached = require "echostream.cli.attached"
local command = require "spec.support.command"
local core = require "echostream.core"
local echo = require "echostream"
local process = require "spec.support.process"
local pty = require "spec.support.pty"
local task = require "echostream.task"
local top_figures = require "echostream.introspect.figures"

describe("the figures of echostream top", function()
  it("say what happened between two looks", function()
    local view, later
    echo.sim.run({ seed = 3, delay = 0.005 }, function()
      local server = echo.server { bind = "10.0.0.1:5000", quiet = true }
      server:add_rpc("slow", function(_, seconds) echo.sleep(seconds) end)
      server:add_rpc("fail", function() return nil, echo.error("aborted", "no") end)
      server:add_rpc("idle", function() end)
      server:add_event("note", function() end)
      assert(server:start())
      local client = assert(echo.connect("10.0.0.1:5000", { pin = server.pin }))
      client:request("slow", 1) -- before the first look: it counts for nothing between the two
      local before = assert(client:request "rpc.stats")
      for _ = 1, 10 do
        assert(client:request("slow", 0.1))
        client:request "fail"
        client:emit("note")
      end
      echo.sleep(0.5)
      local after = assert(client:request "rpc.stats")
      view = top_figures.between(before, after)
      echo.sleep(1)
      later = top_figures.between(after, assert(client:request "rpc.stats"))
      client:close()
      server:stop()
    end)
    local by_name = {}
    for _, row in ipairs(view.methods) do
      by_name[row.name] = row
    end
    -- Counts come out whole: a rate times the time between.
    assert.equal(10, math.floor(by_name.slow.rate * view.seconds + 0.5))
    assert.equal(11, by_name.slow.total)
    assert.equal(0, by_name.slow.errors)
    assert.equal(10, math.floor(by_name.fail.errors * view.seconds + 0.5))
    assert.equal(10, math.floor(by_name.note.rate * view.seconds + 0.5))
    assert.equal("event", by_name.note.kind)
    assert.equal(0, by_name.idle.rate)
    assert.is_nil(by_name.idle.p50)
    assert.is_nil(by_name["rpc.stats"])
    assert.is_nil(by_name["rpc.list"])
    -- A bucket is an eighth wide; the call of one second was before.
    assert.is_true(by_name.slow.p50 > 0.088 and by_name.slow.p99 < 0.126, by_name.slow.p99)
    assert.equal(1, view.sessions)
    assert.equal(20, math.floor(view.calls * view.seconds + 0.5))
    assert.is_true(view.bytes_in > 0 and view.bytes_out > 0)
    assert.equal(0, later.calls)
    assert.equal("idle", later.methods[#later.methods].name)
  end)

  it("are copied once for many who ask", function()
    echo.sim.run({ seed = 4 }, function()
      local server = echo.server { bind = "10.0.0.1:5000", quiet = true }
      assert(server:start())
      local client = assert(echo.connect("10.0.0.1:5000", { pin = server.pin }))
      local first = assert(client:request "rpc.stats")
      assert.equal(first.time, assert(client:request "rpc.stats").time)
      echo.sleep(0.2)
      assert.is_true(assert(client:request "rpc.stats").time > first.time)
      assert.equal(1, top_figures.snapshot(server).sessions)
      client:close()
      server:stop()
    end)
  end)

  it("are not told by servers that tell nothing", function()
    echo.sim.run({ seed = 5 }, function()
      local server = echo.server { bind = "10.0.0.1:5000", quiet = true, introspection = false }
      assert(server:start())
      local client = assert(echo.connect("10.0.0.1:5000", { pin = server.pin }))
      local _, err = client:request "rpc.stats"
      assert.equal("method_not_found", err.code)
      client:close()
      server:stop()
    end)
  end)
end)

describe("echostream top", function()
  local server, silent

  setup(function()
    server = command.server [[
      local server = ...
      server:add_rpc("greet", function() return "hello" end)
    ]]
    silent = command.server([[
      return require "echostream".server { bind = "127.0.0.1:0", quiet = true, introspection = false }
    ]], "")
  end)

  teardown(function()
    server:stop()
    silent:stop()
  end)

  it("shows one table and ends when told so", function()
    assert.equal(0, server:run("call", "greet").code)
    local result = server:run("top", "--once --interval 0.1")
    assert.equal(0, result.code, result.err)
    assert.matches("^1 session %(%d+ since the start%), up ", result.out)
    assert.matches("\nKIND +CALLS/S +FAILED/S +RUNNING +P50 +P95 +P99 +TOTAL +METHOD\n", result.out)
    assert.matches("\ncall +0 +0 +0 +1 +greet\n", result.out)
    assert.not_matches("\27", result.out)
  end)

  it("writes JSON", function()
    local result = server:run("top", "--once --interval 0.1 --json")
    assert.equal(0, result.code, result.err)
    local view = assert(core.codec.json.unpack(result.out))
    assert.equal(1, view.sessions)
    assert.is_true(view.seconds > 0)
    local names = {}
    for _, row in ipairs(view.methods) do
      names[row.name] = row.kind
    end
    assert.equal("call", names.greet)
  end)

  it("goes on until Ctrl-C where there is no terminal, and ends with 0", function()
    local top = process.start(("%s top %s --pin %s --interval 0.1 --json"):format(process.echostream, server.address, server.pin))
    top:expect "^{"
    top:expect "^{"
    assert.equal(0, (top:stop "INT"))
  end)

  it("draws on a terminal, and leaves it as it was for q and for Ctrl-C", function()
    if not pty.available() then
      pending "script(1) is not installed"
      return
    end
    for _, key in ipairs { "q", "\3" } do
      local p <close> = pty.spawn(("%s top %s --pin %s --interval 0.1"):format(process.echostream, server.address, server.pin),
        { columns = 60, rows = 7 })
      p:expect "\27[?1049h"
      p:expect "CALLS/S"
      local before = p:expect "CALLS/S" -- drawn again
      for line in before:gsub("\27%[[%d;?]*%a", "\n"):gmatch "[^\r\n]+" do
        assert.is_true(utf8.len(line) < 60, line)
      end
      p:send(key)
      p:expect "\27[?1049l"
      assert.equal(0, p:wait())
    end
  end)

  it("shows a server of this user on this machine, which needs no certificate and no introspection", function()
    local dir = process.directory()
    process.write(dir .. "/desk.lua", [[
      local server = ...
      server:add_rpc("greet", function() return "hello" end)
    ]])
    local env = { XDG_RUNTIME_DIR = dir, XDG_STATE_HOME = dir, HOME = dir }
    assert.equal(3, command.run("top --attach --once", { env = env }).code)
    local serving = process.start(("%s serve --bind 127.0.0.1:0 %s/desk.lua"):format(process.echostream, dir), { env = env })
    serving:expect "^listening on "
    for _, arguments in ipairs { "--attach --once --json --interval 0.1", "desk --attach --once --json --interval 0.1" } do
      local result = command.run("top " .. arguments, { env = env })
      assert.equal(0, result.code, result.err)
      local view = assert(core.codec.json.unpack(result.out))
      assert.equal("greet", view.methods[1].name)
      assert.equal(0, view.sessions)
    end
    local result = command.run("top nobody --attach --once --json", { env = env })
    assert.equal(3, result.code)
    assert.matches('"code":"not_found"', result.out)

    local path = process.run(("ls %s/echostream/*.sock"):format(dir)).out:match "^%S+"
    local here = task.block(function()
      local it_there = assert(attached.open(path, 20))
      assert.equal(0, assert(it_there:ask()).sessions)
      assert(it_there:ask())
      return it_there
    end)
    serving:stop()
    task.block(function()
      local snapshot, err = here:ask()
      assert.is_nil(snapshot)
      assert.equal("connection_closed", err.code)
    end)
    here:close()
    process.remove(dir)
  end)

  it("fails with 1 where the server does not tell", function()
    local result = silent:run("top", "--once")
    assert.equal(1, result.code)
    assert.matches("does not tell what it does", result.err)
    result = silent:run("top", "--once --json")
    assert.equal(1, result.code)
    assert.matches('"code":"method_not_found"', result.out)
  end)

  it("fails with 2 for wrong arguments and with 3 when nobody listens", function()
    assert.equal(2, command.run("top").code)
    assert.equal(2, server:run("top", "surplus").code)
    assert.equal(2, server:run("top", "--interval 0").code)
    local result = command.run(("top 127.0.0.1:%d --once --insecure --timeout 1 --json"):format(process.free_port()))
    assert.equal(3, result.code)
    assert.matches('^{"error":', result.out)
  end)
end)
