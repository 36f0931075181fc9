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

  it("swaps certificates of nothing but a server", function()
    local certs = require("spec.support.certs").issue(nil, { names = { "localhost" } })
    local tls = assert(core.tls_server { certs = { { cert = certs.cert, key = certs.key } } })
    for _, wrong in ipairs { false, "server", 1 } do
      assert.is_false(pcall(tls.swap, wrong or nil, { { cert = certs.cert, key = certs.key } }))
    end
  end)
end)
