local core = require "echostream.tunnel.core"

describe("a head", function()
  it("has the parts of a request, which can be changed", function()
    local h = assert(core.head("request", { method = "GET", scheme = "https", authority = "a.example", path = "/x", { "A", " b " } }))
    assert.equal("request", h.kind)
    assert.same({ "GET", "https", "a.example", "/x" }, { h.method, h.scheme, h.authority, h.path })
    assert.is_nil(h.protocol)
    assert.is_nil(h.status)
    h.path = "/y?z"
    h.protocol = "websocket"
    assert.equal("/y?z", h.path)
    assert.equal("websocket", h.protocol)
    h.protocol = nil
    assert.is_nil(h.protocol)
    assert.equal("b", h:get "a")
    assert.equal("GET /y?z", tostring(h))
    assert.has_error(function() h.path = "no slash" end, "path: a value that may not be there")
    assert.has_error(function() h.colour = "red" end, "a head has no field \"colour\" to be set; use head:set")
    assert.is_nil(h.colour)
  end)

  it("has fields, in order and repeated", function()
    local h = assert(core.head("response", { status = 404, { "set-cookie", "a=1" }, { "X-Y", "z" }, { "Set-Cookie", "b=2" } }))
    assert.equal(404, h.status)
    assert.equal("a=1, b=2", h:get "SET-COOKIE")
    assert.same({ "a=1", "b=2" }, h:all "set-cookie")
    assert.is_true(h:set("set-cookie", "c=3"))
    assert.is_true(h:add("x-y", "w"))
    local list = {}
    for name, value in h:each() do list[#list + 1] = name .. "=" .. value end
    assert.same({ "set-cookie=c=3", "x-y=z", "x-y=w" }, list)
    assert.equal(2, h:remove "X-Y")
    assert.is_nil(h:get "x-y")
    local copy = h:copy()
    copy:set("only", "there")
    assert.is_nil(h:get "only")
    assert.is_nil(h.length)
    h:set("content-length", "12")
    assert.equal(12, h.length)
    local request = core.head("request", { { "cookie", "a=1" }, { "cookie", "b=2" } })
    assert.equal("a=1; b=2", request:get "cookie")
  end)

  it("refuses what would be two messages on the wire", function()
    local h = core.head("response", {})
    for _, field in ipairs { { "a", "x\r\ny: z" }, { "a b", "c" }, { "", "c" }, { "Transfer-Encoding", "chunked" }, { "connection", "close" },
      { "content-length", "1, 2" }, { "te", "gzip" } } do
      local ok, err = h:add(field[1], field[2])
      assert.is_nil(ok)
      assert.equal("invalid_argument", err.code)
      assert.is_nil((core.head("response", { field })))
    end
    local ok, err = h:add("big", ("x"):rep(100000))
    assert.is_nil(ok)
    assert.equal("resource_exhausted", err.code)
    assert.is_nil((core.head("response", { status = 99 })))
  end)
end)

describe("messages of a data stream", function()
  it("are made of parts and read again", function()
    local request = core.head("request", { method = "PUT", scheme = "http", authority = "a", path = "/" })
    local message = core.part("note", "n1") .. request:part() .. core.part("body", "bytes") .. core.head("trailers", { { "x", "y" } }):part()
    local list = {}
    for kind, value in core.parts(message) do
      list[#list + 1] = kind .. ":" .. (type(value) == "userdata" and value.kind or value)
    end
    assert.same({ "note:n1", "head:request", "body:bytes", "trailers:trailers" }, list)
    local head, rest, note = core.split(message)
    assert.equal("PUT", head.method)
    assert.equal("n1", note)
    assert.equal("body", (core.parts(rest)()))
    head, rest, note = core.split(request:part(true))
    assert.equal("/", head.path)
    assert.equal(core.part "end", rest)
    assert.is_nil(note)
    for kind, value in core.parts(core.head("response", { status = 103 }):part()) do
      assert.equal("informational 103", kind .. " " .. value.status)
    end
    for kind, value in core.parts(core.part("reset", { "truncated", "the backend went" })) do
      assert.same({ "reset", "truncated", "the backend went" }, { kind, value[1], value[2] })
    end
    assert.equal(core.part("reset", { "timeout", "x" }), core.part("reset", { why = "timeout", text = "x" }))
    local sizes = {}
    for _, value in core.parts(core.part("body", ("b"):rep(150000))) do sizes[#sizes + 1] = #value end
    assert.same({ 65536, 65536, 18928 }, sizes)
  end)

  it("are refused when anything in them is malformed", function()
    local good = core.part("body", "x")
    for _, bad in ipairs { "", "\0", "\9\0", "\5\1x", "\3\5ab", good .. "\3", "\1\2\2\0", "\6\0" } do
      local next_part, err = core.parts(bad)
      assert.is_nil(next_part)
      assert.equal("protocol", err.code)
      local head
      head, err = core.split(bad)
      assert.is_nil(head)
      assert.equal("protocol", err.code)
    end
    assert.is_nil((core.split(good)))
    assert.has_error(function() core.part("reset", "whatever") end)
  end)
end)
