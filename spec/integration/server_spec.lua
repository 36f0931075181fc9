local echo = require "echostream"
local net = require "spec.support.net"

net.each(function(env)
  describe("a server", function()
    env.it("has its real port, its pin and its certificate's hash", function()
      local server = env.server()
      assert.matches("^127%.0%.0%.1:%d+$", server.address)
      assert.not_equal("127.0.0.1:0", server.address)
      assert.matches("^sha256:%x+$", server.pin)
      assert.equal(71, #server.pin)
      assert.matches("^sha256:%x+$", server.cert_hash)
      assert.not_equal(server.pin, server.cert_hash)
      assert.equal("running", server.state)
    end)

    env.it("cannot be started twice", function()
      local server = env.server()
      assert.has_error(function() server:start() end)
      server:stop { grace = 0 }
      assert.has_error(function() server:start() end)
      assert.is_true(server:stop())
    end)

    env.it("runs its hooks", function()
      local order = {}
      local server = env.server({}, function(server)
        server:on_start(function(ctx) order[#order + 1] = "start " .. tostring(ctx == server.context) end)
        server:on_connect(function() order[#order + 1] = "connect" end)
        server:on_disconnect(function() order[#order + 1] = "disconnect" end)
        server:on_stop(function() order[#order + 1] = "stop" end)
      end)
      local client = env.connect(server)
      env.eventually(function() return #server:sessions() == 1 end)
      client:close()
      env.eventually(function() return #order == 3 end)
      server:stop()
      assert.same({ "start true", "connect", "disconnect", "stop" }, order)
    end)

    env.it("calls on_stopping before its peers are told, and goes on without it when the time is over", function()
      local seen, cancelled = {}, false
      local server, client = env.pair(function(server)
        server:add_rpc("one", function() return 1 end)
        server:on_stopping(function(context, grace)
          seen = { context == server.context, grace, client_served = server:sessions()[1]:is_open() }
          echo.sleep(0.02) -- what is asked meanwhile is answered
        end)
        server:on_stopping(function()
          local ok, err = echo.sleep(100)
          cancelled = not ok and err.code == "cancelled"
        end)
      end)
      assert.equal(1, client:request "one")
      local stopping = echo.spawn(function() return server:stop { grace = 0.3 } end)
      env.eventually(function() return #seen == 2 end)
      assert.equal(1, client:request "one")
      assert.is_true(stopping:wait(10))
      assert.same({ true, 0.3, client_served = true }, seen)
      env.eventually(function() return cancelled end)
      assert.equal("stopped", server.state)
    end)

    env.it("whose on_start fails does not start", function()
      local server = echo.server { bind = "127.0.0.1:0", quiet = true, state_dir = net.state_dir() }
      server:on_start(function() return nil, echo.error("failed_precondition", "no database") end)
      local ok, err = server:start()
      assert.is_nil(ok)
      assert.equal("failed_precondition", err.code)
      assert.equal("stopped", server.state)
    end)

    env.it("drains: calls under way end, new ones are refused as unprocessed", function()
      local server, client = env.pair(function(server)
        server:add_rpc("slow", function() echo.sleep(0.3) return "done" end)
        server:add_rpc("quick", function() return 1 end)
      end)
      local slow = echo.spawn(function() return client:request("slow") end)
      echo.sleep(0.1)
      local stopping = echo.spawn(function() return server:stop { grace = 5 } end)
      echo.sleep(0.1)
      assert.is_true(client.session.draining)
      local value, err = client:request("quick")
      assert.is_nil(value)
      assert.equal("unavailable", err.code)
      assert.equal("no", err.processed)
      assert.equal("done", slow:wait(5))
      local began = echo.now()
      assert.is_true(stopping:wait(5))
      assert.is_true(echo.now() - began < 2)
      assert.equal("stopped", server.state)
    end)

    env.it("waits no longer than its grace", function()
      local server, client = env.pair(function(server)
        server:add_rpc("never", function() echo.sleep(100) end)
      end)
      local call = echo.spawn(function() return client:request("never") end)
      echo.sleep(0.1)
      local began = echo.now()
      server:stop { grace = 0.3 }
      local took = echo.now() - began
      assert.is_true(took >= 0.29 and took < 3, tostring(took))
      local value = call:wait(5)
      assert.is_nil(value)
    end)

    env.it("can be stopped by its own handler", function()
      local server, client = env.pair(function(server)
        server:add_rpc("stop", function()
          server:stop { grace = 2 }
          return "stopping"
        end)
      end)
      assert.equal("stopping", client:request("stop"))
      env.eventually(function() return server.state == "stopped" end)
    end)

    env.it("run() in a task lasts until it is stopped", function()
      local server = echo.server { bind = "127.0.0.1:0", quiet = true, state_dir = net.state_dir() }
      table.insert(env.opened, server)
      local running = echo.spawn(function() return server:run() end)
      env.eventually(function() return server.state == "running" end)
      server:stop()
      assert.is_true(running:wait(5))
    end)

    env.it("refuses nonsense", function()
      assert.has_error(function() echo.server { bind = "nowhere" } end)
      assert.has_error(function() echo.server { bnd = "127.0.0.1:0" } end)
      assert.has_error(function() echo.server { cert = "cert.pem" } end)
      assert.has_error(function() echo.server { transport = { idle_timeout = "long" } } end)
      assert.has_error(function() echo.server { transport = { skip_verification = true } } end)
      assert.has_error(function() echo.server { transport = { enable_0rtt = "yes" } } end)
    end)

    env.it("says why it cannot listen", function()
      local server = env.server()
      local other = echo.server { bind = server.address, quiet = true, state_dir = net.state_dir() }
      local ok, err = other:start()
      assert.is_nil(ok)
      assert.is_true(err.code == "io" or err.code == "already_exists", err.code)
      other = echo.server { cert = "/no/such/cert.pem", key = "/no/such/key.pem", quiet = true }
      ok, err = other:start()
      assert.is_nil(ok)
      assert.is_true(echo.is_error(err))
    end)

    env.it("keeps its pin over restarts, with a new certificate", function()
      local dir = net.state_dir()
      local one = env.server { state_dir = dir }
      local pin, hash = one.pin, one.cert_hash
      one:stop { grace = 0 }
      local two = env.server { state_dir = dir }
      assert.equal(pin, two.pin)
      assert.not_equal(hash, two.cert_hash)
    end)

    env.it("takes the seed's TLS and transport names", function()
      local server, client = env.pair(function(server)
        server:add_rpc("x", function() return 1 end)
      end, { transport = { self_signed_cert = { "localhost" }, congestion_control = "newreno", max_concurrent_streams = 50 } },
      { transport = { congestion_control = "cubic", idle_timeout = 10 } })
      assert.equal(1, client:request("x"))
      assert.equal("running", server.state)
      assert.is_true(client:stats().idle_timeout <= 10)
    end)
  end)
end)
