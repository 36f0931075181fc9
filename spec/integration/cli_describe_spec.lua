-- `echostream describe`, in a process of its own.

local command = require "spec.support.command"
local core = require "echostream.core"
local process = require "spec.support.process"
local pty = require "spec.support.pty"

describe("echostream describe", function()
  local server, silent

  setup(function()
    server = command.server [[
      local server = ...
      server:add_rpc("math.add", function(_, a, b) return a + b end, {
        doc = "Adds two numbers.\nOf any kind.",
        arguments = { { name = "a", type = "number", doc = "one" }, { name = "b", type = "number", optional = true } },
        results = { { name = "sum", type = "number", doc = "their sum" } },
        examples = { { arguments = { 1, 2 }, results = { 3 }, doc = "simple" } },
        idempotent = true,
      })
      server:add_event("note", function() end, { doc = "Keeps \27[31ma note." })
      server:add_stream("audio", function() end, { deprecated = "use video" })
    ]]
    silent = command.server([[
      return require "echostream".server { bind = "127.0.0.1:0", quiet = true, introspection = false }
    ]], "")
  end)

  teardown(function()
    server:stop()
    silent:stop()
  end)

  it("lists what there is, with the first line about it", function()
    local result = server:run "describe"
    assert.equal(0, result.code, result.err)
    assert.matches("math%.add +rpc +.-Adds two numbers%.\n", result.out)
    assert.not_matches("Of any kind", result.out)
    assert.matches("note +event +Keeps \\x1b%[31ma note%.\n", result.out)
    assert.matches("audio +stream +%(deprecated%)", result.out)
    assert.not_matches("\27", result.out)
  end)

  it("uses colours on a terminal, and never where NO_COLOR is set", function()
    if not pty.available() then
      pending "script(1) is not installed"
      return
    end
    for no_colour, wanted in pairs { ["1"] = "\nnote ", [""] = "\27[1mnote\27[0m " } do
      local p <close> = pty.spawn(("%s describe %s --pin %s"):format(process.echostream, server.address, server.pin),
        { env = { NO_COLOR = no_colour } })
      p:expect(wanted)
      assert.equal(0, p:wait())
      assert.equal(no_colour == "", p.screen:find("\27[", 1, true) ~= nil)
    end
  end)

  it("describes one of them", function()
    local result = server:run("describe", "math.add")
    assert.equal(0, result.code, result.err)
    assert.matches("^math%.add %(rpc%)\n  Adds two numbers%.\n  Of any kind%.\n", result.out)
    for _, wanted in ipairs { "  arguments\n", "a: number  one", "b?: number",
      "sum: number  their sum", "math.add(1, 2) -> 3  simple", "idempotent" } do
      assert.matches(wanted, result.out, 1, true)
    end
  end)

  it("writes JSON", function()
    local result = server:run("describe", "--json")
    assert.equal(0, result.code, result.err)
    local by_name = {}
    for _, entry in ipairs(assert(core.codec.json.unpack(result.out))) do
      by_name[entry.name] = entry
    end
    assert.equal("rpc", by_name["math.add"].kind)
    assert.equal("event", by_name.note.kind)
    result = server:run("describe", "math.add --json")
    local entry = assert(core.codec.json.unpack(result.out))
    assert.equal("math.add", entry.name)
    assert.is_true(entry.idempotent)
  end)

  it("fails with 1 for what is not there, and where the server does not describe itself", function()
    local result = server:run("describe", "math.sub")
    assert.equal(1, result.code)
    assert.matches("^not_found: ", result.err)
    assert.matches("did you mean math.add?", server:run("describe", "math.ad").err, 1, true)
    result = server:run("describe", "math.sub --json")
    assert.equal(1, result.code)
    assert.matches('"code":"not_found"', result.out)
    result = silent:run "describe"
    assert.equal(1, result.code)
    assert.matches("does not describe itself", result.err)
  end)

  it("fails with 2 for wrong arguments and with 3 when nobody listens", function()
    assert.equal(2, command.run("describe").code)
    assert.equal(2, server:run("describe", "a b").code)
    local result = command.run(("describe 127.0.0.1:%d --insecure --timeout 1 --json"):format(process.free_port()))
    assert.equal(3, result.code)
    assert.matches('^{"error":', result.out)
  end)
end)
