local core = require "echostream.core"
local coding = require "echostream.http.coding"
local fields = require "echostream.http.fields"
local scratch = require "spec.support.scratch"

describe("content codings", function()
  -- What the tools of the system make of it.
  local function undone(tool, bytes)
    local path = scratch.path()
    local file = assert(io.open(path, "wb"))
    file:write(bytes)
    file:close()
    local pipe <close> = assert(io.popen(("%s <'%s'"):format(tool, path)))
    return pipe:read "a"
  end

  it("are undone by others", function()
    for name, tool in pairs { gzip = "gzip -dc" } do
      local coder = core.coder(name, 6)
      local parts = {}
      for i = 1, 50 do
        parts[i] = assert(coder:push(("piece %d, "):format(i):rep(i)))
        assert.is_true(#parts[i] > 0) -- each can be read when it comes
      end
      parts[51] = assert(coder:finish "the end")
      local expected = {}
      for i = 1, 50 do
        expected[i] = ("piece %d, "):format(i):rep(i)
      end
      assert.equal(table.concat(expected) .. "the end", undone(tool, table.concat(parts)))
      local ok, err = coder:push "more"
      assert.is_nil(ok)
      assert.equal("connection_closed", err.code)
    end
  end)

  it("refuse what is none", function()
    assert.is_false(pcall(core.coder, "br"))
    assert.is_false(pcall(core.coder, "gzip", 10))
    assert.is_false(pcall(core.coder("zstd").push, core.coder "zstd", {}))
  end)

  it("leave alone what must not be changed", function()
    local function apply(headers, body, status)
      local response = { status = status or 200, headers = fields.new(headers), body = body or ("x"):rep(2000) }
      coding.apply({ method = "GET", headers = fields.new { ["accept-encoding"] = "gzip" } }, response, 100, 3)
      return response.headers:get "content-encoding"
    end
    assert.equal("gzip", apply {})
    assert.equal("br", apply { ["content-encoding"] = "br" })
    assert.is_nil(apply { ["cache-control"] = "public, no-transform" })
    assert.is_nil(apply({ ["content-range"] = "bytes 0-1/2" }, nil, 206))
    assert.is_nil(apply({}, "short"))
    assert.is_nil(apply({ ["content-type"] = "image/png" }))
    assert.is_nil(apply({}, function() end)) -- of no type that anybody knows
  end)

  it("pass on how a body fails, and give it up", function()
    local closed = 0
    local body = setmetatable({ close = function() closed = closed + 1 end }, { __call = function() return nil, "broken" end })
    local response = { status = 200, headers = fields.new { ["content-type"] = "text/plain" }, body = body }
    coding.apply({ method = "GET", headers = fields.new { ["accept-encoding"] = "zstd" } }, response, 0, 3)
    local piece, err = response.body()
    assert.same({ nil, "broken" }, { piece, err })
    response.body:close()
    assert.equal(1, closed)
    assert.is_nil(response.body())
  end)
end)
