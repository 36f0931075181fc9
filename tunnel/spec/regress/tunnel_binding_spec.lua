-- What a caller gives wrongly raises; it broke the engine, or the process.
local core = require "echostream.tunnel.core"

describe("the binding", function()
  it("takes all that take() returns as an argument of parts", function()
    local kinds = {}
    for kind in core.parts(core.part("body", "x") .. core.part "end", true) do kinds[#kinds + 1] = kind end
    assert.same({ "body", "end" }, kinds)
  end)

  it("steps on after a step with a wrong argument", function()
    local engine = core.engine()
    for _, step in ipairs { "step", "receive" } do
      assert.is_false(pcall(engine[step], engine, "many"))
      assert.is_true(pcall(engine.step, engine))
    end
    engine:close()
  end)

  it("keeps nothing of what could not be opened", function()
    local function wrong()
      local engine = core.engine()
      for _, limits in ipairs { 1, { head_bytes = "many" }, { head_timeout = -1 } } do
        assert.is_false(pcall(engine.listen, engine, { ip = "127.0.0.1", kind = "http", limits = limits }))
        assert.is_false(pcall(engine.dial, engine, { ip = "127.0.0.1", port = 1, codec = "h2", limits = limits }))
      end
      assert.is_false(pcall(engine.listen, engine, { ip = "127.0.0.1", kind = "fax" }))
      engine:close()
    end
    local function memory()
      wrong()
      collectgarbage()
      collectgarbage()
      local engine = core.engine()
      local n = engine:stats().memory
      engine:close()
      return n
    end
    local before, after = memory(), 0
    for _ = 1, 20 do after = memory() end
    -- The allocator gives a block some bytes more or less; what was kept was some 300 bytes each.
    assert.is_true(after < before + 4096, ("%d bytes, then %d"):format(before, after))
  end)

  it("swaps certificates of nothing but a server", function()
    local certs = require("spec.support.certs").issue(nil, { names = { "localhost" } })
    local tls = assert(core.tls_server { certs = { { cert = certs.cert, key = certs.key } } })
    for _, wrong in ipairs { false, "server", 1 } do
      assert.is_false(pcall(tls.swap, wrong or nil, { { cert = certs.cert, key = certs.key } }))
    end
  end)
end)
