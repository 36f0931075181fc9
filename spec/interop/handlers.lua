-- What the server of the interop cases offers, and the bytes that both sides know.

local M = {}

local BLOCK = 65536

-- Bytes that follow from a name: every block differs, so that blocks that come in a wrong place are found.
local blocks = {}
local function base(name)
  if not blocks[name] then
    local x, words = 0, {}
    for i = 1, #name do
      x = x * 31 + name:byte(i)
    end
    for i = 1, BLOCK // 8 do
      x = x * 6364136223846793005 + 1442695040888963407
      words[i] = string.pack("<I8", x ~ x >> 29)
    end
    blocks[name] = table.concat(words)
  end
  return blocks[name]
end

--- The nth block (from 1) of `size` bytes of `name`; nil after the last.
function M.block(name, size, n)
  local left = size - (n - 1) * BLOCK
  if left <= 0 then
    return nil
  end
  local block = string.pack("<I8", n) .. base(name):sub(9)
  return left < BLOCK and block:sub(1, left) or block
end

--- Reads a download and compares it with what it has to be: true, or nil and what is wrong.
function M.verify(stream, name, size)
  local n, got = 0, 0
  while true do
    local frame, err = stream:recv()
    if not frame then
      if err then
        return nil, tostring(err)
      end
      break
    end
    n = n + 1
    if frame.data ~= M.block(name, size, n) then
      return nil, ("block %d of %s differs"):format(n, name)
    end
    got = got + #frame.data
  end
  if got ~= size then
    return nil, ("%d of %d bytes of %s came"):format(got, size, name)
  end
  return true
end

-- A body of the blocks of `name`, one with each call.
local function body_of(name, size)
  local n = 0
  return function()
    n = n + 1
    return M.block(name, size, n)
  end
end

-- Compares pieces of any length with what the blocks of `name` are: true, or nil and what is wrong.
local function compare(read, name, size)
  local n, rest, got = 1, "", 0
  local expected = M.block(name, size, 1)
  while true do
    local piece, err = read()
    if err then
      return nil, tostring(err)
    end
    rest = rest .. (piece or "")
    while expected and #rest >= #expected do
      if rest:sub(1, #expected) ~= expected then
        return nil, ("block %d of %s differs"):format(n, name)
      end
      got, n, rest = got + #expected, n + 1, rest:sub(#expected + 1)
      expected = M.block(name, size, n)
    end
    if not piece then
      if expected or rest ~= "" then
        return nil, ("%d of %d bytes of %s came"):format(got + #rest, size, name)
      end
      return true
    end
  end
end

--- Registers everything on a server. Over HTTP/3 `GET /file/NAME/SIZE`: that many bytes; `PUT` compares what comes. `download`: a
--- stream whose first message is "name size" and whose answer is that many bytes; `echo` and, idempotent, `early`: their arguments;
--- `ledger(n)`: counts n, and says how often it came; `ledger_counts`: how many numbers came once, and how many more often; `where`: the
--- caller's address; `endpoint_stats`, `session_stats`: the server's figures; event `note`: kept, `notes` returns how many came in order.
function M.install(server)
  server:route("GET", "/file/:name/:size", function(request, response)
    local size = tonumber(request.params.size)
    response.headers:set("content-length", ("%d"):format(size))
    response.body = body_of(request.params.name, size)
  end)
  server:route("PUT", "/file/:name/:size", function(request, response)
    local ok, why = compare(request.body, request.params.name, tonumber(request.params.size))
    response.status, response.body = ok and 200 or 400, why or "all of it"
  end, { max_body = 1 << 30 })
  server:add_stream("download", function(_, stream)
    local frame = stream:recv()
    local name, size = frame.data:match "^(%S+) (%d+)$"
    local n = 0
    repeat
      n = n + 1
      local block = M.block(name, tonumber(size), n)
    until not block or not stream:send(block)
  end)
  server:add_rpc("echo", function(_, ...)
    return ...
  end)
  local count, once, more = {}, 0, 0
  server:add_rpc("ledger", function(_, n)
    count[n] = (count[n] or 0) + 1
    if count[n] == 1 then
      once = once + 1
    elseif count[n] == 2 then
      once, more = once - 1, more + 1
    end
    return n, count[n]
  end)
  server:add_rpc("ledger_counts", function()
    return once, more
  end)
  server:add_rpc("where", function(session)
    return session.peer_addr
  end)
  server:add_rpc("early", function(_, x)
    return x
  end, { idempotent = true })
  server:add_rpc("endpoint_stats", function()
    return server:stats().endpoint
  end)
  server:add_rpc("session_stats", function(session)
    return session:stats()
  end)
  local notes, disorder = 0, 0
  server:add_event("note", function(_, n)
    if n == notes + 1 then
      notes = n
    else
      disorder = disorder + 1
    end
  end)
  server:add_rpc("notes", function()
    return notes, disorder
  end)
end

--- A client's side of `download`.
function M.download(client, name, size)
  local stream, err = client:create_stream "download"
  if not stream then
    return nil, tostring(err)
  end
  local ok
  ok, err = stream:send(("%s %d"):format(name, size))
  if not ok then
    return nil, tostring(err)
  end
  stream:finish()
  return M.verify(stream, name, size)
end

--- The same over HTTP/3; `method` GET or PUT. True, or nil and what is wrong.
function M.file(http, address, method, name, size)
  local url = ("https://%s/file/%s/%d"):format(address, name, size)
  local answer, err = http:request(url, { method = method, body = method == "PUT" and body_of(name, size) or nil })
  if not answer then
    return nil, tostring(err)
  elseif answer.status ~= 200 then
    return nil, ("status %d, %s"):format(answer.status, tostring(answer:body()))
  elseif method == "PUT" then
    return answer:body() == "all of it" or nil, "another answer"
  end
  return compare(function() return answer:read() end, name, size)
end

return M
