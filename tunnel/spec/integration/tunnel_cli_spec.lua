-- The commands of `echostream tunnel`, as processes.

-- Words and files only: what runs below them is run under the sanitizers by other specs, and in less time.
if os.getenv "ES_SANITIZED" then return end

local core = require "echostream.core"
local process = require "spec.support.process"

local tunnel = process.echostream .. " tunnel "

describe("echostream tunnel", function()
  local dir

  setup(function() dir = process.directory() end)
  teardown(function() process.remove(dir) end)

  local function run(words, env)
    return process.run(tunnel .. words, { cwd = dir, env = env })
  end

  it("lists its commands, and each has its own help", function()
    local help = run "--help"
    assert.equal(0, help.code)
    for _, name in ipairs(require("echostream.tunnel.cli").names) do
      assert.matches("\n  " .. name .. " +%S", help.out)
      local own = run(name .. " --help")
      assert.equal(0, own.code, own.err)
      assert.matches("^Usage: echostream tunnel " .. name, own.out)
      assert.matches("\nExamples:\n", own.out)
      assert.matches("\nExit status: ", own.out)
    end
    assert.equal(run("status --help").out, process.run(process.echostream .. " help tunnel status").out)
  end)

  it("says what was meant, and what is missing", function()
    local said = run "agen"
    assert.equal(2, said.code)
    assert.matches("did you mean agent%?", said.err)
    assert.equal(2, run("").code)
    assert.matches("FILE is missing", run("agent").err)
    assert.matches("there is no option %-%-chek %(did you mean %-%-check%?%)", run("agent --chek x").err)
    assert.matches("echostream tunnel agent %-%-help says more", run("agent --chek x").err)
  end)

  it("says how to install what is not installed", function()
    local lua = process.root .. "/lua/?.lua;" .. process.root .. "/lua/?/init.lua;;"
    local said = run("server x.lua", { LUA_PATH = lua })
    assert.equal(1, said.code)
    assert.matches("luarocks %-%-lua%-version 5.4 install echostream%-tunnel", said.err)
    assert.matches("none yet", run("--help", { LUA_PATH = lua }).out)
  end)

  it("is completed by shells", function()
    local script = process.run(process.echostream .. " completion bash").out
    process.write(dir .. "/complete.sh", script .. [[

COMP_WORDS=(echostream tunnel a) COMP_CWORD=2; _echostream; echo "${COMPREPLY[*]}"
COMP_WORDS=(echostream tunnel drain --ag) COMP_CWORD=3; _echostream; echo "${COMPREPLY[*]}"
]])
    assert.equal("agent\n--agent\n", process.run("bash " .. dir .. "/complete.sh").out)
  end)

  it("checks the file of an agent, and says the line of what is wrong", function()
    process.write(dir .. "/good.lua", 'return { servers = { "127.0.0.1:5000" }, client = { pin = "sha256:' .. ("0"):rep(64)
      .. '" },\n  group = "g", token = "0123456789abcdef", backend = "http://127.0.0.1:1" }')
    assert.equal(dir .. "/good.lua: ok, of an agent\n", run("check " .. dir .. "/good.lua").out)
    assert.equal("good.lua: ok\n", run("agent --check good.lua").out)
    for text, said in pairs {
      ['return {\n servers = "x:1", goup = "g" }'] = 'bad.lua:2: .*goup.*did you mean "group"',
      ['return {\n servers = "x:1",\n weight = "g" }'] = "bad.lua:3: .*weight wants an integer",
      ['return {\n servers = "x:1", services = {\n web = "ftp://x" } }'] = "bad.lua:.*ftp://x",
      ['return {\n servers = "x:1",\n metrics = { bnd = 1 } }'] = "bad.lua:3: .*bnd",
      ['return {\n servers = "x:1",\n client = { pin = 7 } }'] = "bad.lua:3: .*pin wants a string",
      ["return { servers = "] = "bad.lua:1: unexpected symbol",
    } do
      process.write(dir .. "/bad.lua", text)
      local result = run "check bad.lua"
      assert.equal(1, result.code, text)
      assert.matches(said, result.err)
      assert.equal(2, run("agent bad.lua").code)
    end
    assert.equal(2, run("agent nowhere.lua").code)
  end)

  describe("of a process that runs", function()
    local running, env

    before_each(function()
      env = { XDG_RUNTIME_DIR = dir }
    end)
    after_each(function()
      if running then running:stop() end
      running = nil
    end)

    local function start(word)
      running = process.start("lua5.4 tunnel/spec/support/fake_role.lua " .. (word or ""), { env = env, seconds = 60 })
      running:expect "^fake role"
    end

    it("asks for its status, for people and for programs", function()
      start()
      local said = run("status", env)
      assert.equal(0, said.code, said.err)
      assert.matches("^agent a1 of group g\n", said.out)
      assert.matches("127.0.0.1:5000", said.out)
      assert.matches("web +healthy +1", said.out)
      assert.matches("figures: served 3", said.out)
      assert.is_nil(said.out:find "\27")
      assert.equal("a1", core.codec.json.unpack(run("status tunnel-fake --json", env).out).client_id)
    end)

    it("makes it reload, drain one of its agents, and end", function()
      start()
      assert.equal("reloaded; these want a restart: listen\n", run("reload", env).out)
      assert.matches("agent a7 gets nothing new", run("drain --agent a7", env).out)
      local said = run("drain --agent nobody", env)
      assert.equal(1, said.code)
      assert.matches("there is no agent nobody", said.err)
      assert.equal(0, run("drain --grace 3", env).code)
      local code, rest = running:wait()
      assert.equal(0, code)
      assert.matches("stopping 3", rest)
    end)

    it("says why it did not reload", function()
      start "refuse"
      local said = run("reload", env)
      assert.equal(1, said.code)
      assert.matches("file.lua:3: no", said.err)
      assert.matches('"error":{.*file.lua:3: no', run("reload --json", env).out)
    end)

    it("lets it end gently at SIGTERM and SIGINT, and reload at SIGHUP", function()
      for _, signal in ipairs { "TERM", "INT" } do
        start()
        os.execute("kill -HUP " .. running.pid)
        running:expect "these want a restart: listen"
        local code, rest = running:stop(signal)
        assert.equal(0, code)
        assert.matches("stopping 7", rest)
      end
    end)

    it("says that nobody answers", function()
      local said = run("status", env)
      assert.equal(3, said.code)
      assert.matches("no server of this user", said.err)
    end)
  end)
end)
