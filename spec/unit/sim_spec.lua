local echo = require "echostream"
local sim = require "echostream.sim"

describe("a simulation", function()
  it("runs a function in virtual time and gives its results", function()
    local began = os.clock()
    local now, name = sim.run({ seed = 3 }, function(net)
      assert.is_true(echo.sleep(3600))
      return net:now(), "x"
    end)
    assert.is_true(now >= 3600 and now < 3600.1)
    assert.equal("x", name)
    assert.is_true(os.clock() - began < 1)
  end)

  it("passes on what the function raises", function()
    local ok, err = pcall(sim.run, function() error("inside") end)
    assert.is_false(ok)
    assert.matches("inside", err)
    ok, err = pcall(sim.run, function() error(echo.error("aborted", "x")) end)
    assert.is_false(ok)
    assert.equal("aborted", err.code)
  end)

  it("tells when nothing can happen any more", function()
    local ok, err = pcall(sim.run, function()
      require "echostream.task".await(function() end)
    end)
    assert.is_false(ok)
    assert.equal("deadlock", err.code)
  end)

  it("has a limit of virtual time", function()
    local ok, err = pcall(sim.run, { limit = 5 }, function() echo.sleep(100) end)
    assert.is_false(ok)
    assert.equal("timeout", err.code)
  end)

  it("leaves the real loop as it was", function()
    local before = require "echostream.loop".current()
    pcall(sim.run, function() error("x") end)
    assert.equal(before, require "echostream.loop".current())
  end)

  it("can be run inside a task of the real loop", function()
    assert.equal(7, echo.spawn(function() return sim.run(function() echo.sleep(7) return 7 end) end):wait())
  end)

  it("checks its options", function()
    assert.has_error(function() sim.run({ los = 1 }, print) end)
    assert.has_error(function() sim.run({ loss = 2 }, print) end)
    assert.has_error(function() sim.run({}) end)
  end)

  it("keeps a trace of every datagram's fate, which a seed repeats", function()
    local function trace(seed)
      return sim.run({ seed = seed, loss = 0.1, duplicate = 0.1, corrupt = 0.05, jitter = 0.003, trace = true }, function(net)
        local server = assert(echo.server { bind = "10.0.0.1:5000", quiet = true }:start())
        server:add_rpc("double", function(_, x) return 2 * x end)
        local client = assert(echo.connect("10.0.0.1:5000", { pin = server.pin }))
        for i = 1, 20 do assert(client:request("double", i)) end
        local lines = {}
        for _, r in ipairs(net:trace()) do
          lines[#lines + 1] = ("%.9f %d %s %s %s %s"):format(r.time, r.number, r.from, r.to, r.fate, r.corrupted)
        end
        assert.same({}, net:trace())
        return table.concat(lines, "\n"), net:stats()
      end)
    end
    local first, stats = trace(5)
    assert.equal(first, (trace(5)))
    assert.not_equal(first, (trace(6)))
    local count = {}
    for fate in first:gmatch "(%S+) %S+\n" do count[fate] = (count[fate] or 0) + 1 end
    assert.equal(stats.lost, count.lost)
    assert.is_true(math.abs(stats.delivered - count.delivered) <= 1) -- the last line has no end
    assert.equal(stats.duplicated, count.duplicated)
    assert.is_true(stats.corrupted > 0 and stats.marked == 0)
  end)

  it("writes the trace into a file", function()
    local path = os.tmpname()
    local _ <close> = setmetatable({}, { __close = function() os.remove(path) end })
    local sent = sim.run({ trace = path }, function(net)
      local server = assert(echo.server { bind = "10.0.0.1:5000", quiet = true }:start())
      assert(echo.connect("10.0.0.1:5000", { pin = server.pin, bind = "10.0.0.2:4000" }))
      net:trace()
      return net:stats().sent
    end)
    local n = 0
    for line in io.lines(path) do
      local fate = line:match "^%d+%.%d%d%d%d%d%d%d%d%d\t%d+\t10%.0%.0%.[12]:%d+\t10%.0%.0%.[12]:%d+\t%d+\t([%l_]+)$"
      assert.is_string(fate, line)
      n = n + (fate == "sent" and 1 or 0)
    end
    assert.is_true(sent > 0 and n >= sent)
    assert.has_error(function() sim.run({ trace = "/nowhere/at/all" }, print) end)
  end)

  it("changes addresses as a NAT does", function()
    sim.run({ seed = 2 }, function(net)
      local seen = {}
      local server = echo.server { bind = "10.0.0.1:5000", quiet = true }
      server:add_rpc("where", function(session)
        seen[#seen + 1] = session.peer_addr
        return true
      end)
      assert(server:start())
      local client = assert(echo.connect("10.0.0.1:5000", { pin = server.pin, bind = "10.0.0.2:4000" }))
      for _, to in ipairs { false, "10.9.9.9:77", "10.9.9.8:0" } do
        assert.is_true(net:rebind(to == "10.9.9.8:0" and "10.0.0.2:4000" or client, to or nil))
        assert.is_true(client:request "where")
        echo.sleep(1)
        assert.is_true(client:request "where")
      end
      local ok, err = net:rebind(client, "10.0.0.1:5000")
      assert.is_nil(ok)
      assert.equal("already_exists", err.code)
      ok, err = net:rebind "10.0.0.77:1"
      assert.is_nil(ok)
      assert.equal("not_found", err.code)
      assert.has_error(function() net:rebind(client, "home") end)
      assert.has_error(function() net:rebind() end)
      client:close()
      assert.equal("not_found", select(2, net:rebind(client)).code)
    end)
  end)

  it("has directions of their own, bursts, a queue that marks, and a path that comes and goes", function()
    sim.run({ seed = 4, limit = 600 }, function(net)
      local server = echo.server { bind = "10.0.0.1:5000", quiet = true }
      server:add_rpc("size", function(_, bytes) return #bytes end)
      assert(server:start())
      local client = assert(echo.connect("10.0.0.1:5000", { pin = server.pin, bind = "10.0.0.2:0", timeout = 120 }))
      local function timed(bytes)
        local began = net:now()
        assert.equal(#bytes, client:request("size", bytes))
        return net:now() - began
      end
      net:path({ delay = 0.3 }, "10.0.0.2", "10.0.0.1")
      local took = timed ""
      assert.is_true(took > 0.3 and took < 0.36, took)
      net:path { delay = 0.01, rate = 1e6, queue_bytes = 30000, mark = 10000 }
      assert.is_true(timed(("x"):rep(200000)) > 1.6)
      assert.is_true(net:stats().marked > 0)
      net:path { burst_enter = 0.02, burst_leave = 0.3, burst_loss = 0.9 }
      local before = net:stats().lost
      timed(("x"):rep(500000))
      assert.is_true(net:stats().lost > before)
      net:path { on = 2, off = 1 }
      for _ = 1, 20 do
        timed "x"
        echo.sleep(0.5)
      end
      assert.has_error(function() net:path { burst_enter = 2 } end)
      assert.has_error(function() net:path { off = -1 } end)
    end)
  end)
end)
