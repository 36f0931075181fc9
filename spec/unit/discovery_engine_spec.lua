-- Multicast DNS on a virtual clock: lua/echostream/discovery/mdns.lua, responder.lua, querier.lua, browser.lua.

local busted = require "busted"
local browser = require "echostream.discovery.browser"
local dns_sd = require "echostream.discovery.dns_sd"
local echo = require "echostream"
local log = require "echostream.log"
local mdns = require "echostream.discovery.mdns"
local message = require "echostream.discovery.message"
local multicast_hub = require "spec.support.multicast_hub"
local querier = require "echostream.discovery.querier"
local responder = require "echostream.discovery.responder"
local describe, it, before_each, after_each = busted.describe, busted.it, busted.before_each, busted.after_each

local TYPE = message.TYPE
local KIND = "_echostream._udp"

local function run(fn, seed)
  echo.sim.run({ seed = seed or 1 }, function()
    fn(multicast_hub.new())
  end)
end

-- Publishes and gives { service, told = { "up", … } }.
local function publish(engine, name, port, more)
  local told = {}
  local fields = { name = name, type = KIND, subtypes = {}, port = port or 5000, strings = { "k=v" },
    changed = function(_, what) table.insert(told, what) end }
  for key, value in pairs(more or {}) do fields[key] = value end
  local service = engine.responder:add(fields)
  return service, told
end

local function browse(engine, subtype)
  local events = {}
  local browsing = assert(browser.new({}, function(sink)
    local inner = engine.querier:browse(KIND, subtype, sink)
    return function() engine.querier:unbrowse(inner) end
  end))
  echo.spawn(function()
    for what, found in browsing:changes() do table.insert(events, { what, found, echo.now() }) end
  end)
  return browsing, events
end

local function names_of(browsing)
  local names = {}
  for i, found in ipairs(browsing:list()) do names[i] = found.name end
  return names
end

local function count(list, test)
  local n = 0
  for _, entry in ipairs(list) do n = n + (test(entry.packet, entry) and 1 or 0) end
  return n
end

local function is_query(packet) return not packet.response end
local function is_probe(packet) return not packet.response and #packet.authorities > 0 end
local function asks_ptr(packet) return is_query(packet) and packet.questions[1] and packet.questions[1].type == TYPE.PTR end

describe("multicast DNS", function()
  before_each(function() log.set(function() end) end)
  after_each(function() log.set(nil) end)

  it("probes three times, announces twice, and says goodbye", function()
    run(function(hub)
      local engine = hub:host("10.0.0.1", "fe80::1")
      local began = echo.now()
      local service, told = publish(engine, "a")
      echo.sleep(5)
      assert.same({ "up" }, told)
      assert.equal("up", service.state)
      local sent = hub:sent "10.0.0.1"
      assert.equal(5, #sent)
      for i = 1, 3 do
        assert.is_true(is_probe(sent[i].packet))
        assert.equal("a._echostream._udp.local", sent[i].packet.questions[1].name)
        assert.is_true(i == 1 or math.abs(sent[i].at - sent[i - 1].at - 0.25) < 0.01)
      end
      assert.is_true(sent[1].at - began <= 0.26)
      assert.is_true(sent[4].packet.response and sent[5].packet.response and math.abs(sent[5].at - sent[4].at - 1) < 0.01)
      local flush = {}
      for _, record in ipairs(sent[4].packet.answers) do flush[TYPE[record.type]] = record.flush end
      assert.same({ PTR = false, SRV = true, TXT = true, A = true, AAAA = true }, flush)
      engine.responder:remove(service)
      engine.responder:remove(service)
      local goodbye = hub:sent("10.0.0.1", sent[5].at + 0.5)
      assert.equal(1, #goodbye)
      for _, record in ipairs(goodbye[1].packet.answers) do
        assert.equal(0, record.ttl)
        assert.not_equal("_services._dns-sd._udp.local", record.name)
      end
      engine:close()
    end)
  end)

  it("finds, notices changes of properties, and sees services go", function()
    run(function(hub)
      local here, there = hub:host "10.0.0.1", hub:host("10.0.0.2", "fe80::2")
      local browsing, events = browse(here)
      local service = publish(there, "v1.2 küche", 5001)
      echo.sleep(3)
      local found = browsing:list()[1]
      assert.equal("v1.2 küche", found.name)
      assert.equal("10.0.0.2:5001", found.address)
      assert.same({ "10.0.0.2:5001", "[fe80::2%eth0]:5001" }, found.addresses)
      assert.same({ k = "v" }, found.properties)
      there.responder:remove(service)
      echo.sleep(3)
      assert.same({}, browsing:list())
      assert.equal("add", events[1][1])
      assert.equal("remove", events[#events][1])
      browsing:close()
      here:close()
      there:close()
    end)
  end)

  it("finds what was there before, within the time of one answer", function()
    run(function(hub)
      local here, there = hub:host "10.0.0.1", hub:host "10.0.0.2"
      publish(there, "a")
      echo.sleep(10)
      local began = echo.now()
      local browsing, events = browse(here)
      echo.sleep(1)
      assert.equal("add", events[1][1])
      assert.is_true(events[1][3] - began < 0.5)
      local second, again = browse(here) -- from the cache
      echo.sleep(0.001)
      assert.equal("add", again[1][1])
      second:close()
      browsing:close()
      here:close()
      there:close()
    end)
  end)

  it("needs a network", function()
    assert.is_true(responder.new({}):is_idle() and querier.new({}):is_idle())
    local engine, err = mdns.new(function() return nil, "no network" end)
    assert.is_nil(engine)
    assert.equal("no network", err)
  end)

  it("finds services of its own process", function()
    run(function(hub)
      local engine = hub:host "10.0.0.1"
      publish(engine, "mine")
      local browsing = browse(engine)
      echo.sleep(3)
      assert.same({ "mine" }, names_of(browsing))
      browsing:close()
      engine:close()
    end)
  end)

  it("finds by subtype", function()
    run(function(hub)
      local here, there = hub:host "10.0.0.1", hub:host "10.0.0.2"
      publish(there, "lamp", 1, { subtypes = { "light" } })
      publish(there, "door", 2)
      local lights, all = browse(here, "light"), browse(here)
      echo.sleep(3)
      assert.same({ "lamp" }, names_of(lights))
      assert.same({ "door", "lamp" }, names_of(all))
      lights:close()
      all:close()
      here:close()
      there:close()
    end)
  end)

  it("gives a name that is taken a number", function()
    run(function(hub)
      local one, two, three = hub:host "10.0.0.1", hub:host "10.0.0.2", hub:host "10.0.0.3"
      local first = publish(one, "a")
      echo.sleep(3)
      local second, told = publish(two, "a")
      echo.sleep(3)
      local third = publish(three, "A")
      echo.sleep(5)
      assert.same({ "a", "a (2)", "A (3)" }, { first.name, second.name, third.name })
      assert.same({ "renamed", "up" }, told)
      one:close()
      two:close()
      three:close()
    end)
  end)

  it("lets one of two that probe at the same time win", function()
    for seed = 1, os.getenv "ES_VALGRIND" and 3 or 10 do
      run(function(hub)
        local one, two = hub:host "10.0.0.1", hub:host "10.0.0.2"
        local a, b = publish(one, "a"), publish(two, "a")
        echo.sleep(15)
        local names = { a.name, b.name }
        table.sort(names)
        assert.same({ "a", "a (2)" }, names)
        assert.same({ "up", "up" }, { a.state, b.state })
        one:close()
        two:close()
      end, seed)
    end
  end)

  it("settles who has a name when two networks become one", function()
    run(function(hub)
      local one, _, one_host = hub:host "10.0.0.1"
      one_host.cut = true
      local a = publish(one, "a")
      local two = hub:host "10.0.0.2"
      local deaf = hub.hosts[1].receive
      hub.hosts[1].receive = function() end
      local b = publish(two, "a")
      echo.sleep(5)
      assert.same({ "a", "a" }, { a.name, b.name })
      one_host.cut, hub.hosts[1].receive = false, deaf
      local browsing = browse((hub:host "10.0.0.3")) -- somebody asks, both answer and hear each other
      echo.sleep(20)
      local names = { a.name, b.name }
      table.sort(names)
      assert.same({ "a", "a (2)" }, names)
      assert.same({ "a", "a (2)" }, names_of(browsing))
    end)
  end)

  it("probes slowly after many conflicts", function()
    run(function(hub)
      local engine = hub:host "10.0.0.1"
      publish(engine, "a")
      echo.spawn(function() -- somebody who claims every name
        local seen = 0
        while true do
          echo.sleep(0.01)
          local sent = hub:sent "10.0.0.1"
          for i = seen + 1, #sent do
            if is_probe(sent[i].packet) then
              hub:inject(message.encode { response = true, answers = { message.record { name = sent[i].packet.questions[1].name,
                type = TYPE.SRV, ttl = 120, priority = 0, weight = 0, port = 1, target = "rival.local" } } }, "10.0.0.9")
            end
          end
          seen = #sent
        end
      end)
      echo.sleep(60)
      local sent = #hub:sent "10.0.0.1"
      assert.is_true(sent > 15 and sent < 60, sent)
      engine:close()
    end)
  end)

  it("gives up a name for an answer to its probe alone, and not for each that comes", function()
    run(function(hub)
      local engine = hub:host "10.0.0.1"
      local service, told = publish(engine, "a")
      local function claim(name)
        hub:inject(message.encode { response = true, answers = { message.record { name = dns_sd.instance(name, KIND), type = TYPE.SRV,
          ttl = 120, priority = 0, weight = 0, port = 1, target = "rival.local" } } }, "10.0.0.9")
      end
      echo.sleep(5)
      for _ = 1, 2 do claim "a" end -- by IPv4 and IPv6
      echo.sleep(5)
      assert.same({ "a", "up", { "up", "up" } }, { service.name, service.state, told })
      claim "a"
      echo.sleep(0.3) -- it probes
      for i = 1, 100 do claim(i == 1 and "a" or ("a (%d)"):format(i)) end
      echo.sleep(5)
      assert.same({ "a (2)", "up", { "up", "up", "renamed", "up" } }, { service.name, service.state, told })
      engine:close()
    end)
  end)

  it("asks again before records end, and forgets what nobody confirms", function()
    run(function(hub)
      local here, there = hub:host "10.0.0.1", hub:host "10.0.0.2"
      local browsing, events = browse(here)
      publish(there, "a")
      echo.sleep(600) -- the addresses live for 120 s
      assert.same({ "a" }, names_of(browsing))
      assert.equal(1, #events)
      local cut = echo.now()
      hub.hosts[2].receive = function() end
      echo.sleep(130)
      local asked = count(hub:sent("10.0.0.1", cut), function(packet)
        for _, question in ipairs(packet.questions) do
          if question.type == TYPE.SRV then return true end
        end
      end)
      assert.is_true(asked >= 4, asked .. " questions")
      assert.same({}, browsing:list())
      local lived = events[2][3] - cut
      assert.is_true(lived > 12 and lived < 121, lived .. " s")
      browsing:close()
      here:close()
      there:close()
    end)
  end)

  it("asks ever more rarely, and says what it knows", function()
    run(function(hub)
      local here, there = hub:host "10.0.0.1", hub:host "10.0.0.2"
      publish(there, "a")
      echo.sleep(5)
      local began = echo.now()
      local browsing = browse(here)
      echo.sleep(100)
      local queries = {}
      for _, entry in ipairs(hub:sent("10.0.0.1", began)) do
        if asks_ptr(entry.packet) then table.insert(queries, entry) end
      end
      assert.equal(7, #queries) -- at 0, 1, 3, 7, 15, 31, 63 s
      assert.equal(0, #queries[1].packet.answers)
      for i = 2, 7 do assert.equal("a._echostream._udp.local", queries[i].packet.answers[1].target) end
      local answers = count(hub:sent("10.0.0.2", began), function(packet)
        return packet.response and packet.answers[1].type == TYPE.PTR
      end)
      assert.equal(1, answers) -- to the first question only
      browsing:close()
      here:close()
      there:close()
    end)
  end)

  it("splits what it knows over datagrams, and waits for the rest before it answers", function()
    run(function(hub)
      local here = hub:host "10.0.0.1"
      local there = hub:host "10.0.0.2"
      for i = 1, 60 do publish(there, ("a service with quite a long name, number %d"):format(i), i) end
      echo.sleep(10)
      local browsing = browse(here)
      echo.sleep(5)
      assert.equal(60, #browsing:list())
      local began = echo.now()
      echo.sleep(10) -- questions at 7 s and 15 s: what is known needs several datagrams
      local sent = hub:sent("10.0.0.1", began)
      assert.is_true(count(sent, function(packet) return packet.truncated end) > 0)
      assert.is_true(count(sent, function(_, entry) return entry.size > 1500 end) == 0)
      assert.equal(0, count(hub:sent("10.0.0.2", began), function(packet)
        return packet.response and packet.answers[1].type == TYPE.PTR
      end))
      browsing:close()
      here:close()
      there:close()
    end)
  end)

  it("answers a plain DNS question to its asker alone, and not without end", function()
    run(function(hub)
      local engine, _, host = hub:host "10.0.0.1"
      publish(engine, "a")
      echo.sleep(3)
      local got = {}
      host.legacy = function(bytes, ip, port)
        table.insert(got, { packet = assert(message.decode(bytes)), ip = ip, port = port })
      end
      local query = message.encode { id = 99, questions = { { name = KIND .. ".local", type = TYPE.PTR } } }
      for _ = 1, 200 do hub:inject(query, "10.0.0.7", 40000) end
      echo.sleep(0.1)
      assert.is_true(#got >= 1 and #got < 70, #got)
      assert.same({ "10.0.0.7", 40000, 99 }, { got[1].ip, got[1].port, got[1].packet.id })
      assert.equal(KIND .. ".local", got[1].packet.questions[1].name)
      assert.is_true(#got[1].packet.additionals >= 3)
      for _, record in ipairs(got[1].packet.answers) do assert.is_true(record.ttl <= 10 and not record.flush) end
      engine:close()
    end)
  end)

  it("does not repeat an answer within a second", function()
    run(function(hub)
      local engine = hub:host "10.0.0.1"
      publish(engine, "a")
      echo.sleep(5)
      local began = echo.now()
      local query = message.encode { questions = { { name = KIND .. ".local", type = TYPE.PTR } } }
      for _ = 1, 20 do
        hub:inject(query, "10.0.0.7")
        echo.sleep(0.1)
      end
      assert.is_true(#hub:sent("10.0.0.1", began) <= 3)
      engine:close()
    end)
  end)

  it("probes again when interfaces have changed, and keeps its name", function()
    run(function(hub)
      local engine, link = hub:host "10.0.0.1"
      local other = hub:host "10.0.0.2"
      local service, told = publish(engine, "a")
      local browsing = browse(other)
      echo.sleep(3)
      link.ip4[1], engine.network.changed = "10.0.0.8", true
      local began = echo.now()
      echo.sleep(10)
      assert.equal(3, count(hub.packets, function(packet, entry) return entry.at >= began and is_probe(packet) end))
      assert.same({ "a", "up" }, { service.name, service.state })
      assert.same({ "up", "up" }, told)
      assert.same({ "10.0.0.8:5000" }, browsing:list()[1].addresses)
      browsing:close()
      engine:close()
      other:close()
    end)
  end)

  it("answers only where the server has an address", function()
    run(function(hub)
      local engine, here = hub:host "10.0.0.1", hub:host "10.0.0.2"
      publish(engine, "elsewhere", 1, { ip = "192.168.1.1" })
      publish(engine, "here", 2, { ip = "10.0.0.1" })
      publish(engine, "any", 3, { ip = "0.0.0.0" })
      local browsing = browse(here)
      echo.sleep(5)
      assert.same({ "any", "here" }, names_of(browsing))
      engine:close()
      here:close()
    end)
  end)
end)

describe("multicast DNS under attack", function()
  before_each(function() log.set(function() end) end)
  after_each(function() log.set(nil) end)

  it("finds who is there though its memory is full of names that nobody stands for", function()
    run(function(hub)
      local most <const> = querier.MAX_SERVICES
      querier.MAX_SERVICES = 40 -- 512 of them take their time
      local _ <close> = setmetatable({}, { __close = function() querier.MAX_SERVICES = most end })
      local engine = hub:host "10.0.0.1"
      local browsing = browse(engine)
      local function flood(from, to)
        for first = from, to, 20 do
          local records = {}
          for i = first, first + 19 do
            records[#records + 1] = message.record { name = KIND .. ".local", type = TYPE.PTR, ttl = 4500,
              target = dns_sd.records({ name = "ghost " .. i, type = KIND, subtypes = {}, host = "x.local", port = 1, strings = {} })[1].target }
          end
          hub:inject(message.encode { response = true, answers = records }, "10.0.0.66")
        end
      end
      flood(1, 100)
      echo.sleep(30)
      assert.same({}, names_of(browsing))
      local here = hub:host "10.0.0.2"
      publish(here, "honest")
      echo.sleep(5)
      assert.same({ "honest" }, names_of(browsing))
      flood(10001, 10200) -- it stays, whatever comes
      echo.sleep(60)
      assert.same({ "honest" }, names_of(browsing))
      browsing:close()
      assert.equal(0, engine.querier.cache.n)
      engine:close()
      here:close()
    end)
  end)

  it("keeps a bounded number of services and records", function()
    run(function(hub)
      local engine = hub:host "10.0.0.1"
      local browsing = browse(engine)
      for batch = 1, 60 do
        local records = {}
        for i = 1, 20 do
          local shared, unique = dns_sd.records { name = ("evil %d"):format(batch * 20 + i), type = KIND, subtypes = {}, host = "evil.local",
            port = 1, strings = {} }
          records[#records + 1], records[#records + 2], records[#records + 3] = shared[1], unique[1], unique[2]
          records[#records + 1] = message.record { name = "evil.local", type = TYPE.A, ttl = 120, address = ("10.1.%d.%d"):format(batch % 250, i) }
        end
        hub:inject(message.encode { response = true, answers = records }, "10.0.0.66")
        echo.sleep(0.01)
      end
      echo.sleep(1)
      assert.is_true(#browsing:list() > 100 and #browsing:list() <= querier.MAX_SERVICES)
      assert.is_true(engine.querier.cache.n <= querier.MAX_RECORDS)
      assert.is_true(#browsing:list()[1].addresses <= 2 * querier.MAX_ADDRESSES)
      browsing:close()
      assert.equal(0, engine.querier.cache.n)
      engine:close()
    end)
  end)

  it("forgets the hosts that a service has left, whoever says ever new ones", function()
    run(function(hub)
      local engine = hub:host "10.0.0.1"
      local browsing = browse(engine)
      local function say(host, port)
        local shared, unique = dns_sd.records { name = "evil", type = KIND, subtypes = {}, host = host, port = port, strings = {} }
        local a = message.record { name = host, type = TYPE.A, ttl = 120, address = "10.0.0.66" }
        hub:inject(message.encode { response = true, answers = { shared[1], unique[1], unique[2], a } }, "10.0.0.66")
      end
      for i = 1, 400 do
        say(("evil-%d.local"):format(i), 1)
        echo.sleep(i % 40 == 0 and 3 or 0.01)
      end
      say("last.local", 2)
      echo.sleep(5)
      local hosts = 0
      for _ in pairs(engine.querier.hosts) do hosts = hosts + 1 end
      assert.equal(1, hosts)
      assert.same({ "10.0.0.66:2" }, browsing:list()[1].addresses)
      browsing:close()
      assert.is_nil(next(engine.querier.hosts))
      engine:close()
    end)
  end)

  it("counts large datagrams for several, and drops those that are larger than any", function()
    run(function(hub)
      local engine = hub:host "10.0.0.1"
      local empty = message.encode { response = true }
      hub:inject(empty .. ("\0"):rep(9001 - #empty), "10.0.0.66")
      echo.sleep(0.1)
      assert.equal(1, engine.dropped)
      for _ = 1, 100 do hub:inject(empty .. ("\0"):rep(9000 - #empty), "10.0.0.66") end
      echo.sleep(0.01)
      assert.is_true(engine.dropped > 20 and engine.dropped < 60, engine.dropped)
      engine:close()
    end)
  end)

  it("looks at a bounded number of datagrams, and at none that is no message", function()
    run(function(hub)
      local engine = hub:host "10.0.0.1"
      local browsing = browse(engine)
      for _ = 1, 5000 do hub:inject("\0\0\x84\0\0\0\0\1", "10.0.0.66") end
      echo.sleep(0.1)
      assert.is_true(engine.dropped >= 5000)
      engine:close()
      browsing:close()
    end)
  end)

  it("ignores answers that come from another port, and what nobody asked for", function()
    run(function(hub)
      local engine = hub:host "10.0.0.1"
      local browsing = browse(engine)
      local shared, unique = dns_sd.records { name = "evil", type = KIND, subtypes = {}, host = "evil.local", port = 1, strings = {} }
      local a = message.record { name = "evil.local", type = TYPE.A, ttl = 120, address = "10.0.0.66" }
      local all = { shared[1], unique[1], unique[2], a }
      hub:inject(message.encode { response = true, answers = all }, "10.0.0.66", 40000)
      hub:inject(message.encode { response = true, answers = { unique[1], unique[2], a } }, "10.0.0.66")
      echo.sleep(1)
      assert.same({}, browsing:list())
      assert.equal(0, engine.querier.cache.n)
      hub:inject(message.encode { response = true, answers = all }, "10.0.0.66")
      echo.sleep(1)
      assert.same({ "evil" }, names_of(browsing))
      browsing:close()
      engine:close()
    end)
  end)

  it("survives datagrams made of chance", function()
    run(function(hub)
      local engine = hub:host "10.0.0.1"
      local lines = {}
      log.set(function(record) lines[#lines + 1] = record.message end)
      publish(engine, "a")
      local browsing = browse(engine)
      echo.sleep(3)
      local bases = {}
      for i, entry in ipairs(hub.packets) do bases[i] = entry.bytes end
      for round = 1, os.getenv "ES_VALGRIND" and 100 or 1000 do
        local bytes = { bases[round % #bases + 1]:byte(1, -1) }
        for _ = 1, math.floor(echo.loop.random() * 6) do
          bytes[1 + math.floor(echo.loop.random() * #bytes)] = math.floor(echo.loop.random() * 256)
        end
        hub:inject(string.char(table.unpack(bytes)), "10.0.0.66")
        if round % 20 == 0 then echo.sleep(0.05) end
      end
      echo.sleep(20)
      for _, line in ipairs(lines) do assert.is_nil(line:find "failed", line) end
      browsing:close()
      engine:close()
    end)
  end)
end)
