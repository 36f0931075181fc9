-- A client for the small local pages, in the same process: one request on each connection.

local core = require "echostream.core"
local echo = require "echostream"
local socket = require "echostream.loop.socket"

local M = {}

--- Waits until `done()` says something true, for up to `seconds` (20).
function M.wait(done, seconds)
  local deadline = echo.now() + (seconds or 20)
  while echo.now() < deadline do
    local value = done()
    if value then return value end
    echo.sleep(0.005)
  end
  return done()
end

--- Opens a connection that goes on: `text` grows, `over` is set at its end, `close()`.
function M.open(address, text)
  local got = { text = "", over = false }
  got.close = socket.connect({ ip = "127.0.0.1", port = tonumber(address:match ":(%d+)$") }, function(connection, err)
    if not connection then
      got.over, got.err = true, err
      return
    end
    connection:send(text)
    return function(data)
      if data then
        got.text = got.text .. data
      else
        got.over = true
        connection:close()
      end
    end
  end)
  return got
end

--- A whole answer: `{ status, body, head, json }`. `opts`: method, headers (a table), body.
function M.ask(address, path, opts)
  opts = opts or {}
  local lines = { ("%s %s HTTP/1.1"):format(opts.method or "GET", path), "Host: " .. (opts.host or address) }
  for name, value in pairs(opts.headers or {}) do lines[#lines + 1] = name .. ": " .. value end
  if opts.body then lines[#lines + 1] = "Content-Length: " .. #opts.body end
  local got = M.open(address, table.concat(lines, "\r\n") .. "\r\n\r\n" .. (opts.body or ""))
  assert(M.wait(function() return got.over end), "no answer")
  local head, body = got.text:match "^(.-\r\n)\r\n(.*)$"
  assert(head, "no head: " .. got.text)
  return { status = tonumber(head:match "^HTTP/1%.1 (%d+)"), head = head, body = body,
    json = head:find("application/json", 1, true) and core.codec.json.unpack(body) or nil }
end

return M
