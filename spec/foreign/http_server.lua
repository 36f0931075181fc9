-- What the HTTP/3 clients of other stacks ask for: `lua5.4 spec/foreign/http_server.lua DIR` prints "ready ADDRESS". DIR holds cert.pem
-- and key.pem, and the folder `files` that is served below /files.
--
--   GET  /hello           "hello\n" with a field `x-from`; HEAD too
--   GET  /bytes/N         N bytes of the pattern: byte i is i modulo 251
--   POST /bytes           reads a body of the pattern; says how many bytes came, or where they differ
--   POST /echo            sends back what comes, while it comes
--   GET  /trailers        "body" and, behind it, a trailer `x-after: done`
--   POST /trailers        says what trailer `x-after` came behind the body
--   GET  /hints           103 with a `link`, then "hinted"
--   GET  /status/N        that status
--   /rpc/math.add         the sum of two numbers; /rpc/countdown counts down to 1, as a stream; /event/note, whose text /rpc/noted has

local echo = require "echostream"

local dir = arg[1]
local server = echo.server {
  bind = "127.0.0.1:0", cert = dir .. "/cert.pem", key = dir .. "/key.pem", quiet = true, webtransport = true,
}

local PERIOD <const>, PIECE <const> = 251, 64 * 1024
local one = {}
for i = 0, PERIOD - 1 do one[i + 1] = string.char(i) end
local pattern = table.concat(one):rep(PIECE // PERIOD + 2)

-- `size` bytes of the pattern from offset `at`.
local function pattern_at(at, size)
  local from = at % PERIOD
  return pattern:sub(from + 1, from + size)
end

server:route("GET", "/hello", function(_, response)
  response.headers:set("x-from", "echostream")
  response.body = "hello\n"
end)

server:route("GET", "/bytes/:size", function(request, response)
  local size = assert(math.tointeger(tonumber(request.params.size)))
  response.headers:set("content-length", tostring(size))
  for at = 0, size - 1, PIECE do
    if not response:write(pattern_at(at, math.min(PIECE, size - at))) then return end
  end
  response:finish()
end)

server:route("POST", "/bytes", function(request, response)
  local at = 0
  for piece in request:chunks() do
    for from = 1, #piece, PIECE do
      local part = piece:sub(from, from + PIECE - 1)
      if part ~= pattern_at(at, #part) then
        response.body = ("other bytes at %d\n"):format(at)
        return
      end
      at = at + #part
    end
  end
  response.body = ("%d\n"):format(at)
end, { max_body = 1 << 30 })

server:route("POST", "/echo", function(request, response)
  response.headers:set("content-type", request.headers:get "content-type" or "application/octet-stream")
  for piece in request:chunks() do
    if not response:write(piece) then return end
  end
  response:finish()
end, { max_body = 1 << 30 })

server:route("GET", "/trailers", function(_, response)
  assert(response:write "body")
  response:finish { ["x-after"] = "done" }
end)

server:route("POST", "/trailers", function(request, response)
  request:text()
  local trailers = request:trailers()
  response.body = (trailers and trailers:get "x-after" or "none") .. "\n"
end)

server:route("GET", "/hints", function(_, response)
  assert(response:early_hints { link = "</style.css>; rel=preload" })
  response.body = "hinted"
end)

server:route("GET", "/status/:status", function(request, response)
  response.status = math.tointeger(tonumber(request.params.status))
  response.body = "as you wished\n"
end)

server:static("/files", dir .. "/files")
server:add_rpc("math.add", function(_, a, b) return a + b end, { idempotent = true })
server:add_rpc("countdown", function(_, stream, from)
  for i = from, 1, -1 do stream:send(i) end
  return "done"
end, { stream = "out", idempotent = true })
local noted
server:add_event("note", function(_, text) noted = text end)
server:add_rpc("noted", function() return noted end)
server:rpc_over_http()

assert(server:start())
io.stdout:write(("ready %s\n"):format(server.address))
io.stdout:flush()
echo.run()
