-- Large data over several streams at once.

local echo = require "echostream"
local net = require "spec.support.net"

-- Waits until it is so; the time limit of the spec is the only one, because a busy machine may stand still for seconds.
local function till(fn)
  while not fn() do echo.sleep(0.005) end
end

local function noise(n)
  local parts = {}
  for i = 1, n // 16 + 1 do parts[i] = ("%016d"):format(i * 7919) end
  return table.concat(parts):sub(1, n)
end

net.each(function(env)
  describe("split data", function()
    env.it("arrives whole, over one connection and over several", function()
      local server, client = env.pair()
      local other = env.connect(server)
      local got
      echo.split.receive(server, "upload", function(session, data)
        got = data
        return #data, session.id ~= nil
      end)
      for _, size in ipairs { 0, 1, 65536, 65537, 1000003 } do
        local data = noise(size)
        assert.same({ size, true }, { echo.split.send(client, "upload", data) })
        assert.is_true(got == data)
        assert.equal(size, (echo.split.send({ client, other }, "upload", data, { streams = 7 })))
        assert.is_true(got == data)
      end
      local called
      echo.split.send(client.session, "upload", "small", function(n) called = n end):wait()
      assert.equal(5, called)
      echo.split.receive(client, "download", function() end) -- from the server, too
      assert.is_true(echo.split.send(server:sessions()[1], "download", noise(200000)))
    end)

    env.it("is bounded, and fails as a whole", function()
      local server, client = env.pair()
      echo.split.receive(server, "upload", function() return nil, echo.error("aborted", "no room") end, { max = 300000, transfers = 1 })
      local ok, err = echo.split.send(client, "upload", noise(300001))
      assert.is_nil(ok)
      assert.equal("resource_exhausted", err.code)
      ok, err = echo.split.send(client, "upload", noise(300000))
      assert.is_nil(ok)
      assert.equal("aborted", err.code)
      assert.equal("method_not_found", select(2, echo.split.send(client, "nothing", "x")).code)
      -- parts that make no sense; the one that is never completed occupies the only place
      local function part(...)
        local stream = client:stream("upload", ...)
        stream:finish()
        return select(2, stream:result())
      end
      assert.equal("invalid_argument", part("short", 1, 1, 1).code)
      assert.equal("invalid_argument", part(("x"):rep(16), 2, 1, 1).code)
      assert.equal("data_loss", part(("x"):rep(16), 1, 1, 10).code)
      local hanging = client:stream("upload", ("y"):rep(16), 1, 2, 100)
      hanging:send "some"
      till(function() return server:stats().streams_in >= 1 and client:is_open() end)
      local second
      repeat -- until the server has heard of the first
        second = select(2, echo.split.send(client, "upload", "x"))
      until second.code == "resource_exhausted"
      hanging:reset(1)
      repeat second = select(2, echo.split.send(client, "upload", "x")) until second.code == "aborted"
      assert.has_error(function() echo.split.send({}, "upload", "x") end)
      assert.has_error(function() echo.split.send(client, "upload", "x", { streams = 0 }) end)
      assert.has_error(function() echo.split.receive(server, "y", print, { max = "much" }) end)
    end)
  end)
end)

net.only("sim", function(env)
  describe("split data", function()
    env.it("is forgotten when the other parts never come", function()
      local server, client = env.pair()
      echo.split.receive(server, "upload", function() end, { transfers = 1, timeout = 5 })
      local first = client:stream("upload", ("y"):rep(16), 1, 2, 100)
      first:send "some"
      first:finish()
      assert.is_false(first:result())
      assert.equal("resource_exhausted", select(2, echo.split.send(client, "upload", "x")).code)
      echo.sleep(11)
      assert.is_true(echo.split.send(client, "upload", "x"))
    end)

    env.it("survives loss", function()
      local server, client = env.pair()
      local got
      echo.split.receive(server, "upload", function(_, data) got = data end)
      local data = noise(2000000)
      assert.is_true(echo.split.send(client, "upload", data, { streams = 8 }))
      assert.is_true(got == data)
    end, { seed = 5, loss = 0.05 })
  end)
end)
