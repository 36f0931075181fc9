local echo = require "echostream"
local errors = require "echostream.errors"
local scratch = require "spec.support.scratch"

local http = echo.http

-- What a transport does with a request, without the transport.
local function serve(routes, request)
  local response = http.message.new()
  local ok, result, err = pcall(routes.handle, routes, request, response)
  if not ok then
    http.errors.respond(response, result)
  elseif result == nil and errors.is_error(err) then
    http.errors.respond(response, err)
  end
  local outgoing = http.message.finish(request, response)
  local pieces = {}
  if type(outgoing.body) == "function" then
    for piece in outgoing.body do pieces[#pieces + 1] = piece end
  else
    pieces[1] = outgoing.body
  end
  outgoing.close()
  return outgoing.status, table.concat(pieces), outgoing.headers
end

describe("the parts of HTTP", function()
  local routes
  setup(function()
    local dir = scratch.path()
    os.execute(("mkdir '%s' && printf 0123456789 > '%s/a.txt'"):format(dir, dir))
    routes = http.router.new()
    routes:add("GET", "/files/*rest", http.static.new(dir, { chunk = 3 }))
    routes:add("POST", "/rpc/:method", function(request, response)
      local arguments, err = http.content.decode(request, { guess_json = true, max = 100 })
      if not arguments then return nil, err end
      if request.params.method ~= "add" then error(errors.new("method_not_found", "no such method")) end
      response.headers:set("content-type", "application/json")
      response.body = echo.codec.json.pack { result = arguments[1] + arguments[2] }
    end)
    routes:add("GET", "/ticks", http.cors.new({ origins = "*" }):wrap(function(_, response)
      local n = 0
      http.sse.respond(response, function()
        n = n + 1
        return n <= 2 and { data = n } or nil
      end)
    end))
  end)

  local function ask(method, path, headers, body)
    return serve(routes, { method = method, path = path, headers = http.fields.new(headers), body = body })
  end

  it("work together", function()
    local status, body, headers = ask("GET", "/files/a.txt", { range = "bytes=1-8" })
    assert.same({ 206, "12345678", "8" }, { status, body, headers:get "content-length" })
    assert.is_truthy(http.date.parse(headers:get "date"))
    status, body, headers = ask("HEAD", "/files/a.txt")
    assert.same({ 200, "", "10" }, { status, body, headers:get "content-length" })
    status, body, headers = ask("POST", "/files/a.txt")
    assert.same({ 405, "", "GET, HEAD, OPTIONS" }, { status, body, headers:get "allow" })
    status, body = ask("GET", "/files/b.txt")
    assert.same({ 404, "not found\n" }, { status, body })

    status, body, headers = ask("POST", "/rpc/add", { ["content-type"] = "application/x-www-form-urlencoded" }, "[10,20]")
    assert.same({ 200, '{"result":30}', "13" }, { status, body, headers:get "content-length" })
    status, body = ask("POST", "/rpc/sub", {}, "[10,20]")
    assert.same({ 501, "method_not_found" }, { status, echo.codec.json.unpack(body).error.code })
    assert.equal(413, (ask("POST", "/rpc/add", {}, ("1"):rep(200))))
    assert.equal(400, (ask("POST", "/rpc/add", {}, "[")))
    status, body = ask("POST", "/rpc/add", {}, "[1]") -- a mistake in the handler
    assert.same({ 500, "internal" }, { status, echo.codec.json.unpack(body).error.code })

    status, body, headers = ask("GET", "/ticks", { origin = "https://a.example" })
    assert.same({ 200, "data: 1\n\ndata: 2\n\n", "*", nil }, { status, body, headers:get "access-control-allow-origin",
      headers:get "content-length" })
  end)

  it("are loaded by their names", function()
    assert.equal(require("echostream.http.router").max_path, http.router.max_path)
    assert.equal(require("echostream.http.router").new, http.router.new)
    assert.is_nil(http.nothing)
  end)
end)
