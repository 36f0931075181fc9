local codec = require "echostream.codec"
local content = require "echostream.http.content"
local errors = require "echostream.errors"
local fields = require "echostream.http.fields"
local http_errors = require "echostream.http.errors"

describe("the content of a request", function()
  local function request(type, body, more)
    local headers = fields.new(more)
    if type then headers:set("content-type", type) end
    return { headers = headers, body = body }
  end

  local function in_pieces(list)
    local i = 0
    return setmetatable({ taken = function() return i end, close = function(self) self.closed = true end }, {
      __call = function()
        i = i + 1
        if errors.is_error(list[i]) then return nil, list[i] end
        return list[i]
      end,
    })
  end

  it("is read whole, within a bound", function()
    assert.equal("", content.read(request()))
    assert.equal("abc", content.read(request(nil, "abc"), 3))
    assert.equal("abcd", content.read(request(nil, in_pieces { "ab", "", "cd" })))
    local body = in_pieces { "ab", "cd", "ef" }
    for _, case in ipairs { request(nil, "abcd"), request(nil, body), request(nil, in_pieces {}, { ["content-length"] = 4 }),
      request(nil, in_pieces {}, { ["content-length"] = ("9"):rep(30) }) } do
      local bytes, err = content.read(case, 3)
      assert.is_nil(bytes)
      assert.equal("resource_exhausted", err.code)
      assert.equal(413, http_errors.status(err))
    end
    assert.equal(2, body.taken()) -- and no further
    assert.is_true(body.closed)
    assert.equal(400, http_errors.status(select(2, content.read(request(nil, "", { ["content-length"] = "1x" })))))
    local bytes, err = content.read(request(nil, in_pieces { "a", errors.new("connection_closed", "gone") }))
    assert.is_nil(bytes)
    assert.equal("connection_closed", err.code)
  end)

  it("is what its type says", function()
    assert.same({ { 10, 20 }, "json" }, { content.decode(request("application/json; charset=utf-8", "[10,20]")) })
    assert.same({ { a = 1 }, "json" }, { content.decode(request("application/problem+json", '{"a":1}')) })
    for _, name in ipairs { "application/msgpack", "application/x-msgpack", "Application/Vnd.MsgPack" } do
      assert.same({ { 10, "x" }, "msgpack" }, { content.decode(request(name, codec.msgpack.pack { 10, "x" })) })
    end
    assert.same({ { a = "1 2" }, "form" }, { content.decode(request("application/x-www-form-urlencoded", "a=1+2")) })
    assert.same({ "hello", "text" }, { content.decode(request("text/plain", "hello")) })
    assert.same({ "\0", "bytes" }, { content.decode(request("application/octet-stream", "\0")) })
    assert.same({ codec.null, "json" }, { content.decode(request("application/json", "null")) })
    assert.same({ "json", "application/json" }, { content.kind(fields.new { ["content-type"] = "application/JSON" }) })
  end)

  it("is guessed when that is asked for", function()
    local guess = { guess_json = true }
    assert.same({ { 10, 20 }, "json" }, { content.decode(request("application/x-www-form-urlencoded", "[10,20]"), guess) })
    assert.same({ { 10, 20 }, "json" }, { content.decode(request(nil, "[10,20]"), guess) })
    assert.same({ "[10]", "text" }, { content.decode(request("text/plain", "[10]"), guess) })
  end)

  it("is refused with the status that says why", function()
    local function status(...)
      local value, err = content.decode(...)
      assert.is_nil(value)
      return http_errors.status(err)
    end
    assert.equal(415, status(request("image/png", "x")))
    assert.equal(415, status(request(nil, "x")))
    assert.equal(415, status(request("application/json", "x", { ["content-encoding"] = "gzip" })))
    assert.equal(400, status(request("application/json", "{")))
    assert.equal(400, status(request("application/json", "")))
    assert.equal(400, status(request("application/json", "[1][2]")))
    assert.equal(400, status(request("application/msgpack", "\1\2")))
    assert.same({ { 1 }, "json" }, { content.decode(request("application/json", " [1]\r\n")) })
    assert.equal(400, status(request("application/msgpack", "\xc1")))
    assert.equal(413, status(request("application/json", "[1,2]"), { max = 4 }))
    assert.equal(429, status(request("application/x-www-form-urlencoded", ("a&"):rep(2000))))
    assert.has_error(function() content.decode(request(), { maximum = 5 }) end)
  end)
end)
