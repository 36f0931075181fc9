-- Services, their backends, and the checks of their health. Simulated: time is virtual, connections are fakes.

local backends = require "echostream.tunnel.agent.backends"
local config = require "echostream.tunnel.agent.config"
local core = require "echostream.tunnel.core"
local echo = require "echostream"
local fake_engine = require "tunnel.spec.support.fake_engine"
local health = require "echostream.tunnel.agent.health"
local log = require "echostream.log"

local function in_simulation(name, fn)
  it(name, function()
    log.set(function() end)
    local ok, err = pcall(echo.sim.run, { seed = 7 }, fn)
    log.set(nil)
    if not ok then error(err, 0) end
  end)
end

local function new(services)
  local engine = fake_engine.new()
  local all = backends.new(engine)
  all:apply(config.check_services("services", services))
  return all, engine
end

local function picks(service, n, tried)
  local counts = {}
  for _ = 1, n do
    local backend = service:pick(tried)
    local name = backend and backend.url or "none"
    counts[name] = (counts[name] or 0) + 1
    if backend then backend.in_flight = backend.in_flight + 1 end
  end
  return counts
end

describe("the backends of a service", function()
  in_simulation("take turns by their weights", function()
    local all = new { web = { { url = "http://10.0.0.1", weight = 3 }, "http://10.0.0.2" } }
    assert.same({ ["http://10.0.0.1"] = 300, ["http://10.0.0.2"] = 100 }, picks(all.services.web, 400))
  end)

  in_simulation("or have as much under way, by their weights", function()
    local all = new { web = { backends = { { url = "http://10.0.0.1", weight = 3 }, "http://10.0.0.2" }, balance = "least_in_flight" } }
    all.services.web.backends[1].in_flight = 150
    assert.same({ ["http://10.0.0.1"] = 150, ["http://10.0.0.2"] = 100 }, picks(all.services.web, 250))
  end)

  in_simulation("are left alone when they are unhealthy, could not be reached, or were tried", function()
    local all = new { web = { backends = { "http://10.0.0.1", "http://10.0.0.2" }, max_failures = 1, failure_pause = 3 } }
    local web = all.services.web
    local a, b = web.backends[1], web.backends[2]
    assert.equal(b, web:pick { [a] = true })
    a:set_health(false, "status 500")
    assert.same({ ["http://10.0.0.2"] = 4 }, picks(web, 4))
    b:connect_failed(echo.error("unavailable", "refused"))
    local none, why = web:pick()
    assert.is_nil(none)
    assert.matches("web 10.0.0.1:80: status 500; web 10.0.0.2:80: 1 connections in a row failed, the last: refused", why)
    assert.is_false(b:available())
    echo.sleep(3)
    assert.equal(b, web:pick())
    b:connected()
    a:set_health(true)
    a:responded(0.1)
    a:responded(0.9)
    assert.near(0.2, all:report()["web 10.0.0.1:80"].latency, 1e-9)
  end)

  in_simulation("speak what was agreed on", function()
    local all = new { web = { "http://10.0.0.1", "https://app.internal", { url = "http://10.0.0.2", protocol = "h2c" },
      { url = "https://10.0.0.3", protocol = "h2", tls = { name = "app", skip_verification = true } } } }
    local list = all.services.web.backends
    assert.same({ "http/1.1", "h2", "http/1.1" }, { list[1]:codec "http", list[1]:codec "grpc", list[1]:codec "tunnel" })
    assert.same({ "auto", "auto", "http/1.1" }, { list[2]:codec "http", list[2]:codec "grpc", list[2]:codec "tunnel" })
    assert.same({ "h2", "h2", "h2" }, { list[3]:codec "http", list[3]:codec "grpc", list[3]:codec "tunnel" })
    assert.is_nil(list[1]:tls "http/1.1")
    assert.is_truthy(list[2]:tls "auto")
    assert.equal("app.internal", list[2]:server_name())
    assert.equal("app", list[4]:server_name())
    assert.is_nil(list[1]:server_name())
    assert.equal(list[1]:pool "http", list[1]:pool "tunnel")
    assert.not_equal(list[2]:pool "http", list[2]:pool "tunnel")
  end)

  in_simulation("with a certificate that cannot be read are an error, and nothing changes", function()
    local all = new { web = "http://10.0.0.1" }
    local before = all.services.web
    local ok, problem = pcall(all.apply, all, config.check_services("services", { web = { backends = "https://x", tls = { ca = "/nowhere.pem" } } }))
    assert.is_false(ok)
    assert.matches("tls.ca: /nowhere.pem", problem)
    assert.equal(before, all.services.web)
    assert.equal(before, (all:find("web", "http")))
    all:close()
  end)
end)

describe("health checks", function()
  in_simulation("by requests find out that a backend is ill, and well again", function()
    local all, engine = new { web = { backends = "http://10.0.0.1",
      health = { path = "/up", host = "h", interval = 10, timeout = 2, rise = 2, fall = 3 } } }
    local status, asked = 500, nil
    engine.on_dial = function(dial)
      echo.spawn(function() dial:open("h2", 100) end)
    end
    local backend = all.services.web.backends[1]
    local c
    local responder = echo.spawn(function()
      local n = 0
      while echo.sleep(0.1) do
        c = c or engine.dials[1] and engine.dials[1].connection
        local x = c and c.exchanges[n + 1]
        if x and status then
          asked = x.request
          x:push("", true)
          x:respond(assert(core.head("response", { status = status })))
          n = n + 1
        elseif x then
          n = n + 1
        end
      end
    end)
    local checks = health.new(engine)
    all:start(checks)
    while backend.healthy do echo.sleep(0.1) end
    assert.equal(3, #c.exchanges)
    assert.equal("/up", asked.path)
    assert.equal("h", asked.authority)
    assert.equal("status 500 is not of 200-399", backend.reason)
    status = 204
    local before = echo.now()
    while not backend.healthy do echo.sleep(0.1) end
    assert.is_true(echo.now() - before < 23)
    status = nil -- no answer
    while backend.healthy do echo.sleep(0.1) end
    assert.equal("no answer in time", backend.reason)
    local n = #c.exchanges
    all:stop()
    echo.sleep(30)
    assert.equal(n, #c.exchanges)
    all:start(checks)
    while #c.exchanges == n do echo.sleep(0.1) end
    all:apply {}
    n = #c.exchanges
    echo.sleep(30)
    assert.equal(n, #c.exchanges)
    responder:cancel()
    all:close()
  end)

  in_simulation("by connections", function()
    local all, engine = new { db = { kind = "tcp", backends = "10.0.0.1:5432", health = { interval = 1, fall = 2, rise = 1 } } }
    local up = false
    engine.on_dial = function(dial)
      echo.spawn(function()
        if up then dial:open "raw" else dial:fail("unavailable", "connection refused") end
      end)
    end
    local backend = all.services.db.backends[1]
    assert.same({ false, "10.0.0.1:5432: connection refused" }, { health.check(engine, backend, all.services.db.options.health) })
    local checks = health.new(engine)
    checks:watch(all.services.db)
    while backend.healthy do echo.sleep(0.1) end
    up = true
    while not backend.healthy do echo.sleep(0.1) end
    assert.equal("at once", engine.dials[#engine.dials].connection.closed)
    checks:forget(all.services.db)
    checks:close()
    all:sweep(echo.now())
  end)
end)
