local cookies = require "echostream.http.cookies"

describe("cookies", function()
  it("are read as they were set", function()
    local values, list = cookies.parse 'a=1; b="two" ;c=x=y;; =no; d; e=; a=2; %41=%20; bad name=1'
    assert.same({ a = "1", b = "two", c = "x=y", e = "", ["%41"] = "%20" }, values)
    assert.equal(6, #list)
    assert.same({ "a", "2" }, list[5])
    assert.same({}, (cookies.parse(nil)))
    assert.same({}, (cookies.parse ""))
    local nothing, err = cookies.parse(("a=1;"):rep(201))
    assert.is_nil(nothing)
    assert.equal("resource_exhausted", err.code)
  end)

  it("are set carefully unless told otherwise", function()
    assert.equal("id=abc; Path=/; Secure; HttpOnly; SameSite=Lax", cookies.build("id", "abc"))
    assert.equal("id=; Path=/a; Domain=example.org; Max-Age=60; Expires=Sun, 06 Nov 1994 08:49:37 GMT; SameSite=Strict",
      cookies.build("id", "", { path = "/a", domain = "example.org", max_age = 60, expires = 784111777, secure = false,
        http_only = false, same_site = "strict" }))
    assert.equal("__Host-id=1; Path=/; Secure; HttpOnly; SameSite=None; Partitioned",
      cookies.build("__Host-id", "1", { same_site = "none", partitioned = true }))
    assert.equal("id=; Path=/a; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Secure; HttpOnly; SameSite=Lax",
      cookies.expire("id", { path = "/a" }))
  end)

  it("that browsers would drop, or that would be others, are refused", function()
    local function refused(name, value, opts)
      assert.has_error(function() cookies.build(name, value, opts) end)
    end
    refused("a b", "1")
    refused("", "1")
    refused("a=b", "1")
    for _, value in ipairs { "a b", "a;b", "a,b", 'a"b', "a\\b", "a\r\nb", "ä", "\0" } do refused("a", value) end
    refused("a", 5)
    refused("a", ("x"):rep(5000))
    refused("a", "1", { path = "/; Domain=x" })
    refused("a", "1", { path = "x" })
    refused("a", "1", { domain = "x; Secure" })
    refused("a", "1", { same_site = "none", secure = false })
    refused("a", "1", { partitioned = true, secure = false })
    refused("a", "1", { same_site = "Lax" })
    refused("a", "1", { maxage = 5 })
    refused("__Host-a", "1", { path = "/a" })
    refused("__host-a", "1", { domain = "example.org" })
    refused("__Secure-a", "1", { secure = false })
    for c = 0x21, 0x7e do
      local char = string.char(c)
      if not char:find '[",;\\]' then
        assert.equal(char, cookies.parse(cookies.build("a", char)).a)
      end
    end
  end)
end)
