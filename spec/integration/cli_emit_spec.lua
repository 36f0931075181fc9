-- `echostream emit`, in a process of its own.

local command = require "spec.support.command"
local process = require "spec.support.process"

describe("echostream emit", function()
  local server

  setup(function()
    server = command.server [[
      local server = ...
      server:add_event("note", function(_, ...)
        print("note", ...)
        io.stdout:flush()
      end)
    ]]
  end)

  teardown(function()
    server:stop()
  end)

  it("sends an event, prints nothing and waits until the server has it", function()
    local result = server:run("emit", [[note '"hello"' 7]])
    assert.equal(0, result.code, result.err)
    assert.equal("", result.out)
    assert.equal("hello\t7", (server.process:expect "^note\t(.*)$"))
  end)

  it("takes arguments from standard input, and says in JSON that it has sent", function()
    local result = server:run("emit", "note 1 - --json", { input = '"two"\n3 ' })
    assert.equal(0, result.code, result.err)
    assert.equal('{"sent":true}\n', result.out)
    assert.equal("1\ttwo\t3", (server.process:expect "^note\t(.*)$"))
  end)

  it("sends a datagram when told so", function()
    -- One datagram may be lost, so what is looked at is that the command does what it says.
    local result = server:run("emit", "note 5 --unreliable")
    assert.equal(0, result.code, result.err)
  end)

  it("fails with 2 for wrong arguments", function()
    assert.equal(2, server:run("emit").code)
    assert.equal(2, server:run("emit", "note hello").code)
    assert.equal(2, server:run("emit", "note --colour").code)
    local result = command.run(("emit %s note 1"):format(server.address))
    assert.equal(2, result.code)
    assert.matches("--pin, --ca or --insecure", result.err, 1, true)
    result = server:run("emit", "''")
    assert.equal(2, result.code)
    assert.matches("Usage: echostream emit", result.err, 1, true)
  end)

  it("fails with 3 when nobody listens", function()
    local result = command.run(("emit 127.0.0.1:%d note --insecure --timeout 1"):format(process.free_port()))
    assert.equal(3, result.code)
    assert.equal("", result.out)
    result = command.run(("emit 127.0.0.1:%d note --insecure --timeout 1 --json"):format(process.free_port()))
    assert.equal(3, result.code)
    assert.matches('^{"error":{.*"code":"%w+"', result.out)
  end)
end)
