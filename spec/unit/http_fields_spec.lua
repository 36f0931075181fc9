local accept = require "echostream.http.accept"
local fields = require "echostream.http.fields"

describe("header fields", function()
  it("have names without case and several values, in their order", function()
    local headers = fields.new { { "Accept", "a" }, { "X-One", 1 }, { "accept", " b\t" } }
    assert.equal("a, b", headers:get "ACCEPT")
    assert.same({ "a", "b" }, headers:all "accept")
    assert.equal("1", headers:get "x-one")
    assert.is_nil(headers:get "x-two")
    assert.is_true(headers:has "X-ONE")
    assert.is_false(headers:has "x-two")
    assert.equal(3, headers:count())
    assert.equal(6 + 1 + 32 + 5 + 1 + 32 + 6 + 1 + 32, headers:size())
    local seen = {}
    for name, value in headers:each() do seen[#seen + 1] = name .. "=" .. value end
    assert.same({ "accept=a", "x-one=1", "accept=b" }, seen)
  end)

  it("are made of a map, and changed", function()
    local headers = fields.new { vary = "Origin", ["set-cookie"] = { "a=1", "b=2" }, cookie = { "x=1", "y=2" } }
    assert.equal("a=1", headers:get "set-cookie") -- never joined
    assert.equal("x=1; y=2", headers:get "cookie") -- RFC 9114, section 4.2.1
    local copy = headers:copy()
    headers:set("Vary", { "A", "B" }):add("vary", "C"):remove "set-cookie"
    assert.equal("A, B, C", headers:get "vary")
    assert.is_nil(headers:get "set-cookie")
    assert.equal("Origin", copy:get "vary")
    copy:include("vary", "origin", "Accept-Encoding"):include("new", "x")
    assert.equal("Origin, Accept-Encoding", copy:get "vary")
    assert.equal("x", copy:get "new")
    assert.is_nil(headers:set("vary", nil):get "vary")
  end)

  it("refuse what would split a message", function()
    local headers = fields.new()
    for _, name in ipairs { "", "a b", "a:", "a\r\n", "ä", "a\0" } do
      assert.has_error(function() headers:set(name, "x") end, nil, name)
    end
    for _, value in ipairs { "a\r\nb: c", "a\nb", "a\0", "\127", "\27[0m" } do
      assert.has_error(function() headers:add("x", value) end)
    end
    assert.has_error(function() headers:set("x", {} ) headers:set("x", { {} }) end)
    assert.has_error(function() fields.new(5) end)
    assert.equal(0, headers:count())
    headers:set("x", "a\tb ä") -- bytes beyond ASCII are opaque: RFC 9110, section 5.5
    assert.equal("a\tb ä", headers:get "x")
    local ok = pcall(headers.set, headers, "x", "bad\n")
    assert.is_false(ok)
    assert.equal("a\tb ä", headers:get "x") -- what was there stays
  end)

  it("of a peer are taken only as RFC 9114 has them", function()
    assert.equal("b", assert(fields.parse { { "a", "b" }, { "te", "trailers" } }):get "a")
    for _, pair in ipairs { { "A", "b" }, { "", "b" }, { ":path", "/" }, { "a b", "c" }, { "connection", "close" },
      { "transfer-encoding", "chunked" }, { "upgrade", "h2c" }, { "keep-alive", "1" }, { "proxy-connection", "x" },
      { "te", "gzip" }, { "a", "b\r" }, { "a", "b\nc" }, { "a", "\0" }, { "a", " b" }, { "a", "b\t" } } do
      local got, err = fields.parse { { "x", "y" }, pair }
      assert.is_nil(got, pair[1] .. ": " .. pair[2])
      assert.equal("protocol", err.code)
    end
  end)

  it("hold lists, in which commas may be quoted", function()
    assert.same({ "a", "b c", '"x,\\",y"', 'd="1,2"' }, fields.list ' a,, b c ,"x,\\",y", d="1,2",')
    assert.same({}, fields.list " , ")
    assert.is_nil(fields.list 'a, "b')
    assert.is_nil(fields.list 'a, "b\\')
    assert.is_nil((fields.list(("a,"):rep(200))))
    assert.equal(200, #fields.list(("a,"):rep(200), 200))
  end)

  it("hold parameters", function()
    local head, parameters = fields.parameters 'text/html; Charset=utf-8;x="a;\\"b" ;;'
    assert.equal("text/html", head)
    assert.same({ charset = "utf-8", x = 'a;"b' }, parameters)
    for _, broken in ipairs { "", ";a=b", "a;b", "a;b=", 'a;b="c', "a;b c=d", "a;=d" } do
      assert.is_nil((fields.parameters(broken)), broken)
    end
    assert.equal('a"b', fields.unquote(fields.quote 'a"b'))
    assert.equal("token", fields.quote "token")
    assert.equal('""', fields.quote "")
    assert.has_error(function() fields.quote "\n" end)
  end)

  it("hold weights", function()
    local function shown(value)
      local list = {}
      for i, choice in ipairs(fields.qualities(value)) do list[i] = choice.value .. "=" .. choice.q end
      return table.concat(list, " ")
    end
    assert.equal("gzip=1.0 br=1.0 zstd=0.5 x=0.0", shown "zstd;q=0.5, GZIP, br;q=1.000, x;q=0")
    assert.equal("a=1.0", shown "a, b;q=2, c;q=1.5, d;q=0.1234, e;q=-1, f;q=, g;q=nan")
    assert.equal("", shown "")
  end)
end)

describe("negotiation", function()
  it("takes the media type that is worth most", function()
    local offered = { "application/json", "text/html", "text/plain;format=flowed" }
    assert.equal("application/json", accept.media_type(nil, offered))
    assert.equal("application/json", accept.media_type("*/*", offered))
    assert.equal("text/html", accept.media_type("text/*", offered))
    assert.equal("text/html", accept.media_type("application/json;q=0.5, */*;q=0.6", offered))
    assert.equal("text/plain;format=flowed", accept.media_type("text/*;q=0.3, text/plain;format=flowed, text/html;q=0.7", offered))
    assert.is_nil(accept.media_type("image/png", offered))
    assert.equal("text/html", accept.media_type("application/json;q=0, text/html;q=0.001", offered))
  end)

  it("takes the codings that a client understands, best first", function()
    local offered = { "zstd", "gzip" }
    assert.same({ "identity" }, accept.encodings(nil, offered))
    assert.same({ "identity" }, accept.encodings("", offered))
    assert.same({ "zstd", "gzip", "identity" }, accept.encodings("gzip, deflate, br, zstd", offered))
    assert.same({ "gzip", "zstd", "identity" }, accept.encodings("zstd;q=0.5, x-gzip", offered))
    assert.same({ "zstd", "gzip", "identity" }, accept.encodings("*", offered))
    assert.same({ "gzip" }, accept.encodings("gzip, *;q=0", offered))
    assert.same({ "identity", "gzip" }, accept.encodings("gzip;q=0.5, identity", offered))
    assert.same({}, accept.encodings("identity;q=0", offered))
  end)
end)
