-- Compressed bodies, undone piece by piece in bounded memory.
local core = require "echostream.core"
local decode = require "echostream.http.client.decode"
local fields = require "echostream.http.fields"
local process = require "spec.support.process"

local function coded(name, text)
  return assert(core.coder(name, 6):finish(text))
end

-- Everything that comes of `pieces`, and how the end was.
local function undo(name, pieces)
  local decoder = core.decoder(name)
  local out, largest = {}, 0
  for _, piece in ipairs(pieces) do
    local plain, more = decoder:decode(piece)
    while true do
      if not plain then
        return nil, more
      end
      out[#out + 1] = plain
      largest = math.max(largest, #plain)
      if not more then
        break
      end
      plain, more = decoder:decode()
    end
  end
  local ok, err = decoder:finish()
  if not ok then
    return nil, err
  end
  return table.concat(out), largest
end

local text = {}
for i = 1, 3000 do
  text[i] = ("line %d of many, %d\n"):format(i, i * i * i % 7919)
end
text = table.concat(text)

for _, name in ipairs { "gzip", "zstd" } do
  describe(name, function()
    it("is undone, whatever the pieces are in which it comes", function()
      local bytes = coded(name, text)
      for _, size in ipairs { 1, 2, 7, 1000, #bytes } do
        local pieces = {}
        for at = 1, #bytes, size do
          pieces[#pieces + 1] = bytes:sub(at, at + size - 1)
        end
        assert.is_true(undo(name, pieces) == text, size)
      end
      assert.equal("", undo(name, { coded(name, "") }))
      assert.equal("", undo(name, {}))
      assert.equal("", undo(name, { "" }))
    end)

    it("may be several in a row", function()
      assert.equal("onetwo", undo(name, { coded(name, "one") .. coded(name, "two") }))
      assert.equal("onetwo", undo(name, { coded(name, "one"), coded(name, "two") }))
    end)

    it("comes out in pieces of 64 KiB, however much it stands for", function()
      local plain, largest = undo(name, { coded(name, ("\0"):rep(3000000)) })
      assert.equal(3000000, #plain)
      assert.equal(65536, largest)
      plain = undo(name, { coded(name, ("x"):rep(65536)) }) -- exactly one piece
      assert.equal(65536, #plain)
    end)

    it("is nothing else, and whole", function()
      local bytes = coded(name, text)
      local plain, err = undo(name, { "nothing of the kind" })
      assert.is_nil(plain)
      assert.equal("data_loss", err.code)
      plain, err = undo(name, { bytes:sub(1, -5) })
      assert.is_nil(plain)
      assert.equal("data_loss", err.code)
      plain, err = undo(name, { bytes .. "more" })
      assert.is_nil(plain)
      assert.equal("data_loss", err.code)
      local decoder = core.decoder(name)
      decoder:decode(bytes)
      decoder:finish()
      plain, err = decoder:decode(bytes)
      assert.is_nil(plain)
      assert.equal("connection_closed", err.code)
    end)

    it("with a byte changed anywhere is an error or other bytes, and never worse", function()
      local bytes = coded(name, text:sub(1, 2000))
      for at = 1, #bytes do
        local changed = bytes:sub(1, at - 1) .. string.char(bytes:byte(at) ~ 0x55) .. bytes:sub(at + 1)
        local plain, err = undo(name, { changed })
        assert(plain or err.code == "data_loss")
      end
    end)
  end)
end

describe("a reader", function()
  local function source(pieces)
    local i = 0
    return function()
      i = i + 1
      return pieces[i]
    end
  end

  it("is there for what is known, and says what it undid", function()
    local headers = fields.new { ["content-encoding"] = "X-Gzip", ["content-length"] = "9", a = "b" }
    local read, coding = decode.reader(headers, source { coded("gzip", "hello") })
    assert.equal("X-Gzip", coding)
    assert.equal("hello", read())
    assert.is_nil(read())
    assert.is_nil(read())
    assert.equal(1, headers:count())
    headers = fields.new { ["content-encoding"] = "gzip, zstd" }
    read = decode.reader(headers, source { coded("zstd", coded("gzip", "twice")) })
    assert.equal("twice", read())
    for _, unknown in ipairs { "br", "gzip, br", "gzip, gzip, gzip", "" } do
      headers = fields.new { ["content-encoding"] = unknown }
      assert.is_nil((decode.reader(headers, source {})))
      assert.is_true(headers:has "content-encoding")
    end
    assert.is_nil((decode.reader(fields.new(), source {})))
  end)

  it("reads what gzip(1) wrote", function()
    local made = process.run "printf 'from the shell' | gzip -9 | od -An -v -tx1"
    local bytes = made.out:gsub("%s", ""):gsub("%x%x", function(hex)
      return string.char(tonumber(hex, 16))
    end)
    local read = decode.reader(fields.new { ["content-encoding"] = "gzip" }, source { bytes })
    assert.equal("from the shell", read())
  end)
end)
