local echo = require "echostream"
local errors = require "echostream.errors"
local net = require "spec.support.net"

local quic = echo.quic

net.each(function(env)
  local function listen(opts)
    opts = opts or {}
    opts.alpn = opts.alpn or { "test/1" }
    if env.kind == "quic" then opts.state_dir = opts.state_dir or net.state_dir() end
    local listener = assert(quic.listen("127.0.0.1:0", opts))
    table.insert(env.opened, listener)
    return listener
  end

  describe("a listener", function()
    env.it("has a real address, a pin and a certificate hash", function()
      local listener = listen()
      assert.matches("^127%.0%.0%.1:%d+$", listener.address)
      assert.not_equal("127.0.0.1:0", listener.address)
      assert.matches("^sha256:%x+$", listener.pin)
      assert.equal(71, #listener.pin)
      assert.matches("^sha256:%x+$", listener.cert_hash)
      assert.matches("listener 127", tostring(listener))
    end)

    env.it("gives the connections in the protocol that was chosen", function()
      local listener = listen { alpn = { "b/2", "a/1" } }
      for _, name in ipairs { "a/1", "b/2" } do
        local there = assert(quic.connect(listener.address, { alpn = { name }, pin = listener.pin }))
        local here = assert(listener:accept())
        assert.equal(name, here.alpn)
        assert.equal(name, there.alpn)
        assert.is_true(here.incoming)
        assert.is_false(there.incoming)
        assert.equal(listener.address, there:peer_addr())
        assert.equal(there:export_key("EXPORTER-spec", 32, "c"), assert(here:export_key("EXPORTER-spec", 32, "c")))
        assert.matches("^%d+%.%d+%.%d+%.%d+:%d+$", here:peer_addr())
        there:close()
      end
    end)

    env.it("waits for a connection, and not for ever when told so", function()
      local listener = listen()
      local none, err = listener:accept(0.05)
      assert.is_nil(none)
      assert.equal("timeout", err.code)
      local task = echo.spawn(function() return listener:accept() end)
      echo.sleep(0.01)
      local there = assert(quic.connect(listener.address, { alpn = { "test/1" }, pin = listener.pin }))
      local here = assert(task:wait())
      assert.is_true(here.incoming)
      there:close()
    end)

    env.it("closes its connections and wakes who waits when it is closed", function()
      local listener = listen()
      local there = assert(quic.connect(listener.address, { alpn = { "test/1" }, pin = listener.pin }))
      assert(listener:accept())
      local task = echo.spawn(function()
        local _, err = listener:accept()
        return err
      end)
      echo.sleep(0.01)
      assert.is_true(listener:close())
      assert.is_true(listener:close())
      assert.equal("connection_closed", task:wait().code)
      local reason = there:wait_closed(2)
      assert.equal("connection_closed", reason.code)
      assert.equal("peer", reason.details.cause)
      local _, err = listener:accept()
      assert.equal("connection_closed", err.code)
    end)

    env.it("takes callbacks in place of waiting", function()
      local listener, results = nil, {}
      local opts = { alpn = { "test/1" }, state_dir = env.kind == "quic" and net.state_dir() or nil }
      quic.listen("127.0.0.1:0", opts, function(l) listener = l end):wait()
      table.insert(env.opened, listener)
      listener:accept(function(connection) results.accepted = connection end)
      quic.connect(listener.address, { alpn = { "test/1" }, pin = listener.pin }, function(connection)
        results.connected = connection
      end):wait()
      env.eventually(function() return results.accepted end, "accept's callback")
      assert.is_true(results.accepted.incoming)
      results.connected:close()
    end)
  end)

  describe("connecting", function()
    env.it("is refused without a way to know the server", function()
      local listener = listen()
      local nothing, err = quic.connect(listener.address, { alpn = { "test/1" } })
      assert.is_nil(nothing)
      assert.equal("unauthenticated", err.code)
      assert.matches("pin", err.message)
    end)

    env.it("fails for a wrong pin, and says why", function()
      local listener = listen()
      local nothing, err = quic.connect(listener.address, { alpn = { "test/1" }, pin = "sha256:" .. ("0"):rep(64) })
      assert.is_nil(nothing)
      assert.is_true(errors.is_error(err))
      assert.matches("expected sha256:0000", err.message)
    end)

    env.it("fails when the server does not speak the protocol", function()
      local listener = listen()
      local nothing, err = quic.connect(listener.address, { alpn = { "other/1" }, pin = listener.pin, timeout = 5 })
      assert.is_nil(nothing)
      assert.is_true(errors.is_error(err))
      assert.not_equal("timeout", err.code)
    end)

    env.it("can do without verification, which is logged", function()
      local listener = listen()
      local there = assert(quic.connect(listener.address, { alpn = { "test/1" }, skip_verification = true }))
      assert.is_truthy(env.logged "without verifying")
      there:close()
    end)

    env.it("gives up after its time", function()
      local nothing, err = quic.connect(env.kind == "sim" and "10.9.9.9:1" or "127.0.0.1:9",
        { alpn = { "test/1" }, skip_verification = true, timeout = 0.3 })
      assert.is_nil(nothing)
      assert.is_truthy(err.code == "timeout" or err.code == "unavailable" or err.code == "connection_closed", tostring(err))
    end)
  end)
end)

describe("echo.quic", function()
  it("checks its options", function()
    local function raises(pattern, fn, ...)
      local ok, err = pcall(fn, ...)
      assert.is_false(ok)
      assert.matches(pattern, err)
    end
    raises('option "alpn" is missing', quic.listen, 5000, {})
    raises('"alpn" wants a list', quic.listen, 5000, { alpn = {} })
    raises('"alpn" wants names', quic.listen, 5000, { alpn = { ("x"):rep(256) } })
    raises("unknown option", quic.listen, 5000, { alpn = { "a" }, certificate = "x" })
    raises('"cert" needs "key"', quic.listen, 5000, { alpn = { "a" }, cert = "x" })
    raises("is not an address", quic.listen, "nowhere", { alpn = { "a" } })
    raises("one name", quic.connect, "127.0.0.1:1", { alpn = { "a", "b" }, skip_verification = true })
    raises("belong together", quic.connect, "127.0.0.1:1", { alpn = { "a" }, cert = "x" })
    raises('"pin" wants', quic.connect, "127.0.0.1:1", { alpn = { "a" }, pin = "nonsense" })
  end)
end)
