-- RELIABILITY T4 from the outside: what a peer sends that is of no use is counted, and honest work never trips the count.

local echo = require "echostream"
local net = require "spec.support.net"

net.each(function(env)
  describe("a peer's glitch budget", function()
    env.it("closes who keeps asking for what nobody offers, and nobody else", function()
      local server = env.server({ transport = { glitch_budget = 500 } }, function(server)
        server:add_rpc("echo", function(_, x) return x end)
      end)
      local client, other = env.connect(server), env.connect(server)
      local refused, err = 0, nil
      for _ = 1, 5000 do
        local _, e = client:request("no.such.method")
        if e.code ~= "method_not_found" then
          err = e
          break
        end
        refused = refused + 1
      end
      assert.is_true(refused >= 300, refused .. " calls were refused before the end")
      assert.equal("connection_closed", err.code)
      assert.matches("too many requests that cannot be served", err.message)
      assert.equal(7, other:request("echo", 7))
    end)

    env.it("is not spent by calls, cancels, events and tiny messages", function()
      local _, client = env.pair(function(server)
        server:add_rpc("echo", function(_, x) return x end)
        server:add_rpc("wait", function() echo.sleep(60) end)
        server:add_event("note", function() end)
        server:add_stream("tiny", function(_, stream)
          for frame in stream:frames() do
            stream:send(frame.data)
          end
        end)
      end)
      for _ = 1, 20 do
        local tasks = {}
        for i = 1, 50 do
          tasks[i] = echo.spawn(function() return client:request("wait") end)
          client:emit("note", i)
        end
        assert.equal(1, client:request("echo", 1))
        for i = 1, 50 do
          tasks[i]:cancel()
        end
        assert.equal(2, client:request("echo", 2))
      end
      local stream = assert(client:create_stream("tiny"))
      for i = 1, 500 do
        assert(stream:send("x"))
        if i % 10 == 0 then
          for _ = 1, 10 do
            assert.equal("x", stream:recv().data)
          end
        end
      end
      stream:close()
      assert.equal(3, client:request("echo", 3))
    end)

    env.it("of 0 lets everything pass", function()
      local _, client = env.pair(nil, { transport = { glitch_budget = 0 } })
      for _ = 1, 5000 do
        local _, err = client:request("no.such.method")
        assert.equal("method_not_found", err.code)
      end
    end)
  end)
end)

-- A peer of echostream/1 by hand: HELLO, and then whatever the spec writes.
local HELLO = "\x00\x00\x1e\x00\x00\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"
  .. "\x02\x01\x04\x80\x40\x00\x00\x03\x02\x40\x64"

net.each(function(env)
  local function raw(server, transport)
    local peer = assert(echo.quic.connect(server.address, { alpn = { "echostream/1" }, pin = server.pin, transport = transport }))
    table.insert(env.opened, peer)
    local control = assert(peer:open_uni_stream()) -- to be kept: a stream that nobody holds is reset
    assert(control:write(HELLO))
    return peer, control
  end

  describe("a request", function()
    env.it("that does not come whole within assembly_timeout is answered with timeout, and the session lives on", function()
      local server = env.server({ assembly_timeout = 0.2 }, function(server)
        server:add_rpc("echo", function(_, x) return x end)
      end)
      local peer, control = raw(server)
      local slow = assert(peer:open_bi_stream())
      local began = echo.now()
      assert(slow:write "\x02\x0c\x00\x01")
      assert.matches("timeout", slow:read_to_end())
      local took = echo.now() - began
      assert.is_true(took >= 0.2 and took < 2, tostring(took))
      local whole = assert(peer:open_bi_stream())
      assert(whole:write "\x02\x0d\x00\x01\x05\x04echo\x00\x03\x00\x91\x07")
      assert(whole:finish())
      assert.equal("\x04\x06\x00\x01\x00\x00\x91\x07", whole:read_to_end())
      control:finish()
    end)

    env.it("may take its time when the server says so", function()
      local server = env.server({ assembly_timeout = 0 }, function(server)
        server:add_rpc("echo", function(_, x) return x end)
      end)
      local peer, control = raw(server)
      local slow = assert(peer:open_bi_stream())
      assert(slow:write "\x02\x0d\x00\x01")
      echo.sleep(0.5)
      assert(slow:write "\x05\x04echo\x00\x03\x00\x91\x07")
      assert(slow:finish())
      assert.equal("\x04\x06\x00\x01\x00\x00\x91\x07", slow:read_to_end())
      control:finish()
    end)
  end)

  describe("a peer that reads none of its answers", function()
    env.it("gets no more than hold_cap of them made, and is closed after stall_timeout", function()
      local ran = 0
      local server = env.server({ transport = { hold_cap = 1 << 20, stall_timeout = 0.5 } }, function(server)
        server:add_rpc("blob", function()
          ran = ran + 1
          return ("x"):rep(65536)
        end)
      end)
      local peer, control = raw(server, { stream_window = 1024, connection_window = 4096, keep_alive = 0.05 })
      local streams = {}
      for id = 1, 60 do
        local stream = assert(peer:open_bi_stream())
        streams[id] = stream
        assert(stream:write("\x02\x0c\x00\x01" .. string.char(id) .. "\x04blob\x00\x03\x00\x90"))
        assert(stream:finish())
      end
      local reason = peer:wait_closed(10)
      assert.equal(60, #streams)
      assert.is_nil((control:write "x"))
      assert.equal(5, reason.details.code)
      assert.matches("takes nothing", reason.message)
      assert.is_true(ran >= 15 and ran <= 18, ran .. " handlers ran")
      local client = env.connect(server)
      assert.equal(65536, #client:request("blob"))
    end)
  end)
end)

describe("what a connection holds", function()
  net.only("sim", function(env)
    -- A client of ten streams that it does not read, each with a whole window, and one call beside them.
    local function beside(raise)
      local server = env.server(nil, function(server)
        server:add_rpc("blob", function() return ("x"):rep(65536) end)
        server:add_stream("pour", function(_, stream)
          while stream:send(("y"):rep(16384)) do end -- until the client is gone
        end)
      end)
      local client = env.connect(server, { transport = { hold_cap = 1 << 20, connection_window = 1 << 20 } })
      if raise then assert.is_true(client.session:set_hold_cap(raise)) end
      local streams = {}
      for i = 1, 10 do streams[i] = assert(client:create_stream "pour") end
      echo.sleep(0.5)
      local blob, err = client:with({ timeout = 2 }):request "blob"
      assert.equal(10, #streams)
      local session = client.session
      client:close()
      assert.is_false(session:set_hold_cap(1 << 20))
      return blob and #blob, err and err.code
    end

    env.it("keeps others waiting at its cap, which may be raised for a session whose streams wait for slow readers", function()
      assert.same({ nil, "timeout" }, { beside() })
      assert.equal(65536, (beside(16 << 20)))
    end)
  end)

  it("is a sensible number", function()
    local server <close> = assert(echo.server { bind = "127.0.0.1:0", quiet = true }:start())
    local client <close> = assert(echo.connect(server.address, { pin = server.pin }))
    assert.has_error(function() client.session:set_hold_cap(1023) end)
    assert.has_error(function() client.session:set_hold_cap "much" end)
  end)
end)

describe("transport options that defend", function()
  it("are checked", function()
    assert.has_error(function() echo.server { transport = { glitch_budget = -1 } } end)
    assert.has_error(function() echo.server { transport = { memory_cap = 0 } } end)
    assert.has_error(function() echo.server { transport = { hold_cap = 1 } } end)
    assert.has_error(function() echo.server { transport = { stall_timeout = "long" } } end)
    assert.has_error(function() echo.server { assembly_timeout = -1 } end)
    assert.is_truthy(echo.server { transport = { glitch_budget = 0, memory_cap = 1 << 20 } })
  end)
end)
