-- Byte-stream sockets on the loop: lua/echostream/loop/socket.lua.

local busted = require "busted"
local echo = require "echostream"
local log = require "echostream.log"
local scratch = require "spec.support.scratch"
local socket = require "echostream.loop.socket"
local describe, it, after_each = busted.describe, busted.it, busted.after_each

-- Sends each piece back until the peer's end.
local function echoing(connection)
  return function(data)
    if data then
      connection:send(data)
    else
      connection:close()
    end
  end
end

-- Connects, sends `text`, and gives back all that came until the other end finished.
local function talk(place, text)
  local parts = {}
  return echo.await(function(resume)
    socket.connect(place, function(connection, err, name)
      if not connection then
        return resume(nil, err, name)
      end
      connection:send(text, function()
        connection:finish()
      end)
      return function(data)
        if data then
          parts[#parts + 1] = data
        else
          connection:close()
          resume(table.concat(parts), connection.peer_addr)
        end
      end
    end)
  end, 30)
end

describe("sockets on the loop", function()
  local open

  local function listening(place, accept)
    open = assert(socket.listen(place, accept or echoing))
    return open
  end

  after_each(function()
    log.set(nil)
    if open then
      open.close()
      open.close()
      echo.run(0.001)
    end
  end)

  it("carry bytes both ways over TCP, more than a kernel's buffer holds", function()
    local listener = listening { ip = "127.0.0.1", port = 0 }
    local text = ("0123456789abcdef"):rep(65536 * 4)
    local got, peer = talk({ ip = "127.0.0.1", port = listener.port }, text)
    assert.is_true(got == text)
    assert.equal("127.0.0.1:" .. listener.port, peer)
  end)

  it("carry bytes over a unix socket that only its owner may use and that is gone after the close", function()
    local path = scratch.path()
    local listener = listening { path = path }
    assert.equal("hello", (talk({ path = path }, "hello")))
    local pipe <close> = assert(io.popen("stat -c %a '" .. path .. "'"))
    assert.equal("600", pipe:read "l")
    listener.close()
    echo.run(0.001)
    local got, err, name = talk({ path = path }, "hello")
    assert.is_nil(got)
    assert.matches("ENOENT", err)
    assert.equal("ENOENT", name)
  end)

  it("are closed by whoever gives up, before they are connected and afterwards", function()
    local greeted, gone -- by the second; the first may come and go or never come
    local listener = listening({ ip = "127.0.0.1", port = 0 }, function(connection)
      local ours = false
      return function(data)
        if data then
          ours, greeted = true, true
        else
          gone = gone or ours
          connection:close()
        end
      end
    end)
    local place = { ip = "127.0.0.1", port = listener.port }
    local got, err = echo.await(function(resume)
      return socket.connect(place, function() resume "connected" end)
    end, 0)
    assert.is_true(got == nil and err.code == "timeout")

    local cancel = socket.connect(place, function(connection)
      connection:send "hello"
      return function() end
    end)
    local function wait_for(condition)
      assert.is_true(echo.spawn(function()
        while not condition() do echo.sleep(0.001) end
      end):wait(30))
    end
    wait_for(function() return greeted end)
    assert.is_falsy(gone)
    cancel()
    cancel()
    wait_for(function() return gone end)
  end)

  it("say what is wrong when nobody listens, or somebody does already", function()
    local listener = listening { ip = "127.0.0.1", port = 0 }
    local taken, err, name = socket.listen({ ip = "127.0.0.1", port = listener.port }, echoing)
    assert.is_nil(taken)
    assert.matches("EADDRINUSE", err)
    assert.equal("EADDRINUSE", name)
    listener.close()
    echo.run(0.001)
    local got, problem, what = talk({ ip = "127.0.0.1", port = listener.port }, "x")
    assert.is_nil(got)
    assert.matches("ECONNREFUSED", problem)
    assert.equal("ECONNREFUSED", what)
  end)

  it("have paths of 107 bytes at most, instead of other ones than were meant", function()
    local long = "/tmp/" .. ("x"):rep(103)
    local made, err, name = socket.listen({ path = long }, echoing)
    assert.is_nil(made)
    assert.matches("at most 107 bytes", err)
    assert.equal("ENAMETOOLONG", name)
    local got, problem, what = talk({ path = long }, "x")
    assert.is_nil(got)
    assert.matches("at most 107 bytes", problem)
    assert.equal("ENAMETOOLONG", what)
    assert.is_nil(io.open(long:sub(1, 107)))
  end)

  it("slow a peer down while they are paused", function()
    local held
    local listener = listening({ ip = "127.0.0.1", port = 0 }, function(connection)
      held = connection
      local got = 0
      return function(data)
        if not data then
          connection:send(tostring(got))
          return connection:finish()
        elseif got == 0 then
          connection:pause()
          connection:after(0.01, function() connection:resume() end)
        end
        got = got + #data
      end
    end)
    local got = talk({ ip = "127.0.0.1", port = listener.port }, ("x"):rep(1 << 20))
    assert.equal(tostring(1 << 20), got)
    assert.equal(0, held:queued())
    held:close()
    held:close()
    assert.equal(0, held:queued())
  end)

  it("log what a callback raises and close that connection alone", function()
    local lines = {}
    log.set(function(record) lines[#lines + 1] = record.message end)
    local listener = listening({ ip = "127.0.0.1", port = 0 }, function()
      return function() error "broken on purpose" end
    end)
    assert.equal("", (talk({ ip = "127.0.0.1", port = listener.port }, "x")))
    assert.matches("broken on purpose", table.concat(lines, "\n"))
  end)

  it("are not there in a simulation", function()
    echo.sim.run(function()
      local listener, err = socket.listen({ ip = "127.0.0.1", port = 0 }, echoing)
      assert.is_nil(listener)
      assert.matches("simulation", err)
    end)
  end)
end)
