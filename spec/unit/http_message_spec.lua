local errors = require "echostream.errors"
local message = require "echostream.http.message"

describe("a response", function()
  local function made(status, headers, body)
    local response = message.new()
    response.status, response.body = status, body
    for name, value in pairs(headers) do response.headers:set(name, value) end
    return response
  end
  local function finish(method, ...) return message.finish({ method = method }, made(...), 784111777) end

  -- A body of these pieces (an error as the last one is what it fails with), and how often it was closed.
  local function pieces(list, length)
    local i = 0
    local body = setmetatable({ length = length, closed = 0, close = function(self) self.closed = self.closed + 1 end }, {
      __call = function()
        i = i + 1
        if errors.is_error(list[i]) then return nil, list[i] end
        return list[i]
      end,
    })
    return body
  end

  local function all(outgoing)
    local got = {}
    for _ = 1, 100 do
      local piece, err = outgoing.body()
      if not piece then return table.concat(got, "|"), err end
      got[#got + 1] = piece
    end
  end

  it("gets a date, a length and a type", function()
    local outgoing = assert(finish("GET", 200, {}, "hello"))
    assert.same({ 200, "hello", "5", "text/plain; charset=utf-8", "Sun, 06 Nov 1994 08:49:37 GMT" }, { outgoing.status, outgoing.body,
      outgoing.headers:get "content-length", outgoing.headers:get "content-type", outgoing.headers:get "date" })
    outgoing = assert(finish("GET", 404, { date = "now", ["content-type"] = "text/html" }))
    assert.is_nil(outgoing.body)
    assert.same({ "0", "now", "text/html" }, { outgoing.headers:get "content-length", outgoing.headers:get "date",
      outgoing.headers:get "content-type" })
    outgoing.close()
  end)

  it("has no content where there can be none, and its body is closed", function()
    for _, case in ipairs { { "HEAD", 200, "3" }, { "GET", 204, nil }, { "GET", 205, "0" }, { "GET", 304, nil }, { "HEAD", 404, "3" } } do
      local body = pieces({ "abc" }, 3)
      local outgoing = assert(finish(case[1], case[2], {}, body))
      assert.is_nil(outgoing.body)
      assert.equal(case[3], outgoing.headers:get "content-length")
      assert.equal(1, body.closed)
    end
    assert.equal("7", finish("HEAD", 200, { ["content-length"] = 7 }).headers:get "content-length")
    assert.equal("7", finish("GET", 304, { ["content-length"] = 7 }).headers:get "content-length")
    assert.is_nil(finish("GET", 204, { ["content-length"] = 0 }).headers:get "content-length")
    assert.is_nil(finish("HEAD", 200, {}).headers:get "content-length") -- nobody knows it
  end)

  it("is sent piece by piece", function()
    local body = pieces { "a", "", "bc" }
    local outgoing = assert(finish("GET", 200, {}, body))
    assert.is_nil(outgoing.headers:get "content-length")
    assert.same({ "a|bc" }, { all(outgoing) })
    assert.is_nil(outgoing.body())
    outgoing = assert(finish("GET", 200, {}, pieces({ "ab", "c" }, 3)))
    assert.equal("3", outgoing.headers:get "content-length")
    assert.same({ "ab|c" }, { all(outgoing) })
    local n = 0
    outgoing = assert(finish("GET", 200, { ["content-length"] = 2 }, function()
      n = n + 1
      return n == 1 and "xy" or nil
    end))
    assert.same({ "xy" }, { all(outgoing) })
    body = pieces { "a", "b" }
    outgoing = assert(finish("GET", 200, {}, body))
    outgoing.close()
    outgoing.close()
    assert.equal(1, body.closed)
  end)

  it("that breaks its promise is reset", function()
    for _, case in ipairs { { { "ab" }, 3 }, { { "ab", "cd" }, 3 }, { { "ab", 5 }, nil }, { { errors.new("io", "broken") }, nil } } do
      local text, err = all(assert(finish("GET", 200, {}, pieces(case[1], case[2]))))
      assert.is_true(errors.is_error(err), text)
    end
    local body = pieces({ "abcd" }, 3)
    local outgoing = assert(finish("GET", 200, {}, body))
    assert.is_nil((outgoing.body()))
    assert.equal(1, body.closed)
    assert.is_nil((outgoing.body()))
  end)

  it("that HTTP does not have is none", function()
    for _, case in ipairs { { 100, {} }, { 101, {} }, { 600, {} }, { "200", {} }, { 200.5, {} }, { 200, { connection = "close" } },
      { 200, { ["transfer-encoding"] = "chunked" } }, { 200, { te = "trailers" } }, { 200, { ["content-length"] = 4 } },
      { 200, { ["content-length"] = "x" } }, { 200, { ["content-length"] = "-1" } }, { 200, { ["content-length"] = { 3, 3 } } } } do
      local body = pieces({ "abc" }, 3)
      local outgoing, err = finish("GET", case[1], case[2], body)
      assert.is_nil(outgoing)
      assert.equal("internal", err.code)
      assert.equal(1, body.closed)
    end
    assert.is_nil((finish("GET", 200, {}, 5)))
    assert.is_nil((finish("GET", 200, {}, {})))
    assert.is_nil((finish("HEAD", 200, { ["content-length"] = 4 }, "abc")))
    message.abandon(nil)
    message.abandon "text"
  end)
end)
