local dedupe = require "echostream.retry.dedupe"
local echo = require "echostream"
local net = require "spec.support.net"

-- A client that dials again as soon as it has lost its connection.
local function persistent(env, server)
  local client = env.client(server, { retry = { attempts = 100, backoff = 0.2, factor = 1, jitter = 0.5, budget = false } })
  local over = false
  client:on_stop(function()
    if not over then
      echo.spawn(function() client:connect(server.address) end)
    end
  end)
  assert(client:connect(server.address))
  return client, function() over = true end
end

local function counted(fn, delay)
  local runs = { n = 0, ended = 0 }
  return runs, function(_, ...)
    runs.n = runs.n + 1
    local n = runs.n
    if delay then
      local ok, err = echo.sleep(delay)
      if not ok then
        runs.cancelled = err.code
        return nil, err
      end
    end
    runs.ended = runs.ended + 1
    return fn(n, ...)
  end
end

net.each(function(env)
  env.it("gives a retry the answer of the attempt that runs", function()
    local go = false
    local runs, handler = counted(function(n, x)
      while not go do
        assert(echo.sleep(0.01))
      end
      return n, x, { "list", n }
    end)
    local server = env.server({ dedupe = true }, function(server)
      server:add_rpc("work", handler, { idempotent = true })
    end)
    local client, enough = persistent(env, server)
    local call = echo.spawn(function() return client:with { idempotent = true }:request("work", "x") end)
    env.eventually(function() return runs.n == 1 end)
    for peer in pairs(server._sessions) do
      peer._ud:close(0x14, "a fault")
    end
    env.eventually(function() return server:stats().dedupe.kept == 1 end)
    go = true
    local n, x, list = call:wait()
    enough()
    assert.same({ 1, "x", { "list", 1 } }, { n, x, list })
    assert.equal(1, runs.n)
    assert.equal(1, runs.ended)
    local stats = server:stats().dedupe
    assert.equal(1, stats.kept)
    assert.equal(1, stats.joined + stats.replayed)
    assert.equal(1, stats.entries)
  end)

  env.it("gives a retry the answer of an attempt that has ended", function()
    local runs, handler = counted(function(n)
      echo.call():set_trailers { run = tostring(n) }
      return n, nil, "third"
    end)
    local server = env.server({ dedupe = true }, function(server)
      server:add_rpc("work", handler, { idempotent = true })
    end)
    local client = env.connect(server)
    local id = client._host:request_id()
    local calls = client:with { idempotent = true }
    local function attempt(again)
      return client._ud:request("work", { idempotent = true, id, 2, again })
    end
    assert.same({ 1, nil, "third" }, { attempt(false) })
    assert.same({ 1, nil, "third" }, { attempt(true) })
    assert.equal(1, runs.n)
    assert.equal(2, (calls:request "work"))
    assert.equal(1, server:stats().dedupe.replayed)
  end)

  env.it("runs what nobody calls idempotent as before", function()
    local runs, handler = counted(function(n) return n end)
    local server, client = env.pair(function(server)
      server:add_rpc("work", handler, { idempotent = true })
      server:add_rpc("other", handler)
    end, { dedupe = { entries = 10 } })
    assert.equal(1, client:request "work")
    assert.equal(2, client:with { idempotent = true }:request "other")
    assert.equal(2, runs.n)
    assert.equal(0, server:stats().dedupe.recorded)
  end)

  env.it("asks the other middleware about every attempt", function()
    local runs, handler = counted(function(n) return n end)
    local _, client = env.pair(function(server)
      server:add_rpc("work", handler, { idempotent = true })
      local calls = 0
      server:middleware(function(call, next)
        calls = calls + 1
        if calls == 2 then
          return call:reject("permission_denied", "not any more")
        end
        return next(call)
      end)
    end, { dedupe = true })
    local id = client._host:request_id()
    assert.equal(1, (client._ud:request("work", { idempotent = true, id, 1, false })))
    local _, err = client._ud:request("work", { idempotent = true, id, 2, true })
    assert.equal("permission_denied", err.code)
    assert.equal(1, (client._ud:request("work", { idempotent = true, id, 3, true })))
    assert.equal(1, runs.n)
  end)

  env.it("refuses another request under the same id, and remembers failures that are answers", function()
    local runs, handler = counted(function(n, code)
      return nil, echo.error(code, "run " .. n, { n = n })
    end)
    local _, client = env.pair(function(server)
      server:add_rpc("work", handler, { idempotent = true })
      server:add_rpc("other", handler, { idempotent = true })
    end, { dedupe = true })
    local function attempt(id, name, ...)
      return select(2, client._ud:request(name, { idempotent = true, id, 2, true }, ...))
    end
    local id = client._host:request_id()
    assert.equal("run 1", attempt(id, "work", "not_found").message)
    local again = attempt(id, "work", "not_found")
    assert.same({ "not_found", "run 1", { n = 1 } }, { again.code, again.message, again.details })
    assert.equal("invalid_argument", attempt(id, "work", "another").code)
    assert.equal("invalid_argument", attempt(id, "other", "not_found").code)
    assert.equal(1, runs.n)
    id = client._host:request_id()
    assert.equal("run 2", attempt(id, "work", "unavailable").message) -- it says that another try may help
    assert.equal("run 3", attempt(id, "work", "unavailable").message)
  end)

  env.it("does not tell one client's answers to another, nor to another principal", function()
    local runs, handler = counted(function(n) return n end)
    local who = "alice"
    local server, client = env.pair(function(server)
      server:add_rpc("work", handler, { idempotent = true })
    end, { dedupe = { principal = function() return who end } })
    local other = env.connect(server)
    local opts = { idempotent = true, 77, 2, true }
    assert.equal(1, (client._ud:request("work", opts)))
    assert.equal(2, (other._ud:request("work", opts)))
    assert.equal(1, (client._ud:request("work", opts)))
    who = "bob"
    assert.equal(3, (client._ud:request("work", opts)))
    assert.equal(3, runs.n)
  end)
end)

net.only("sim", function(env)
  local opts = { idempotent = true }

  env.it("cancels a handler after a while when nobody asks again", function()
    local runs, handler = counted(function(n) return n end, 100)
    local server, client = env.pair(function(server)
      server:add_rpc("work", handler, { idempotent = true })
    end, { dedupe = { patience = 3 } })
    local call = echo.spawn(function() return client:with(opts):request "work" end)
    env.eventually(function() return runs.n == 1 end)
    client:close()
    call:wait()
    local began = echo.now()
    echo.sleep(2)
    assert.is_nil(runs.cancelled)
    echo.sleep(2)
    assert.equal("cancelled", runs.cancelled)
    assert.is_true(echo.now() - began < 10)
    assert.equal(1, server:stats().dedupe.abandoned)
    assert.equal(0, server:stats().dedupe.entries)
  end)

  env.it("cancels it at once when its caller cancels, or its own time is over, or the server stops", function()
    local runs, handler = counted(function(n) return n end, 100)
    local server, client = env.pair(function(server)
      server:add_rpc("work", handler, { idempotent = true })
      server:add_rpc("short", handler, { idempotent = true, timeout = 1 })
    end, { dedupe = { patience = 50 } })
    local call = echo.spawn(function() return client:with(opts):request "work" end)
    env.eventually(function() return runs.n == 1 end)
    call:cancel()
    env.eventually(function() return runs.cancelled end)
    runs.cancelled = nil
    local _, err = client:with(opts):request "short"
    assert.equal("timeout", err.code)
    env.eventually(function() return runs.cancelled end)
    runs.cancelled = nil
    client:with { idempotent = true, timeout = 0.5 }:request "work" -- its time is over, and it is kept
    echo.sleep(1)
    assert.is_nil(runs.cancelled)
    assert.equal(1, server:stats().dedupe.kept)
    server:stop { grace = 0 }
    env.eventually(function() return runs.cancelled end)
  end)

  env.it("lets an attempt that took too long be joined by the next", function()
    local runs, handler = counted(function(n) return n end, 5)
    local server, client = env.pair(function(server)
      server:add_rpc("work", handler, { idempotent = true })
    end, { dedupe = true }, { retry = { attempts = 4, backoff = 0, attempt_timeout = 2 } })
    local began = echo.now()
    assert.equal(1, client:with(opts):request "work")
    assert.is_true(echo.now() - began < 5.5)
    assert.equal(1, runs.n)
    assert.equal(2, server:stats().dedupe.joined)
  end)

  env.it("forgets after a while, and when there is too much", function()
    local runs, handler = counted(function(_, size) return ("x"):rep(size) end)
    local server, client = env.pair(function(server)
      server:add_rpc("work", handler, { idempotent = true })
    end, { dedupe = { seconds = 10, entries = 5, bytes = 20000 } })
    local function attempt(id, size)
      assert.equal(size, #client._ud:request("work", { idempotent = true, id, 2, true }, size))
    end
    local function ran(fn)
      local before = runs.n
      fn()
      return runs.n - before
    end
    for id = 101, 106 do
      attempt(id, 10)
    end
    assert.equal(0, ran(function() attempt(106, 10) end))
    assert.equal(0, ran(function() attempt(102, 10) end))
    assert.equal(1, ran(function() attempt(101, 10) end)) -- one too many
    assert.equal(5, server:stats().dedupe.entries)
    assert.equal(2, server:stats().dedupe.evicted)
    attempt(200, 15000)
    attempt(201, 15000)
    assert.equal(1, server:stats().dedupe.entries)
    assert.is_true(server:stats().dedupe.bytes < 20000)
    echo.sleep(9)
    assert.equal(0, ran(function() attempt(201, 15000) end))
    echo.sleep(2)
    assert.equal(1, ran(function() attempt(201, 15000) end))
  end)

  env.it("ends those who wait when a handler ends in a way that nobody sees", function()
    local runs = 0
    local _, client = env.pair(function(server)
      server:add_rpc("work", function()
        runs = runs + 1
        echo.sleep(1)
        coroutine.yield "astray"
      end, { idempotent = true })
    end, { dedupe = true }, { retry = { attempts = 3, backoff = 0, attempt_timeout = 0.4 } })
    local _, err = client:with(opts):request "work"
    assert.equal("internal", err.code)
    assert.equal(1, runs)
  end)
end)

describe("the dedupe window", function()
  it("has checked options and figures", function()
    assert.has_error(function() echo.server { dedupe = { entires = 1 } } end)
    local window = dedupe.new()
    assert.equal(0, window:stats().entries)
    window:close()
  end)
end)
