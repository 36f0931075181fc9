-- `echostream repl` behind a pseudo-terminal, and as a script.

local process = require "spec.support.process"
local pty = require "spec.support.pty"

local SERVER = [[
local server = ...
server:add_rpc("math.add", function(_, a, b) return a + b end, { doc = "Adds." })
server:add_rpc("slow", function() require("echostream").sleep(600) end)
server:add_event("say", function(_, text) print("heard " .. text) end)
]]

describe("echostream repl", function()
  if not pty.available() then
    pending "script(1) or stty(1) is missing"
    return
  end

  local dir, file

  before_each(function()
    dir = process.directory()
    file = dir .. "/server.lua"
    process.write(file, SERVER)
  end)

  after_each(function() process.remove(dir) end)

  local function start(arguments, opts)
    opts = opts or {}
    opts.env = { XDG_STATE_HOME = dir, HOME = dir, NO_COLOR = "1", TERM = opts.term }
    return pty.spawn(process.echostream .. " repl " .. (arguments or ""), opts)
  end

  -- Presses keys that are echoed as they are, and Enter.
  local function type_line(p, line)
    p:send(line):expect(line)
    p:send "\r"
    p:expect "\r\n"
  end

  local function leave(p)
    p:expect "> "
    p:send "\4"
    assert.equal(0, p:wait())
  end

  it("prints what is typed, over several lines too, and remembers it the next time", function()
    do
      local p <close> = start()
      p:expect "\n> "
      type_line(p, "1 + 1")
      p:expect "2\r\n"
      p:expect "> "
      type_line(p, "function twice(n)")
      p:expect ">> "
      type_line(p, "return 2 * n end")
      p:expect "> "
      type_line(p, "twice(21)")
      p:expect "42\r\n"
      p:expect "> "
      p:send "\27[A" -- up
      p:expect "twice(21)"
      p:send "\1x = \5\r" -- at its beginning
      p:expect "x = twice(21)"
      leave(p)
    end
    assert.equal("-rw-------", process.run("ls -l " .. dir .. "/echostream/history").out:match "^%S+")
    local p <close> = start()
    p:expect "\n> "
    p:send "\18fun" -- search
    p:expect "function twice(n)"
    p:send "\27\21\27[A\27[A"
    p:expect "twice(21)"
    p:send "\21"
    leave(p)
  end)

  it("serves a file and calls it; what arrives meanwhile is printed above the line that is typed", function()
    local p <close> = start(file .. " --bind 127.0.0.1:0")
    local _, address, pin = p:expect("server on (%S+), pin (%S+)", true)
    p:expect "\n> "
    p:send "20 +"
    p:expect "20 +"
    local emitted = process.run(("%s emit %s say '\"hello\"' --pin %s"):format(process.echostream, address, pin))
    assert.equal("", emitted.err)
    p:expect "heard hello\r\n"
    p:expect "> 20 +"
    p:send " 22\r"
    p:expect "42\r\n"
    p:expect "> "
    type_line(p, ("client = echo.connect(%q, { pin = %q })"):format(address, pin))
    p:expect "> "
    type_line(p, "client:request('math.add', 1, 2)")
    p:expect "3\r\n"
    p:expect "> "
    p:send "client:request('ma\t"
    p:expect "client:request('math.add'"
    p:send ", 3, 4)\r"
    p:expect "7\r\n"
    p:expect "> "
    p:send "server:add_r\t"
    p:expect "add_rpc("
    p:send "\21"
    type_line(p, ".methods client")
    p:expect "math.add  rpc    Adds."
    p:expect "> "
    process.write(file, (SERVER:gsub("a %+ b", "a * b")))
    type_line(p, "server:reload()")
    p:expect "version = 2"
    p:expect "> "
    type_line(p, "client:request('math.add', 3, 4)")
    p:expect "12\r\n"
    leave(p)
  end)

  it("connects to an address", function()
    local server <close> = start(file .. " --bind 127.0.0.1:0")
    local _, address, pin = server:expect("server on (%S+), pin (%S+)", true)
    local p <close> = start(address .. " --pin " .. pin)
    p:expect "\n> "
    type_line(p, "client:request('math.add', 1, 2)")
    p:expect "3\r\n"
    p:expect "> "
    type_line(p, "client:emit('say', 'hi')")
    p:expect "true\r\n"
    server:expect "heard hi\r\n"
    server:expect "> "
    leave(p)
    server:send "\4"
    assert.equal(0, server:wait())
  end)

  it("Ctrl-C cancels what waits and what computes, and keeps what there is", function()
    local p <close> = start(file .. " --bind 127.0.0.1:0")
    local _, address, pin = p:expect("server on (%S+), pin (%S+)", true)
    p:expect "\n> "
    type_line(p, ("client = echo.connect(%q, { pin = %q })"):format(address, pin))
    p:expect "> "
    type_line(p, "print 'waiting' client:request('slow')")
    p:expect "waiting\r\n"
    p:send "\3"
    p:expect "> "
    type_line(p, "print 'computing' while true do end")
    p:expect "computing\r\n"
    p:send "\3"
    p:expect "error: interrupted\r\n"
    p:expect "> "
    p:send "half a line\3"
    p:expect "^C\r\n"
    p:expect "> "
    p:send "\3"
    p:expect "(Ctrl-D or .exit leaves)\r\n"
    p:expect "> "
    type_line(p, "client:request('math.add', 1, 2)")
    p:expect "3\r\n"
    p:expect "> "
    type_line(p, ".exit")
    assert.equal(0, p:wait())
  end)

  it("takes plain lines on a terminal that is dumb, and gives the terminal back as it was", function()
    local p <close> = start("", { term = "dumb" })
    p:expect "> "
    p:send "1 + 1\n"
    p:expect "2\r\n"
    p:expect "> "
    p:send "\4"
    assert.equal(0, p:wait())
    local q <close> = pty.spawn(("sh -c '%s repl; stty -a'"):format(process.echostream:gsub("'", "")), { env = { XDG_STATE_HOME = dir } })
    q:expect "\n> "
    q:send "\4"
    assert.is_nil(q:expect(" echo "):find("-icanon", 1, true))
    assert.equal(0, q:wait())
  end)

  local function run(input, arguments)
    return process.run(process.echostream .. " repl " .. (arguments or ""), { input = input, env = { XDG_STATE_HOME = dir } })
  end

  it("runs the lines of a script, and its exit code says whether one failed", function()
    local good = run "1 + 1\nfor i = 1, 2 do\n  print(i)\nend\necho.sleep(0.01)\n'last'"
    assert.same({ code = 0, out = '2\n1\n2\ntrue\n"last"\n', err = "" }, good)
    local bad = run "nothing.at.all\n1 + 1\n"
    assert.equal(1, bad.code)
    assert.matches("^error: input:1: .*nothing.*\n2\n$", bad.out)
    assert.equal(1, run("if true then").code)
    assert.equal("3\n", run("c = echo.connect(server.address, { pin = server.pin }) print(c:request('math.add', 1, 2))\n",
      file .. " --bind 127.0.0.1:0").out)
  end)

  it("says what is wrong with its arguments", function()
    assert.equal(2, run("", "127.0.0.1:5000").code)
    assert.equal(2, run("", "--nonsense").code)
    assert.equal(2, run("", "127.0.0.1:1 --insecure --bind 127.0.0.1:0").code)
    assert.equal(2, run("", "--bind 127.0.0.1:0").code)
    assert.equal(2, run("", file .. " --insecure").code)
    assert.equal(2, run("", "--cert a --key b").code)
    assert.equal(3, run("", "127.0.0.1:1 --insecure --timeout 0.5").code)
    process.write(file, "this is not Lua")
    assert.equal(2, run("", file).code)
    process.write(file, "error 'no'")
    assert.equal(1, run("", file).code)
  end)
end)
