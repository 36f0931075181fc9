-- Standard input as a terminal, a pipe and a file.

local process = require "spec.support.process"
local pty = require "spec.support.pty"

local PROGRAM = [[
local loop = require "echostream.loop"
local terminal = require("echostream.loop.terminal").open()
local over = false
print(terminal:is_terminal(), terminal.interactive, terminal:columns())
terminal:raw(true)
terminal:on_end(function(name)
  print(name)
  over = true
end)
terminal:read(function(bytes)
  print(("%q"):format(bytes or "the end"))
  if bytes == "z" then
    terminal:suspend()
    print "back"
  elseif bytes == "t" then
    print "type"
    local typed = ""
    while typed == "" do typed = terminal:typed() end
    print("typed " .. typed)
  end
  over = over or not bytes or bytes == "q"
end)
loop.pump(function() return over end)
terminal:close()
terminal:close()
print "closed"
]]

describe("the terminal", function()
  local dir, command

  before_each(function()
    dir = process.directory()
    process.write(dir .. "/program.lua", PROGRAM)
    command = "lua5.4 " .. dir .. "/program.lua"
  end)

  after_each(function() process.remove(dir) end)

  it("gives keys one by one, also those that mean something elsewhere, and its width", function()
    if not pty.available() then pending "script(1) or stty(1) is missing" end
    local p <close> = pty.spawn(command, { columns = 77 })
    p:expect "true\ttrue\t77\r\n"
    p:send("a"):expect '"a"\r\n'
    p:send("\3"):expect '"\\3"\r\n'
    p:send("\r"):expect '"\\13"\r\n'
    p:send("t"):expect "type\r\n"
    p:send("x"):expect "typed x\r\n"
    p:send("q"):expect "closed\r\n"
    assert.equal(0, p:wait())
  end)

  it("gives the terminal back as it was", function()
    if not pty.available() then pending "script(1) or stty(1) is missing" end
    local p <close> = pty.spawn("sh -c 'stty -a; " .. command .. "; stty -a'")
    local before = p:expect "true\ttrue"
    p:send("q"):expect "closed\r\n"
    assert.equal(0, p:wait())
    assert.equal(before, p.rest)
  end)

  it("ends when it is asked to", function()
    if not pty.available() then pending "script(1) or stty(1) is missing" end
    local p <close> = pty.spawn(("sh -c 'echo $$; exec %s'"):format(command))
    local _, pid = p:expect("(%d+)\r\n", true)
    p:expect "true\ttrue"
    p:send("a"):expect '"a"\r\n' -- it listens
    os.execute("kill -TERM " .. pid)
    p:expect "sigterm\r\n"
    p:expect "closed\r\n"
    assert.equal(0, p:wait())
  end)

  it("reads pipes, files and nothing to their ends", function()
    process.write(dir .. "/input", "some\nlines")
    assert.equal('false\tfalse\t80\n"some\\\nlines"\n"the end"\nclosed\n', process.run(command .. " < " .. dir .. "/input").out)
    assert.equal('false\tfalse\t80\n"some"\n"the end"\nclosed\n', process.run("printf some | " .. command).out)
    assert.matches('"the end"\nclosed\n$', process.run(command .. " < /dev/null").out)
  end)
end)
