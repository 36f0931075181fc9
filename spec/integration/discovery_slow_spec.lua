-- Finding servers: echo.discovery over the loopback's multicast, name servers made here, and lists. Names are of this run alone: others
-- may run it at the same time, and hear us.

local avahi = require "echostream.discovery.avahi"
local busted = require "busted"
local core = require "echostream.core"
local echo = require "echostream"
local log = require "echostream.log"
local message = require "echostream.discovery.message"
local multicast = require "echostream.discovery.multicast"
local process = require "spec.support.process"
local resolver = require "echostream.discovery.resolver"
local socket = require "echostream.loop.socket"
local srv = require "echostream.discovery.srv"
local static = require "echostream.discovery.static"
local udp = require "echostream.loop.udp"
local describe, it, before_each, after_each, pending = busted.describe, busted.it, busted.before_each, busted.after_each, busted.pending

local discovery = echo.discovery
local TYPE = message.TYPE
local LIMIT = 60
local LO = { "lo" }

local function unique(name)
  return name .. " " .. core.random(6):gsub(".", function(c) return ("%02x"):format(c:byte()) end)
end

local function started()
  local server = assert(echo.server { bind = "127.0.0.1:0", quiet = true }:start())
  server:add_rpc("hello", function() return "hello" end)
  return server
end

local function wait_for(browser, wanted, name)
  while true do
    local what, found = browser:next(LIMIT)
    assert(what, tostring(found))
    if what == wanted and found.name == name then return found end
  end
end

describe("discovery in the local network", function()
  before_each(function() log.set(function() end) end)
  after_each(function() log.set(nil) end)

  it("finds a server by its name, and connects with its pin", function()
    local server <close> = started()
    local name = unique "v1.2 küche"
    local guard <close> = assert(discovery.advertise { name = name, server = server, interfaces = LO, properties = { room = "a=b" } })
    assert.equal(name, guard.name)
    assert.equal("mdns", guard.via)
    assert.equal("_echostream._udp", guard.type)
    local found = assert(discovery.discover({ name = name:upper():gsub("KüCHE", "küche"), interfaces = LO }, LIMIT))
    assert.equal(server.address, found.address)
    assert.same({ room = "a=b", pin = server.pin }, found.properties)
    local client = assert(echo.connect(found))
    assert.equal("hello", client:request "hello")
    client:close()
    local none, why = echo.connect(nil, echo.error("not_found", "as discover says it"))
    assert.is_nil(none)
    assert.equal("not_found", why.code)
    local wrong, err = echo.connect(found, { pin = "sha256:" .. ("0"):rep(64) })
    assert.is_nil(wrong)
    assert.equal("unauthenticated", err.code)
  end)

  it("sees a guard close, leave its scope and be collected", function()
    local a, b, c = unique "a", unique "b", unique "c"
    local browser <close> = assert(discovery.browse { type = "scopes", interfaces = LO })
    local function advertise(name)
      local guard = assert(discovery.advertise { name = name, type = "scopes", port = 5000, interfaces = LO })
      wait_for(browser, "add", name)
      return guard
    end
    local guard = advertise(a)
    guard:close()
    guard:close()
    wait_for(browser, "remove", a)
    do
      local scoped <close> = advertise(b)
      assert.matches("scopes", tostring(scoped))
    end
    wait_for(browser, "remove", b)
    advertise(c)
    local collecting = echo.spawn(function() -- what held it last takes some rounds to go
      while echo.sleep(0.02) do collectgarbage() end
    end)
    wait_for(browser, "remove", c)
    collecting:cancel()
  end)

  it("calls back, in tasks and in order", function()
    local name, heard = unique "calls back", {}
    local browser = assert(discovery.browse { type = "backs", interfaces = LO,
      on_add = function(found)
        if found.name == name then
          echo.sleep(0.01)
          table.insert(heard, "add")
        end
      end,
      on_change = function() end,
      on_remove = function(found)
        if found.name == name then
          table.insert(heard, "remove")
          echo.stop()
        end
      end })
    discovery.advertise({ name = name, type = "backs", port = 5000, interfaces = LO }, function(guard)
      discovery.discover({ name = name, type = "backs", interfaces = LO }, LIMIT, function(found)
        table.insert(heard, found.name)
        guard:close()
      end)
    end)
    echo.run(LIMIT)
    browser:close()
    browser:close()
    table.sort(heard)
    assert.same({ "add", name, "remove" }, heard)
  end)

  it("gives a second server of one name another", function()
    local name, renamed = unique "twice", nil
    local guard <close> = assert(discovery.advertise { name = name, port = 5000, interfaces = LO })
    local second <close> = assert(discovery.advertise { name = name, port = 5001, interfaces = LO, on_rename = function(to) renamed = to end })
    assert.equal(name, guard.name)
    assert.equal(name .. " (2)", second.name)
    assert.equal(second.name, renamed)
  end)

  it("says that nobody was found", function()
    local found, err = discovery.discover({ name = unique "nobody", interfaces = LO }, 0.05)
    assert.is_nil(found)
    assert.equal("not_found", err.code)
    found, err = discovery.discover({ name = "x", interfaces = { "no such interface" } }, 0.05)
    assert.is_nil(found)
    assert.equal("unavailable", err.code)
    assert.is_nil((discovery.browse { interfaces = { "no such interface" } }))
    assert.is_nil((multicast.open({ "no such interface" }, function() end)))
    local guard, problem = discovery.advertise { name = "x", port = 1, interfaces = { "no such interface" } }
    assert.is_nil(guard)
    assert.equal("unavailable", problem.code)
    guard, problem = discovery.advertise { name = "x", server = { state = "running", address = "192.0.2.77:1" }, interfaces = LO }
    assert.is_nil(guard)
    assert.equal("failed_precondition", problem.code)
    echo.sim.run(function()
      assert.equal("unavailable", select(2, discovery.discover("x", 1)).code)
    end)
  end)

  it("refuses what makes no sense", function()
    local server = echo.server { bind = "127.0.0.1:0", quiet = true }
    for want, opts in pairs {
      ["server.*port"] = {}, ["started server"] = { server = server }, ["1 to 63 bytes"] = { port = 1, name = ("x"):rep(64) },
      ["of UTF%-8"] = { port = 1, name = "\xff" }, ["no type"] = { port = 1, type = "a b" }, ["subtypes"] = { port = 1, subtypes = { "a b" } },
      ["property"] = { port = 1, properties = { ["a=b"] = 1 } }, ["via"] = { port = 1, via = "dns" }, ["names"] = { port = 1, names = "x" },
    } do
      assert.error_matches(function() discovery.advertise(opts) end, want)
    end
    assert.error_matches(function() discovery.discover({ nam = "x" }) end, "did you mean \"name\"")
    assert.error_matches(function() discovery.discover("x", "y") end, "seconds")
    assert.error_matches(function() discovery.browse { type = "a b" } end, "no type")
    assert.error_matches(function() echo.connect {} end, "what discovery found")
  end)

  it("says goodbye when a program ends without a word", function()
    local name = unique "ends"
    local browser <close> = assert(discovery.browse { type = "ends", interfaces = LO })
    local code = ([[
      local echo = require "echostream"
      guard = assert(echo.discovery.advertise { name = %q, type = "ends", port = 5000, interfaces = { "lo" } })
      io.read() -- until it was seen
    ]]):format(name)
    local child = assert(io.popen(".ci/env timeout 60 lua5.4 -e " .. process.quote(code), "w"))
    wait_for(browser, "add", name)
    assert.is_true(child:close())
    wait_for(browser, "remove", name)
  end)
end)

describe("discovery and avahi", function()
  it("find each other in a network namespace", function()
    local run = process.run("unshare --net --mount --pid --fork --kill-child bash spec/support/avahi_namespace.sh "
      .. ".ci/env lua5.4 spec/support/discovery_avahi.lua", { seconds = 200 })
    if run.code == 99 or run.code ~= 0 and run.err:find "^unshare:" then
      return pending("no namespace with avahi here: " .. run.err)
    end
    assert.equal(0, run.code, run.out .. run.err)
    assert.equal(table.concat({ "avahi finds us", "avahi takes another name than ours", "avahi finds us in a second network",
      "avahi sees us go", "we find avahi",
      "we take another name than avahi's", "we see avahi go", "avahi speaks for us", "" }, "\n"), run.out)
  end)
end)

describe("discovery through avahi", function()
  it("is for services that avahi can publish", function()
    local ok, reason = avahi.fits { strings = {}, ip = "127.0.0.1" }
    assert.is_false(ok)
    assert.matches("every interface", reason)
    ok, reason = avahi.fits { strings = { "a=b", "c=\0" } }
    assert.is_false(ok)
    assert.matches("zero byte", reason)
    local guard, err = discovery.advertise { name = "x", port = 1, interfaces = LO, via = "avahi" }
    assert.is_nil(guard)
    assert.equal("failed_precondition", err.code)
  end)
end)

describe("discovery from a list", function()
  local list = { "10.0.0.1:5000", { name = "b", addresses = { "[::1]:6000", "10.0.0.2:6000" }, properties = { zone = "x" } },
    { name = "chat", address = "10.0.0.3:1", type = "_chat._udp" } }

  it("is by the same interface", function()
    local source = discovery.static(list)
    local found = assert(source:discover "b")
    assert.same({ "[::1]:6000", "10.0.0.2:6000" }, found.addresses)
    assert.equal("x", found.properties.zone)
    assert.equal("chat", assert(source:discover { name = "chat", type = "chat" }).name)
    local none, err = source:discover("nobody", LIMIT)
    assert.is_nil(none)
    assert.equal("not_found", err.code)
    local browser = assert(source:browse())
    assert.matches("2 found", tostring(browser)) -- the third is of another type
    assert.same({ "add", "10.0.0.1:5000" }, { (function(what, one) return what, one.name end)(browser:next(1)) })
    local rest = {}
    for what, one in browser:changes() do
      table.insert(rest, what .. " " .. one.name)
      browser:close()
    end
    assert.same({ "add b" }, rest)
  end)

  it("feeds a fleet", function()
    local one <close> = started()
    local two <close> = started()
    local fleet = echo.fleet.new { client = { skip_verification = true }, targets = { mine = one.address } }
    local source = discovery.static { { name = "two", address = two.address } }
    local added = {}
    local browser = assert(discovery.feed(fleet, source, { on_add = function(found) table.insert(added, found.name) end }))
    while not added[1] do echo.sleep(0.001) end
    assert.same({ "mine", "two" }, fleet:targets())
    assert.equal("hello", fleet:with { target = "two" }:request "hello")
    browser:unset "1"
    while #fleet:targets() > 1 do echo.sleep(0.001) end
    assert.same({ "mine" }, fleet:targets())
    browser:close()
    fleet:close()
  end)

  it("refuses what is no address", function()
    for _, bad in ipairs { { "x" }, { {} }, { true }, { "10.0.0.1:0" } } do
      assert.has_error(function() discovery.static(bad) end)
      assert.is_false((pcall(static.new, bad)))
    end
  end)
end)

-- A name server: `answer(question)` gives a message; `udp_too` cuts what goes by UDP.
local function name_server(answer, cut)
  local asked = { udp = 0, tcp = 0 }
  local function reply(bytes, truncated)
    local query = assert(message.decode(bytes))
    local packet = answer(query.questions[1])
    packet.id, packet.response, packet.questions = query.id, true, query.questions
    if truncated then packet.truncated, packet.answers, packet.additionals = true, {}, {} end
    return message.encode(packet)
  end
  for _ = 1, 100 do
    local listener = assert(socket.listen({ ip = "127.0.0.1", port = 0 }, function(connection)
      return function(data)
        if not data then return connection:close() end
        asked.tcp = asked.tcp + 1
        local bytes = reply(data:sub(3))
        local framed = (">s2"):pack(bytes)
        connection:send(framed:sub(1, 5), function() connection:send(framed:sub(6)) end)
      end
    end))
    local open
    open = udp.open({ ip = "127.0.0.1", port = listener.port }, function(bytes, ip, port)
      asked.udp = asked.udp + 1
      open:send("garbage", ip, port)
      open:send(message.encode { id = 0, response = true, rcode = 3 }, ip, port)
      open:send(reply(bytes, cut), ip, port)
    end)
    if open then
      return "127.0.0.1:" .. listener.port, asked, function()
        open:close()
        listener.close()
      end
    end
    listener.close()
  end
  error "no port for a name server"
end

local function srv_record(name, priority, weight, port, target)
  return message.record { name = name, type = TYPE.SRV, ttl = 5, priority = priority, weight = weight, port = port, target = target }
end

describe("discovery by SRV records", function()
  local function answer(question)
    if question.type ~= TYPE.SRV or question.name ~= "_echostream._udp.example.org" then return { rcode = 3 } end
    return { answers = { srv_record(question.name, 20, 0, 5000, "backup.example.org"), srv_record(question.name, 10, 5, 5001, "main.example.org"),
      srv_record(question.name, 10, 0, 0, "nowhere.example.org") },
      additionals = { message.record { name = "main.example.org", type = TYPE.AAAA, ttl = 5, address = "::1" },
        message.record { name = "main.example.org", type = TYPE.A, ttl = 5, address = "127.0.0.1" } } }
  end

  for _, cut in ipairs { false, true } do
    it("gives a domain's servers in order" .. (cut and ", by TCP when they do not fit" or ""), function()
      local at, asked, close = name_server(answer, cut)
      local source = discovery.srv { domain = "example.org", server = at }
      local found = assert(source:discover(nil, LIMIT))
      assert.same({ "main.example.org:5001", "127.0.0.1:5001", 1 }, { found.name, found.address, found.rank })
      assert.same({ "127.0.0.1:5001", "[::1]:5001" }, found.addresses)
      assert.equal("backup.example.org:5000", assert(source:discover("backup.example.org:5000", LIMIT)).address)
      assert.equal(cut and asked.udp or 0, asked.tcp)
      close()
      echo.run(0.001)
    end)
  end

  it("says that there is no such name, and that no name server answers", function()
    local at, _, close = name_server(answer)
    local found, err = discovery.srv { domain = "example.net", server = at }:discover(nil, LIMIT)
    assert.is_nil(found)
    assert.equal("not_found", err.code)
    close()
    echo.run(0.001)
    local failing, _, close_failing = name_server(function() return { rcode = 2 } end)
    found, err = discovery.srv { domain = "example.org", server = failing }:discover(nil, LIMIT)
    assert.is_nil(found)
    assert.equal("unavailable", err.code)
    close_failing()
    echo.run(0.001)
    assert.has_error(function() discovery.srv { domain = "x", server = "name:53" } end)
    assert.has_error(function() discovery.srv {} end)
  end)

  it("orders by priority, and by weight in proportion", function()
    local records = { { priority = 2, weight = 9, n = "c" }, { priority = 1, weight = 3, n = "a" }, { priority = 1, weight = 1, n = "b" },
      { priority = 1, weight = 0, n = "z" } }
    local firsts, total = {}, 4000
    local state = 1
    local function random()
      state = (state * 1103515245 + 12345) % (1 << 31)
      return (state >> 8) / (1 << 23)
    end
    for _ = 1, total do
      local order = srv.order(records, random)
      assert.equal(4, #order)
      assert.equal("c", order[4].n)
      firsts[order[1].n] = (firsts[order[1].n] or 0) + 1
    end
    assert.is_true(firsts.a > firsts.b * 2 and firsts.z > 0 and firsts.a > total / 2)
  end)

  it("asks the name servers of resolv.conf", function()
    assert.same({ { "10.0.0.1", 53 }, { "fe80::1%eth0", 53 } },
      resolver.servers_of "# a comment\nnameserver 10.0.0.1\nsearch x\n nameserver fe80::1%eth0\nnameserver not.an.address\n")
    assert.same({ { "127.0.0.1", 53 } }, resolver.servers_of "")
  end)
end)
