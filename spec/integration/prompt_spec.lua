-- What a user does at a bare `lua5.4` prompt, through a pseudo-terminal. The 60 idle seconds are in prompt_slow_spec.lua.

local markdown = require "spec.support.markdown"
local process = require "spec.support.process"
local prompt = require "spec.support.prompt"

describe("at a bare lua5.4 prompt", function()
  local function ready()
    if not prompt.available() then pending "expect is not installed" end
    return prompt.new()
  end

  -- Starts a server on a free port and shows address and pin, so that `meanwhile` can reach it.
  local function serve(p)
    local port = process.free_port()
    p:line 'echo = require "echostream"'
    p:line(('server = echo.server { bind = "127.0.0.1:%d", quiet = true }:start()'):format(port))
    p:type('server:add_rpc("add", function(_, a, b) return a + b end) server:add_rpc("slow", function() echo.sleep(30) end)'):ready()
    return port
  end

  local function call(port, rest)
    return ("%s call 127.0.0.1:%d --insecure %s 2>&1 | grep -v skip_verification"):format(process.echostream, port, rest)
  end

  local function transcript(path, block)
    if block.kind == "repl" then
      it(("the transcript of %s, line %d, comes out as it stands there"):format(path, block.line), function()
        local p = ready()
        local text = block.text:gsub("127%.0%.0%.1:5000", "127.0.0.1:" .. process.free_port())
        local first = true
        for line in text:gmatch "[^\n]+" do
          local typed = line:match "^> (.*)$"
          if typed then
            if not first then p:ready() end
            p:type(typed)
            first = false
          else
            p:see(line)
          end
        end
        p:ready():run()
      end)
    end
  end
  for _, block in ipairs(markdown.blocks "README.md") do transcript("README.md", block) end
  for _, block in ipairs(markdown.blocks "docs/GUIDE.md") do transcript("docs/GUIDE.md", block) end

  it("a server answers while the prompt is idle, and while a line is half typed", function()
    local p = ready()
    local port = serve(p)
    p:meanwhile(call(port, "add 1 2"))
    p:half("20 +"):meanwhile(call(port, "add 3 4")):type(" 22"):see("42"):ready()
    p:meanwhile(call(port, "add 5 6"))
    p:idle(0.5):type("#server:sessions()"):see("0"):ready()
    assert.equal("3\n7\n11\n", p:run().meanwhile)
  end)

  it("Ctrl-C in the middle of a call gives the prompt back, and everything lives on", function()
    local p = ready()
    local port = serve(p)
    p:line 'client = echo.connect(server.address, { pin = server.pin })'
    p:type('client:request("slow")'):idle(0.5):interrupt():see("…interrupted!…"):ready()
    p:type('client:request("add", 20, 22)'):see("42"):ready()
    p:type("echo.sleep(20)"):idle(0.3):interrupt():see("…interrupted!…"):ready()
    p:type("client:is_open()"):see("true"):ready()
    p:meanwhile(call(port, "add 5 6"))
    p:type('client:request("add", 1, 1)'):see("2"):ready()
    assert.equal("11\n", p:run().meanwhile)
  end)

  it("Ctrl-C in a computation still works as Lua does it", function()
    local p = ready()
    serve(p)
    p:type("while true do end"):idle(0.3):interrupt():see("…interrupted!…"):see("stack traceback:"):ready()
    p:type("server.state"):see("running"):ready()
    p:run()
  end)

  it("events of others arrive between the lines", function()
    local p = ready()
    serve(p)
    p:line 'got = {} server:add_event("note", function(_, x) got[#got + 1] = x end)'
    p:line 'client = echo.connect(server.address, { pin = server.pin })'
    p:line 'for i = 1, 3 do client:emit("note", i) end'
    p:idle(0.3)
    p:type("#got, got[1], got[3]"):see("3\t1\t3"):ready()
    p:run()
  end)

  it("Ctrl-D with an open server and an open session ends it cleanly", function()
    local p = ready()
    serve(p)
    p:line 'client = echo.connect(server.address, { pin = server.pin })'
    p:type('client:request("add", 1, 2)'):see("3"):ready()
    assert.equal(0, p:run().code)
  end)

  it("an error in a handler shows up on the screen and ends nothing", function()
    local p = ready()
    serve(p)
    p:line 'server:add_rpc("broken", function() error("oh no") end)'
    p:line 'client = echo.connect(server.address, { pin = server.pin })'
    p:type('select(2, client:request("broken")).code'):see("unknown"):ready()
    p:type('client:request("add", 1, 2)'):see("3"):ready()
    assert.matches("oh no", p:run().screen)
  end)
end)
