-- The driver of pseudo-terminals that other specs use.

local pty = require "spec.support.pty"

describe("the pseudo-terminal of the specs", function()
  if not pty.available() then
    pending "script(1) or stty(1) is missing"
    return
  end

  it("types, waits for what shows, and gives the exit code", function()
    local p <close> = pty.spawn([[sh -c 'test -t 0 && echo tty; stty size; read word; echo "got $word"; exit 7']], { columns = 90, rows = 30 })
    p:expect "tty\r\n30 90\r\n"
    p:send "é\r"
    local before = p:expect "got é"
    assert.equal("é\r\n", before)
    assert.equal(7, p:wait())
  end)

  it("says what was on the screen when something does not come", function()
    local p <close> = pty.spawn "echo hello"
    assert.error_matches(function() p:expect "goodbye" end, "it ended without.*hello")
  end)

  it("ends a program that does not end", function()
    local p <close> = pty.spawn "sh -c 'echo up; sleep 600'"
    assert.equal("u", select(2, p:expect("(u)p", true)))
  end)
end)
