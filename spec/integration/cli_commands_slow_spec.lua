-- Every command of `echostream` in the same cases: the examples of its help, played; arguments that make no sense; a server that cannot
-- be reached; JSON. What is particular to a command is in the spec of its own.

local cli_module = require "echostream.cli"
local core = require "echostream.core"
local process = require "spec.support.process"

local APP = [[
local server = ...
server:add_rpc("desk.add", function(_, a, b) return a + b end, { doc = "Adds two numbers.", idempotent = true })
server:add_rpc("desk.hello", function(_, name) return "hello " .. name end)
server:add_event("desk.note", function() end)
server:add_stream("desk.upper", function(_, stream)
  for frame in stream:frames() do stream:send(frame.data:upper()) end
end)
]]

local GUARDED = [[
local echo = require "echostream"
local server = echo.server { bind = "127.0.0.1:0", quiet = true, client_pins = { %q } }
return server:plugin(echo.plugins.attach { allow = { %q } })
]]

-- For each example what must be in its output, in the order of the help; `more`: those that are not listed. `ends = false`: it goes on
-- until Ctrl-C, or SIGTERM. `codes`: what it may end with, default 0. What depends on this machine or its network (doctor, discover) may
-- say what it likes.
local anything = { codes = { [0] = true, [1] = true, [3] = true } }
local shown = {
  serve = { more = { "^listening on ", ends = false } },
  repl = { {}, {}, {}, { "^3\n$" } },
  attach = { {}, { "^NAME +PID  SOCKET\ndesk " }, { "^1\n$|^0\n$" }, {} },
  call = { { "^30\n$" }, { '^{"results":%["hello Ada"%]}\n$' }, { "^30\n$" } },
  emit = { { "^$" }, { '^{"sent":true}\n$' } },
  stream = { { "^OVER THE WIRE\n$" }, { "^$" }, { '^{"data":"A"}\n$' } },
  describe = { { "desk%.add +rpc " }, { "^desk%.add %(rpc%)\n  Adds two numbers%.\n" }, { '"name":"desk.add"' } },
  top = { { " CALLS/S ", ends = false }, { " CALLS/S ", ends = false }, { '^{.*"methods":%[' } },
  bench = { { " calls/s\n" }, { "2 connections, 1,000 calls/s wanted" }, { '"requests":%d' } },
  discover = { anything, anything, anything, anything },
  completion = { { "^$" }, { "^$" } },
  cert = { { "\npin +sha256:%x+\n" }, { '"pin":"sha256:%x+"' } },
  doctor = { anything, { codes = { [0] = true, [1] = true }, "the server speaks echostream/1" },
    { codes = { [0] = true, [1] = true }, '"findings":%[' } },
}

-- A command in this process, for what touches neither a network nor a terminal.
local function say(arguments)
  local words, said = {}, { out = "", err = "" }
  for word in arguments:gmatch "%S+" do
    words[#words + 1] = word
  end
  local function sink(name)
    return { write = function(_, ...) said[name] = said[name] .. table.concat({ ... }) end }
  end
  local stdout, stderr = io.stdout, io.stderr
  io.stdout, io.stderr = sink "out", sink "err" -- luacheck: ignore 122
  local ok, code = pcall(cli_module.main, words)
  io.stdout, io.stderr = stdout, stderr -- luacheck: ignore 122
  assert(ok, code)
  said.code = code
  return said
end

describe("each command of echostream", function()
  local dir, names, server, address, pin, guarded, nobody

  local function environment()
    return { HOME = dir, XDG_STATE_HOME = dir .. "/state", XDG_RUNTIME_DIR = dir .. "/run", NO_COLOR = "1" }
  end

  local function run(line, opts)
    opts = opts or {}
    return process.run(line, { cwd = dir, env = environment(), seconds = opts.seconds or 100, input = opts.input })
  end

  local function cli(arguments)
    return run(process.echostream .. " " .. arguments)
  end

  setup(function()
    dir = process.directory()
    os.execute(("mkdir -m 700 '%s/run'"):format(dir))
    process.write(dir .. "/desk.lua", APP)
    process.write(dir .. "/note.json", '"a note"\n')
    names = {} -- but for the second rock's, which have a spec there
    for _, name in ipairs(cli_module.commands()) do names[#names + 1] = name ~= "tunnel" and name or nil end
    -- The key that the examples speak of.
    local made = assert(core.codec.json.unpack(cli("cert --out keys --json").out))
    process.write(dir .. "/guarded.lua", GUARDED:format(made.pin, made.pin))
    server = process.start(("%s serve --bind 127.0.0.1:0 %s/desk.lua"):format(process.echostream, dir), { env = environment(), seconds = 240 })
    address, pin = server:expect "^listening on (%S+)$", server:expect "^pin (%S+)$"
    guarded = process.start(("%s serve --no-attach %s/guarded.lua"):format(process.echostream, dir), { env = environment(), seconds = 240 })
    guarded.address, guarded.pin = guarded:expect "^listening on (%S+)$", guarded:expect "^pin (%S+)$"
    nobody = process.free_port()
  end)

  teardown(function()
    server:stop()
    guarded:stop()
    process.remove(dir)
  end)

  local function examples_of(name)
    local text = say(name .. " --help").out:match "\nExamples:\n(.-)\n\nExit status: "
    local lines = {}
    for line in (text or ""):gmatch "%f[^\n\0]  (%S[^\n]*)\n      %S" do
      lines[#lines + 1] = line
    end
    return lines
  end

  -- An example with the addresses of this run. What serves takes any port; what looks around is not patient.
  local function command_of(name, line)
    local where, key = address, pin
    if line:find "^echostream attach.* %-%-cert " then
      where, key = guarded.address, guarded.pin
    elseif name == "serve" or line:find("--bind", 1, true) then
      where = "127.0.0.1:0"
    elseif name == "discover" then
      line = line:gsub(" %-%-timeout %d+", "") .. " --timeout 0.1"
      line = line:gsub("%-%-domain %S+", ("%%0 --name-server 127.0.0.1:%d"):format(nobody))
    end
    line = line:gsub("%f[%S]127%.0%.0%.1:5000", where):gsub("sha256:…", key)
    line = line:gsub("%f[%w]echostream ", function() return process.echostream .. " " end, 1)
    return name == "completion" and "bash -c " .. process.quote(line) or line -- it is for bash, and not for every sh
  end

  local function fits(text, patterns)
    for pattern in patterns:gmatch "[^|]+" do
      if text:find(pattern) then return true end
    end
    return false
  end

  it("does what the examples of its help say", function()
    assert.is_true(#names >= 12, table.concat(names, " "))
    for _, name in ipairs(names) do
      local examples = examples_of(name)
      assert.is_true(#examples > 0 and shown[name] ~= nil, name .. " has no examples in its help, or they are unknown here")
      for i, line in ipairs(examples) do
        local wanted = shown[name][i] or shown[name].more or {}
        if wanted.ends == false then
          local going = process.start(command_of(name, line):gsub("desk%.lua", dir .. "/%0"):gsub("keys/", dir .. "/%0"),
            { env = environment() })
          going:expect(wanted[1])
          assert.equal(0, (going:stop(name == "serve" and "TERM" or "INT")), line)
        else
          local result = run(command_of(name, line))
          local said = ("%s: %d\n%s%s"):format(line, result.code, result.out, result.err)
          assert.is_true((wanted.codes or { [0] = true })[result.code] ~= nil, said)
          assert.is_true(not wanted[1] or fits(result.out, wanted[1]), said)
        end
      end
    end
    assert.equal('"A NOTE"\n', process.read(dir .. "/upper"))
  end)

  it("fails with 2 for arguments that make no sense, says which, and writes nothing else", function()
    local surplus = { serve = false, call = false, emit = false, bench = false } -- they take any number
    local fewer = { serve = "", completion = "", call = "a:1", emit = "a:1", stream = "a:1", describe = "", top = "", bench = "a:1" }
    local without_trust = { call = "a:1 b", emit = "a:1 b", stream = "a:1 b", describe = "a:1", top = "a:1", bench = "a:1 b" }
    local function refused(name, arguments, why)
      local result = say(name .. " " .. arguments)
      assert.equal(2, result.code, name .. " " .. arguments)
      assert.equal("", result.out)
      assert.matches(why, result.err, 1, true)
      assert.matches("\nUsage: echostream " .. name, result.err, 1, true)
    end
    for _, name in ipairs(names) do
      refused(name, "--no-such-option", "there is no option --no-such-option")
      if surplus[name] ~= false then refused(name, "one two three four", "too many arguments") end
      if fewer[name] then refused(name, fewer[name], name == "top" and "which server" or "missing") end
      if without_trust[name] then refused(name, without_trust[name], "--pin, --ca or --insecure") end
    end
    refused("bench", "a:1 b --insecure --concurrency 0.5", "--concurrency wants a whole number")
    refused("attach", "a:1 --insecure", "by certificate only")
    refused("top", "--attach 127.0.0.1:5000", "is an address")
    refused("top", "--attach --insecure", "--insecure goes with ADDR")
    refused("repl", "--bind 127.0.0.1:0", "--bind goes with FILE")
    refused("doctor", "--pin sha256:00", "which is not given")
    refused("serve", "--cert keys/cert.pem desk.lua", "--cert and --key go together")
    for _, name in ipairs { "call", "emit", "bench" } do refused(name, "a:1 b nonsense --insecure", "is not JSON") end
  end)

  it("fails with 3 when the server cannot be reached, also in JSON", function()
    local reach = { call = "%s m", emit = "%s m", stream = "%s m", describe = "%s", top = "%s", bench = "%s m", repl = "%s", doctor = "%s",
      attach = "%s --cert keys/cert.pem --key keys/key.pem" }
    for name, arguments in pairs(reach) do
      local line = ("%s %s --insecure --timeout 0.2"):format(name, arguments:format("127.0.0.1:" .. nobody))
      local prompt = name == "repl" or name == "attach" -- which have no JSON
      local result = cli(line .. (prompt and "" or " --json"))
      assert.equal(3, result.code, line .. "\n" .. result.err)
      if prompt then
        assert.equal("", result.out)
        assert.matches("echostream: %l+: ", result.err)
      elseif name == "doctor" then
        assert.is_true(assert(core.codec.json.unpack(result.out)).summary.fail > 0)
      else
        local answer = assert(core.codec.json.unpack(result.out))
        assert.is_string(answer.error.code)
        assert.is_string(answer.error.message)
      end
    end
    local there = run(process.echostream .. " attach nobody")
    assert.equal(3, there.code)
    assert.matches("nobody runs here", there.err)
  end)

  it("says with --json what failed at the server, and ends with 1", function()
    local trust = (" --pin %s --json"):format(pin)
    for _, line in ipairs { "call %s no.such.method", "describe %s no.such.method", "bench %s no.such.method --duration 0.1",
      "stream %s no.such.stream" } do
      local result = cli(line:format(address) .. trust)
      assert.equal(1, result.code, line .. "\n" .. result.out .. result.err)
      assert.is_string(assert(core.codec.json.unpack(result.out)).error.code)
    end
  end)
end)
