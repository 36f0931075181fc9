local config = require "echostream.tunnel.agent.config"
local scratch = require "spec.support.scratch"

-- What is wrong with the services, without the place of the code that says it.
local function complaint(services)
  local ok, problem = pcall(config.check_services, "services", services)
  assert.is_false(ok)
  return (tostring(problem):gsub("^[^\n:]*:%d+: ", ""))
end

describe("services", function()
  it("are given in short, or with everything", function()
    local services = config.check_services("services", {
      short = "http://127.0.0.1:8080",
      list = { "127.0.0.1:81", "unix:/run/app.sock" },
      whole = {
        backends = { { url = "https://app.internal", weight = 3, protocol = "h2", tls = { name = "other.internal", skip_verification = false } } },
        balance = "least_in_flight", host = "app", connect_timeout = 2, headers_timeout = 5, idle_timeout = 6, websocket_timeout = 7,
        max_connections = 8, max_waiting = 9, keepalive = 1, keepalive_timeout = 20, max_failures = 2, failure_pause = 3,
        health = { path = "/up", host = "h", status = "200,204-206", interval = 1, timeout = 2, rise = 3, fall = 4 },
      },
      db = { kind = "tcp", backends = { "tcp://127.0.0.1:5432" }, health = true },
    })
    assert.equal("127.0.0.1:8080", services.short.backends[1].authority)
    assert.same({ host = "127.0.0.1", port = 8080 }, services.short.backends[1].place)
    assert.equal(10, services.short.connect_timeout)
    assert.same({ path = "/run/app.sock" }, services.list.backends[2].place)
    local whole = services.whole.backends[1]
    assert.equal("https", whole.scheme)
    assert.equal("app.internal", whole.authority)
    assert.equal(443, whole.place.port)
    assert.equal(3, whole.weight)
    assert.is_true(services.whole.health.good(205))
    assert.is_false(services.whole.health.good(201))
    assert.equal("tcp", services.db.backends[1].scheme)
    assert.equal(10, services.db.health.interval)
  end)

  it("that cannot be are refused, with the reason", function()
    assert.matches("services.a: option \"backends\" is missing", complaint { a = {} })
    assert.matches("is empty", complaint { a = { backends = {} } })
    assert.matches("unknown option \"backend\"", complaint { a = { backend = "x" } })
    assert.matches("no path", complaint { a = "http://x/y" })
    assert.matches("kind tcp has backends such as", complaint { a = { kind = "tcp", backends = "http://x" } })
    assert.matches("kind http has backends such as", complaint { a = "tcp://x:1" })
    assert.matches("kind http has backends such as", complaint { a = "ftp://x:1" })
    assert.matches("port 0", complaint { a = "http://x:0" })
    assert.matches("ports end at 65535", complaint { a = "http://x:70000" })
    assert.matches("there is no port", complaint { a = { kind = "tcp", backends = "tcp://x" } })
    assert.matches("protocol \"h2\" wants https", complaint { a = { backends = "http://x", protocol = "h2" } })
    assert.matches("with https it is \"h2\"", complaint { a = { backends = "https://x", protocol = "h2c" } })
    assert.matches("is not https", complaint { a = { backends = { { url = "http://x", tls = { ca = "x" } } } } })
    assert.matches("belong together", complaint { a = { backends = { { url = "https://x", tls = { cert = "x" } } } } })
    assert.matches("health.status", complaint { a = { backends = "http://x", health = { status = "2xx" } } })
    assert.matches("not asked for a path", complaint { a = { kind = "tcp", backends = "tcp://x:1", health = { path = "/" } } })
    assert.matches("a service has a name", complaint { ["a b"] = "http://x" })
  end)
end)

describe("a configuration of the server", function()
  it("is checked as a whole", function()
    local good = config.check_remote { services = { web = "http://127.0.0.1:1" } }
    assert.equal(1, good.services.web.backends[1].place.port)
    assert.same({}, config.check_remote {})
    local none, why = config.check_remote { services = { web = { bakends = {} } } }
    assert.is_nil(none)
    assert.matches('^config.services.web: unknown option "bakends" %(did you mean "backends"%?%)$', why)
    assert.matches("a map", select(2, config.check_remote(7)))
    assert.matches("unknown option", select(2, config.check_remote { rules = {} }))
  end)

  it("is kept in a file, and read back", function()
    local path = scratch.path ".d" .. "/state/agent"
    assert.is_nil(config.load(path))
    assert(config.save(path, 3, { services = { web = "http://127.0.0.1:1" } }))
    assert(config.save(path, 4, { services = { web = "http://127.0.0.1:2" } }))
    assert.same({ version = 4, config = { services = { web = "http://127.0.0.1:2" } } }, config.load(path))
    local file = assert(io.open(path, "wb"))
    file:write "half of it"
    file:close()
    local none, why = config.load(path)
    assert.is_nil(none)
    assert.matches("no configuration that an agent wrote", why)
  end)
end)

describe("a backend's URL", function()
  it("is read", function()
    assert.same({ scheme = "http", place = { host = "::1", port = 8080 }, authority = "[::1]:8080" }, config.parse_url("http://[::1]:8080/", "http"))
    assert.same({ scheme = "tcp", place = { path = "/run/x" }, authority = "localhost" }, config.parse_url("unix:///run/x", "tcp"))
  end)
end)

describe("one service", function()
  it("can be checked alone", function()
    assert.equal("auto", config.check_service("web", "http://127.0.0.1:1").backends[1].protocol)
  end)
end)
