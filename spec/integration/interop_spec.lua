-- Every case of `make interop` in the simulator, and the quick ones between processes. The others take as long as they take.

local cases = require "spec.interop.cases"
local harness = require "spec.interop.harness"

local quick = {
  handshake = true, ipv6 = true, multiplexing = true, chacha20 = true, retry = true, resumption = true, ecn = true,
  ["http3 multiplexing"] = true,
}

describe("the interop case", function()
  for _, case in ipairs(cases) do
    for _, kind in ipairs { "sim", "real" } do
      if harness.has(case, kind) and (kind == "sim" or quick[case.name]) then
        it(("%q passes %s"):format(case.name, kind == "sim" and "in the simulator" or "between processes"), function()
          local ok, text = harness.run(case, kind, 1)
          assert.is_true(ok, text)
        end)
      end
    end
  end
end)
