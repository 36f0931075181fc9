-- `echostream discover`, in a process of its own: over the loopback's multicast, and by a name server that is made here. The type of
-- service is of this run alone: others may run it at the same time, and hear us.

local command = require "spec.support.command"
local core = require "echostream.core"
local message = require "echostream.discovery.message"
local process = require "spec.support.process"

local TYPE = "run" .. core.random(5):gsub(".", function(c) return ("%02x"):format(c:byte()) end)

-- Advertises what its second argument says, on the loopback, until it is told to end.
local ADVERTISER = [[
local echo = require "echostream"
local server = ...
server:add_rpc("hello", function() return "hello" end)
guards = {}
server:add_rpc("advertise", function(_, ...)
  local tasks = {}
  for i, name in ipairs { ... } do
    tasks[i] = echo.spawn(function()
      guards[name] = assert(echo.discovery.advertise { name = name, server = server, type = "TYPE", interfaces = { "lo" },
        properties = { room = "kitchen", odd = "\xff\27[31m", flag = true } })
    end)
  end
  assert(echo.all(tasks))
end)
server:add_rpc("withdraw", function(_, name) guards[name]:close() end)
]]

-- A name server that knows one service of example.org.
local NAME_SERVER = [[
local message = require "echostream.discovery.message"
local udp = require "echostream.loop.udp"
local echo = require "echostream"
local TYPE = message.TYPE
local open
local port = tonumber((...))
open = assert(udp.open({ ip = "127.0.0.1", port = port }, function(bytes, ip, from)
  local query = assert(message.decode(bytes))
  local name = query.questions[1].name
  local answer = { id = query.id, response = true, questions = query.questions, rcode = 3 }
  if name == "_echostream._udp.example.org" and query.questions[1].type == TYPE.SRV then
    answer.rcode = nil
    answer.answers = {}
    for i, host in ipairs { "main.example.org", "backup.example.org" } do
      answer.answers[i] = message.record { name = name, type = TYPE.SRV, ttl = 60, priority = i, weight = 0, port = 4999 + i, target = host }
    end
    answer.additionals = { message.record { name = "main.example.org", type = TYPE.A, ttl = 60, address = "127.0.0.7" } }
  end
  open:send(message.encode(answer), ip, from)
end))
echo.spawn(function() print "it answers" io.stdout:flush() end)
echo.run(100)
]]

local function discover(arguments, seconds)
  return command.run("discover " .. arguments, { seconds = seconds or 90, env = { NO_COLOR = "1" } })
end

describe("echostream discover", function()
  describe("in the local network", function()
    local server

    setup(function()
      server = command.server((ADVERTISER:gsub("TYPE", TYPE)))
    end)

    teardown(function()
      server:stop()
    end)

    local function advertise(...)
      local words = {}
      for i, name in ipairs { ... } do words[i] = ("'\"%s\"'"):format(name) end
      assert.equal("true\n", server:run("call", "advertise " .. table.concat(words, " ")).out)
    end

    it("finds one by its name, and what it says is what one connects to", function()
      advertise "by name"
      local found = discover(("'by name' --type %s --interface lo --timeout 60"):format(TYPE))
      assert.equal(0, found.code, found.err)
      assert.equal(("by name  %s  flag odd=\\xff\\x1b[31m pin=%s room=kitchen\n"):format(server.address, server.pin), found.out)

      found = discover(("'By Name' --type %s --interface lo --timeout 60 --json"):format(TYPE))
      local answer = assert(core.codec.json.unpack(found.out)).found
      assert.equal(1, #answer)
      assert.same({ flag = true, odd = "\\xff\\x1b[31m", pin = server.pin, room = "kitchen" }, answer[1].properties)
      assert.same({ server.address }, answer[1].addresses)
      assert.equal(("_%s._udp"):format(TYPE), answer[1].type)
      assert.equal('"hello"\n', command.run(("call %s hello --pin %s"):format(answer[1].address, answer[1].properties.pin)).out)
    end)

    it("lists all that answer in time", function()
      advertise("first", "second")
      -- How long an answer takes nobody knows: more time each time.
      local found
      for seconds = 1, 20, 3 do
        found = discover(("_%s._udp --interface lo --timeout %d"):format(TYPE, seconds))
        if found.out:find "first .*second " then break end
      end
      assert.matches("\nfirst +127%.0%.0%.1:%d+  flag ", "\n" .. found.out)
      assert.matches("\nsecond +127%.0%.0%.1:%d+  flag ", found.out)
      assert.equal(0, found.code)
    end)

    it("watches what comes and goes until it is told to end", function()
      local watching = process.start(("%s discover _%s._udp --interface lo --watch"):format(process.echostream, TYPE))
      advertise "passing by"
      watching:expect "^add +passing by +127%.0%.0%.1:%d+ "
      assert.equal("true\n", server:run("call", "withdraw '\"passing by\"'").out)
      watching:expect "^remove +passing by "
      assert.equal(0, (watching:stop "INT"))

      local lines = process.start(("%s discover named --type %s --interface lo --watch --json"):format(process.echostream, TYPE))
      advertise("other", "named")
      local said = assert(core.codec.json.unpack((lines:expect "^({.*)$"))) -- of others nothing is said
      assert.equal("add", said.what)
      assert.equal("named", said.found.name)
      assert.equal(0, (lines:stop "INT"))
    end)
  end)

  it("says that nothing was found, and fails with 1", function()
    for _, arguments in ipairs { "", "--watch " } do
      local none = discover(("%s_%sno._udp --interface lo --timeout 0.1"):format(arguments, TYPE:sub(1, 13)))
      assert.equal(1, none.code)
      assert.matches("not_found: no server was found within 0.1 s\n", none.err, 1, true)
      assert.equal("", none.out)
      none = discover(("%snobody --type %sno --interface lo --timeout 0.1 --json"):format(arguments, TYPE:sub(1, 13)))
      assert.equal(1, none.code)
      local err = assert(core.codec.json.unpack(none.out)).error
      assert.equal("not_found", err.code)
      assert.matches('no server named "nobody"', err.message, 1, true)
    end
  end)

  it("fails with 3 where it cannot look", function()
    local unable = discover "--interface 'no such one' --json"
    assert.equal(3, unable.code)
    assert.matches('"code":"unavailable"', unable.out)
    assert.equal(3, discover("--watch --interface 'no such one'").code)
  end)

  it("refuses what makes no sense", function()
    for arguments, why in pairs { ["a b"] = "too many arguments: b", ["--type 'a b'"] = "is no type of service", ["_x._udp --type y"] = "given twice",
      ["--name-server 127.0.0.1"] = "goes with --domain", ["--domain x --name-server name:53"] = "numeric address",
      ["--domain x --interface lo"] = "for the local network", ["--timeout soon"] = "wants a number", ["--wach"] = "did you mean --watch?" } do
      local refused = discover(arguments)
      assert.equal(2, refused.code, arguments)
      assert.matches(why, refused.err, 1, true)
      assert.equal("", refused.out)
    end
  end)

  it("asks the name servers of a domain", function()
    assert.equal(33, message.TYPE.SRV)
    local dir = process.directory()
    process.write(dir .. "/names.lua", NAME_SERVER)
    local port = process.free_port()
    local names = process.start((".ci/env lua5.4 %s/names.lua %d"):format(dir, port), { seconds = 110 })
    names:expect "^it answers$"
    local domain = ("--domain example.org --name-server 127.0.0.1:%d --timeout 60"):format(port)
    local found = discover(domain)
    assert.equal(0, found.code, found.err)
    assert.equal("main.example.org:5000    127.0.0.7:5000\nbackup.example.org:5001  backup.example.org:5001\n", found.out)
    found = discover("backup.example.org:5001 --json " .. domain)
    local answer = assert(core.codec.json.unpack(found.out)).found
    assert.equal("backup.example.org:5001", answer[1].address)
    local none = discover((domain:gsub("example%.org", "example.net")))
    assert.equal(1, none.code)
    assert.matches("not_found: there is no name _echostream._udp.example.net", none.err, 1, true)
    local watching = process.start(("%s discover --watch %s"):format(process.echostream, domain))
    watching:expect "^add +main%.example%.org:5000  127%.0%.0%.7:5000$"
    assert.equal(0, (watching:stop "INT"))
    names:stop()
    process.remove(dir)
  end)
end)
