local date = require "echostream.http.date"

describe("dates of HTTP", function()
  it("are written in one form and read in three", function()
    assert.equal("Sun, 06 Nov 1994 08:49:37 GMT", date.format(784111777))
    assert.equal(784111777, date.parse "Sun, 06 Nov 1994 08:49:37 GMT")
    assert.equal(784111777, date.parse("Sunday, 06-Nov-94 08:49:37 GMT", 1.8e9))
    assert.equal(784111777, date.parse "Sun Nov  6 08:49:37 1994")
    assert.equal("Thu, 01 Jan 1970 00:00:00 GMT", date.format(0))
    assert.equal("Wed, 31 Dec 1969 23:59:59 GMT", date.format(-0.5))
    assert.equal("Fri, 31 Dec 9999 23:59:59 GMT", date.format(253402300799))
  end)

  it("come back the same, leap years and all", function()
    for seconds = -2e9 // 1 | 0, 8e9 // 1 | 0, 86399 * 997 do
      assert.equal(seconds, date.parse(date.format(seconds)))
    end
    for seconds = 0, 4e9 // 1 | 0, 86400 * 331 do
      assert.equal(os.date("!%a, %d %b %Y %H:%M:%S GMT", seconds), date.format(seconds))
    end
    assert.equal(951782400, date.parse "Tue, 29 Feb 2000 00:00:00 GMT")
  end)

  it("with two digits of a year are at most 50 years ahead", function()
    local now = date.parse "Sat, 21 Nov 2026 00:00:00 GMT"
    local function year(text) return tonumber(date.format(date.parse("Monday, 01-Jan-" .. text .. " 00:00:00 GMT", now)):match "%d%d%d%d") end
    assert.equal(2076, year "76")
    assert.equal(1977, year "77")
    assert.equal(2000, year "00")
    assert.equal(1999, year "99")
  end)

  it("that are none are none", function()
    for _, text in ipairs { "", "yesterday", "Sun, 6 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 UTC", "Sun, 06 Nov 1994 08:49:37",
      "Sun, 31 Nov 1994 08:49:37 GMT", "Sun, 29 Feb 1995 08:49:37 GMT", "Sun, 00 Nov 1994 08:49:37 GMT", "Sun, 06 Nox 1994 08:49:37 GMT",
      "Sun, 06 Nov 1994 24:49:37 GMT", "Sun, 06 Nov 1994 08:60:37 GMT", "Sun, 06 Nov 1994 08:49:61 GMT", "Abc, 06 Nov 1994 08:49:37 GMT",
      " Sun, 06 Nov 1994 08:49:37 GMT", "784111777" } do
      assert.is_nil(date.parse(text), text)
    end
    assert.is_nil(date.parse(nil))
    assert.is_truthy(date.parse "Sat, 31 Dec 2016 23:59:60 GMT") -- a leap second
    assert.has_error(function() date.format(1e15) end)
    assert.has_error(function() date.format "x" end)
    assert.has_error(function() date.format(0 / 0) end)
  end)
end)
