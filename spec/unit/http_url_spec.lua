-- URLs of requests, and where redirections lead.
local fields = require "echostream.http.fields"
local redirect = require "echostream.http.client.redirect"
local urls = require "echostream.http.client.url"

describe("URLs", function()
  it("are taken apart", function()
    local url = assert(urls.parse "https://Example.ORG:8443/a/b?c=d#e")
    assert.equal("example.org", url.host)
    assert.equal(8443, url.port)
    assert.equal("example.org:8443", url.authority)
    assert.equal("https://example.org:8443", url.origin)
    assert.equal("/a/b?c=d", url.target)
    assert.equal("https://example.org:8443/a/b?c=d", url.text)
  end)

  for text, expected in pairs {
    ["https://a"] = { "a", 443, "a", "/" },
    ["HTTPS://a:443/"] = { "a", 443, "a", "/" },
    ["https://a:/x"] = { "a", 443, "a", "/x" },
    ["https://a?q"] = { "a", 443, "a", "/?q" },
    ["https://a#f"] = { "a", 443, "a", "/" },
    ["https://[::1]:5000/"] = { "::1", 5000, "[::1]:5000", "/" },
    ["https://[::1]"] = { "::1", 443, "[::1]", "/" },
    ["https://a/b c/ü"] = { "a", 443, "a", "/b%20c/%C3%BC" },
    ["https://a/../b"] = { "a", 443, "a", "/../b" },
  } do
    it("such as " .. text, function()
      local url = assert(urls.parse(text))
      assert.same(expected, { url.host, url.port, url.authority, url.target })
    end)
  end

  for text, why in pairs {
    ["example.org/"] = "look like",
    ["http://a/"] = "not for http",
    ["https:///a"] = "no host",
    ["https://a:0/"] = "port",
    ["https://a:65536/"] = "port",
    ["https://a:1x/"] = "port",
    ["https://me:secret@a/"] = "authorization",
    ["https://a\r\nb/"] = "control",
    ["https://a/\0"] = "control",
    ["https://[::1/"] = "no host",
    ["https://[a]/"] = "IPv6",
    ["https://ü.example/"] = "host",
    ["https://a_b,c/"] = "host",
  } do
    it(("refuse %q"):format(text), function()
      local url, reason = urls.parse(text)
      assert.is_nil(url)
      assert.matches(why, reason, 1, true)
    end)
  end

  it("get more of a query", function()
    local function with(text, more)
      return urls.with_query(assert(urls.parse(text)), more).target
    end
    assert.equal("/a?b=1", with("https://a/a", "b=1"))
    assert.equal("/a?x&b=1", with("https://a/a?x", "b=1"))
    assert.equal("/a?b=1", with("https://a/a?", "b=1"))
    assert.equal("/a", with("https://a/a", ""))
  end)

  -- RFC 3986, section 5.4
  local base = assert(urls.parse "https://a/b/c/d;p?q")
  for reference, target in pairs {
    ["g"] = "/b/c/g", ["./g"] = "/b/c/g", ["g/"] = "/b/c/g/", ["/g"] = "/g", ["?y"] = "/b/c/d;p?y", ["g?y"] = "/b/c/g?y",
    ["#s"] = "/b/c/d;p?q", ["g#s"] = "/b/c/g", [";x"] = "/b/c/;x", [""] = "/b/c/d;p?q", ["."] = "/b/c/", ["./"] = "/b/c/",
    [".."] = "/b/", ["../"] = "/b/", ["../g"] = "/b/g", ["../.."] = "/", ["../../"] = "/", ["../../g"] = "/g",
    ["../../../g"] = "/g", ["/./g"] = "/g", ["/../g"] = "/g", ["g."] = "/b/c/g.", ["..g"] = "/b/c/..g", ["./../g"] = "/b/g",
    ["./g/."] = "/b/c/g/", ["g/./h"] = "/b/c/g/h", ["g/../h"] = "/b/c/h", ["g?y/../x"] = "/b/c/g?y/../x",
    ["https://a:443/z"] = "/z", ["//a/z"] = "/z",
  } do
    it(("resolve %q"):format(reference), function()
      local url = assert(urls.resolve(base, reference))
      assert.equal(target, url.target)
      assert.equal("https://a:443", url.origin)
    end)
  end

  it("of random bytes are URLs or not, and never anything else", function()
    local pieces = { "https:", "//", "/", "?", "#", "[", "]", "::1", ":", "@", "a", ".", "..", "%", "%2e", "\\", " ", "\0", "\255", "443", "99999",
      "xn--a" }
    local seed = 1
    for _ = 1, 5000 do
      local text = {}
      for i = 1, 8 do
        seed = (seed * 1103515245 + 12345) % 2147483648
        text[i] = pieces[seed // 65536 % #pieces + 1]
      end
      text = table.concat(text)
      for _, candidate in ipairs { text, "https://a" .. text } do
        local url, why = urls.parse(candidate)
        assert(url and not url.target:find "[^!-~]" and url.target:sub(1, 1) == "/" or type(why) == "string", candidate)
      end
      local url, why = urls.resolve(base, text)
      assert(url and not url.target:find "[^!-~]" and url.target:sub(1, 1) == "/" or type(why) == "string", text)
      assert(not url or urls.parse(url.text).text == url.text, text)
    end
  end)

  it("lead to other hosts", function()
    assert.equal("https://b:1/x", urls.resolve(base, "//b:1/x").text)
    assert.is_nil(urls.resolve(base, "http://a/"))
    assert.is_nil(urls.resolve(base, "javascript:alert(1)"))
    assert.is_nil(urls.resolve(base, "/a\nb"))
  end)
end)

describe("redirections", function()
  local here = assert(urls.parse "https://a/x")
  local there = assert(urls.parse "https://a/y")
  local elsewhere = assert(urls.parse "https://b/y")

  local function request(method, body)
    return { method = method, body = body, expect = 1, trailers = { a = "b" }, authority = "virtual",
      headers = fields.new { authorization = "secret", cookie = "c", accept = "x", ["content-type"] = "t", ["content-length"] = "1" } }
  end

  it("are followed for some statuses only", function()
    local headers = fields.new { location = "/y" }
    for _, status in ipairs { 301, 302, 303, 307, 308 } do
      assert.equal("https://a/y", redirect.target(here, status, headers).text)
    end
    for _, status in ipairs { 200, 201, 300, 304, 305, 306, 404 } do
      assert.is_nil(redirect.target(here, status, headers))
    end
    assert.is_nil(redirect.target(here, 302, fields.new()))
  end)

  it("never lead to http", function()
    local target, err = redirect.target(here, 302, fields.new { location = "http://a/y" })
    assert.is_nil(target)
    assert.equal("protocol", err.code)
    assert.same({ status = 302, location = "http://a/y" }, err.details)
  end)

  it("change the method as RFC 9110 says, and leave the body behind then", function()
    local method = function(status, before)
      return redirect.follow(request(before, "x"), status, here, there).method
    end
    assert.same({ "GET", "GET", "GET", "POST", "POST" },
      { method(301, "POST"), method(302, "POST"), method(303, "POST"), method(307, "POST"), method(308, "POST") })
    assert.same({ "PUT", "PUT", "GET", "HEAD" }, { method(301, "PUT"), method(302, "PUT"), method(303, "PUT"), method(303, "HEAD") })
    local after = redirect.follow(request("POST", "x"), 303, here, there)
    assert.is_nil(after.body)
    assert.is_nil(after.trailers)
    assert.is_nil(after.expect)
    assert.is_false(after.headers:has "content-type")
    assert.is_false(after.headers:has "content-length")
    assert.equal("secret", after.headers:get "authorization")
    assert.equal("virtual", after.authority)
    local kept = redirect.follow(request("POST", "x"), 307, here, there)
    assert.equal("x", kept.body)
    assert.equal("t", kept.headers:get "content-type")
  end)

  it("take no secrets to others", function()
    local before = request("GET")
    local after = redirect.follow(before, 302, here, elsewhere)
    assert.is_false(after.headers:has "authorization")
    assert.is_false(after.headers:has "cookie")
    assert.equal("x", after.headers:get "accept")
    assert.is_nil(after.authority)
    assert.is_true(before.headers:has "authorization") -- the request of before is untouched
  end)

  it("do not send again what comes only once", function()
    local after, err = redirect.follow(request("POST", function() end), 307, here, there)
    assert.is_nil(after)
    assert.equal("failed_precondition", err.code)
    assert.truthy(redirect.follow(request("POST", function() end), 303, here, there))
  end)
end)
