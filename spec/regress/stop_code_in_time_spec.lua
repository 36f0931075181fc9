-- A writer that finds out by itself that the peer wants no more, before the event that says so has had its turn, was told the code
-- 0: what wakes it may come a turn of the loop earlier.

local busted = require "busted"
local echo = require "echostream"
local scratch = require "spec.support.scratch"
local describe, it = busted.describe, busted.it

describe("a stop's code", function()
  it("is known to a writer that is faster than the event", function()
    local listener = assert(echo.quic.listen("127.0.0.1:0", { alpn = { "spec" }, state_dir = scratch.path() }))
    local told = {}
    local accepting = echo.spawn(function()
      local connection = assert(listener:accept(20))
      local pouring = {}
      for i = 1, 60 do
        local stream = assert(connection:accept_bi_stream(20))
        pouring[i] = echo.spawn(function()
          local ok, err
          repeat
            ok, err = stream:write(("x"):rep(10000), 20)
          until not ok
          told[err.details.stop] = (told[err.details.stop] or 0) + 1
        end)
      end
      for _, task in ipairs(pouring) do task:wait() end
    end)
    local connection = assert(echo.quic.connect(listener.address, { alpn = { "spec" }, pin = listener.pin }))
    local reading = {}
    for i = 1, 60 do
      reading[i] = echo.spawn(function()
        local stream = assert(connection:open_bi_stream(20))
        assert(stream:write("x"))
        for _ = 1, i do assert(stream:read(10000, 20)) end
        stream:stop(6)
      end)
    end
    for _, task in ipairs(reading) do assert(task:wait(20)) end
    assert(accepting:wait(20))
    connection:close()
    listener:close()
    echo.run(0.01)
    assert.same({ [6] = 60 }, told)
  end)
end)
