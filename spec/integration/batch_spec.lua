local echo = require "echostream"
local net = require "spec.support.net"

local function offer(server)
  server:add_rpc("add", function(_, a, b) return a + b end)
  server:add_rpc("give", function(_, ...) return ... end)
  server:add_rpc("late", function(_, seconds, value)
    local ok, err = echo.sleep(seconds)
    if not ok then
      return nil, err
    end
    return value
  end)
  server:add_rpc("fail", function() return nil, echo.error("not_found", "no such thing", { a = 1 }) end)
end

net.each(function(env)
  env.it("gives the results in the order of the calls, and errors one by one", function()
    local _, client = env.pair(offer)
    local results = client:batch {
      { "late", 0.05, "slow" },
      { "add", 1, 2 },
      { "fail" },
      { "give", nil, nil, n = 3 },
      { "give", 1, "two" },
      { "nobody" },
    }
    assert.equal(6, results.n)
    assert.equal(2, results.failed)
    assert.same({ ok = true, n = 1, "slow" }, results[1])
    assert.same({ ok = true, n = 1, 3 }, results[2])
    assert.is_false(results[3].ok)
    assert.same({ "not_found", { a = 1 } }, { results[3].err.code, results[3].err.details })
    assert.equal(2, results[4].n)
    assert.same({ ok = true, n = 2, 1, "two" }, results[5])
    assert.equal("method_not_found", results[6].err.code)
  end)

  env.it("is filled by a function, takes options and a callback", function()
    local seen = {}
    local _, client = env.pair(function(server)
      offer(server)
      server:middleware(function(call, next)
        seen[#seen + 1] = call.metadata.who
        return next(call)
      end)
    end)
    local got
    local task = client:with { metadata = { who = "me" } }:batch(function(b)
      assert.equal(1, b:request("give", nil, 2))
      assert.equal(2, b:request("add", 3, 4))
    end, function(results) got = results end)
    local results = task:wait()
    assert.equal(got, results)
    assert.same({ ok = true, n = 2, nil, 2 }, results[1])
    assert.same({ ok = true, n = 1, 7 }, results[2])
    assert.same({ "me", "me" }, seen)
    assert.same({ n = 0, failed = 0 }, client:batch {})
    assert.same({ ok = true, n = 1, 3 }, client.session:batch({ { "add", 1, 2 } })[1])
  end)

  env.it("raises misuse", function()
    local _, client = env.pair(offer)
    assert.has_error(function() client:batch(5) end)
    assert.has_error(function() client:batch { "add" } end)
    assert.has_error(function() client:batch { { 5 } } end)
    assert.has_error(function() client:batch { { "not a name!" } } end)
    assert.has_error(function() client:batch { { "give", print } } end)
    assert.has_error(function() client:batch { { "give", { print } } } end)
    assert.has_error(function() client:batch(function(b) b:request() end) end)
    assert.equal(0, client:batch({ { "add", 1, 2 } }).failed)
  end)

  env.it("ends its calls when it is cancelled or they take too long", function()
    local cancelled, began = 0, 0
    local _, client = env.pair(function(server)
      server:add_rpc("hang", function()
        began = began + 1
        local _, err = echo.sleep(1000)
        cancelled = cancelled + (err and err.code == "cancelled" and 1 or 0)
      end)
      server:add_rpc("through", function(session)
        local results = session:batch { { "hang" }, { "hang" } }
        return results[1].err.code, results[2].err.code
      end, { timeout = 0.2 })
    end)
    client:add_rpc("hang", function() echo.sleep(1000) end)
    local task = echo.spawn(function() return client:batch { { "hang" }, { "hang" } } end)
    env.eventually(function() return began == 2 end)
    task:cancel()
    env.eventually(function() return cancelled == 2 end)
    local results = client:with { timeout = 0.05 }:batch { { "hang" }, { "hang" } }
    assert.equal(2, results.failed)
    assert.equal("timeout", results[2].err.code)
    -- What a handler calls ends with its own deadline.
    assert.equal("timeout", select(2, client:request "through").code)
  end)
end)

net.only("sim", function(env)
  env.it("needs few packets", function(network)
    local server, client = env.pair(offer)
    assert.equal(3, client:request("add", 1, 2))
    echo.sleep(1) -- what the connection had to say is said
    network:trace()
    local results = client:batch(function(b)
      for i = 1, 100 do
        b:request("add", i, i)
      end
    end)
    local sent, bytes = 0, 0
    for _, record in ipairs(network:trace()) do
      if record.to == server.address and record.fate == "sent" then
        sent, bytes = sent + 1, bytes + record.size
      end
    end
    assert.equal(0, results.failed)
    assert.same({ ok = true, n = 1, 200 }, results[100])
    -- About 30 bytes each: three packets of 1,200, and some that only acknowledge.
    assert.is_true(sent <= 10, sent .. " packets")
    assert.is_true(bytes < 6000, bytes .. " bytes")
  end, { seed = 1, trace = true })

  env.it("may be longer than what is under way at once", function()
    local most, running = 0, 0
    local _, client = env.pair(function(server)
      server:add_rpc("count", function(_, i)
        running = running + 1
        most = math.max(most, running)
        echo.sleep(0.01)
        running = running - 1
        return i
      end)
    end, { max_calls = 5000, transport = { max_concurrent_streams = 5000 } })
    local results = client:batch(function(b)
      for i = 1, 2500 do
        b:request("count", i)
      end
    end)
    assert.equal(0, results.failed)
    assert.equal(2500, results[2500][1])
    assert.is_true(most <= 1000, most)
  end)
end)
