require("tunnel.spec.support.fake_head").install()
local addresses = require "echostream.tunnel.limits.addresses"

local function text_of(ip)
  local family, high, low = addresses.parse(ip)
  return family and (family == 4 and ("4 %x"):format(high) or ("6 %016x%016x"):format(high, low)) or "none"
end

describe("an address", function()
  it("is read", function()
    assert.equal("4 7f000001", text_of "127.0.0.1")
    assert.equal("4 ffffffff", text_of "255.255.255.255")
    assert.equal("4 a000001", text_of "::ffff:10.0.0.1")
    assert.equal("4 a000001", text_of "::FFFF:a00:1")
    assert.equal("6 00000000000000000000000000000001", text_of "::1")
    assert.equal("6 00000000000000000000000000000000", text_of "::")
    assert.equal("6 20010db8000000000000000000000001", text_of "2001:db8::1")
    assert.equal("6 00010002000300040005000600070008", text_of "1:2:3:4:5:6:7:8")
    assert.equal("6 00010000000000000000000000000000", text_of "1::")
    assert.equal("6 fe800000000000000000000000000001", text_of "fe80::1%eth0")
    assert.equal("6 0064ff9b0000000000000000c0000201", text_of "64:ff9b::192.0.2.1")
  end)

  it("that is none is not", function()
    for _, text in ipairs { "", "1", "1.2.3", "1.2.3.256", "1.2.3.4.5", "1.2.3.-4", "0x7f.0.0.1", ":", ":::", "1::2::3", "1:2:3:4:5:6:7",
      "1:2:3:4:5:6:7:8:9",
      "12345::", "g::", "::1.2.3.400", "1:2:3:4:5:6:7::8:9", "[::1]", " 1.2.3.4", "1:2:3:4:5:6:7:", ":1:2:3:4:5:6:7", "1::2:" } do
      assert.equal("none", text_of(text), text)
    end
  end)
end)

describe("a set of networks", function()
  it("finds the longest prefix", function()
    local set = assert(addresses.set())
    for text, value in pairs { ["10.0.0.0/8"] = "ten", ["10.1.0.0/16"] = "ten one", ["10.1.2.3"] = "host", ["0.0.0.0/0"] = "v4",
      ["2001:db8::/32"] = "doc",
      ["2001:db8::1"] = "doc host", ["2001:db8:0:0:8000::/65"] = "long" } do
      assert(set:add(text, value))
    end
    local function find(ip) return (set:find(ip)) end
    assert.equal("host", find "10.1.2.3")
    assert.equal("ten one", find "10.1.2.4")
    assert.equal("ten", find "10.2.2.4")
    assert.equal("v4", find "11.0.0.0")
    assert.equal("ten", find "::ffff:10.2.0.1")
    assert.equal("doc", find "2001:db8:1::1")
    assert.equal("doc host", find "2001:db8::1")
    assert.equal("long", find "2001:db8::8000:0:0:1")
    assert.is_nil(find "2001:db9::1")
    assert.is_nil(find "nonsense")
    assert.same({ "ten one", "10.1.0.0/16", 16 }, { set:find "10.1.9.9" })
  end)

  it("masks what is written with host bits, and takes \"all\"", function()
    local set = assert(addresses.set { "192.168.7.9/16", "fe80::1/10" })
    assert.is_true(set:find "192.168.200.1")
    assert.is_true(set:find "febf::")
    assert.is_nil(set:find "fec0::")
    local all = assert(addresses.set { "all" })
    assert.is_true(all:find "1.2.3.4")
    assert.is_true(all:find "::5")
    assert.is_true(assert(addresses.set { "::ffff:10.0.0.0/104" }):find "10.9.9.9")
  end)

  it("names what is no network", function()
    for _, text in ipairs { "10.0.0.0/33", "10.0.0.0/", "10/8", "::/129", "::ffff:1.2.3.4/95", "example.org", "1.2.3.4/-1" } do
      local set, why = addresses.set { "127.0.0.1", text }
      assert.is_nil(set, text)
      assert.truthy(why:find(text, 1, true), why)
    end
  end)

  it("agrees with a walk through all of them", function()
    local seed = 7
    local function any(n)
      seed = (seed * 6364136223846793005 + 1442695040888963407)
      return (seed >> 33) % n
    end
    local set, list = assert(addresses.set()), {}
    for i = 1, 3000 do
      local ip, length = ("%d.%d.%d.%d"):format(any(4), any(256), any(4), any(256)), 8 + any(25)
      set:add(ip .. "/" .. length, i)
      local _, bits = addresses.parse(ip)
      list[i] = { bits = bits >> (32 - length), length = length }
    end
    for _ = 1, 300 do
      local ip = ("%d.%d.%d.%d"):format(any(4), any(256), any(4), any(256))
      local _, bits = addresses.parse(ip)
      local best
      for i, one in ipairs(list) do
        if bits >> (32 - one.length) == one.bits and (not best or one.length >= list[best].length) then best = i end
      end
      assert.equal(best, (set:find(ip)), ip)
    end
  end)
end)

describe("a policy of addresses", function()
  local function judge(lists, ip)
    local ok, err, why = assert(addresses.policy(lists)):judge(ip)
    assert.is_string(why)
    return ok or err.http_status
  end

  it("lets everybody in who is not denied", function()
    assert.is_true(judge({ deny = { "10.0.0.0/8" } }, "11.0.0.1"))
    assert.equal(403, judge({ deny = { "10.0.0.0/8" } }, "10.0.0.1"))
    assert.is_true(judge({}, "10.0.0.1"))
  end)

  it("lets nobody in who is not allowed, when there is a list", function()
    assert.equal(403, judge({ allow = { "10.0.0.0/8" } }, "11.0.0.1"))
    assert.equal(403, judge({ allow = {} }, "11.0.0.1"))
    assert.equal(403, judge({ allow = { "10.0.0.0/8" } }, "garbage"))
    assert.is_true(judge({ allow = { "10.0.0.0/8" } }, "10.0.0.1"))
  end)

  it("follows the longest prefix, and denies at the same length", function()
    local lists = { allow = { "10.0.0.0/8", "10.1.2.0/24", "10.5.0.0/16" }, deny = { "10.1.0.0/16", "10.5.0.0/16" } }
    assert.is_true(judge(lists, "10.0.0.1"))
    assert.equal(403, judge(lists, "10.1.0.1"))
    assert.is_true(judge(lists, "10.1.2.1"))
    assert.equal(403, judge(lists, "10.5.0.1"))
  end)

  it("does not take names", function()
    local policy, why = addresses.policy { deny = { "localhost" } }
    assert.is_nil(policy)
    assert.truthy(why:find("localhost", 1, true))
  end)
end)
