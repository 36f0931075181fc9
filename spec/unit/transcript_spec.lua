-- The player of transcripts that other specs use.

local pty = require "spec.support.pty"
local process = require "spec.support.process"
local transcript = require "spec.support.transcript"

describe("a transcript", function()
  if not pty.available() then
    pending "script(1) or stty(1) is missing"
    return
  end

  local function opts()
    return { env = { NO_COLOR = "1", XDG_STATE_HOME = "/nonexistent" }, command = function(line)
      return (line:gsub("^echostream", process.echostream))
    end }
  end

  it("plays what is typed and what shows, in the order in which they stand", function()
    transcript.play("$ echostream repl\n…\n> 1 + 1\n2\n> print 'a' print 'b' print 'c'\na\n…\nc\n> 'x' .. 'yz'\n\"x…z\"\n> .exit\n", opts())
  end)

  it("fails where something else shows, and where the command fails", function()
    assert.error_matches(function() transcript.play("$ echostream repl\n…\n> 1 + 1\n3\n", opts()) end, 'wants "3", got "2"')
    assert.error_matches(function() transcript.play("$ sh -c 'exit 3'", opts()) end, "ended with 3")
  end)

  it("goes on at several terminals in turn", function()
    local player <close> = transcript.new(opts())
    player:play("$ echostream repl\n…\n> x = 1\n", "one")
    player:play("$ echostream repl\n…\n> x\nnil\n", "two")
    player:play("> x\n1\n", "one")
    assert.same({ "one", "two" }, player:names())
    player:play("^D", "one")
    player:play("> echo.sleep(600)\n", "two")
    player:play("^C\n> .exit\n", "two")
    player:finish()
    assert.same({}, player:names())
  end)
end)
