local base64 = require "echostream.base64"

describe("base64", function()
  it("writes and reads what RFC 4648 shows", function()
    for text, encoded in pairs { [""] = "", f = "Zg==", fo = "Zm8=", foo = "Zm9v", foob = "Zm9vYg==", fooba = "Zm9vYmE=", foobar = "Zm9vYmFy" } do
      assert.equal(encoded, base64.encode(text))
      assert.equal(text, base64.decode(encoded))
    end
  end)

  it("keeps every byte", function()
    local bytes = {}
    for i = 0, 255 do
      bytes[i + 1] = string.char(i)
    end
    local all = table.concat(bytes)
    for n = 0, 256 do
      assert.equal(all:sub(1, n), base64.decode(base64.encode(all:sub(1, n))))
    end
  end)

  it("reads no other text", function()
    assert.is_nil(base64.decode "a")
    assert.is_nil(base64.decode "ab-_")
    assert.equal("foobar", base64.decode "Zm9v\nYm Fy")
  end)
end)
