-- The handler of a named stream may close its stream and go on. When its name was removed (or got another handler, by a reload) the
-- core freed what it knew about the handler with the stream: its name in echo.call() and in the log was read from freed memory.

local echo = require "echostream"
local net = require "spec.support.net"

-- Takes what memory of about the size of a handler's record was freed, if any was.
local function take_memory()
  local taken = {}
  for length = 41, 240 do
    taken[#taken + 1] = ("x"):rep(length) .. #taken
  end
  return taken
end

describe("a stream's handler that goes on after its stream", function()
  net.each(function(env)
    for _, order in ipairs { { "remove", "close" }, { "close", "remove" } } do
      env.it(("knows its name: %s, then %s"):format(order[1], order[2]), function()
        local seen
        local server, client = env.pair()
        local acts = {
          remove = function() assert(server:remove_stream "a.stream") end,
          close = function(stream) stream:close() end,
        }
        server:add_stream("a.stream", function(_, stream)
          stream:recv()
          for _, act in ipairs(order) do
            acts[act](stream)
          end
          local taken = take_memory()
          seen = ("%s %d"):format(echo.call().name, #taken)
        end)
        local stream = assert(client:create_stream "a.stream")
        assert(stream:send "go")
        while stream:recv() do
        end
        while not seen do
          assert(echo.sleep(0.01)) -- the spec has a limit
        end
        assert.equal("a.stream 200", seen)
      end)
    end
  end)
end)
