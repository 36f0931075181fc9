-- A protocol of one's own over raw QUIC: every stream comes back as it was sent, every datagram too.
--   lua5.4 examples/quic_echo.lua serve [ADDR]      prints its address and pin
--   lua5.4 examples/quic_echo.lua say ADDR PIN WORD…
local echo = require "echostream"

local ALPN = { "echo-example" }

io.stdout:setvbuf "line"

local function serve_stream(stream)
  while true do
    local data = stream:read()
    if not data then
      break
    end
    stream:write(data)
  end
  stream:finish()
end

local function serve_connection(connection)
  print("a connection from " .. connection:peer_addr())
  echo.spawn(function()
    for datagram in function() return connection:recv_datagram() end do
      connection:send_datagram(datagram)
    end
  end)
  for stream in function() return connection:accept_bi_stream() end do
    echo.spawn(serve_stream, stream)
  end
  print "it is gone"
end

local function serve(address)
  local listener = assert(echo.quic.listen(address or "127.0.0.1:5000", { alpn = ALPN }))
  print("listening on " .. listener.address)
  print("pin " .. listener.pin)
  echo.spawn(function()
    for connection in function() return listener:accept() end do
      echo.spawn(serve_connection, connection)
    end
  end)
  echo.run()
  listener:close()
end

local function say(address, pin, words)
  local connection = assert(echo.quic.connect(address, { alpn = ALPN, pin = pin }))
  for _, word in ipairs(words) do
    local stream = assert(connection:open_bi_stream())
    assert(stream:write(word))
    stream:finish()
    print("stream: " .. assert(stream:read_to_end(65536)))
  end
  assert(connection:send_datagram "a datagram")
  print("datagram: " .. assert(connection:recv_datagram(5)))
  connection:close()
end

if arg[1] == "serve" then
  serve(arg[2])
elseif arg[1] == "say" and arg[3] then
  say(arg[2], arg[3], table.move(arg, 4, #arg, 1, {}))
else
  io.stderr:write "usage: quic_echo.lua serve [ADDR] | quic_echo.lua say ADDR PIN WORD…\n"
  os.exit(2)
end
