-- An HTTP/3 server: routes, JSON, cookies, a form, files, and a stream of events; and a client that asks it for all of these.
--
--   lua5.4 examples/http.lua serve [ADDRESS] [DIRECTORY]      then, with curl: curl --http3-only -k https://127.0.0.1:5000/users/ann
--   lua5.4 examples/http.lua ask ADDRESS PIN
local echo = require "echostream"

local function serve(address, directory)
  local server = echo.server { bind = address or "127.0.0.1:5000", quiet = true, http = { compress = true } }
  local users = { ann = { name = "Ann", visits = 0 } }

  -- What a handler returns is the body; what it returns after nil is the error, with the status of its code.
  server:route("GET", "/hello", function(request)
    return ("hello %s\n"):format(request.query.name or "world")
  end)

  server:route("GET", "/users/:id", function(request, response)
    local user = users[request.params.id]
    if not user then
      return nil, echo.error("not_found", "there is no " .. request.params.id)
    end
    user.visits = user.visits + 1
    response:set_cookie("last", request.params.id, { max_age = 3600 }):json(user)
  end)

  server:route("PUT", "/users/:id", function(request, response)
    local user, err = request:json(1000) -- bytes
    if not user then
      return nil, err
    end
    users[request.params.id] = { name = tostring(user.name), visits = 0 }
    response:json(users[request.params.id], 201)
  end, { timeout = 5 })

  -- Bodies may be any size: they are read and written piece by piece, at the pace of the slower side.
  server:route("POST", "/upper", function(request, response)
    response.headers:set("content-type", "text/plain")
    for piece in request:chunks() do
      assert(response:write(piece:upper()))
    end
  end, { max_body = 1 << 30 })

  server:route("GET", "/ticks", function(_, response)
    local n = 0
    echo.http.sse.respond(response, function()
      n = n + 1
      echo.sleep(0.05)
      return n <= 3 and { event = "tick", data = { n = n } } or nil
    end)
  end)

  server:static("/files", directory or ".", { cache_control = "max-age=60" })

  -- Around all of it: who asked for what, and how it went.
  server:http_middleware(function(request, response, next)
    local began = echo.now()
    local result, err = next(request, response)
    print(("%s %s %s in %.1f ms"):format(request.method, request.path, err and err.code or response.status, (echo.now() - began) * 1000))
    return result, err
  end)

  assert(server:start())
  print("listening on " .. server.address)
  print("pin " .. server.pin)
  io.stdout:flush()
  server:run()
end

local function ask(address, pin)
  local http = echo.http.client { pin = pin }
  local function show(method, path, opts)
    opts = opts or {}
    opts.method = method
    local response = assert(http:request("https://" .. address .. path, opts))
    print(("%s %s: %d %s"):format(method, path, response.status, (assert(response:body()):gsub("%s+", " "))))
    return response
  end
  show("GET", "/hello?name=you")
  show("PUT", "/users/bob", { body = '{"name":"Bob"}', headers = { ["content-type"] = "application/json" } })
  show("GET", "/users/bob")
  show("GET", "/users/nobody")
  show("POST", "/upper", { body = "a body\n" })
  show("GET", "/ticks")
  print("of the file: " .. #show("HEAD", "/files/http.lua").headers:get "content-length" .. " digits")
  http:close()
end

local what = arg[1] or "serve"
if what == "serve" then
  io.stdout:setvbuf "line"
  serve(arg[2], arg[3])
elseif what == "ask" and arg[3] then
  ask(arg[2], arg[3])
else
  print "serve [ADDRESS] [DIRECTORY] | ask ADDRESS PIN"
end
