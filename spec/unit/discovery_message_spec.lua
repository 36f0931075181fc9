-- DNS messages: lua/echostream/discovery/message.lua, and names and properties of services: dns_sd.lua.

local busted = require "busted"
local dns_sd = require "echostream.discovery.dns_sd"
local message = require "echostream.discovery.message"
local describe, it = busted.describe, busted.it

local TYPE = message.TYPE

local function example()
  local shared, unique = dns_sd.records { name = "v1.2 \\ küche", type = "_echostream._udp", subtypes = { "light" }, host = "es-1.local",
    port = 5000, strings = { "a=1", "flag", "pin=sha256:00" } }
  return {
    id = 7, response = true, authoritative = true, answers = shared, authorities = {},
    additionals = { unique[1], unique[2],
      message.record { name = "es-1.local", type = TYPE.A, address = "10.0.0.1", ttl = 120, flush = true },
      message.record { name = "es-1.local", type = TYPE.AAAA, address = "fe80::1:0:2", ttl = 120, flush = true } },
    questions = { { name = "_echostream._udp.local", type = TYPE.PTR, class = 1, unicast = true } },
  }
end

describe("a DNS message", function()
  it("comes back as it was, with names compressed", function()
    local bytes = message.encode(example())
    local packet = assert(message.decode(bytes))
    assert.equal(7, packet.id)
    assert.is_true(packet.response and packet.authoritative and packet.questions[1].unicast)
    assert.equal("_echostream._udp.local", packet.questions[1].name)
    assert.equal("v1\\.2 \\\\ küche._echostream._udp.local", packet.answers[1].target)
    assert.equal("light._sub._echostream._udp.local", packet.answers[3].name)
    local srv, txt, a, aaaa = table.unpack(packet.additionals)
    assert.same({ 0, 0, 5000, "es-1.local", true, 120 }, { srv.priority, srv.weight, srv.port, srv.target, srv.flush, srv.ttl })
    assert.same({ "a=1", "flag", "pin=sha256:00" }, txt.strings)
    assert.equal("10.0.0.1", a.address)
    assert.equal("fe80::1:0:2", aaaa.address)
    local plain = 0
    for _, record in ipairs(packet.answers) do plain = plain + #record.name + #record.rdata end
    assert.is_true(#bytes < plain + 200)
    assert.equal(bytes, message.encode(packet))
  end)

  it("is read as RFC 1035 writes it", function()
    -- The example of section 4.1.4: F.ISI.ARPA, FOO.F.ISI.ARPA, ARPA and the root, as questions.
    local bytes = "\0\1\0\0\0\4\0\0\0\0\0\0" .. "\1F\3ISI\4ARPA\0\0\1\0\1" .. "\3FOO\xC0\x0C\0\1\0\1" .. "\xC0\x12\0\1\0\1" .. "\0\0\1\0\1"
    local names = {}
    for i, question in ipairs(assert(message.decode(bytes)).questions) do names[i] = question.name end
    assert.same({ "F.ISI.ARPA", "FOO.F.ISI.ARPA", "ARPA", "" }, names)
  end)

  it("with pointers in a circle, forwards or beyond the end is refused", function()
    local head = "\0\0\0\0\0\1\0\0\0\0\0\0"
    for _, name in ipairs { "\xC0\x0C", "\xC0\x20", "\1a\xC0\x0C", "\xC0\x0D\0", "\xFF\xFF", "\xC0", "\x40abc\0", "\63abc", "\3abc" } do
      local packet, reason = message.decode(head .. name .. "\0\1\0\1")
      assert.is_nil(packet, ("%q"):format(name))
      assert.is_string(reason)
    end
  end)

  it("with a name that pointers make longer than 255 bytes is refused", function()
    local parts, at = { "\0\0\0\0\0\9\0\0\0\0\0\0" }, 12
    local before
    for _ = 1, 9 do
      local name = "\63" .. ("x"):rep(63) .. (before and (">I2"):pack(0xC000 | before) or "\0")
      before = at
      parts[#parts + 1] = name .. "\0\1\0\1"
      at = at + #parts[#parts]
    end
    local packet, reason = message.decode(table.concat(parts))
    assert.is_nil(packet)
    assert.matches("longer than 255", reason)
  end)

  it("with pointers to pointers is read up to 127 of them", function()
    for _, n in ipairs { 127, 128, 4000 } do
      local parts = { "\0\0\0\0\0\1\0\1\0\0\0\0\0\0\1\0\1" } -- the root's name, then a record whose data nobody looks at
      parts[2] = "\0" .. (">I2I2I4I2"):pack(99, 1, 1, 2 * n)
      local at = #parts[1] + #parts[2]
      for i = 1, n do parts[#parts + 1] = (">I2"):pack(0xC000 | (i == 1 and 12 or at + 2 * (i - 2))) end
      parts[1] = parts[1]:sub(1, 6) .. "\0\2" .. parts[1]:sub(9)
      parts[#parts + 1] = (">I2I2I2I4I2"):pack(0xC000 | (at + 2 * (n - 2)), 99, 1, 1, 0)
      local packet, reason = message.decode(table.concat(parts))
      if n == 127 then
        assert.equal("", packet.answers[2].name)
      else
        assert.is_nil(packet)
        assert.matches("does not go back", reason)
      end
    end
  end)

  it("of pointers to one long name costs no more than its length", function()
    local name = ("\1A"):rep(125) .. "\0"
    local n = (9000 - 12 - #name) // 6
    local bytes = (">I2I2I2I2I2I2"):pack(0, 0, n, 0, 0, 0) .. name .. "\0\12\0\1" .. ("\xC0\x0C\0\12\0\1"):rep(n - 1)
    local steps = 0
    debug.sethook(function() steps = steps + 1 end, "", 1000)
    local packet = message.decode(bytes)
    debug.sethook()
    assert.equal(n, #packet.questions)
    assert.equal(("A."):rep(124) .. "A", packet.questions[n].name)
    assert.is_true(steps < 300, steps) -- thousands of instructions
  end)

  it("cut off anywhere is refused", function()
    local bytes = message.encode(example())
    for length = 0, #bytes - 1 do
      assert.is_nil((message.decode(bytes:sub(1, length))), length)
    end
  end)

  it("with records whose lengths are wrong is refused", function()
    local function answer(kind, data) return "\0\0\x84\0\0\0\0\1\0\0\0\0" .. "\1a\0" .. (">I2I2I4s2"):pack(kind, 1, 1, data) end
    for _, bytes in ipairs { answer(TYPE.A, "abc"), answer(TYPE.AAAA, ("x"):rep(15)), answer(TYPE.SRV, "123456"), answer(TYPE.SRV, "12"),
      answer(TYPE.PTR, "\1b\0more"), answer(TYPE.TXT, "\5abc"), answer(TYPE.PTR, "") } do
      assert.is_nil((message.decode(bytes)))
    end
    assert.equal("", assert(message.decode(answer(TYPE.TXT, ""))).answers[1].rdata)
  end)

  it("made of chance never raises", function()
    local random = math.random
    math.randomseed(6763)
    local base, read = message.encode(example()), 0
    for round = 1, os.getenv "ES_VALGRIND" and 500 or 8000 do
      local bytes
      if round % 2 == 0 then
        local edited = { base:byte(1, -1) }
        for _ = 1, random(8) do edited[random(#edited)] = random(0, 255) end
        bytes = string.char(table.unpack(edited)):sub(1, random(4) == 1 and random(12, #base) or -1)
      else
        local list = {}
        for i = 1, random(0, 80) do list[i] = string.char(random(4) == 1 and 0xC0 or random(0, 255)) end
        bytes = "\0\0\0\0\0\1\0\1\0\0\0\1" .. table.concat(list)
      end
      local packet, reason = message.decode(bytes)
      if packet then
        read = read + 1
        assert.is_string(message.encode(packet))
      else
        assert.is_string(reason)
      end
    end
    assert.is_true(read > 10, read)
  end)

  it("has addresses in the text that RFC 5952 wants", function()
    for text, wanted in pairs { ["::"] = "::", ["::1"] = "::1", ["fe80::1%eth0"] = "fe80::1", ["1:0:0:2:0:0:0:3"] = "1:0:0:2::3",
      ["2001:db8:0:1:1:1:1:1"] = "2001:db8:0:1:1:1:1:1", ["::ffff:10.0.0.1"] = "::ffff:a00:1", ["1::"] = "1::" } do
      local record = message.record { name = "x", type = TYPE.AAAA, address = text }
      local packet = assert(message.decode(message.encode { answers = { record } }))
      assert.equal(wanted, packet.answers[1].address)
    end
    for _, text in ipairs { "1.2.3", "1.2.3.400", "1:2", "1:2:3:4:5:6:7:8:9", "host" } do
      assert.is_nil((message.pack_address(text)))
    end
  end)
end)

describe("a service's name", function()
  it("may have dots and any UTF-8", function()
    local instance = dns_sd.instance("Küche 1.OG", "_echostream._udp")
    assert.equal("Küche 1\\.OG._echostream._udp.local", instance)
    assert.equal("Küche 1.OG", dns_sd.name_of(instance, "_echostream._udp"))
    assert.equal("Küche 1.OG", dns_sd.name_of("Küche 1\\.OG._EchoStream._UDP.local", "_echostream._udp"))
    assert.is_nil(dns_sd.name_of(instance, "_chat._udp"))
    assert.is_nil(dns_sd.name_of("a.b._echostream._udp.local", "_echostream._udp"))
  end)

  it("that is taken gets a number, and stays within 63 bytes of whole characters", function()
    assert.equal("a (2)", dns_sd.next_name "a")
    assert.equal("a (3)", dns_sd.next_name "a (2)")
    assert.equal("a (10)", dns_sd.next_name "a (9)")
    local long = dns_sd.next_name(("ü"):rep(31))
    assert.is_true(#long <= 63 and utf8.len(long) ~= nil and long:find " %(2%)$" ~= nil)
  end)

  it("has a type that is checked", function()
    assert.equal("_echostream._udp", dns_sd.type_of("x"))
    assert.equal("_chat._udp", dns_sd.type_of("x", "chat"))
    assert.equal("_ipp._tcp", dns_sd.type_of("x", "_ipp._tcp.local"))
    for _, bad in ipairs { "", "_chat._icmp", "waytoolongforatype", "a b", "-a", "a--b", "123" } do
      assert.has_error(function() dns_sd.type_of("x", bad) end)
    end
  end)
end)

describe("properties", function()
  it("become TXT strings and come back", function()
    local strings = dns_sd.strings_of("x", { room = "kitchen", n = 3, flag = true, off = false, eq = "a=b", empty = "" })
    assert.same({ "empty=", "eq=a=b", "flag", "n=3", "room=kitchen" }, strings)
    assert.same({ room = "kitchen", n = "3", flag = true, eq = "a=b", empty = "" }, dns_sd.properties_of(strings))
  end)

  it("are read as RFC 6763 says", function()
    assert.same({ a = "1", b = true }, dns_sd.properties_of { "A=1", "a=2", "", "=x", "b" })
    assert.same({}, dns_sd.properties_of(nil))
  end)

  it("that cannot be sent are refused", function()
    for _, bad in ipairs { { [""] = 1 }, { ["a=b"] = 1 }, { ["ü"] = 1 }, { [1] = 2 }, { a = {} }, { a = ("x"):rep(255) } } do
      assert.has_error(function() dns_sd.strings_of("x", bad) end)
    end
    local many = {}
    for i = 1, 10 do many["k" .. i] = ("x"):rep(200) end
    assert.has_error(function() dns_sd.strings_of("x", many) end)
  end)
end)
