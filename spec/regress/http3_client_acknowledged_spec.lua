-- A server acknowledges what its QPACK table got of each request by one byte, which comes alone when the answer takes a moment. A client took
-- thousands of them within a second or two for an attack, and closed the connection.
local echo = require "echostream"
local h3 = require "spec.support.http"
local net = require "spec.support.net"

net.only("quic", function(env)
  describe("an HTTP/3 client", function()
    env.it("stays with a server that answers thousands of requests quickly", function()
      local server = env.server({}, function(server)
        server:http(function(_, response)
          echo.sleep(0.0002)
          response:write "o"
          echo.sleep(0)
          return "k"
        end)
      end)
      local conn = h3.dial(server)
      table.insert(env.opened, conn)
      -- On a machine that is too slow for it there is nothing to be seen.
      local i, ends = 0, echo.now() + 6
      while i < 2200 and echo.now() < ends do
        i = i + 1
        assert.equal(200, conn:fetch("GET", "/", { "x-number", tostring(i) }).status)
      end
    end)
  end)
end)
