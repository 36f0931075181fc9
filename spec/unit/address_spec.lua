local address = require "echostream.address"

describe("addresses", function()
  local function parse(text)
    local host, port = address.parse("f", text, "0.0.0.0")
    return host .. " " .. port
  end

  it("come as host and port", function()
    assert.equal("127.0.0.1 5000", parse "127.0.0.1:5000")
    assert.equal("localhost 5000", parse "localhost:5000")
    assert.equal("example.org 443", parse "example.org:443")
    assert.equal("::1 5000", parse "[::1]:5000")
    assert.equal("fe80::1%eth0 5000", parse "[fe80::1%eth0]:5000")
    assert.equal("0.0.0.0 5000", parse ":5000")
    assert.equal("0.0.0.0 5000", parse "*:5000")
    assert.equal("0.0.0.0 5000", parse "5000")
    assert.equal("0.0.0.0 5000", parse(5000))
    assert.equal("127.0.0.1 0", parse "127.0.0.1:0")
  end)

  it("are refused with the reason", function()
    for text, why in pairs {
      ["localhost"] = "there is no port",
      ["::1"] = "needs brackets",
      ["[::1]"] = "there is no port",
      ["1.2.3.4:65536"] = "ports end at 65535",
      ["1.2.3.4:999999"] = "ports end at 65535",
      ["[1.2.3.4]:5"] = "only IPv6",
      ["a b:5"] = "no host name has",
      ["http://x:5"] = "it is a URL",
      [""] = "there is no port",
      ["host:"] = "there is no port",
    } do
      local ok, err = pcall(parse, text)
      assert.is_false(ok, text)
      assert.matches(why, err, 1, true)
    end
    assert.has_error(function() parse(nil) end)
    assert.has_error(function() parse(1.5) end)
    assert.has_error(function() parse {} end)
  end)

  it("are written with brackets where they must be", function()
    assert.equal("127.0.0.1:1", address.join("127.0.0.1", 1))
    assert.equal("[::1]:1", address.join("::1", 1))
  end)

  it("know literals", function()
    assert.equal("ip4", address.literal "10.0.0.255")
    assert.is_nil(address.literal "10.0.0.256")
    assert.is_nil(address.literal "10.0.0")
    assert.is_nil(address.literal "example.org")
    assert.equal("ip6", address.literal "::")
    assert.equal("ip6", address.literal "2001:db8::7")
  end)
end)
