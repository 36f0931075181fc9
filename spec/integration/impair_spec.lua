-- The impairment proxy does what its options say.

local echo = require "echostream"
local impair = require "spec.support.impair"
local process = require "spec.support.process"
local uv = require "luv"

local COMMAND = "lua5.4 spec/support/impair.lua "

-- A socket that answers every datagram with the same, and one that asks.
local function peers(opts, fn)
  local far, near = uv.new_udp(), uv.new_udp()
  assert(far:bind("127.0.0.1", 0))
  assert(near:bind("127.0.0.1", 0))
  local t = { seen = {}, got = {}, from = {} }
  far:recv_start(function(_, data, from)
    if data and from then
      t.seen[#t.seen + 1] = data
      t.from[#t.from + 1] = from.ip .. ":" .. from.port
      far:try_send(data, from.ip, from.port)
    end
  end)
  near:recv_start(function(_, data)
    if data then t.got[#t.got + 1] = { data = data, at = uv.hrtime() / 1e9 } end
  end)
  opts.to = "127.0.0.1:" .. far:getsockname().port
  local proxy = impair.new(opts)
  local port = tonumber(proxy.address:match ":(%d+)$")
  function t.send(data)
    assert(near:try_send(data, "127.0.0.1", port))
  end
  -- Until `done()` or five seconds are over.
  function t.wait(done)
    local ends = uv.hrtime() + 5e9
    while not done() and uv.hrtime() < ends do
      echo.sleep(0.002)
    end
    assert.is_true(done())
  end
  local ok, err = pcall(fn, t, proxy)
  proxy:close()
  far:close()
  near:close()
  echo.sleep(0.001) -- luv 1.44 does not bear handles that are still closing at exit
  if not ok then error(err, 0) end
end

local function known(proxy) -- every datagram's fate is decided
  return proxy:stats().up.sent
end

describe("the impairment proxy", function()
  it("passes on what comes, both ways", function()
    peers({}, function(t, proxy)
      for i = 1, 50 do t.send("x" .. i) end
      t.wait(function() return #t.got == 50 end)
      assert.equal("x50", t.got[50].data)
      local stats = proxy:stats()
      assert.equal(50, stats.up.delivered)
      assert.equal(50, stats.down.sent)
    end)
  end)

  it("loses as much as it is told, the same datagrams for the same seed, and those that are named", function()
    local function lost(seed)
      local seen
      peers({ up = { loss = 0.3 }, seed = seed }, function(t, proxy)
        for i = 1, 100 do t.send(tostring(i)) end
        t.wait(function() return known(proxy) == 100 and #t.seen == proxy:stats().up.delivered end)
        seen = table.concat(t.seen, " ")
        assert.is_true(proxy:stats().up.lost > 15 and proxy:stats().up.lost < 45)
      end)
      return seen
    end
    assert.equal(lost(1), lost(1))
    assert.not_equal(lost(1), lost(2))
    peers({ up = { drops = "2,3" } }, function(t)
      for i = 1, 4 do t.send(tostring(i)) end
      t.wait(function() return #t.got == 2 end)
      assert.same({ "1", "4" }, t.seen)
    end)
  end)

  it("loses in bad times", function()
    peers({ up = { burst_enter = 0.05, burst_leave = 0.3 } }, function(t, proxy)
      for _ = 1, 300 do t.send "x" end
      t.wait(function() return known(proxy) == 300 end)
      assert.is_true(proxy:stats().up.lost > 10 and proxy:stats().up.lost < 120, proxy:stats().up.lost)
    end)
  end)

  it("delays each direction, duplicates, and changes one byte within the span", function()
    peers({ up = { delay = 0.05, duplicate = 1 }, down = { corrupt = 1, corrupt_span = 3 } }, function(t, proxy)
      local began = uv.hrtime() / 1e9
      t.send(("a"):rep(100))
      t.wait(function() return #t.got == 2 end)
      assert.is_true(t.got[1].at - began >= 0.049, t.got[1].at - began)
      local changed = t.got[1].data
      assert.not_equal(("a"):rep(100), changed)
      assert.equal(("a"):rep(97), changed:sub(4))
      assert.equal(2, proxy:stats().down.corrupted)
    end)
  end)

  it("limits the rate, with a queue that drops its tail", function()
    for _, queue in ipairs { { queue = 10 }, { queue_bytes = 10000 } } do
      local opts = { rate = 1e6 }
      for key, value in pairs(queue) do opts[key] = value end
      peers({ up = opts }, function(t, proxy)
        local began = uv.hrtime() / 1e9
        for _ = 1, 20 do t.send(("x"):rep(972)) end -- 8 ms each, with headers
        t.wait(function() return known(proxy) == 20 and #t.got == proxy:stats().up.delivered and #t.got >= 10 end)
        assert.is_true(#t.got <= 14, #t.got) -- some leave while the last are sent
        assert.is_true(t.got[#t.got].at - began >= 0.07)
        assert.equal(20 - #t.got, proxy:stats().up.queue_dropped)
      end)
    end
  end)

  it("goes away, once or again and again, and drops what is too long", function()
    peers({ mtu = 100, up = { on = 1000, off = 1 } }, function(t, proxy)
      t.send(("x"):rep(101))
      t.send "1"
      t.wait(function() return #t.got == 1 end)
      proxy:set { up = { on = 0, off = 1000 } }
      t.send "2"
      t.wait(function() return proxy:stats().up.lost == 2 end)
      proxy:set { off = 0 }
      proxy:gone(1000)
      t.send "3"
      t.wait(function() return proxy:stats().up.lost == 3 end)
      proxy:gone(0)
      t.send "4"
      t.wait(function() return #t.got == 2 end)
      assert.equal("4", t.got[2].data)
    end)
  end)

  it("changes the address that the server sees", function()
    peers({ rebind_address = 1 }, function(t, proxy)
      t.send "1"
      t.wait(function() return #t.got == 1 end)
      proxy:rebind()
      t.send "2"
      t.wait(function() return #t.got == 2 end)
      assert.not_equal(t.from[1], t.from[2])
      assert.not_equal(t.from[1]:match "^[^:]+", t.from[2]:match "^[^:]+")
      assert.equal(1, proxy:stats().rebinds)
    end)
  end)

  it("is a command with a help, commands on its input, counters at its end, and a trace", function()
    local help = process.run(COMMAND .. "--help")
    assert.equal(0, help.code)
    assert.matches("usage: ", help.out)
    for name in pairs(require "spec.support.impair_path".defaults) do
      assert.is_truthy(help.out:find("%f[%w_]" .. name .. "="), name)
    end
    for _, bad in ipairs { "127.0.0.1:9 lss=1", "127.0.0.1:9 loss=much", "nowhere", "127.0.0.1:9 left.loss=1", "127.0.0.1:9 127.0.0.1:0 x" } do
      local result = process.run(COMMAND .. bad)
      assert.equal(2, result.code, bad)
      assert.matches("^impair: ", result.err)
    end
    local result = process.run("(echo loss=0; echo stats; echo rebind; echo los=1; echo quit) | " .. COMMAND .. "127.0.0.1:9 up.loss=1",
      { seconds = 10 })
    assert.equal(0, result.code)
    assert.matches("up.lost=0", result.out)
    assert.matches("no such option: los", result.err)
    local running = process.start(COMMAND .. "127.0.0.1:9", { seconds = 10 })
    running:expect "^listening on 127.0.0.1:%d+$"
    local code, rest = running:stop()
    assert.equal(0, code)
    assert.matches("rebinds=0", rest)
  end)
end)
