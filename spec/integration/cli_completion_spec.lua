-- `echostream completion`: its script, in a bash.

local command = require "spec.support.command"
local process = require "spec.support.process"

describe("echostream completion", function()
  local dir

  setup(function()
    dir = process.directory()
    process.write(dir .. "/bash", command.run("completion bash").out)
    process.write(dir .. "/zsh", command.run("completion zsh").out)
    -- The script asks `echostream` who can be attached to.
    os.execute(("mkdir '%s/bin'"):format(dir))
    process.write(dir .. "/bin/echostream", ("#!/bin/sh\nexec %s \"$@\"\n"):format(process.echostream))
    os.execute(("chmod +x '%s/bin/echostream'; mkdir '%s/keys'; touch '%s/keys.pem'"):format(dir, dir, dir))
  end)

  teardown(function()
    process.remove(dir)
  end)

  -- What may stand in the place of the last word, one behind the other.
  local function complete(...)
    local words, quoted = { "echostream", ... }, {}
    for i, word in ipairs(words) do
      quoted[i] = process.quote(word)
    end
    local script = ('. %s/bash; COMP_WORDS=(%s); COMP_CWORD=%d; _echostream; echo "${COMPREPLY[@]}"'):format(dir, table.concat(quoted, " "),
      #words - 1)
    local result = process.run("bash -c " .. process.quote(script), { cwd = dir,
      env = { PATH = dir .. "/bin:" .. os.getenv "PATH", XDG_RUNTIME_DIR = dir, HOME = dir } })
    assert.equal("", result.err)
    return (result.out:gsub("\n$", ""))
  end

  it("completes commands, their options, files and names of servers", function()
    assert.equal("describe", complete "desc")
    assert.matches("^serve repl .*completion help", complete "")
    assert.equal("--idempotent --insecure", complete("call", "a:1", "m", "--i"))
    assert.equal("--out", complete("cert", "--o"))
    assert.matches("^[^ ]*keys$", complete("cert", "--out", "key"))
    assert.equal("keys keys.pem", complete("call", "a:1", "m", "--ca", "key"):gsub("keys%.pem keys$", "keys keys.pem"))
    assert.equal("", complete("call", "a:1", "m", "--timeout", ""))
    assert.equal("", complete("call", ""))
    assert.equal("bash", complete("completion", "b"))
    assert.equal("describe", complete("help", "desc"))
    assert.equal("", complete("attach", ""))
    process.write(dir .. "/pantry.lua", "")
    local serving = process.start(("%s serve --bind 127.0.0.1:0 %s/pantry.lua"):format(process.echostream, dir),
      { env = { XDG_RUNTIME_DIR = dir, XDG_STATE_HOME = dir, HOME = dir } })
    serving:expect "^listening on "
    local joined, watched = complete("attach", "p"), complete("top", "--attach", "")
    serving:stop()
    assert.equal("pantry", joined)
    assert.equal("pantry", watched)
  end)

  it("is a script for both shells, and for no other", function()
    assert.same({ code = 0, out = "", err = "" }, process.run(("bash -n %s/bash"):format(dir)))
    if process.run("command -v zsh").code == 0 then
      assert.same({ code = 0, out = "", err = "" }, process.run(("zsh -n %s/zsh"):format(dir)))
    end
    assert.matches("bashcompinit", process.read(dir .. "/zsh"))
    local other = command.run "completion fish"
    assert.equal(2, other.code)
    assert.matches("bash or zsh, not fish", other.err)
    assert.matches("SHELL is missing", command.run("completion").err)
  end)
end)
