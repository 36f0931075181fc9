-- The engine of the prompt, without a terminal.

local echo = require "echostream"
local net = require "spec.support.net"
local process = require "spec.support.process"
local repl = require "echostream.repl"
local commands = require "echostream.repl.commands"

-- Types lines and collects what comes out; `run` waits until the input ended.
local function new_prompt(opts)
  local self = { out = "", left = false }
  opts = opts or {}
  opts.env = opts.env or setmetatable({ echo = echo }, { __index = _G })
  opts.write = function(text) self.out = self.out .. text end
  opts.ready = function(word)
    self.word = word
    if self.resume then self.resume(true) end
  end
  opts.leave = function() self.left = true end
  self.repl = repl.new(opts)
  self.env = opts.env
  self.repl:start()
  -- The output of a line.
  function self.run(text)
    self.out, self.word = "", nil
    self.repl:line(text)
    if not self.word then
      assert(echo.await(function(resume) self.resume = resume end, 20))
      self.resume = nil
    end
    return self.out
  end
  return self
end

describe("the prompt's engine", function()
  net.each(function(env)
    local it = env.it

    it("prints expressions without return, and nothing for statements", function()
      local p = new_prompt()
      assert.equal("2\n", p.run "1 + 1")
      assert.equal("2\n", p.run "= 1 + 1")
      assert.equal("", p.run "x = { a = 'b' }")
      assert.equal('{ a = "b" }\n', p.run "x")
      assert.equal('1, nil, "three"\n', p.run "1, nil, 'three'")
      assert.equal('"three"\n', p.run "('three')")
      assert.equal('"three!"\n', p.run "_ .. '!'")
      assert.equal("", p.run "")
      assert.equal(0, p.repl.failed)
    end)

    it("takes an input of several lines", function()
      local p = new_prompt()
      assert.equal("", p.run "function twice(n)")
      assert.equal(">> ", p.word)
      assert.equal("", p.run "  return 2 * n")
      assert.equal("", p.run "end")
      assert.equal("> ", p.word)
      assert.equal("42\n", p.run "twice(21)")
      p.run "for i = 1, 2 do"
      assert.is_true(p.repl:interrupt()) -- drops it
      assert.equal("> ", p.word)
      assert.equal("7\n", p.run "7")
      assert.is_false(p.repl:interrupt())
      p.run "1 +" -- no statement begins so, but an expression does
      assert.equal(">> ", p.word)
      assert.equal("3\n", p.run "2")
      p.run "{ 1,"
      assert.equal("{ 1, 2 }\n", p.run "2 }")
      p.run "if true then"
      p.repl:finish()
      assert.equal(1, p.repl.failed)
    end)

    it("helps those who have met other prompts, or forget a colon", function()
      local p = new_prompt()
      assert.equal("(.exit or Ctrl-D leaves)\nnil\n", p.run "exit")
      assert.matches("^%(.exit or Ctrl%-D leaves%)\nerror: ", p.run "quit()")
      assert.equal("(.help lists the commands)\nnil\n", p.run "help")
      p.env.help = 5
      assert.equal("5\n", p.run "help")
      p.env.client = echo.client { skip_verification = true }
      assert.matches("with a colon", p.run "client.request('x')", 1, true)
      assert.matches("with a colon", p.run "client.close()", 1, true)
      assert.not_matches("colon", p.run "nothing.x = 1")
      p.env.client:close()
    end)

    it("says what is wrong, and where in the code that was typed", function()
      local p = new_prompt()
      assert.matches("^error: input:1: .*near 'b'\n$", p.run "a b")
      assert.equal("error: input:1: no\n", p.run "error 'no'")
      p.run "function inner() error 'deep' end function outer() inner() return 1 end"
      assert.equal("error: input:1: deep\n  at input:1 in inner\n  at input:1 in outer\n  at input:1\n", p.run "x = outer()")
      assert.equal("error: busy: later\n  at input:1\n", p.run "error(echo.error('busy', 'later'))")
      assert.equal("error: \\x1b[2J\n  at input:1\n", (p.run "error('\\27[2J', 0) x = 1"):gsub("\n$", "\n  at input:1\n", 1))
      assert.equal(5, p.repl.failed)
    end)

    it("says that a local does not stay", function()
      local p = new_prompt()
      assert.matches("without `local`, x stays", p.run "local x = 1")
      assert.equal("nil\n", p.run "x")
    end)

    it("waits in calls, shows their results and their errors, while the rest goes on", function()
      local server = env.server({}, function(server)
        server:add_rpc("add", function(_, a, b) return a + b end)
      end)
      local p = new_prompt()
      p.env.client = env.connect(server)
      assert.equal("3\n", p.run "client:request('add', 1, 2)")
      assert.equal("3\n", p.run "client:service('').add and 3")
      assert.matches("^nil, method_not_found: ", p.run "client:request('nothing')")
      local others = 0
      local other = echo.spawn(function()
        for _ = 1, 5 do
          echo.sleep(0.001)
          others = others + 1
        end
      end)
      assert.equal("true\n", p.run "echo.sleep(0.05)")
      assert(other:wait())
      assert.equal(5, others)
    end)

    it("cancels what runs, and keeps everything else", function()
      local p = new_prompt()
      p.run "x = 1"
      echo.spawn(function()
        echo.sleep(0.01)
        p.repl:interrupt()
      end)
      assert.matches("^nil, cancelled: ", p.run "echo.sleep(1000)")
      assert.equal("1\n", p.run "x")
      assert.is_false(p.repl:running())
      assert.error_matches(function()
        p.repl:line "echo.sleep(1000)"
        p.repl:line "2"
      end, "still running")
      p.repl:close()
    end)

    it("interrupts code that computes and never waits", function()
      local asked = 0
      local p = new_prompt { busy = function()
        asked = asked + 1
        return asked == 3
      end }
      assert.matches("^error: interrupted", p.run "while true do end")
      assert.equal("5\n", p.run "5")
    end)

    it("has commands", function()
      local server = env.server({}, function(server)
        server:add_rpc("add", function(_, a, b) return a + b end, { doc = "Adds two numbers." })
        server:add_event("log", function() end)
      end)
      local client = env.connect(server)
      assert(client:request "rpc.list") -- then the server has the session too
      local p = new_prompt { hosts = function() return { client, server } end }
      p.env.client = client
      local help = p.run ".help"
      for name in pairs(commands.list) do assert.matches("%." .. name, help) end
      assert.matches("ID  PEER +OF .*\n *%d+ .* client .*\n *%d+ .* server", p.run ".sessions")
      assert.matches("add +rpc +Adds two numbers%.", p.run ".methods client")
      assert.matches("echostream%.client.*add +rpc.*echostream%.server.*log +event", p.run ".methods")
      assert.matches("^3\ntook [%d.]+ m?s\n$", p.run ".time client:request('add', 1, 2)")
      p.run ".time on"
      assert.matches("^4\ntook [%d.]+ ms\n$", p.run "4")
      p.run ".time off"
      assert.matches("did you mean %.sessions", p.run ".sesions")
      assert.matches("usage: %.trace on|off", p.run ".trace")
      assert.equal(".5 + 1 is Lua", p.run ".5 + 1" == "1.5\n" and ".5 + 1 is Lua")
      p.run ".exit"
      assert.is_true(p.left)
    end)

    it("shows calls, of all sessions and of one, until told not to", function()
      local server = env.server({}, function(server)
        server:add_rpc("add", function(_, a, b) return a + b end)
      end)
      local client = env.connect(server)
      assert(client:request "rpc.list") -- then the server has the session too
      local p = new_prompt { hosts = function() return { server } end }
      p.env.client = client
      p.run ".trace on"
      local id = server:sessions()[1].id
      assert.matches("^<%- rpc add%(1, 2%) from session " .. id .. " = 3 %([%d.]+ m?s%)\n3\n$", p.run "client:request('add', 1, 2)")
      p.run ".trace off"
      assert.equal("3\n", p.run "client:request('add', 1, 2)")
      p.run(".tap " .. id)
      assert.matches("^<%- rpc add%(%)", p.run "(client:request('add'))")
      p.run(".untap " .. id)
      assert.equal("3\n", p.run "client:request('add', 1, 2)")
      assert.matches("there is no session 123456", p.run ".tap 123456")
      p.run ".trace on"
      p.repl:close() -- takes it out again
      assert.equal(0, #server._middleware)
    end)

    it("closes a session", function()
      local server = env.server()
      local client = env.connect(server)
      assert(client:request "rpc.list") -- then the server has the session too
      local p = new_prompt { hosts = function() return { server } end }
      assert.matches("is closed", p.run((".kick %d go away"):format(server:sessions()[1].id)))
      assert.equal(0, #server:sessions())
      client:close()
    end)
  end)

  it("loads a file", function()
    local dir = process.directory()
    process.write(dir .. "/file.lua", "loaded = 7 return loaded")
    local p = new_prompt()
    echo.spawn(function()
      assert.equal("7\n", p.run(".load " .. dir .. "/file.lua"))
      assert.equal("7\n", p.run "loaded")
      assert.matches("error: .*nowhere", p.run ".load nowhere.lua")
    end):wait()
    process.remove(dir)
    assert.equal(1, p.repl.failed)
  end)

  it("has a print of its own, and knows the hosts of its commands", function()
    local server = echo.server { quiet = true }
    local p = new_prompt { hosts = function() return { server } end }
    p.repl:print("a", nil, 1.5)
    assert.equal("a\tnil\t1.5\n", p.out)
    assert.equal(server, p.repl:hosts()[1])
    assert.same({}, new_prompt().repl:hosts())
  end)

  it("refuses options that make no sense", function()
    assert.error_matches(function() repl.new {} end, "missing")
  end)
end)

describe("the prompt's completion", function()
  local function words(p, before)
    local found
    p.repl:complete(before, function(from, list) found = { before:sub(1, from - 1), table.unpack(list) } end)
    while not found do echo.sleep(0.001) end
    return found
  end

  net.each(function(env)
    env.it("offers globals, fields, methods, keywords and commands", function()
      local p = new_prompt()
      p.env.apple = { core = { seed = 1 }, color = print, _hidden = 1 }
      p.env.list = { p.env.apple }
      assert.same({ "x = ", "apple" }, words(p, "x = app"))
      assert.same({ "apple.", "color", "core" }, words(p, "apple."))
      assert.same({ "apple.", "_hidden" }, words(p, "apple._"))
      assert.same({ "apple.core.", "seed" }, words(p, "apple.core.s"))
      assert.same({ "list[1].core.", "seed" }, words(p, "list[1].core."))
      assert.same({ "apple:", "color(" }, words(p, "apple:"))
      assert.same({ "print(", "apple" }, words(p, "print(app"))
      assert.same({ "", "while" }, words(p, "whi"))
      assert.same({ ".", "sessions " }, words(p, ".se"))
      assert.same({ "nothing." }, words(p, "nothing."))
      assert.same({ "f()." }, words(p, "f()."))
      p.env.echo = echo
      assert.same({ "echo.plugins.", "tracing" }, words(p, "echo.plugins.tra"))
      assert.same({ "echo.introspect.", "page(" }, words(p, "echo.introspect.pa"))
      p.env.trap = setmetatable({}, { __index = function() error "called" end })
      assert.same({ "trap.x." }, words(p, "trap.x."))
    end)

    env.it("knows the methods of servers and clients, and what the other side offers", function()
      local server = env.server({}, function(server)
        server:add_rpc("math.add", function() end)
        server:add_rpc("math.mul", function() end)
        server:add_event("math.log", function() end)
        server:add_stream("mirror", function() end)
      end)
      local p = new_prompt()
      p.env.server, p.env.client = server, env.connect(server)
      assert.same({ "server:", "add_rpc(" }, words(p, "server:add_r"))
      assert.same({ "client:", "request(" }, words(p, "client:req"))
      assert.same({ 'client:request("', "math.add", "math.mul" }, words(p, 'client:request("ma'))
      assert.same({ 'client:request("', 'math.mul"' }, words(p, 'client:request("math.m'))
      assert.same({ "client:emit('", "math.log'" }, words(p, "client:emit('m"))
      assert.same({ 'client:create_stream("', 'mirror"' }, words(p, 'client:create_stream("mi'))
      assert.same({ 'client:service("', 'math"' }, words(p, 'client:service("m'))
      assert.same({ 'client:service("math").', "add", "mul" }, words(p, 'client:service("math").'))
      assert.same({ 'nobody:request("' , nil }, words(p, 'nobody:request("'))
    end)

    env.it("offers nothing where the other side says nothing", function()
      local server = env.server { introspection = false }
      local p = new_prompt()
      p.env.client = env.connect(server)
      assert.same({ 'client:request("' }, words(p, 'client:request("'))
    end)
  end)
end)
