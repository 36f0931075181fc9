-- Patterns that trimmed both ends of a text at once took the square of its length (and of a cookie without "=" the cube): a field of
-- 64 KB full of blanks held up a server for seconds, and one of 8 KB among the cookies for minutes.
local accept = require "echostream.http.accept"
local cookies = require "echostream.http.cookies"
local fields = require "echostream.http.fields"
local message = require "echostream.http.rpc_message"
local range = require "echostream.http.range"

local N <const> = 65536 -- the square of it takes some 9 s, the thing itself a millisecond
local blanks = (" "):rep(N)

local function soon(fn, ...)
  local began = os.clock()
  local results = table.pack(fn(...))
  assert.is_true(os.clock() - began < 4)
  return table.unpack(results, 1, results.n)
end

describe("fields with many blanks are read soon:", function()
  it("lists, weights and parameters", function()
    assert.same({ "a" .. blanks .. "b", "c" }, soon(fields.list, "a" .. blanks .. "b ,\t c "))
    assert.equal("text/html", soon(accept.media_type, "text/html;" .. blanks .. ";" .. blanks .. "q=1", { "a/b", "text/html" }))
  end)

  it("values that are set", function()
    assert.equal("a" .. blanks .. "b", soon(fields.new, { x = " a" .. blanks .. "b " }):get "x")
    assert.equal("", fields.new({ x = " \t " }):get "x")
  end)

  it("cookies", function()
    assert.same({ a = "1", c = "d" }, (soon(cookies.parse, "a=1;" .. blanks .. "; c" .. blanks .. "=" .. blanks .. "d")))
    assert.same({ a = "b" .. blanks .. "c" }, (soon(cookies.parse, "a=b" .. blanks .. "c" .. blanks)))
  end)

  it("ranges", function()
    assert.equal("ignored", select(2, soon(range.parse, "bytes=1-2" .. blanks .. "3", 100)))
    assert.same({ { first = 1, last = 2 }, { first = 5, last = 99 } }, (range.parse("bytes= 1-2 ,,\t5-", 100)))
  end)

  it("and time-outs of many digits", function()
    local opts, err = soon(message.call_options, { headers = fields.new { timeout = ("1"):rep(N) .. "!" } })
    assert.is_nil(opts)
    assert.equal(400, err.http_status)
    assert.is_nil((message.call_options { headers = fields.new { timeout = ("1"):rep(16) .. ".5000ms" } }))
    assert.equal(2.5, message.call_options({ headers = fields.new { timeout = "2.5s" } }).timeout)
  end)
end)
