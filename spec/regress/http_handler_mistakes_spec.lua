-- Handlers whose mistake was answered with 204, as if all were well, or with nothing at all: a table, a number, or nil and a text returned;
-- a status or headers of a kind that nobody expected; middleware that did not return what `next` gave. Now it is 500 and a line in the
-- log that says what to do, or it just works.
local errors = require "echostream.errors"
local h3 = require "spec.support.http"
local net = require "spec.support.net"

net.each(function(env)
  describe("A handler's mistake", function()
    local function pair(prepare)
      local server = env.server(nil, prepare)
      local conn = h3.dial(server)
      table.insert(env.opened, conn)
      return conn
    end

    env.it("is answered with 500, and the log says what it was", function()
      local conn = pair(function(server)
        server:route("GET", "/table", function() return { a = 1 } end)
        server:route("GET", "/number", function() return 404, "gone" end)
        server:route("GET", "/text", function() return nil, "the disk is full" end)
        server:route("GET", "/status", function(_, response)
          response.status = "200 OK"
          return "x"
        end)
        server:route("GET", "/field", function(_, response)
          response.headers["content-type"] = "text/html"
          return "x"
        end)
        server:route("GET", "/headers", function(_, response)
          response.headers = { 5 }
          return "x"
        end)
      end)
      for path, said in pairs {
        table = "it returned a table, which is no body", number = "it returned 404, which is no body", text = "the disk is full",
        status = '"200 OK" is no status', field = 'fields:set("content-type", value)', headers = "wants a map of names",
      } do
        assert.equal(500, conn:fetch("GET", "/" .. path).status, path)
        assert.is_truthy(env.logged(said), said)
      end
    end)

    env.it("of middleware that forgets to return what next gave hides neither an answer nor a refusal", function()
      local conn = pair(function(server)
        server:http_middleware(function(request, response, next)
          local given, err = next(request, response)
          response.headers:set("x-outer", "1")
          return given, err
        end)
        server:http_middleware(function(request, response, next)
          local _, err = next(request, response)
          if err and request.path == "/handled" then
            response:json({ handled = true }, 503)
          end
        end)
        server:route("GET", "/text", function() return "text" end)
        server:route("GET", "/nothing", function() end)
        for _, path in ipairs { "/secret", "/handled" } do
          server:route("GET", path, function() return nil, errors.new("permission_denied", "not for you") end)
        end
      end)
      for path, status in pairs { text = 200, nothing = 204, secret = 403, handled = 503, elsewhere = 404 } do
        assert.equal(status, conn:fetch("GET", "/" .. path).status, path)
      end
      local answer = conn:fetch("GET", "/text")
      assert.same({ "text", "1" }, { answer.body, answer.headers["x-outer"] })
      assert.equal(405, conn:fetch("POST", "/text").status)
    end)

    env.it("is none where it was clear what was meant", function()
      local conn = pair(function(server)
        server:route("GET", "/headers", function(_, response)
          response.headers = { ["content-type"] = "text/html" }
          return "x"
        end)
        server:route("GET", "/json", function(_, response) return response:json { 1 } end)
        server:route("GET", "/redirect", function(_, response) return response:redirect "/json" end)
        server:route("GET", "/sent", function(_, response) return response:send "sent" end)
        server:route("GET", "/written", function(_, response)
          response:write "a"
          return 1
        end)
        server:route("GET", "/status", function(_, response)
          response.status = 404
          return {}
        end)
        server:route("GET", "/true", function() return true end)
      end)
      local answer = conn:fetch("GET", "/headers")
      assert.same({ 200, "x", "text/html" }, { answer.status, answer.body, answer.headers["content-type"] })
      for path, status in pairs { json = 200, redirect = 302, sent = 200, written = 200, status = 404, ["true"] = 204 } do
        assert.equal(status, conn:fetch("GET", "/" .. path).status, path)
      end
    end)
  end)
end)
