-- Headers that were fields already, such as those of another answer, were sent as lines of the name "_list"; and a body that was JSON's
-- null was an error to clients.
local echo = require "echostream"
local net = require "spec.support.net"

net.each(function(env)
  local function pair()
    local server = env.server({}, function(server)
      server:route("GET", "/fields", function(_, response)
        response.headers:set("x-b", "old")
        response:send("x", 200, echo.http.fields.new { { "x-a", "1" }, { "x-b", "2" }, { "x-b", "3" } })
      end)
      server:route("GET", "/back", function(request)
        return request.headers:get "x-b" .. (request.headers:get "_list" or "")
      end)
      server:route("GET", "/null", function(_, response)
        response:json(echo.null)
      end)
    end)
    local client = echo.http.client { pin = server.pin }
    table.insert(env.opened, client)
    return function(path, opts)
      return assert(client:request("https://" .. server.address .. path, opts))
    end
  end

  describe("header fields", function()
    env.it("can be the headers of answers and of requests", function()
      local ask = pair()
      local answer <close> = ask "/fields"
      assert.same({ "1" }, answer.headers:all "x-a")
      assert.same({ "2", "3" }, answer.headers:all "x-b")
      assert.is_nil(answer.headers:get "_list")
      local again = echo.http.fields.new(answer.headers):remove "content-length"
      assert.is_true(answer.headers:has "content-length") -- of the copy only
      assert.equal("2, 3", ask("/back", { headers = again }):body())
    end)
  end)

  describe("null as a body", function()
    env.it("is a value", function()
      assert.equal(echo.null, (pair() "/null"):json())
    end)
  end)
end)
