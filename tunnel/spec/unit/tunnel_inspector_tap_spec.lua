-- What the inspector keeps of an exchange that passes by, and how it sends one again.

local again = require "echostream.tunnel.inspector.again"
local core = require "echostream.tunnel.core"
local echo = require "echostream"
local tap = require "echostream.tunnel.inspector.tap"

-- An exchange whose request has these messages; what it is told is in `told`.
local function exchange(messages)
  local told, i = {}, 0
  return { told = told,
    take = function()
      i = i + 1
      return messages[i], i == #messages
    end,
    try_take = function()
      i = i + 1
      return messages[i], i == #messages
    end,
    put = function(_, message)
      told[#told + 1] = message
      return true, false
    end,
    write = function(_, bytes, fin)
      told[#told + 1] = bytes .. (fin and "|" or "")
      return true
    end,
    info = function() return { peer = "10.0.0.1:5" } end,
    field = 7,
  }
end

local function body(text) return core.part("body", text) end

describe("a tapped exchange", function()
  it("passes everything on, and keeps the beginning of both bodies", function()
    local inner = exchange { body "hel", body "lo", core.part "end" }
    local tapped, bodies = tap.exchange(inner, 4, false)
    assert.equal(body "hel", (tapped:take()))
    assert.equal(body "lo", (tapped:try_take()))
    assert.same({ core.part "end", true }, { tapped:take() })
    tapped:put(body "an" .. body "swer")
    tapped:put(body "s")
    assert.same({ body "an" .. body "swer", body "s" }, inner.told)
    assert.equal(7, tapped.field)
    assert.equal("10.0.0.1:5", tapped:info().peer)
    assert.same({ request = "hell", response = "answ", request_whole = false }, bodies())
  end)

  it("knows when the request's body is whole", function()
    local tapped, bodies = tap.exchange(exchange { body "1234" .. core.part "end" }, 4, false)
    tapped:take()
    assert.is_true(bodies().request_whole)
    assert.is_true(select(2, tap.exchange(exchange {}, 4, true))().request_whole)
    local cut, kept = tap.exchange(exchange { body "1234" }, 4, false)
    cut:take()
    assert.is_false(kept().request_whole)
  end)

  it("keeps what is written as plain bytes, too", function()
    local inner = exchange {}
    local tapped, bodies = tap.exchange(inner, 3, true)
    tapped:write("abcdef", true)
    assert.same({ "abcdef|" }, inner.told)
    assert.equal("abc", bodies().response)
  end)
end)

describe("a request that is sent again", function()
  local function entry(more)
    local e = { head = assert(core.head("request", { method = "POST", scheme = "https", authority = "e.org", path = "/a", { "x-request-id", "old" },
      { "x-a", "b" } })), peer_ip = "10.0.0.9", protocol = "h2", port = 443, listener = "web", bodies = { request = "hello" } }
    for key, value in pairs(more or {}) do e[key] = value end
    return e
  end

  local function send(serve, e, timeout)
    local result = table.pack(echo.spawn(again.for_plugin { serve = serve }, e or entry(), timeout or 10):wait(20))
    return table.unpack(result, 1, result.n)
  end

  it("goes the way of a visitor's, with its body, and without the ids of the first", function()
    local seen = {}
    local answer = assert(send(function(_, listener, x, head, fin)
      seen = { listener = listener.name, port = listener.port, id = head:get "x-request-id", a = head:get "x-a", fin = fin, info = x:info(),
        message = x:take() }
      x:send_head(core.head("response", { status = 103 }))
      x:send_head(core.head("response", { status = 201, { "x-b", "c" } }), false)
      x:put(body "do")
      x:put(body "ne" .. core.part "end")
    end))
    assert.same({ listener = "web", port = 443, a = "b", fin = false, message = body "hello" .. core.part "end", info = seen.info }, seen)
    assert.equal("10.0.0.9:0", seen.info.peer)
    assert.same({ 201, "done", { { "x-b", "c" } } }, { answer.status, answer.body, answer.headers })
  end)

  it("may be answered at once, and says when there is no answer", function()
    local answer = assert(send(function(_, _, x, _, fin)
      assert(fin)
      x:send_head(core.head("response", { status = 404 }), false)
      x:write("no", true)
    end, entry { bodies = false }))
    assert.same({ 404, "no" }, { answer.status, answer.body })
    local none, err = send(function(_, _, x) x:reset "timeout" end)
    assert.is_nil(none)
    assert.matches("timeout", err.message)
    none, err = send(function(_, _, x)
      x:send_head(core.head("response", { status = 200 }), false)
      x:put(body "half" .. core.part("reset", { "truncated", "the backend went" }))
    end)
    assert.is_nil(none)
    assert.matches("the backend went", err.message)
  end)

  it("is given up in time, as by a visitor who goes", function()
    local why
    local none, err = send(function(_, _, x)
      x:on_abort(function(w) why = w end)
      echo.sleep(0.2)
    end, entry(), 0.01)
    assert.is_nil(none)
    assert.equal("timeout", err.code)
    assert.equal("cancel", why)
  end)
end)
