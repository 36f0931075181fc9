-- What scripts do: everything from the main thread, without a task in sight. In processes of their own where signals matter.

local echo = require "echostream"
local loop = require "echostream.loop"
local net = require "spec.support.net"
local process = require "spec.support.process"
local uv = require "luv"

local function pair(prepare)
  local server = echo.server { bind = "127.0.0.1:0", quiet = true, state_dir = net.state_dir() }
  prepare(server)
  assert(server:start())
  return server, assert(echo.connect(server.address, { pin = server.pin, timeout = 10 }))
end

describe("on the main thread", function()
  it("calls, events and streams block and give their results", function()
    local logged
    local server, client = pair(function(server)
      server:add_rpc("math.add", function(_, a, b) return a + b, nil, "x" end)
      server:add_event("log", function(_, text) logged = text end)
      server:add_stream("echo", function(_, stream)
        for frame in stream:frames() do
          stream:send(frame.data)
        end
      end)
    end)
    assert.same({ n = 3, 3, nil, "x" }, table.pack(client:request("math.add", 1, 2)))
    local value, err = client:request("none")
    assert.is_nil(value)
    assert.equal("method_not_found", err.code)
    assert.has_error(function() client:request("math.add", print, 1) end)
    assert.is_true(client:emit("log", "hello"))
    local stream = assert(client:create_stream("echo"))
    for i = 1, 10 do
      assert.is_true(stream:send("m" .. i))
      assert.equal("m" .. i, stream:recv().data)
    end
    stream:finish()
    assert.is_nil((stream:recv()))
    assert.equal("hello", logged)
    assert.is_true(client:close())
    assert.equal("closed", client.state)
    assert.is_true(server:stop())
    assert.equal("stopped", server.state)
    assert.is_false(loop.current().core:alive())
  end)

  it("a luv callback that wants to wait is told how", function()
    local server, client = pair(function(server)
      server:add_rpc("x", function() return 1 end)
    end)
    local told, done
    local timer = uv.new_timer()
    timer:start(1, 0, function()
      timer:stop()
      told = select(2, pcall(client.request, client, "x"))
      client:request("x", function(value) done = value end) -- a callback needs no waiting
      client:emit("y", 1)
    end)
    while not done do
      echo.sleep(0.005)
    end
    assert.matches("echo.spawn", told)
    assert.equal(1, done)
    client:close()
    server:stop()
  end)

  it("a program that runs luv itself serves as well", function()
    local server, client = pair(function(server)
      server:add_rpc("x", function() return 1 end)
    end)
    local got
    client:request("x", function(value)
      got = value
      client:close(function()
        server:stop(function() end)
      end)
    end)
    local guard = uv.new_timer()
    guard:start(10000, 0, uv.stop)
    guard:unref()
    uv.run() -- ends by itself: nothing is left alive
    guard:stop()
    assert.equal(1, got)
    assert.equal("stopped", server.state)
  end)

  it("drops nothing alive behind: servers never started and clients never connected are collected", function()
    local weak = setmetatable({}, { __mode = "v" })
    do
      local server, client = echo.server { quiet = true }, echo.client { skip_verification = true }
      server:add_rpc("x", function() end):on_connect(function() end)
      weak[1], weak[2] = server, client
    end
    collectgarbage()
    collectgarbage()
    assert.is_nil(weak[1])
    assert.is_nil(weak[2])
  end)

  it("stopped servers and closed clients are collected", function()
    local weak = setmetatable({}, { __mode = "v" })
    do
      local server, client = pair(function(server)
        server:add_rpc("x", function() return 1 end)
      end)
      client:request("x")
      weak[1], weak[2], weak[3] = server, client, client.session
      client:close()
      server:stop()
    end
    echo.sleep(0.01)
    for _ = 1, 4 do
      collectgarbage()
    end
    assert.is_nil(weak[1])
    assert.is_nil(weak[2])
    assert.is_nil(weak[3])
  end)
end)

describe("a script", function()
  local head = [[
    local echo = require "echostream"
    io.stdout:setvbuf "line"
    local server = echo.server { bind = "127.0.0.1:0", quiet = true }
    server:add_rpc("slow", function() echo.sleep(0.4) return "done" end)
    server:add_rpc("never", function() echo.sleep(100) end)
  ]]
  local dir

  setup(function() dir = process.directory() end)
  teardown(function() process.remove(dir) end)

  local function start(text, opts)
    opts = opts or {}
    opts.seconds = opts.seconds or 20
    opts.env = { XDG_STATE_HOME = dir }
    process.write(dir .. "/script.lua", head .. text)
    return process.start(process.root .. "/.ci/env lua5.4 " .. dir .. "/script.lua", opts)
  end

  for _, signal in ipairs { "INT", "TERM" } do
    it("that runs a server ends gracefully on SIG" .. signal, function()
      local script = start [[
        server:on_stop(function() print "on_stop" end)
        server:on_start(function() echo.spawn(function()
          local client = assert(echo.connect(server.address, { pin = server.pin }))
          echo.spawn(function() print("result", client:request "slow") end)
          echo.sleep(0.1)
          print "ready"
        end) end)
        print("run", server:run())
      ]]
      script:expect "^ready"
      local code, rest = script:stop(signal)
      assert.equal(0, code, rest)
      assert.matches("result\tdone", rest)
      assert.matches("on_stop", rest)
      assert.matches("run\ttrue", rest)
    end)
  end

  it("that uses echo.run ends gracefully too", function()
    local script = start [[
      assert(server:start())
      echo.spawn(function() print "ready" end)
      print("run", echo.run())
      print(server.state)
    ]]
    script:expect "^ready"
    local code, rest = script:stop "TERM"
    assert.equal(0, code, rest)
    assert.matches("run\ttrue", rest)
    assert.matches("stopped", rest)
  end)

  it("ends at once at the second signal", function()
    local script = start [[
      server:on_start(function() echo.spawn(function()
        local client = assert(echo.connect(server.address, { pin = server.pin }))
        echo.spawn(function() client:request "never" end)
        echo.sleep(0.1)
        print "ready"
      end) end)
      echo.spawn(function() while server.state ~= "stopping" do echo.sleep(0.01) end echo.sleep(0.5) print "draining" end)
      server:run()
      print "never here"
    ]]
    script:expect "^ready"
    os.execute("kill -INT " .. script.pid)
    script:expect "^draining"
    local code, rest = script:stop "INT"
    assert.equal(130, code)
    assert.not_matches("never here", rest)
  end)

  it("is interrupted by Ctrl-C where it waits, and everything else stays as it was", function()
    local script = start [[
      assert(server:start())
      local client = assert(echo.connect(server.address, { pin = server.pin }))
      echo.spawn(function() echo.sleep(0.1) print "ready" end)
      local ok, err = pcall(client.request, client, "never")
      print("interrupted", ok, err)
      print("slow", client:request "slow")
      client:close()
    ]]
    script:expect "^ready"
    os.execute("kill -INT " .. script.pid)
    script:expect "^interrupted\tfalse\tinterrupted!"
    script:expect "^slow\tdone"
    assert.equal(0, (script:stop "CONT"))
  end)

  it("may end in the middle of everything", function()
    local script = start [[
      assert(server:start())
      local client = assert(echo.connect(server.address, { pin = server.pin }))
      local stream = client:create_stream "nobody"
      client:request("never", function() end)
      client:emit("x", 1)
      echo.sleep(0.05)
      print "end"
    ]]
    script:expect "^end"
    local code, rest = script:stop "CONT"
    assert.equal(0, code, rest)
  end)

  it("may call os.exit inside a handler", function()
    local script = start [[
      server:add_rpc("exit", function() os.exit(7, true) end)
      assert(server:start())
      local client = assert(echo.connect(server.address, { pin = server.pin }))
      print "ready"
      client:request "exit"
      print "never here"
    ]]
    script:expect "^ready"
    local code, rest = script:stop "CONT"
    assert.equal(7, code, rest)
  end)
end)
