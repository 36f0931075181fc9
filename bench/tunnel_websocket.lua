-- For bench/tunnel.lua: a backend that accepts WebSockets and says nothing, and a visitor that opens many and says nothing.
--   tunnel_websocket.lua backend | visitor IP:PORT COUNT
local uv = require "luv"

local kept = {} -- sockets stay as long as the process

if arg[1] == "backend" then
  local server = uv.new_tcp()
  assert(server:bind("127.0.0.1", 0))
  server:listen(4096, function()
    local peer = uv.new_tcp()
    server:accept(peer)
    kept[#kept + 1] = peer
    local head = ""
    peer:read_start(function(err, data)
      if err or not data then return peer:close() end
      head = head and head .. data
      if head and head:find "\r\n\r\n" then
        head = nil
        peer:write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
          .. "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
      end
    end)
  end)
  print(("at 127.0.0.1:%d"):format(server:getsockname().port))
else
  local ip, port = arg[2]:match "^(.*):(%d+)$"
  local count, open = tonumber(arg[3]), 0
  local function one()
    local socket = uv.new_tcp()
    kept[#kept + 1] = socket
    socket:connect(ip, tonumber(port), function(err)
      assert(not err, err)
      socket:write("GET /chat HTTP/1.1\r\nHost: ws.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        .. "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
      local said = false
      socket:read_start(function(problem, data)
        assert(not problem and data, "the connection ended: " .. tostring(problem))
        if not said then
          said = true
          assert(data:find "^HTTP/1.1 101", data)
          open = open + 1
          if open == count then
            print("open " .. open)
            io.stdout:flush()
          elseif #kept < count then
            one()
          end
        end
      end)
    end)
  end
  for _ = 1, math.min(count, 20) do one() end
end
io.stdout:flush()
uv.run()
