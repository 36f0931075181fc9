-- One handler, asked by the native protocol and over HTTP/3, on one port.  lua5.4 examples/http_calls.lua [serve ADDRESS]
-- With `serve` it stays, and prints what to type in a shell.

local echo = require "echostream"

local serving = arg[1] == "serve"
local server = echo.server { bind = serving and arg[2] or "127.0.0.1:0", quiet = true }

server:add_rpc("math.add", function(_, a, b)
  return a + b
end, { arguments = { "a: a number", "b: a number" }, idempotent = true })

server:add_rpc("countdown", function(session, stream, from)
  for i = from, 1, -1 do
    if not stream:send(i) then
      return -- nobody looks any more
    end
  end
  return "liftoff for " .. session.door
end, { stream = "out", idempotent = true })

server:rpc_over_http()
assert(server:start())

if serving then
  print("listening on " .. server.address)
  print("pin " .. server.pin)
  print(("curl --http3-only -k -d '[10,20]' https://%s/rpc/math.add"):format(server.address))
  print(("curl --http3-only -kN 'https://%s/rpc/countdown?args=%%5B3%%5D'"):format(server.address))
  io.stdout:flush()
  server:run()
  os.exit(0)
end

local client = assert(echo.connect(server.address, { pin = server.pin }))
print("native", client:request("math.add", 10, 20))

local url = "https://" .. server.address
local function post(path, body, headers)
  local response = assert(echo.http.request(url .. path, { method = "POST", body = body, headers = headers, pin = server.pin }))
  return response.status, (assert(response:body()))
end

print("http", post("/rpc/math.add", "[10,20]", { ["content-type"] = "application/json" }))
print("http", post("/rpc/math.add", '{"a":10,"b":20}', { ["content-type"] = "application/json" }))
print("http", post("/rpc/math.sub", "[10,20]"))

local stream = assert(client:stream("countdown", 3))
for i in stream:values() do
  print("native", i)
end
print("native", stream:result())
print("http", post("/rpc/countdown", "[3]", { accept = "application/x-ndjson" }))

client:close()
server:stop()
