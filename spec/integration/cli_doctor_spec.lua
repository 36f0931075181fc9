-- `echostream doctor`, in a process of its own.

local command = require "spec.support.command"
local core = require "echostream.core"
local process = require "spec.support.process"

describe("echostream doctor", function()
  local server, dir

  setup(function()
    server = command.server ""
    dir = process.directory()
  end)

  teardown(function()
    server:stop()
    process.remove(dir)
  end)

  local function findings_of(result)
    local report = assert(core.codec.json.unpack(result.out), result.err)
    local by_check = {}
    for _, finding in ipairs(report.findings) do
      by_check[finding.check] = finding
    end
    return by_check, report.summary
  end

  it("says for people what it found, and what to do", function()
    process.run(("mkdir -p %s/echostream && touch %s/echostream/server.key && chmod 644 %s/echostream/server.key"):format(dir, dir, dir))
    local result = command.run("doctor", { env = { XDG_STATE_HOME = dir } })
    assert.equal(1, result.code, result.err)
    assert.matches("\nfail +key_files +the kept server key .* may be read by others %(mode 644%)", result.out)
    assert.matches("\n +fix: chmod 600 ", result.out)
    assert.matches("\n%d+ fine, %d+ worth a look, %d+ broken, %d+ not looked at\n$", result.out)
    assert.not_matches("\27", result.out)
    process.run(("chmod 600 %s/echostream/server.key"):format(dir))
    result = command.run("doctor --json", { env = { XDG_STATE_HOME = dir } })
    assert.equal("ok", findings_of(result).key_files.status)
  end)

  it("looks at a server too", function()
    local result = server:run("doctor", "--json --timeout 20")
    local found, summary = findings_of(result)
    assert.equal("ok", found.handshake.status, result.out)
    assert.equal("ok", found.trust.status)
    assert.is_true(summary.ok >= 10)
    result = command.run(("doctor %s --pin sha256:%s --json --timeout 20"):format(server.address, ("0"):rep(64)))
    assert.equal(1, result.code)
    assert.matches(server.pin, findings_of(result).trust.detail, 1, true)
  end)

  it("fails with 3 when the server cannot be reached", function()
    local result = command.run(("doctor 127.0.0.1:%d --timeout 20"):format(process.free_port()))
    assert.equal(3, result.code)
    assert.matches("\nfail +udp +nothing listens on UDP port %d+ of 127%.0%.0%.1\n +fix: start the server", result.out)
  end)

  it("fails with 2 for wrong arguments", function()
    for _, arguments in ipairs { "nowhere", "a:1 b:2", "127.0.0.1:1 --pin x", "--pin sha256:00", "127.0.0.1:1 --insecure --ca x",
      "--insecure", "--key x", "--timeout soon" } do
      local result = command.run("doctor " .. arguments)
      assert.equal(2, result.code, arguments)
      assert.equal("", result.out)
      assert.matches("Usage: echostream doctor", result.err, 1, true)
    end
  end)
end)
