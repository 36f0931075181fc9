-- A server may answer whatever it likes to what the commands ask. They raised ("attempt to index a number value") where it answered with
-- two results, or with figures of another kind, and wrote its C1 controls to the terminal as they were.

local command = require "spec.support.command"
local log = require "echostream.log"

-- Each answer to rpc.stats, rpc.list and rpc.describe is another one.
local SERVER = [[
local echo = require "echostream"
local server = echo.server { bind = "127.0.0.1:0", quiet = true, introspection = false }
local evil = "\27[2J\u{9b}31m\u{202e}\r"
local answers = {
  function() return nil, 5 end,
  function() return 5, 5 end,
  function() return { 1, 2, 3 } end,
  function() return { { name = {}, kind = 5, doc = 1.5, version = {} }, { name = evil, kind = evil, doc = evil } } end,
  function()
    return { name = 5, kind = {}, doc = evil, examples = 5, arguments = { evil, { name = evil, type = {}, doc = evil } }, [evil] = evil }
  end,
  function() return { time = 1, uptime = 1e300, sessions = 0 / 0, methods = { 5 } } end,
  function() return evil end,
}
for _, name in ipairs { "rpc.stats", "rpc.list", "rpc.describe" } do
  local n = 0
  -- The names are reserved; another implementation need not care.
  require("echostream.handlers").offer(server, "rpc", name, function()
    n = n % #answers + 1
    return answers[n]()
  end, {})
end
server:add_rpc("two", function() return nil, 5 end)
server:add_rpc("evil", function() return evil end)
return server
]]

describe("a server that lies", function()
  local server

  setup(function() server = command.server(SERVER, "") end)
  teardown(function() server:stop() end)

  local function is_bearable(result)
    local said = result.out .. result.err
    assert.is_true(result.code == 0 or result.code == 1, said)
    assert.not_matches("stack traceback", said)
    assert.not_matches("attempt to", said)
    assert.is_nil((said:find "[\0-\8\11-\31\127]"), said)
    for _, character in ipairs { "\u{9b}", "\u{202e}" } do assert.is_nil((said:find(character, 1, true))) end
    return result
  end

  it("makes no command fail otherwise than in order", function()
    for _ = 1, 7 do
      is_bearable(server:run("describe", "two"))
      is_bearable(server:run("describe", ""))
    end
    for i = 1, 4 do
      local result = is_bearable(server:run("top", "--once --interval 0.1" .. (i % 2 == 0 and " --json" or "")))
      assert.equal(1, result.code)
    end
    assert.equal("null\n5\n", is_bearable(server:run("call", "two")).out)
    assert.equal('"\\u001b[2J\\u009b31m\\u202e\\r"\n', is_bearable(server:run("call", "evil")).out)
    is_bearable(server:run("bench", "two --duration 0.05 --concurrency 2"))
    is_bearable(server:run("call", "no.such.method"))
  end)

  it("does nothing to the terminal by way of the log", function()
    local stderr, said = io.stderr, ""
    io.stderr = { write = function(_, ...) said = said .. table.concat({ ... }) end } -- luacheck: ignore 122
    log.write("warn", "it said \27[2J\u{9b}31m\u{202e}\r\nand more")
    io.stderr = stderr -- luacheck: ignore 122
    assert.equal("echostream: warn: it said \\x1b[2J\\u{9b}31m\\u{202e}\\r\n  and more\n", said)
  end)
end)
