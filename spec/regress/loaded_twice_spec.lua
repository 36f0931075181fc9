-- A second load of the modules made a second poll handle and let the first loop's descriptor be closed under luv, which crashed.

local process = require "spec.support.process"

describe("the modules loaded a second time", function()
  it("share the one loop of the Lua state", function()
    local script = os.tmpname()
    local file = assert(io.open(script, "w"))
    file:write [[
      local function load_again()
        for name in pairs(package.loaded) do
          if name:find "^echostream" then package.loaded[name] = nil end
        end
        return require "echostream"
      end
      local state = os.tmpname() .. ".state"
      for round = 1, 5 do
        local echo = load_again()
        local server = echo.server { bind = "127.0.0.1:0", quiet = true, state_dir = state }
        server:add_rpc("round", function() return round end)
        assert(server:start())
        local client = assert(echo.connect(server.address, { pin = server.pin }))
        assert(client:request "round" == round)
        client:close()
        server:stop { grace = 0 }
        server, client, echo = nil, nil, nil
        collectgarbage()
        collectgarbage()
        require("luv").run "nowait"
      end
      print "fine"
    ]]
    file:close()
    local result = process.run("lua5.4 " .. process.quote(script))
    os.remove(script)
    assert.equal(0, result.code, result.err)
    assert.matches("fine", result.out)
  end)
end)
