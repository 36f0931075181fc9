local echo = require "echostream"
local h3 = require "spec.support.http"
local net = require "spec.support.net"
local scratch = require "spec.support.scratch"

describe("what servers have of HTTP", function()
  local function refused(text, fn, ...)
    local ok, err = pcall(fn, ...)
    assert.is_false(ok)
    assert.is_truthy(tostring(err):find(text, 1, true), tostring(err))
  end

  it("says what is wrong with an argument, in the line that gave it", function()
    local server = echo.server {}
    refused("http_face_spec.lua", function()
      server:http "x"
    end)
    refused("server:http: fn wants a function", server.http, server, "x")
    refused("server:route: fn wants a function", server.route, server, "GET", "/")
    refused("has to begin with a slash", server.route, server, "GET", "users", print)
    refused("is no method", server.route, server, "GE T", "/", print)
    refused("max_body", server.route, server, "GET", "/", print, { max_body = -1 })
    refused("server:static: prefix wants a string", server.static, server, 1, "/")
    refused("server:http_middleware: fn wants a function", server.http_middleware, server)
    refused("server:on_http: fn wants a function", server.on_http, server)
    server:route("GET", "/", print)
    refused("is there already", server.route, server, "GET", "/", print)
    server:stop()
  end)

  it("checks the option", function()
    refused('option "max_body" wants', echo.server, { http = { max_body = "x" } })
    refused("max_bodi", echo.server, { http = { max_bodi = 1 } })
    refused("alt_svc", echo.server, { http = { alt_svc = "a\nb" } })
  end)

  it("can be chained", function()
    local server = echo.server {}
    local function fn() end
    assert.equal(server, server:http(fn):route("GET", "/", fn):static("/x", "/"):http_middleware(fn))
    server:stop()
  end)
end)

net.only("sim", function(env)
  describe("what servers have of HTTP", function()
    env.it("is not to be had of a server that was started without it", function()
      local server = env.server()
      local ok, err = pcall(server.route, server, "GET", "/", print)
      assert.is_false(ok)
      assert.is_truthy(tostring(err):find("running already, without HTTP", 1, true))
    end)

    env.it("goes with the plugin that brought it", function()
      local heard = 0
      local server = env.server({}, function(server)
        server:http(function()
          return "nobody"
        end)
        assert(server:plugin {
          name = "pages",
          install = function(_, host)
            host:route("GET", "/page", function()
              return "a page"
            end)
            host:static("/files", "/nowhere")
            host:on_http(function()
              heard = heard + 1
            end)
            host:http_middleware(function(request, response, next)
              response.headers:set("x-plugin", "1")
              return next(request, response)
            end)
          end,
        })
      end)
      local conn = h3.dial(server)
      table.insert(env.opened, conn)
      local answer = conn:fetch("GET", "/page")
      assert.same({ "a page", "1" }, { answer.body, answer.headers["x-plugin"] })
      assert.equal(308, conn:fetch("GET", "/files").status)
      assert(server:remove_plugin "pages")
      answer = conn:fetch("GET", "/page")
      assert.same({ "nobody", nil }, { answer.body, answer.headers["x-plugin"] })
      assert.equal("nobody", conn:fetch("GET", "/files").body)
      assert.equal(2, heard)
    end)

    env.it("is exchanged when a file is loaded again", function()
      local path = scratch.path ".lua"
      local function write(text)
        local file <close> = assert(io.open(path, "w"))
        file:write(text)
      end
      write [[
        local server = ...
        server:route("GET", "/a", function() return "first" end)
        server:route("GET", "/b", function() return "b" end)
        server:http(function() return "old" end)
      ]]
      local server = env.server({}, function(server)
        server:route("GET", "/own", function()
          return "own"
        end)
        assert(server:load(path))
      end)
      local conn = h3.dial(server)
      table.insert(env.opened, conn)
      assert.equal("first", conn:fetch("GET", "/a").body)
      assert.equal("old", conn:fetch("GET", "/c").body)
      write [[
        local server = ...
        server:route("GET", "/a", function() return "second" end)
        server:http(function() return "new" end)
      ]]
      assert(server:reload())
      assert.equal("second", conn:fetch("GET", "/a").body)
      assert.equal("new", conn:fetch("GET", "/b").body)
      assert.equal("own", conn:fetch("GET", "/own").body)
      write [[
        local server = ...
        server:route("GET", "/own", function() return "mine" end)
      ]]
      local ok, err = server:reload()
      assert.is_nil(ok)
      assert.is_truthy(err.message:find("is there already", 1, true))
      assert.equal("second", conn:fetch("GET", "/a").body)
    end)
  end)
end)
