-- Prompts inside a server that runs: over the socket of its user, and over the network for named certificates.

local attach = require "echostream.attach"
local certs = require "spec.support.certs"
local core = require "echostream.core"
local directory = require "echostream.loop.directory"
local echo = require "echostream"
local process = require "spec.support.process"
local pty = require "spec.support.pty"
local socket = require "echostream.loop.socket"
local wire = require "echostream.attach.wire"

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
    local name, pid, path = run("", "--list").out:match "^NAME +PID  SOCKET\n(%S+) +(%d+)  (%S+)\n$"
    assert.equal("counter", name)
    local listed = assert(core.codec.json.unpack(run("", "--list --json").out)).servers
    assert.same({ { name = name, pid = math.tointeger(pid), path = path } }, listed)
    for _, word in ipairs { name, pid, path } do assert.equal("1\n", run("1", word).out) end
    assert.equal("drwx------", process.run("ls -ld " .. dir .. "/echostream").out:match "^%S+")
    assert.equal("srw-------", process.run("ls -l " .. path).out:match "^%S+")
    local none = run("", "nobody")
    assert.equal(3, none.code)
    assert.matches("nobody runs here", none.err)
    serving:stop()
    assert.equal(3, run("").code)
    assert.equal(1, process.run("test -e " .. path).code) -- taken away
    assert.equal('{"servers":[]}\n', run("", "--list --json").out)
    assert.matches("no server of this user", run("", "--list").err)
    assert.equal(2, run("", "--json").code)
    assert.equal(2, run("", "--list counter").code)
  end)

  it("is not there when it is not wanted", function()
    serve "--no-attach"
    assert.equal("", run("", "--list").out)
  end)

  it("removes the sockets that dead servers left, and none that answers", function()
    serve()
    local path = run("", "--list").out:match "(%S+)\n$"
    -- Its process is in another namespace, say: there is none of this number here.
    local elsewhere = dir .. "/echostream/counter.2147483646.sock"
    os.rename(path, elsewhere)
    process.write(dir .. "/leave.lua", [[
      local point = assert(require "echostream.attach".open { name = "dead" })
      print(point.path)
      os.exit(0, false)
    ]])
    local left = process.run(".ci/env lua5.4 " .. dir .. "/leave.lua", { env = environment() }).out:match "^%S+"
    assert.equal(0, process.run("test -S " .. left).code)
    process.write(dir .. "/echostream/notes.1.sock", "no socket")
    assert.matches("^NAME +PID  SOCKET\ncounter  2147483646  %S+\n$", run("", "--list").out)
    assert.equal(1, process.run("test -e " .. left).code)
    assert.equal("1\n", run("1", "2147483646").out)
    assert.equal("no socket", process.read(dir .. "/echostream/notes.1.sock"))
    os.rename(elsewhere, path) -- so that the server finds it when it ends
  end)

  it("trusts no directory that others can get into", function()
    serve()
    os.execute(("chmod 750 '%s/echostream'"):format(dir))
    for _, arguments in ipairs { "--list", "--list --json", "counter" } do
      local refused = run("", arguments)
      assert.is_true(refused.code == 1 or refused.code == 3)
      assert.matches("others can get into", refused.out .. refused.err, 1, true)
    end
    local found = process.run(process.echostream .. " doctor", { env = environment() })
    assert.equal(1, found.code)
    assert.matches("fail +attach_sockets +nobody can attach to servers: others can get into", found.out)
    os.execute(("chmod 700 '%s/echostream'"):format(dir))
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
    local feed = wire.decoder(function(kind, body)
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
    function self.send(kind, body) self.connection:send(wire.encode(kind, body)) end
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
      wire.encode("line", "too early") } do
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
    assert.matches("^/.*[^/]$", attach.directory())
    assert.same({}, { directory.is_private(dir .. "/nowhere") })
    assert.matches("others can get into", select(2, directory.is_private(open_to_all)))
    assert.same({}, directory.names(dir .. "/nowhere"))
    assert.error_matches(function() attach.open { pth = 1 } end, "did you mean")
  end)

  it("takes the place of a socket that a dead process left, and of nothing else", function()
    local path = dir .. "/private/left.sock"
    process.write(dir .. "/own.lua", ([[
      local attach = require "echostream.attach"
      local point = assert(attach.open { path = %q })
      print(select(2, attach.open { path = point.path }))
      if ... then os.exit(0, false) end
      point.close()
      point.close()
    ]]):format(path))
    for i = 1, 3 do -- each but the first finds what the one before left
      local result = process.run(".ci/env lua5.4 " .. dir .. "/own.lua " .. (i < 3 and "leave" or ""))
      assert.equal("", result.err)
      assert.matches("^io: .*left.sock: EADDRINUSE: address already in use\n$", result.out)
      assert.equal(i < 3 and 0 or 1, process.run("test -S " .. path).code)
    end
    process.write(path, "mine")
    local none, err = attach.open { path = path }
    assert.is_nil(none)
    assert.matches("is there and is no socket", err.message)
    assert.equal("mine", process.read(path))
  end)

  it("is one process's, however many open it at the same time", function()
    local path = dir .. "/private/wanted.sock"
    process.write(dir .. "/leave.lua", ('assert(require "echostream.attach".open { path = %q }) os.exit(0, false)'):format(path))
    assert.equal(0, process.run(".ci/env lua5.4 " .. dir .. "/leave.lua").code)
    -- Each tells what it got, and ends when it is told to: until then the socket is taken.
    process.write(dir .. "/race.lua", ([[
      local point, err = require "echostream.attach".open { path = %q }
      print(point and "got it" or err.message:match "EADDRINUSE" or err.message)
      io.stdout:flush()
      io.read()
    ]]):format(path))
    local result = process.run(([[
      mkfifo go
      for i in 1 2 3 4 5 6; do %s lua5.4 race.lua >out$i <go & done
      exec 3>go
      for i in 1 2 3 4 5 6; do until grep -q . out$i; do sleep 0.05; done; done
      exec 3>&-
      wait
      cat out? | sort | uniq -c]]):format(process.root .. "/.ci/env"), { cwd = dir })
    assert.matches("^ *5 EADDRINUSE\n *1 got it\n$", result.out, nil, result.err)
  end)

  it("decodes its messages however they are cut", function()
    local bytes = wire.encode("line", "one\ntwo") .. wire.encode("interrupt") .. wire.encode("out", ("x"):rep(1000))
    for size = 1, 40 do
      local got = {}
      local feed = wire.decoder(function(kind, body) table.insert(got, kind .. "=" .. body) end)
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
