-- Whatever a peer sends: what reads it never raises, is never slow, and what it takes it takes again once it was written anew.
-- HTTP_RANDOM=1000000 makes it long, HTTP_SEED another one.

local echo = require "echostream"

local http = echo.http
local ROUNDS <const> = tonumber(os.getenv "HTTP_RANDOM") or os.getenv "ES_VALGRIND" and 800 or 3000
local SEED <const> = tonumber(os.getenv "HTTP_SEED") or 1

-- What looks nearly right goes deeper than noise.
local words = {
  "a", "b=1", "=", ";", ",", " ", "\t", "\"", "\\", "\"q\\\"d\"", "q=0.5", "q=1.0001", "*/*", "text/html", "gzip", "bytes=", "0-", "-5",
  "9-1", "18446744073709551616", "-0", "W/", "\"etag\"", "*", "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT",
  "Sun Nov  6 08:49:37 1994", "%41", "%", "%zz", "%00", "/", "//", "/./", "/..", "?", "#", "&", "+", "\0", "\r\n", "\n", "\127", "\128", "\255",
  "é", "content-length", "X-Up", ":path", "host", "cookie", "{\"a\":[1,2]}", "[10,20]", "[[[[", "1e999", "null", "\147\1\2\3", "application/json",
  "application/msgpack", "application/x-www-form-urlencoded", "charset=", ("x"):rep(300),
}

local function text(random)
  local pieces = {}
  for i = 1, random(0, 8) do
    pieces[i] = random(4) == 1 and string.char(random(0, 255)) or words[random(#words)]
  end
  return table.concat(pieces)
end

-- Each is given a source of texts and numbers.
local readers = {
  ["field lists"] = function(t)
    local parsed = http.fields.parse { { t(), t() }, { t(), t() }, { "x", t() } }
    if parsed then
      assert(http.fields.parse(parsed:get "x" and { { "x", parsed:get "x" } } or {}))
      for name, value in parsed:each() do
        assert(http.fields.is_token(name) and http.fields.is_value(value))
      end
    end
    http.fields.list(t())
    http.fields.parameters(t())
    http.fields.qualities(t())
    http.fields.unquote(t())
  end,
  ["queries"] = function(t)
    http.query.split(t())
    local pairs_of = http.query.parse(t())
    if pairs_of then http.query.build(pairs_of) end
  end,
  ["cookies"] = function(t) http.cookies.parse(t()) end,
  ["percent signs"] = function(t)
    local plain = http.percent.decode(t())
    assert(not plain or http.percent.decode(http.percent.encode(plain)) == plain)
  end,
  ["dates"] = function(t)
    local seconds = http.date.parse(t())
    assert(not seconds or http.date.parse(http.date.format(seconds)) == seconds)
  end,
  ["ranges"] = function(t, random)
    local size = random(0, 1000)
    local ranges = http.range.parse(t(), size)
    for _, range in ipairs(type(ranges) == "table" and ranges or {}) do
      assert(range.first >= 0 and range.first <= range.last and range.last < size)
    end
  end,
  ["what is accepted"] = function(t)
    http.accept.media_type(t(), { "application/json", "text/html" })
    http.accept.encodings(t(), { "zstd", "gzip" })
  end,
  ["conditions"] = function(t)
    http.conditional.parse(t())
    local headers = http.fields.parse { { "if-none-match", t() }, { "if-modified-since", t() }, { "if-match", t() } }
    if headers then
      http.conditional.evaluate({ method = "GET", path = "/", headers = headers }, { etag = "\"a\"", modified = 1e9 })
    end
    http.conditional.if_range(t(), { etag = "\"a\"", modified = 1e9 })
  end,
  ["paths"] = function(t)
    local segments = http.router.segments("/" .. t())
    for _, segment in ipairs(segments or {}) do
      assert(segment ~= "." and segment ~= ".." and not segment:find("\0", 1, true))
    end
  end,
  ["content"] = function(t)
    local headers = http.fields.parse { { "content-type", t() } } or http.fields.new()
    http.content.decode({ headers = headers, body = t() }, { guess_json = true })
  end,
}

describe("from random bytes", function()
  for name, read in pairs(readers) do
    it(name .. " are read", function()
      local state = SEED
      local function random(low, high) -- its own, so that a failure can be had again
        if not high then low, high = 1, low end
        state = (state * 6364136223846793005 + 1442695040888963407) & math.maxinteger
        return low + (state >> 24) % (high - low + 1)
      end
      local last = {}
      local function source()
        local made = text(random)
        last[#last + 1] = made
        return made
      end
      for _ = 1, ROUNDS do
        last = {}
        local ok, raised = pcall(read, source, random)
        assert.is_true(ok, ("%s\nwith %s"):format(raised, table.concat(last, " | "):gsub("%c", function(c)
          return ("\\x%02x"):format(c:byte())
        end)))
      end
    end)
  end
end)
