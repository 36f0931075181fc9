local range = require "echostream.http.range"

describe("ranges", function()
  local function parse(value, size)
    local ranges, why = range.parse(value, size or 10)
    if not ranges then return why end
    local list = {}
    for i, one in ipairs(ranges) do list[i] = one.first .. "-" .. one.last end
    return table.concat(list, " ")
  end

  it("are cut to what is there", function()
    assert.equal("0-0", parse "bytes=0-0")
    assert.equal("2-9", parse "bytes=2-")
    assert.equal("2-9", parse "bytes=2-99999999999999999999999999")
    assert.equal("7-9", parse "bytes=-3")
    assert.equal("0-9", parse "bytes=-30")
    assert.equal("9-9", parse "BYTES= 9-9 ,")
    assert.equal("0-0 9-9", parse "bytes=0-0,, -1")
    assert.equal("0-1", parse "bytes=0-1,50-60") -- the other one cannot be had
  end)

  it("that overlap become one, at the place of the first", function()
    assert.equal("5-9 0-2", parse "bytes=5-7,0-2,6-9")
    assert.equal("0-9", parse "bytes=0-,0-,0-,0-,0-")
    assert.equal("4-4 3-3", parse "bytes=4-4,3-3") -- these only touch
  end)

  it("that cannot be had are 416", function()
    for _, value in ipairs { "bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999999-", "bytes=10-,11-" } do
      assert.equal("unsatisfiable", parse(value), value)
    end
    assert.equal("unsatisfiable", parse("bytes=0-", 0))
    assert.equal("bytes */10", range.unsatisfied(10))
  end)

  it("that are broken, or too many, are not there", function()
    for _, value in ipairs { "bytes", "bytes=", "bytes=,", "bytes=a-b", "bytes=2-1", "bytes=-", "bytes=1", "bytes=1-2-3", "bytes=0x1-2", "bytes=--1",
      "lines=1-2", "bytes=0-1 2-3", "bytes=0-0" .. (",2-2"):rep(16) } do
      assert.equal("ignored", parse(value), value)
    end
    assert.equal("ignored", parse(nil))
  end)

  it("of several parts have a length that is right", function()
    local ranges = { { first = 0, last = 1 }, { first = 5, last = 9 } }
    local parts, tail, length = range.multipart(ranges, 10, "text/plain", "XX")
    local text = "0123456789"
    local body = ""
    for _, part in ipairs(parts) do body = body .. part.head .. text:sub(part.first + 1, part.last + 1) end
    body = body .. tail
    assert.equal(#body, length)
    assert.equal("--XX\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01\r\n"
      .. "--XX\r\nContent-Type: text/plain\r\nContent-Range: bytes 5-9/10\r\n\r\n56789\r\n--XX--\r\n", body)
    assert.equal("bytes 5-9/10", range.content_range(ranges[2], 10))
  end)
end)
