local percent = require "echostream.http.percent"
local query = require "echostream.http.query"

describe("queries", function()
  it("are cut off the path", function()
    assert.same({ "/a", "b=1?c" }, { query.split "/a?b=1?c" })
    assert.same({ "/a", "" }, { query.split "/a?" })
    assert.same({ "/a" }, { query.split "/a" })
  end)

  it("are read as browsers write them", function()
    local values, list = query.parse "a=1&b=x+y%20z&a=2&&c&=e&d=%C3%A4%2B&f=%&g=%zz%4&h=a=b"
    assert.same({ a = "1", b = "x y z", c = "", [""] = "e", d = "ä+", f = "%", g = "%zz%4", h = "a=b" }, values)
    assert.equal(9, #list)
    assert.same({ "a", "2" }, list[3])
    assert.same({}, (query.parse(nil)))
    assert.equal("%41", query.parse("a=%2541").a) -- once
  end)

  it("have an end", function()
    assert.equal(1000, #select(2, query.parse(("a&"):rep(1000))))
    local values, err = query.parse(("a&"):rep(1001))
    assert.is_nil(values)
    assert.equal("resource_exhausted", err.code)
    assert.is_nil((query.parse("a&b", 1)))
  end)

  it("are written", function()
    assert.equal("a=1&b=x+y&c=%26%3D%2B%C3%A4%7E*-._&d=1&d=2&e=false", query.build {
      a = 1, b = "x y", c = "&=+ä~*-._", d = { 1, 2 }, e = false })
    assert.equal("b=1&a=2&b=3", query.build { { "b", 1 }, { "a", 2 }, { "b", 3 } })
    assert.equal("", query.build {})
    local all = {}
    for c = 0, 255 do all[c + 1] = string.char(c) end
    all = table.concat(all)
    assert.equal(all, query.parse(query.build { [all] = all })[all])
  end)
end)

describe("percent-encoding", function()
  it("is undone once, or not at all", function()
    assert.equal("a b%2f", percent.decode "a%20b%252f")
    assert.equal("\0\255", percent.decode "%00%fF")
    for _, broken in ipairs { "%", "a%2", "%g0", "%%41", "%4%31" } do
      local text, err = percent.decode(broken)
      assert.is_nil(text, broken)
      assert.equal("invalid_argument", err.code)
    end
  end)

  it("leaves what needs none", function()
    assert.equal("aZ09-._~%2F%20%C3%A4%25", percent.encode "aZ09-._~/ ä%")
    assert.equal("a/b%20c", percent.encode("a/b c", "/"))
  end)
end)
