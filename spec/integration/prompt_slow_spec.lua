-- A prompt that nobody touches for a minute: longer than the idle time-out of the connection (30 s).

local process = require "spec.support.process"
local prompt = require "spec.support.prompt"

describe("at a bare lua5.4 prompt", function()
  it("a session survives 60 idle seconds, and the server answers during them", function()
    if not prompt.available() then pending "expect is not installed" end
    local there = process.directory()
    process.write(there .. "/server.lua", [[
      local server = ...
      server:add_rpc("sessions", function() return #server:sessions() end)
      server:add_rpc("ask", function(session) return session:request("name") end)
    ]])
    local other = process.start(("%s serve --bind 127.0.0.1:0 %s/server.lua"):format(process.echostream, there), { seconds = 150 })
    finally(function()
      other:stop()
      process.remove(there)
    end)
    local address, pin = other:expect "^listening on (%S+)$", other:expect "^pin (%S+)$"
    local port = process.free_port()

    local p = prompt.new()
    p:line 'echo = require "echostream"'
    p:line(('client = echo.connect("%s", { pin = "%s" })'):format(address, pin))
    p:line 'closed = "no" client:on_disconnect(function() closed = "yes" end)'
    p:line 'client:add_rpc("name", function() return "Ada" end)'
    p:line(('server = echo.server { bind = "127.0.0.1:%d", quiet = true }:start()'):format(port))
    p:line 'server:add_rpc("add", function(_, a, b) return a + b end)'
    p:type('client:request("ask")'):see("Ada"):ready()
    p:line "id = client.session.id"
    for i = 1, 6 do
      p:idle(10)
      p:meanwhile(("%s call 127.0.0.1:%d --insecure add %d 1 2>&1 | grep -v skip_verification"):format(process.echostream, port, i))
    end
    p:type('closed, client.session.id == id'):see("no\ttrue"):ready()
    p:type('client:request("ask")'):see("Ada"):ready()
    p:type('client:request("sessions")'):see("1"):ready()
    local result = p:run()
    assert.equal("2\n3\n4\n5\n6\n7\n", result.meanwhile)
    assert.equal(0, (other:stop()))
  end)
end)
