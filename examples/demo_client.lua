-- `make demo`, the client's process: lua5.4 examples/demo_client.lua ADDR PIN
local echo = require "echostream"

io.stdout:setvbuf "line"
local client = echo.client { pin = arg[2] }

-- What the server may call and send, registered before the connection is there.
client:add_rpc("client.name", function()
  return "demo", 1
end)

local news
client:add_event("news", function(_, message)
  news = message
end)

assert(client:connect(arg[1] or "127.0.0.1:5000"))
print("connected to " .. client.address)

print("math.add(10, 20) = " .. assert(client:request("math.add", 10, 20)))
print("report() = " .. assert(client:request "report"))
while not news do
  assert(echo.sleep(0.01))
end
print("event news: " .. news)

assert(client:emit("log", "hello from the client"))

local stream = assert(client:create_stream "upper")
for _, line in ipairs { "one connection", "many streams", "both ways" } do
  assert(stream:send(line))
  print("stream upper: " .. line .. " -> " .. assert(stream:recv(5)).data)
end
stream:finish()
assert(stream:recv(5) == nil)

print("no.such.method() = ", client:request "no.such.method")
client:close()
