-- A peer of a small socket (metrics, attach) that went away while something was written to it ended the whole process: SIGPIPE.

local process = require "spec.support.process"

describe("a stream socket", function()
  for _, place in ipairs { 'path = arg[1] .. "/socket"', 'ip = "127.0.0.1", port = 0' } do
    it("whose peer is gone fails to send, and the process goes on: " .. place:match "^%a+", function()
      local dir = process.directory()
      process.write(dir .. "/writer.lua", ([[
        local echo = require "echostream"
        local socket = require "echostream.loop.socket"
        local place = { %s }
        local failed
        local listener = assert(socket.listen(place, function(connection)
          local function again(err)
            if err then
              failed = err
            else
              connection:send("more", again)
            end
          end
          again()
          return function() end
        end))
        place.port = listener.port
        socket.connect(place, function(connection, err)
          assert(connection, err)
          connection:pause()
          connection:close()
        end)
        while not failed do
          echo.sleep(0.01)
        end
        print("it goes on", failed)
      ]]):format(place))
      local result = process.run(("lua5.4 %s/writer.lua %s"):format(dir, dir))
      process.remove(dir)
      assert.equal(0, result.code, result.err)
      assert.matches("^it goes on\tE%u+", result.out)
    end)
  end
end)
