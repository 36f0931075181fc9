-- The rock, installed into a tree of its own: `require` and the command work from there, away from the checkout.

local process = require "spec.support.process"

if os.getenv "ES_SANITIZED" then return end -- what it builds is not the sanitized module

describe("the rocks", function()
  it("is built and installed by luarocks, and works from its tree alone", function()
    if process.run("command -v luarocks").code ~= 0 then pending "luarocks is not installed" end
    local tree, elsewhere = process.directory(), process.directory()
    local made = process.run("make install-rock ROCK_TREE=" .. tree, { seconds = 400, env = { LD_PRELOAD = "" } })
    assert.equal(0, made.code, (made.out .. made.err):sub(-2000))

    -- Only the tree and what the system has.
    local env = {
      LUA_PATH = tree .. "/share/lua/5.4/?.lua;" .. tree .. "/share/lua/5.4/?/init.lua;;",
      LUA_CPATH = tree .. "/lib/lua/5.4/?.so;;",
      LD_PRELOAD = "",
      XDG_STATE_HOME = elsewhere,
    }
    process.write(elsewhere .. "/script.lua", [[
      local echo = require "echostream"
      print(package.searchpath("echostream", package.path))
      print(package.searchpath("echostream.core", package.cpath))
      local server = assert(echo.server { quiet = true }:start())
      server:add_rpc("add", function(_, a, b) return a + b end)
      local client = assert(echo.connect(server.address, { pin = server.pin }))
      print(client:request("add", 10, 20))
    ]])
    local used = process.run("exec lua5.4 script.lua", { cwd = elsewhere, env = env })
    assert.equal(("%s/share/lua/5.4/echostream/init.lua\n%s/lib/lua/5.4/echostream/core.so\n30\n"):format(tree, tree), used.out, used.err)

    env.LUA_PATH, env.LUA_CPATH = ";;", ";;"
    local version = process.run(tree .. "/bin/echostream --version", { cwd = elsewhere, env = env })
    assert.equal(0, version.code, version.err)
    assert.matches("^echostream ", version.out)

    -- The second rock, which the Makefile of the checkout built.
    env.LUA_PATH, env.LUA_CPATH = tree .. "/share/lua/5.4/?.lua;" .. tree .. "/share/lua/5.4/?/init.lua;;", tree .. "/lib/lua/5.4/?.so;;"
    local tunnel = process.run([[exec lua5.4 -e 'local core = require "echostream.tunnel.core" print(package.searchpath("echostream.tunnel.core",
      package.cpath)) print(type(core.engine))']], { cwd = elsewhere, env = env })
    assert.equal(("%s/lib/lua/5.4/echostream/tunnel/core.so\nfunction\n"):format(tree), tunnel.out, tunnel.err)

    -- The pages that tell how it works came along.
    assert.equal(0, process.run(("ls %s/lib/luarocks/rocks-5.4/echostream/*/docs/API.md"):format(tree)).code)
    process.remove(tree)
    process.remove(elsewhere)
  end)
end)
