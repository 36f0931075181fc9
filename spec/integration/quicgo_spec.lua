-- A second implementation of the protocol, in Go on quic-go, written from docs/PROTOCOL.md alone: its client against our
-- server, and our client against its server. Built from Debian's packages; without them this file says so and skips.

local process = require "spec.support.process"

local build_dir = process.root .. "/build/quicgo"
local program = build_dir .. "/quicgo"
-- The sanitizers' preloaded libraries are for lua5.4; Go's programs stay without.
local bare = { env = { LD_PRELOAD = "" }, seconds = 300 }
local built = process.run(("spec/support/build_quicgo.sh spec/support/quicgo %s test"):format(process.quote(program)), bare)

describe("the Go implementation", function()
  if built.code == 3 then
    pending("not built, " .. built.err:gsub("%s+$", "") .. "; apt-get install golang-go golang-github-lucas-clemente-quic-go-dev")
    return
  end

  it("builds, and its encoder and decoder hold the golden bytes", function()
    assert.equal(0, built.code, built.out .. built.err)
  end)
  if built.code ~= 0 then return end

  describe("as a client of our server", function()
    local server, results, report

    setup(function()
      local state = process.directory()
      server = process.start(("lua5.4 spec/support/quicgo_server.lua %s"):format(process.quote(state)), { seconds = 120 })
      server.state = state
      local address, pin = server:expect "^ready (%S+) (%S+)"
      report = process.run(("%s -connect %s -pin %s"):format(process.quote(program), address, pin),
        { env = bare.env, seconds = 100 })
      results = {}
      for line in report.out:gmatch "[^\n]+" do
        local name = line:match '"check":"(.-)",'
        if name then results[name] = line end
      end
    end)

    teardown(function()
      if server then
        server:stop()
        process.remove(server.state)
      end
    end)

    local names = process.run(process.quote(program) .. " -list", bare).out .. "the server kept to the protocol\n"
    for name in names:gmatch "[^\n]+" do
      it(name, function()
        assert.truthy(results[name], "not reached: " .. report.out .. report.err)
        assert.matches('"ok":true', results[name])
        if results[name]:find '"skipped":true' then pending(results[name]:match '"detail":"(.-)"' or "skipped") end
      end)
    end
  end)

  describe("as a server of our client", function()
    local echo, server, client

    setup(function()
      echo = require "echostream"
      server = process.start(process.quote(program) .. " -serve 127.0.0.1:0", { env = bare.env, seconds = 60 })
      local address, pin = server:expect "^ready (%S+) (%S+)"
      client = echo.client { pin = pin }
      client:add_rpc("peer.mul", function(_, a, b) return a * b end)
      client:add_stream("echo", function(_, stream)
        for frame in stream:frames() do stream:send(frame.data:upper()) end
      end)
      assert(client:connect(address))
    end)

    teardown(function()
      if client then client:close() end
      if server then server:stop() end
    end)

    it("answers requests", function()
      assert.equal(30, client:request("math.add", 10, 20))
      assert.same({ 1, nil, "x", 2.5, n = 4 }, table.pack(client:request("values", 1, nil, "x", 2.5)))
      assert.is_true(client:request "nothing")
    end)

    it("refuses what it does not offer", function()
      local nothing, err = client:request("math.sub", 1, 2)
      assert.is_nil(nothing)
      assert.equal("method_not_found", err.code)
      assert.equal("no", err.processed)
    end)

    it("fails with its code, message and details", function()
      local nothing, err = client:request "fail.coded"
      assert.is_nil(nothing)
      assert.equal("not_found", err.code)
      assert.equal("no such user", err.message)
      assert.same({ id = 7 }, err.details)
    end)

    it("takes events in order", function()
      for i = 1, 50 do assert(client:emit("log", i)) end
      local taken = {}
      for _ = 1, 500 do
        local more = table.pack(client:request "log.take")
        if more[1] ~= true then table.move(more, 1, more.n, #taken + 1, taken) end
        if #taken >= 50 then break end
        echo.sleep(0.01)
      end
      for i = 1, 50 do assert.equal(i, taken[i]) end
    end)

    it("serves a named stream to its end", function()
      local stream = assert(client:create_stream "echo")
      assert(stream:send "one")
      assert.equal("ONE", stream:recv().data)
      assert(stream:send "two")
      assert(stream:finish())
      assert.equal("TWO", stream:recv().data)
      assert.is_nil(stream:recv())
    end)

    it("ends a slow call when it is cancelled, and when its deadline passes", function()
      local _, err = client:with({ timeout = 0.2 }):request("slow", 30.0)
      assert.equal("timeout", err.code)
      local task = echo.spawn(function() return client:request("slow", 30.0) end)
      echo.sleep(0.1)
      task:cancel()
      task:wait()
      local cancelled
      for _ = 1, 500 do
        cancelled = client:request "slow.cancelled"
        if cancelled == 2 then break end
        echo.sleep(0.01)
      end
      assert.equal(2, cancelled)
    end)

    it("calls us, and opens streams to us", function()
      assert.equal(42, client:request("call.back", "peer.mul", 6, 7))
      assert.equal("FROM THE SERVER", client:request("stream.back", "echo"))
    end)
  end)
end)
