-- What the small HTTP/1.1 endpoint of local pages does beyond GET: short bodies, answers that come later, and answers that go on.

local echo = require "echostream"
local plain = require "echostream.http.plain"
local socket = require "echostream.loop.socket"

describe("the HTTP endpoint of local pages", function()
  local function pump_until(done)
    for _ = 1, 2000 do
      if done() then return true end
      echo.sleep(0.005)
    end
    return false
  end

  -- Sends a request; the text that comes is gathered.
  local function ask(endpoint, text)
    local got = { text = "", over = false }
    got.close = socket.connect({ ip = "127.0.0.1", port = tonumber(endpoint.address:match ":(%d+)$") }, function(connection)
      connection:send(text)
      return function(data)
        if data then
          got.text = got.text .. data
        else
          got.over = true
          connection:close()
        end
      end
    end)
    return got
  end

  local function whole(endpoint, text)
    local got = ask(endpoint, text)
    assert.is_true(pump_until(function() return got.over end))
    return got.text
  end

  local function post(body, length)
    return ("POST /x?a=1 HTTP/1.1\r\nHost: h\r\nX-Mark: y\r\nContent-Length: %s\r\n\r\n%s"):format(length or #body, body)
  end

  it("takes short bodies of POST where that was asked for, and refuses others", function()
    local endpoint = assert(plain.listen("127.0.0.1", 0, 10, function(path, host, request)
      return 200, table.concat({ path, host, request.method, request.query, request.headers["x-mark"], request.body }, "|")
    end, 100))
    assert.matches("200 OK.*/x|h|POST|a=1|y|hello$", whole(endpoint, post "hello"))
    assert.matches("^HTTP/1.1 413 ", whole(endpoint, post(("x"):rep(101))))
    assert.matches("^HTTP/1.1 413 ", whole(endpoint, post("", "99999999999999999999")))
    assert.matches("^HTTP/1.1 400 ", whole(endpoint, post("", "1x")))
    assert.matches("^HTTP/1.1 411 ", whole(endpoint, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))
    assert.matches("^HTTP/1.1 405 ", whole(endpoint, "PUT / HTTP/1.1\r\nHost: h\r\n\r\n"))
    endpoint.close()
    local strict = assert(plain.listen("127.0.0.1", 0, 10, function() return 200, "x" end))
    assert.matches("^HTTP/1.1 405 ", whole(strict, post "hello"))
    strict.close()
  end)

  it("answers later", function()
    local endpoint = assert(plain.listen("127.0.0.1", 0, 10, function(_, _, _, reply)
      echo.spawn(function()
        echo.sleep(0.01)
        reply(409, "later")
      end)
    end))
    assert.matches("^HTTP/1.1 409 Conflict.*later$", whole(endpoint, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"))
    endpoint.close()
  end)

  it("goes on with an answer until the reader leaves", function()
    local out, left = nil, 0
    local endpoint = assert(plain.listen("127.0.0.1", 0, 10, function()
      return 200, function(writer)
        out = writer
        return function() left = left + 1 end
      end, "text/event-stream"
    end))
    local got = ask(endpoint, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert.is_true(pump_until(function() return out end))
    assert.is_true(out.send "data: 1\n\n")
    assert.is_true(out.send "data: 2\n\n")
    assert.is_true(pump_until(function() return got.text:find "data: 2" end))
    assert.matches("Content%-Type: text/event%-stream\r\nConnection: close\r\n\r\ndata: 1\n\ndata: 2\n\n$", got.text)
    got.close()
    assert.is_true(pump_until(function() return left == 1 end))
    assert.is_false(out.send "x")
    endpoint.close()
    assert.equal(1, left)
  end)
end)
