-- A second load of the modules made a second poll handle and let the first loop's descriptor be closed under luv, which crashed.

local process = require "spec.support.process"

describe("the modules loaded a second time", function()
  local function script(which, last)
    local text = ([[
      local function load_again()
        for name in pairs(package.loaded) do
          if %s then package.loaded[name] = nil end
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
      os.execute("rm -rf " .. state .. " " .. state:sub(1, -7))
    ]]):format(which) .. (last or "") .. ' print "fine"'
    local path = os.tmpname()
    process.write(path, text)
    local result = process.run("lua5.4 " .. process.quote(path))
    os.remove(path)
    return result
  end

  it("share the one loop of the Lua state", function()
    local result = script 'name:find "^echostream"'
    assert.equal(0, result.code, result.err)
    assert.matches("fine", result.out)
  end)

  -- luv's loop belonged to luv's first module table: with that collected, uv_run worked on freed memory.
  it("keep luv's loop when luv is loaded again too", function()
    local result = script('name:find "^echostream" or name == "luv"', [[
      local uv = require "luv"
      local fired = 0
      local timer = uv.new_timer()
      timer:start(1, 0, function() fired = fired + 1 timer:close() end)
      uv.run()
      assert(fired == 1)
    ]])
    assert.equal(0, result.code, result.err)
    -- A machine that stops for a moment looks like a handler that takes long.
    assert.equal("", (result.err:gsub("[^\n]* held the loop for [^\n]*\n", "")))
    assert.matches("fine", result.out)
  end)

  it("say so when luv's first table was dropped before they came", function()
    local path = os.tmpname()
    process.write(path, [[
      local first = require "luv" -- kept, so that nothing is freed
      package.loaded.luv = nil
      local echo = require "echostream"
      echo.sleep(0)
      assert(first.loop_alive)
    ]])
    local result = process.run("lua5.4 " .. process.quote(path))
    os.remove(path)
    assert.equal(0, result.code, result.err)
    assert.matches("luv was loaded before", result.err)
  end)
end)
