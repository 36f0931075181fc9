-- Requests over an exchange that is a table; over the core's: spec/integration/http_server_spec.lua.
local requests = require "echostream.http.request"

describe("requests", function()
  local asked

  local function exchange(fields, pieces)
    asked = {}
    local n = 0
    return {
      target = function()
        return "GET", "/a?x=1&x=2&y=%20", "h", "https"
      end,
      fields = function(_, trailers)
        asked[#asked + 1] = trailers and "trailers" or "fields"
        return not trailers and fields or nil
      end,
      header = function(_, name)
        for i = 1, #fields, 2 do
          if fields[i] == name then
            return fields[i + 1]
          end
        end
      end,
      read = function()
        n = n + 1
        return pieces and pieces[n]
      end,
      error = function() end,
      peer_addr = function()
        return "127.0.0.1:1"
      end,
    }
  end

  local function new(fields, pieces)
    return requests.new({ max_body = 10 }, exchange(fields or {}, pieces))
  end

  it("make nothing that nobody asked for", function()
    local request = new { "cookie", "a=1", "cookie", "b=2" }
    assert.same({}, asked)
    assert.equal("a=1; b=2", request.headers:get "Cookie")
    assert.same({ a = "1", b = "2" }, request.cookies)
    assert.same({ x = "1", y = " " }, request.query)
    assert.same({ "fields" }, asked)
    assert.equal("127.0.0.1:1", request.peer_addr)
    assert.is_nil(request.nothing)
    assert.same({}, request.params)
    request.context.a = 1
    assert.equal(1, request.context.a)
    assert.is_nil(request:trailers())
    assert.is_false(request:cancelled())
  end)

  it("give their body whole, in pieces, and decoded", function()
    assert.equal("abcd", new({}, { "ab", "cd" }):text())
    local pieces = {}
    for piece in new({}, { "ab", "cd" }):chunks() do
      pieces[#pieces + 1] = piece
    end
    assert.same({ "ab", "cd" }, pieces)
    assert.same({ a = 1 }, new({}, { '{"a":', "1}" }):json())
    assert.same({ a = "1" }, new({ "content-type", "application/x-www-form-urlencoded" }, { "a=1" }):form())
    local value, kind = new({ "content-type", "text/plain" }, { "x" }):decode()
    assert.same({ "x", "text" }, { value, kind })
    local body = new({}, { "ab" }).body
    assert.equal("ab", body())
    assert.is_nil(body())
  end)

  it("bound it", function()
    local request = new({}, { "123456", "789012" })
    local text, err = request:text()
    assert.is_nil(text)
    assert.same({ "resource_exhausted", 413 }, { err.code, err.http_status })
    assert.equal(err, select(2, request:read()))
    assert.equal(413, select(2, new({}, { "123456" }):text(5)).http_status)
    assert.equal(415, select(2, new({ "content-type", "text/html" }, { "1" }):json()).http_status)
    assert.equal(415, select(2, new({ "content-type", "text/plain" }, { "1" }):form()).http_status)
  end)

  it("answer 400 for what has too much in it", function()
    local many = {}
    for i = 1, 201 do
      many[i] = i .. "=1"
    end
    local ok, err = pcall(function()
      return new({ "cookie", table.concat(many, ";") }).cookies
    end)
    assert.same({ false, 400 }, { ok, err.http_status })
  end)
end)
