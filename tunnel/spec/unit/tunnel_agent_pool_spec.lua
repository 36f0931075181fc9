-- Connections to a backend, and who gets them. Simulated: time is virtual, and what is dialled does what the spec says.

local echo = require "echostream"
local fake_engine = require "tunnel.spec.support.fake_engine"
local pool = require "echostream.tunnel.agent.pool"

local function in_simulation(name, fn)
  it(name, function() echo.sim.run({ seed = 7 }, fn) end)
end

local function new(given)
  local engine = fake_engine.new()
  local opts = { place = { host = "10.0.0.1", port = 80 }, codec = "http/1.1", connect_timeout = 10, max_connections = 3, max_waiting = 4,
    max_idle = 2, idle_timeout = 90 }
  for name, value in pairs(given or {}) do opts[name] = value end
  return pool.new(engine, opts), engine
end

-- A request in a task of its own; its results are in what this returns.
local function ask(one, opts)
  local asked = {}
  asked.task = echo.spawn(function()
    local job = { head = {}, fin = true, notify = function() end, careful = opts and opts.careful }
    local err
    asked.x, err = one:request(job, opts and opts.timeout or 10)
    asked.about = err or { reused = job.reused, protocol = job.record.protocol }
    asked.over = true
  end)
  echo.sleep(0)
  return asked
end

describe("a pool of connections", function()
  in_simulation("opens one for a request, keeps it, and uses it again", function()
    local one, engine = new()
    local first = ask(one)
    assert.is_nil(first.over)
    assert.equal("10.0.0.1", engine.dials[1].options.ip)
    assert.equal(80, engine.dials[1].options.port)
    local c = engine.dials[1]:open "http/1.1"
    echo.sleep(0)
    assert.equal(c.exchanges[1], first.x)
    assert.is_false(first.about.reused)
    first.x:done()
    assert.same({ open = 1, idle = 1, dialing = 0, waiting = 0, protocol = "http/1.1" }, one:stats())
    local second = ask(one)
    assert.equal(c.exchanges[2], second.x)
    assert.is_true(second.about.reused)
    assert.equal(1, #engine.dials)
  end)

  in_simulation("has no more than it may, and lets a bounded number wait, first come first served", function()
    local one, engine = new()
    for _ = 1, 7 do ask(one) end
    assert.equal(3, #engine.dials)
    local refused = ask(one)
    assert.equal("resource_exhausted", refused.about.code)
    assert.matches("10.0.0.1:80: .* requests wait", refused.about.message)
  end)

  in_simulation("serves those who wait with whatever becomes free", function()
    local one, engine = new { max_connections = 1 }
    local a, b, c = ask(one), ask(one), ask(one)
    engine.dials[1]:open "http/1.1"
    echo.sleep(0)
    assert.is_truthy(a.x)
    assert.is_nil(b.over)
    a.x:done()
    echo.sleep(0)
    assert.is_truthy(b.x)
    assert.is_nil(c.over)
    b.x:done()
    echo.sleep(0)
    assert.is_truthy(c.x)
    assert.equal(1, #engine.dials)
  end)

  in_simulation("tells who waits that it cannot be reached, and the others go on", function()
    local one, engine = new()
    local a, b = ask(one), ask(one)
    engine.dials[1]:fail("unavailable", "connection refused")
    echo.sleep(0)
    assert.equal("10.0.0.1:80: connection refused", a.about.message)
    assert.is_nil(b.over)
    engine.dials[2]:open "http/1.1"
    echo.sleep(0)
    assert.is_truthy(b.x)
  end)

  in_simulation("gives up after the time-out, and a request that nobody waits for is not begun", function()
    local one, engine = new()
    local a = ask(one, { timeout = 2 })
    echo.sleep(2.5)
    assert.equal("timeout", a.about.code)
    assert.equal("no", a.about.processed)
    local full, dials = new { max_connections = 1 }
    ask(full)
    dials.dials[1]:open "http/1.1"
    local late = ask(full, { timeout = 2 })
    echo.sleep(2.5)
    assert.equal("resource_exhausted", late.about.code)
    assert.matches("1 connections are busy, and none became free within 2 s", late.about.message)
    local b = ask(one)
    b.task:cancel()
    echo.sleep(0)
    local c = engine.dials[1]:open "http/1.1"
    echo.sleep(0)
    assert.equal(0, #c.exchanges)
    assert.equal(1, one:stats().idle)
  end)

  in_simulation("takes the connection that was used last, and keeps a few for a while only", function()
    local one, engine = new { max_connections = 5 }
    local asked = {}
    for i = 1, 4 do
      asked[i] = ask(one)
      engine.dials[i]:open "http/1.1"
      echo.sleep(0)
    end
    for i = 1, 4 do asked[i].x:done() end
    one:sweep(echo.now())
    assert.equal(4, one:stats().idle)
    echo.sleep(pool.SURPLUS)
    one:sweep(echo.now())
    assert.equal(2, one:stats().idle)
    assert.is_true(engine.dials[2].connection.closed)
    echo.sleep(50)
    local again = ask(one)
    assert.equal(engine.dials[4].connection, again.x.connection)
    again.x:done()
    echo.sleep(50)
    one:sweep(echo.now())
    assert.is_true(engine.dials[3].connection.closed)
    assert.is_false(engine.dials[4].connection.closed)
  end)

  in_simulation("lets go of what has nothing to do when it is told", function()
    local one, engine = new()
    local a = ask(one)
    local c = engine.dials[1]:open "http/1.1"
    echo.sleep(0)
    one:flush()
    assert.is_false(c.closed)
    a.x:done()
    one:flush()
    assert.is_true(c.closed)
    assert.equal(0, one:stats().idle)
    ask(one)
    assert.equal(2, #engine.dials)
  end)

  in_simulation("notices that the other side ended a kept connection", function()
    local one, engine = new()
    local a = ask(one)
    local c = engine.dials[1]:open "http/1.1"
    echo.sleep(0)
    a.x:done()
    c.draining = true -- its end came, and nobody has looked yet
    local b = ask(one)
    assert.equal(2, #engine.dials)
    engine.dials[2]:open "http/1.1"
    echo.sleep(0)
    assert.is_truthy(b.x)
    c:gone()
    assert.equal(1, one:stats().open)
  end)

  in_simulation("gives requests that must not be lost no connection that was idle for long", function()
    local one, engine = new()
    local a = ask(one)
    engine.dials[1]:open "http/1.1"
    echo.sleep(0)
    a.x:done()
    echo.sleep(pool.CAREFUL_IDLE + 1)
    ask(one, { timeout = 10, careful = true })
    assert.equal(2, #engine.dials)
    ask(one) -- who may be repeated takes it
    assert.equal(2, #engine.dials[1].connection.exchanges)
  end)

  in_simulation("shares a connection of HTTP/2, and opens another when its room is used up", function()
    local one, engine = new { codec = "auto" }
    local all = {}
    for i = 1, 4 do all[i] = ask(one) end
    assert.equal(1, #engine.dials) -- it may be for all of them
    engine.dials[1]:open("h2", 3)
    echo.sleep(0)
    assert.is_truthy(all[3].x)
    assert.is_nil(all[4].over)
    assert.equal(2, #engine.dials)
    engine.dials[2]:open("h2", 3)
    echo.sleep(0)
    assert.is_truthy(all[4].x)
    assert.equal("h2", all[4].about.protocol)
  end)

  in_simulation("opens the others when it turned out to be HTTP/1.1", function()
    local one, engine = new { codec = "auto" }
    for _ = 1, 3 do ask(one) end
    engine.dials[1]:open("http/1.1", 1)
    echo.sleep(0)
    assert.equal(3, #engine.dials)
  end)

  in_simulation("ends a shared connection that has nothing to do for a while", function()
    local one, engine = new { codec = "h2" }
    local a = ask(one)
    local c = engine.dials[1]:open("h2", 10)
    echo.sleep(0)
    one:sweep(echo.now())
    a.x:done()
    one:sweep(echo.now())
    echo.sleep(89)
    one:sweep(echo.now())
    assert.is_false(c.draining)
    echo.sleep(2)
    one:sweep(echo.now())
    assert.is_true(c.draining)
  end)

  in_simulation("that is closed takes nothing new, and lets what is under way end", function()
    local one, engine = new { max_connections = 1 }
    local a, b = ask(one), ask(one)
    local c = engine.dials[1]:open "http/1.1"
    echo.sleep(0)
    one:close()
    echo.sleep(0)
    assert.is_false(c.closed)
    assert.is_true(c.draining)
    assert.is_nil(a.x.was_reset)
    assert.equal("unavailable", b.about.code)
    assert.equal("unavailable", ask(one).about.code)
    one:close() -- harmless twice
  end)
end)
