local echo = require "echostream"

describe("the face of the parts of HTTP", function()
  local http = echo.http

  local function refused(text, fn, ...)
    local ok, err = pcall(fn, ...)
    assert.is_false(ok)
    assert.is_truthy(tostring(err):find(text, 1, true), tostring(err))
    assert.is_truthy(tostring(err):find("http_checked_spec.lua", 1, true), tostring(err))
  end

  it("names the argument that is wrong, in the user's line", function()
    refused("http.percent.encode: bytes wants to be a string, got nil", function()
      http.percent.encode()
    end)
    refused("http.accept.media_type: offered wants to be a list of strings", function()
      http.accept.media_type("*/*", { 1 })
    end)
    refused("http.conditional.evaluate: request wants to be a request", function()
      http.conditional.evaluate({}, {})
    end)
    refused("http.query.build: from wants to be a map of names", function()
      http.query.build { a = print }
    end)
  end)

  it("does what the part does", function()
    assert.equal("a%20b", http.percent.encode "a b")
    assert.equal("a=1&b=2&b=3", http.query.build { a = 1, b = { "2", "3" } })
    assert.equal("a=1&a=2", http.query.build { { "a", 1 }, { "a", 2 } })
    assert.equal("data: x\n\n", http.sse.encode { data = "x" })
    assert.equal("bytes 0-1/9", http.range.content_range({ first = 0, last = 1 }, 9))
    assert.equal(200, http.cookies.max_cookies)
  end)

  it("sets the part's own fields", function()
    local before = http.cookies.max_cookies
    http.cookies.max_cookies = 3
    assert.equal(3, require("echostream.http.cookies").max_cookies)
    http.cookies.max_cookies = before
  end)
end)
