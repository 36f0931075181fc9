-- What servers do about those who are not connected yet.
local echo = require "echostream"
local net = require "spec.support.net"
local process = require "spec.support.process"

local function add(server)
  server:add_rpc("add", function(_, a, b) return a + b end)
end

local v2 = pcall(function()
  echo.sim.run({ limit = 60 }, function()
    local server = assert(echo.server { bind = "10.0.0.1:1", quiet = true, transport = { version = 2 } }:start())
    server:stop { grace = 0 }
  end)
end)

net.each(function(env)
  local function stats(server) return server:stats().endpoint end

  -- In the simulator every client is a host of its own, unless its address is given.
  local host = { bind = env.kind == "sim" and "10.9.9.9:0" or nil }

  describe("a server that always asks for a Retry", function()
    env.it("lets everybody in, and those who were here before at once", function()
      local server = env.server({ retry = "always" }, add)
      assert.is_true(stats(server).retrying)
      for _ = 1, 3 do
        local client = env.connect(server, { bind = host.bind })
        assert.equal(3, client:request("add", 1, 2))
        client:close()
      end
      local s = stats(server)
      assert.equal(1, s.retries) -- the first time; then it has a token, each time another one
      assert.same({ 3, 0, 3 }, { s.tokens_accepted, s.tokens_rejected, s.accepted })
    end)

    env.it("does not take a token for another address's, nor a client one for another server", function()
      local one = env.server({ retry = "always" }, add)
      local other = env.server({ retry = "always" }, add)
      env.connect(one, { bind = host.bind }):request("add", 1, 2)
      env.connect(other, { bind = host.bind }):request("add", 1, 2)
      assert.same({ 1, 1 }, { stats(one).retries, stats(other).retries })
      env.connect(one, { bind = env.kind == "sim" and "10.9.9.10:0" or "127.0.0.2:0" }):request("add", 1, 2)
      assert.same({ 2, 1 }, { stats(one).retries, stats(one).tokens_rejected })
    end)
  end)

  describe("a server that asks for a Retry when it has to", function()
    env.it("does not, usually", function()
      local server = env.server(nil, add)
      for _ = 1, 5 do
        assert.equal(3, env.connect(server):request("add", 1, 2))
      end
      local s = stats(server)
      assert.same({ 0, false, 5, 0 }, { s.retries, s.retrying, s.accepted, s.half_open })
    end)

    env.it("does above the threshold, and everybody gets in", function()
      local server = env.server({ retry_above = 2 }, add)
      local tasks = {}
      for i = 1, 20 do
        tasks[i] = echo.spawn(function() return env.connect(server):request("add", i, 1) end)
      end
      for i, task in ipairs(tasks) do
        assert.equal(i + 1, task:wait(10))
      end
      assert.is_true(stats(server).retries > 0)
      assert.equal(0, stats(server).half_open)
      assert.truthy(env.logged "newcomers must show theirs first (Retry)")
      assert.is_false(stats(server).retrying)
      local before = stats(server).retries
      env.connect(server):request("add", 1, 2)
      assert.equal(before, stats(server).retries)
    end)

    env.it("never does where that was said, and refuses those who are too many", function()
      local server = env.server({ retry = "never", max_half_open_per_address = 1 }, add)
      local tasks, refused = {}, 0
      for i = 1, 10 do
        tasks[i] = echo.spawn(function()
          return env.client(server, { bind = host.bind }):connect(server.address)
        end)
      end
      for _, task in ipairs(tasks) do
        local client, err = task:wait(10)
        if not client then
          refused = refused + 1
          assert.matches("the peer accepts no connections now", err.message)
        end
      end
      assert.is_true(refused > 0 and refused < 10, refused)
      assert.equal(0, stats(server).retries)
      assert.is_true(stats(server).refused >= refused) -- a client may ask more than once
      assert.equal(3, env.connect(server):request("add", 1, 2))
    end)
  end)

  describe("QUIC's version", function()
    env.it("is 1 if nothing is said", function()
      local server, client = env.pair(add)
      assert.equal(3, client:request("add", 1, 2))
      assert.equal(0, stats(server).version_negotiations)
    end)

    local function raw(listen, dial)
      local alpn = { "v" }
      local listener = assert(echo.quic.listen("127.0.0.1:0", { alpn = alpn, transport = listen, state_dir = net.state_dir() }))
      table.insert(env.opened, listener)
      local connection, err = echo.quic.connect(listener.address, { alpn = alpn, pin = listener.pin, transport = dial })
      if connection then table.insert(env.opened, connection) end
      return connection and connection:stats().quic_version, err
    end

    if v2 then
      env.it("is 2 where the client begins with it, or the server prefers it", function()
        assert.equal(1, raw())
        assert.equal(2, raw(nil, { version = 2 }))
        assert.equal(2, raw({ version = 2 }, nil))
        assert.equal(2, raw({ version = 2 }, { version = 2 }))
        assert.equal(1, raw({ version = 1 }, { version = 2 })) -- the server prefers it, the client offers both
        assert.equal(1, raw({ version = 1 }, { version = 1 }))
      end)
    else
      env.it("cannot be 2 with this library, and that is said", function()
        local version, err = raw(nil, { version = 2 })
        assert.is_nil(version)
        assert.matches("does not speak version 2 of QUIC", err.message)
        local server, problem = echo.server({ bind = "127.0.0.1:0", quiet = true, transport = { version = 2 },
          state_dir = net.state_dir() }):start()
        assert.is_nil(server)
        assert.matches("does not speak version 2 of QUIC", problem.message)
      end)
    end
  end)
end)

describe("a server that was killed and started again", function()
  local dir

  before_each(function() dir = process.directory() end)
  after_each(function() process.remove(dir) end)

  local script = [[
    local echo = require "echostream"
    local server = assert(echo.server { bind = "127.0.0.1:%d", state_dir = %q, quiet = true, secret = %s }:start())
    server:add_rpc("ping", function() return "pong" end)
    print(("at %%s %%s %%d"):format(server.address, server.pin, require "luv".os_getpid()))
    server:run()
  ]]

  local function start(port, secret)
    process.write(dir .. "/server.lua", script:format(port, dir, secret or "nil"))
    local running = process.start("lua5.4 " .. dir .. "/server.lua", { seconds = 30 })
    local address, pin, pid = running:expect "at (%S+) (%S+) (%d+)"
    return running, address, pin, pid
  end

  local function learn(secret)
    local port = process.free_port()
    local running, address, pin, pid = start(port, secret)
    local client = assert(echo.connect(address, { pin = pin }))
    assert.equal("pong", client:request "ping")
    os.execute("kill -KILL " .. pid)
    running:wait()
    running = start(port, secret)
    local began = echo.now()
    local result, err = client:with({ timeout = 10 }):request "ping"
    local took = echo.now() - began
    assert.is_nil(result)
    assert.equal("connection_closed", err.code)
    assert.matches("stateless reset", err.message)
    assert.is_true(took < 1, took)
    client:close()
    running:stop()
  end

  it("tells its clients with their next packet, by the secret that is kept with the key", function() learn() end)
  it("or by the one that it was given", function() learn '("s"):rep(32)' end)
end)
