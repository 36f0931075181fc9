-- Prompts inside a server that runs: over the socket of its user, and over the network for named certificates.

local attach = require "echostream.attach"
local certs = require "spec.support.certs"
local directory = require "echostream.loop.directory"
local echo = require "echostream"
local process = require "spec.support.process"
local pty = require "spec.support.pty"
local socket = require "echostream.loop.socket"

local SERVER = [[
local server = ...
counter = 0
server:add_rpc("count", function(_, n) counter = counter + (n or 1) return counter end)
server:add_event("note", function() end)
]]

describe("echostream attach", function()
  local dir, serving

  before_each(function()
    dir = process.directory()
    process.write(dir .. "/counter.lua", SERVER)
  end)

  after_each(function()
    if serving then serving:stop() end
    serving = nil
    process.remove(dir)
  end)

  local function environment() return { XDG_RUNTIME_DIR = dir, XDG_STATE_HOME = dir, HOME = dir, NO_COLOR = "1" } end

  local function serve(options)
    serving = process.start(("%s serve --bind 127.0.0.1:0 %s %s/counter.lua"):format(process.echostream, options or "", dir), { env = environment() })
    local address = serving:expect "listening on (%S+)"
    return address, (serving:expect "pin (%S+)")
  end

  local function run(input, arguments)
    return process.run(process.echostream .. " attach " .. (arguments or ""), { input = input, env = environment() })
  end

  it("evaluates Lua in the server, whose state it changes", function()
    local address, pin = serve()
    assert.same({ code = 0, out = "0\n7\n" .. address .. "\n", err = "" },
      run "counter\n_G.counter = 7\ncounter\nprint(server.address)\n")
    assert.equal("8\n", process.run(("%s call %s count --pin %s"):format(process.echostream, address, pin)).out)
    assert.equal(1, run("nothing.here").code)
    assert.equal(1, run("if true then").code)
    assert.equal("no sessions\n", run(".sessions").out)
    assert.matches("count +rpc", run(".methods").out)
  end)

  it("finds servers by name, process id and path, and lists them", function()
    serve()
    local name, pid, path = run("", "--list").out:match "^(%S+)\t(%d+)\t(%S+)\n$"
    assert.equal("counter", name)
    for _, word in ipairs { name, pid, path } do assert.equal("1\n", run("1", word).out) end
    assert.equal("drwx------", process.run("ls -ld " .. dir .. "/echostream").out:match "^%S+")
    assert.equal("srw-------", process.run("ls -l " .. path).out:match "^%S+")
    local none = run("", "nobody")
    assert.equal(3, none.code)
    assert.matches("nobody runs here", none.err)
    serving:stop()
    assert.equal(3, run("").code)
    assert.equal(1, process.run("test -e " .. path).code) -- taken away
  end)

  it("is not there when it is not wanted", function()
    serve "--no-attach"
    assert.equal("", run("", "--list").out)
  end)

  it("removes the sockets that dead servers left", function()
    serve()
    local path = run("", "--list").out:match "(%S+)\n$"
    local left = dir .. "/echostream/counter.2147483646.sock"
    os.rename(path, left)
    assert.equal("", run("", "--list").out)
    assert.equal(1, process.run("test -e " .. left).code)
  end)

  it("shows sessions, calls into one client, taps it and closes it, at a terminal", function()
    if not pty.available() then pending "script(1) or stty(1) is missing" end
    local address, pin = serve()
    local client <close> = pty.spawn(("%s repl %s --pin %s"):format(process.echostream, address, pin), { env = environment() })
    client:expect "\n> "
    client:send "client:add_rpc('name', function() return 'ada' end)\r"
    client:expect "\r\n"
    client:expect "> "
    client:send "client:request('count')\r"
    client:expect "\r\n1\r\n"
    client:expect "> "
    local p <close> = pty.spawn(process.echostream .. " attach", { env = environment() })
    p:expect "attached to counter"
    p:expect "\n> "
    p:send ".sessions\r"
    local _, id = p:expect("\n *(%d+)  127%.0%.0%.1:%d+ ", true)
    p:expect "\n> "
    p:send(("sessions[%s]:req\t"):format(id)):expect "request("
    p:send "'name')\r"
    p:expect '"ada"\r\n'
    p:expect '> '
    p:send("server:add_r\t"):expect "add_rpc("
    p:send("\21"):send((".tap %s\r"):format(id)):expect "\n> "
    p:send "20 +"
    p:expect "20 +"
    client:send "client:request('count', 5)\r"
    client:expect "\r\n6\r\n"
    client:expect "> "
    p:expect("<- rpc count(5) from session " .. id .. " = 6 (")
    p:expect "\n> 20 +"
    p:send " 22\r"
    p:expect "42\r\n"
    p:expect "> "
    p:send "print 'waiting' echo.sleep(600)\r"
    p:expect "\nwaiting\r\n"
    p:send "\3"
    p:expect "> "
    p:send((".kick %s enough\r"):format(id)):expect "is closed\r\n"
    p:expect "> "
    p:send ".exit\r"
    assert.equal(0, p:wait())
    client:send "client:request('count')\r"
    client:expect "connection_closed"
    client:expect "\n> "
    client:send "\4"
    assert.equal(0, client:wait())
  end)

  it("says that the server went", function()
    if not pty.available() then pending "script(1) or stty(1) is missing" end
    serve()
    local p <close> = pty.spawn(process.echostream .. " attach", { env = environment() })
    p:expect "\n> "
    serving:stop()
    p:expect "the server closed the connection"
    assert.equal(1, p:wait())
  end)
end)

describe("the socket of a server", function()
  local dir, point
  local opened = {}

  before_each(function()
    dir = process.directory()
    point = assert(attach.open { path = dir .. "/private/point.sock" })
  end)

  after_each(function()
    point.close()
    for _, connection in ipairs(opened) do connection:close() end
    opened = {}
    echo.sleep(0)
    process.remove(dir)
  end)

  -- Somebody who attached: `said` are the messages, `wait(kind, text)` waits for one.
  local function join()
    local self = { said = {}, ended = false }
    local waiting
    local feed = attach.decoder(function(kind, body)
      table.insert(self.said, { kind = kind, body = body })
      if waiting then waiting(true) end
    end)
    self.connection = assert(echo.await(function(resume)
      socket.connect({ path = point.path }, function(connection, err)
        resume(connection, err)
        return function(bytes)
          if bytes then feed(bytes) else self.ended = true end
          if waiting then waiting(true) end
        end
      end)
    end))
    table.insert(opened, self.connection)
    function self.send(kind, body) self.connection:send(attach.encode(kind, body)) end
    function self.wait(kind, pattern)
      while true do
        while self.said[1] do
          local message = table.remove(self.said, 1)
          if message.kind == kind and message.body:find(pattern or "") then return message.body end
        end
        assert(not self.ended, "it was cut off")
        assert(echo.await(function(resume) waiting = resume end, 60))
        waiting = nil
      end
    end
    function self.gone()
      while not self.ended do
        assert(echo.await(function(resume) waiting = resume end, 60))
        waiting = nil
      end
    end
    return self
  end

  local function ready()
    local one = join()
    one.send("hello", "100 0")
    one.wait "hello"
    one.wait "ready"
    return one
  end

  it("serves several at once, each with globals of its own", function()
    local a, b = ready(), ready()
    a.send("line", "mine = 1")
    a.wait "ready"
    b.send("line", "mine")
    assert.equal("nil\n", b.wait "out")
    b.wait "ready"
    a.send("line", "echo.sleep(600)")
    b.send("line", "print('meanwhile', mine)")
    assert.equal("meanwhile\tnil\n", b.wait "out")
    a.send "interrupt"
    a.wait("out", "cancelled")
    assert.equal("0 > ", a.wait "ready")
    a.send("complete", "7\nmi")
    assert.equal("7 1\nmine", a.wait "words")
  end)

  it("bears those who vanish, and cancels what they left", function()
    local a, b = ready(), ready()
    _G.attach_spec_left = nil
    a.send("line", "print 'on' local t <close> = setmetatable({}, { __close = function() _G.attach_spec_left = true end }) echo.sleep(600)")
    a.wait("out", "on")
    a.connection:close()
    while not _G.attach_spec_left do echo.sleep(0.001) end
    _G.attach_spec_left = nil
    b.send("line", "1 + 1")
    assert.equal("2\n", b.wait "out")
  end)

  it("cuts off who breaks the protocol", function()
    for _, bytes in ipairs { "nonsense\n", "line 99999999999999\n", "line 2000000\n", "LINE 1\nx", ("x"):rep(100), "line 5\na\nb c",
      attach.encode("line", "too early") } do
      local one = join()
      one.connection:send(bytes)
      one.gone()
    end
    local one = ready()
    one.send("hello", "rubbish")
    one.send("nothing", "that anybody knows")
    one.send("line", "1")
    assert.equal("1\n", one.wait "out")
  end)

  it("leaves out the output that nobody reads", function()
    local one = ready()
    one.connection:pause()
    one.send("line", "for i = 1, 400 do print(('x'):rep(32768)) end echo.sleep(0) return 'done'")
    echo.sleep(0.01) -- it need not have happened: then nothing is left out, and less is tried
    one.connection:resume()
    one.send("complete", "1\n")
    local said = one.wait("ready")
    assert.equal("0 > ", said)
    one.send("line", "'after'")
    one.wait("out", "after")
  end)

  it("interrupts code that computes and never waits", function()
    point.close()
    point = assert(attach.open { path = dir .. "/private/point.sock", held = 0.3 })
    echo.set_log(function() end) -- the watchdog says it too
    finally(function() echo.set_log() end)
    local one = ready()
    one.send("line", "while true do end")
    one.wait("out", "interrupted: it computed for 0.3 s")
    one.wait "ready"
  end)

  it("wants a directory that nobody else can get into", function()
    local open_to_all = dir .. "/open"
    os.execute("mkdir -m 755 " .. open_to_all)
    local made, problem = attach.open { path = open_to_all .. "/s" }
    assert.is_nil(made)
    assert.matches("others can get into", problem)
    assert.matches("no directory", select(2, directory.make_private("/dev/null")))
    assert.is_true(directory.is_running(directory.own_pid()))
    assert.is_false(directory.is_running(2147483646))
    assert.same({}, directory.names(dir .. "/nowhere"))
    assert.error_matches(function() attach.open { pth = 1 } end, "did you mean")
  end)

  it("takes the place of a socket that a process of the same number left, and of none of its own", function()
    local place = dir .. "/echostream"
    assert(directory.make_private(place))
    process.write(dir .. "/own.lua", ([[
      local attach = require "echostream.attach"
      local path = "%s/same." .. require("echostream.loop.directory").own_pid() .. ".sock"
      assert(io.open(path, "w")):close() -- what is left counts, not what it is
      local point = assert(attach.open { name = "same" })
      assert(point.path == path)
      print(select(2, attach.open { name = "same" }))
      assert(#attach.list() == 1)
      point.close()
      print(#attach.list())
      assert(attach.open { name = "same" }).close()
    ]]):format(place))
    local result = process.run(".ci/env lua5.4 " .. dir .. "/own.lua", { env = { XDG_RUNTIME_DIR = dir, HOME = dir } })
    assert.equal("", result.err)
    assert.matches("^io: .*address already in use\n0\n$", result.out)
  end)

  it("decodes its messages however they are cut", function()
    local bytes = attach.encode("line", "one\ntwo") .. attach.encode("interrupt") .. attach.encode("out", ("x"):rep(1000))
    for size = 1, 40 do
      local got = {}
      local feed = attach.decoder(function(kind, body) table.insert(got, kind .. "=" .. body) end)
      for from = 1, #bytes, size do assert.is_true(feed(bytes:sub(from, from + size - 1))) end
      assert.same({ "line=one\ntwo", "interrupt=", "out=" .. ("x"):rep(1000) }, got)
    end
  end)
end)

describe("attaching over the network", function()
  local pin = "sha256:" .. ("ab"):rep(32)

  it("is refused without mutual TLS, and without a list of who may", function()
    assert.error_matches(function() echo.plugins.attach {} end, "allow")
    assert.error_matches(function() echo.plugins.attach { allow = {} } end, "names nobody")
    assert.error_matches(function() echo.plugins.attach { allow = { "everybody" } } end, "wants pins")
    local open = echo.server { quiet = true }
    assert.error_matches(function() open:plugin(echo.plugins.attach { allow = { pin } }) end, "ask its clients for certificates")
    local optional = echo.server { quiet = true, client_pins = { pin }, require_client_cert = false }
    assert.error_matches(function() optional:plugin(echo.plugins.attach { allow = { pin } }) end, "ask its clients for certificates")
    assert.error_matches(function() echo.client():plugin(echo.plugins.attach { allow = { pin } }) end, "is for servers")
  end)

  it("is for those who are named, and for nobody else who may connect", function()
    local dir = process.directory()
    local ann, bob = certs.issue(nil, { names = { "ann" } }), certs.issue(nil, { names = { "bob" } })
    process.write(dir .. "/guarded.lua", ([[
      local echo = require "echostream"
      local server = echo.server { bind = "127.0.0.1:0", quiet = true, client_pins = { %q, %q } }
      secret = 42
      return server:plugin(echo.plugins.attach { allow = { %q }, name = "guarded" })
    ]]):format(ann.pin, bob.pin, ann.pin))
    local env = { XDG_RUNTIME_DIR = dir, XDG_STATE_HOME = dir, HOME = dir, NO_COLOR = "1" }
    local serving = process.start(("%s serve --no-attach %s/guarded.lua"):format(process.echostream, dir), { env = env })
    local address, server_pin = serving:expect "listening on (%S+)", (serving:expect "pin (%S+)")
    local function run(who)
      return process.run(("%s attach %s --pin %s %s"):format(process.echostream, address, server_pin, who and
        ("--cert %s --key %s"):format(certs.file(who.cert), certs.file(who.key)) or ""), { input = "secret\nprint(#sessions)\n", env = env })
    end
    assert.same({ code = 0, out = "42\n1\n", err = "" }, run(ann))
    local refused = run(bob)
    assert.equal(1, refused.code)
    assert.matches("permission_denied", refused.err)
    assert.not_matches("42", refused.out)
    assert.equal(2, run(nil).code)
    serving:stop()
    process.remove(dir)
  end)
end)
