local canonical = require "echostream.tunnel.rules.canonical"

describe("a path", function()
  it("has one form", function()
    for from, to in pairs {
      ["/"] = "/", ["*"] = "*", ["/a/b-c_d"] = "/a/b-c_d", ["/a//b///c"] = "/a/b/c", ["//"] = "/", ["//a"] = "/a",
      ["/%41%7e%2d%5f%2E"] = "/A~-_.",
      ["/%c3%a9"] = "/%C3%A9", ["/\xc3\xa9"] = "/%C3%A9", ["/a b"] = "/a%20b", ["/a%2fb"] = "/a%2Fb",
      ["/%2541"] = "/%2541", ["/a/./b"] = "/a/b", ["/a/../b"] = "/b", ["/a/b/.."] = "/a/", ["/a/."] = "/a/", ["/a/.."] = "/", ["/."] = "/",

      ["/a/%2e%2e/b"] = "/b", ["/a/.%2E/b"] = "/b", ["/a//../b"] = "/b", ["/a/b/../../c/"] = "/c/", ["/..."] = "/...",
        ["/.well-known/x"] = "/.well-known/x",
      ["/a..b"] = "/a..b", ["/a;x=1/b"] = "/a;x=1/b", ["/a%3bx"] = "/a%3Bx", ["/~u/@x:y,z!$&'()*+="] = "/~u/@x:y,z!$&'()*+=",
        ["/<\">"] = "/%3C%22%3E",
    } do
      assert.equal(to, (canonical.path(from)), from)
    end
  end)

  it("that a backend may read otherwise is refused", function()
    for _, path in ipairs { "a", "", "?", "/..", "/../a", "/a/../..", "/%2e%2e", "/a/../../b",
      "/a%", "/a%4", "/a%4x", "/%%41", "/%zz", "/a\\b", "/a#b", "/a\0",
      "/%00", "/a%00b", "/..%2fadmin", "/a/..%2Fb", "/a%2f..%2fb", "/a%2F%2e%2e%2Fb", "/..%5cadmin",
      "/x/..;/admin", "/x/..;a=b/admin", "/x/.;/admin", "/x/..%3b/a",
      "/a%2f.", "/a%5c..", "/%2e%2e%2fx" } do
      local clean, why = canonical.path(path)
      assert.is_nil(clean, path)
      assert.is_string(why)
    end
  end)

  it("is a fixed point once it is clean, and never has dot segments", function()
    local pieces = { "/", "a", "..", ".", "%2e", "%2F", "%41", ";", "//", "b", "%5c", "~", "\xff", "%25", "-" }
    local seed = 12345
    local function any(n)
      seed = (seed * 1103515245 + 12345) & 0x7fffffff
      return (seed >> 8) % n + 1
    end
    local clean_ones = 0
    for _ = 1, 5000 do
      local list = { "/" }
      for i = 2, any(9) do list[i] = pieces[any(#pieces)] end
      local path = table.concat(list)
      local clean = canonical.path(path)
      if clean then
        clean_ones = clean_ones + 1
        assert.equal(clean, (canonical.path(clean)), path)
        assert.is_nil((clean .. "/"):find "/%.%.?/", path)
        assert.is_nil(clean:find("//", 1, true), path)
        assert.is_nil(clean:find "[^!-~]", path)
      end
    end
    assert.is_true(clean_ones > 1000)
  end)
end)

describe("a target", function()
  it("is a path and a query, which stays as it is", function()
    local function both(target)
      local path, query = canonical.target(target)
      return (path or "nil") .. " " .. tostring(query)
    end
    assert.equal("/a nil", both "/a")
    assert.equal("/a ", both "/a?")
    assert.equal("/a x=%2e%2e/%41&y=//", both "/a?x=%2e%2e/%41&y=//")
    assert.equal("/ ?", both "/??")
    assert.equal("/ %C3%A9%20", both "/?\xc3\xa9 ")
    assert.equal("nil a target has no fragment", both "/?a#b")
    assert.equal("nil a path begins with a slash", both "?a")
  end)
end)

describe("an authority", function()
  it("is a host in lower case and a port", function()
    for from, to in pairs {
      ["Example.ORG"] = "example.org nil", ["example.org."] = "example.org nil", ["example.org:8080"] = "example.org 8080", ["a_b.c:"] = "a_b.c nil",
      ["127.0.0.1:0080"] = "127.0.0.1 80", ["[2001:DB8::1]:443"] = "[2001:db8::1] 443", ["[::1]"] = "[::1] nil", ["x:65535"] = "x 65535",
    } do
      local host, port = canonical.authority(from)
      assert.equal(to, tostring(host) .. " " .. tostring(port), from)
    end
  end)

  it("that is none is refused", function()
    for _, text in ipairs { "", ".", "a..b", "a..", ".a", "a b", "a@b", "user:pw@b", "a%41", "a/b", "a:65536", "a:x", "a:-1", "a:1:2",
      "[::1", "[::1]x", "[x]", "[]",
      "a:99999999999999999999", "a\0b", "h\xc3\xa9", ("a"):rep(255), "::1", "a,b" } do
      local host, why = canonical.authority(text)
      assert.is_nil(host, text)
      assert.is_string(why)
    end
  end)
end)
