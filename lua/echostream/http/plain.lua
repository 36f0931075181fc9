--- Just enough of HTTP/1.1 for a page or a scraper on the loopback interface, and nothing that a slow or broken client could hold on to: one
--- request on each connection, GET and HEAD, and whole answers; POST with a short body and answers that go on only for who asks for that.

local address = require "echostream.address"
local errors = require "echostream.errors"
local http_fields = require "echostream.http.fields"
local log = require "echostream.log"
local socket = require "echostream.loop.socket"

local M = {}

-- Bytes of a request's head, and connections at once.
local MAX_HEAD <const>, MAX_CONNECTIONS <const> = 8192, 32
-- Bytes that an answer that goes on may be ahead of its reader.
local MAX_BEHIND <const> = 1 << 20

--- Options of `listen`, for whoever has more.
---@type table<string, echostream.options.field>
M.fields = {
  timeout = { type = "seconds", min = 0.001, max = 3600, default = 10 },
}

local reasons = {
  [200] = "OK",
  [301] = "Moved Permanently",
  [400] = "Bad Request",
  [403] = "Forbidden",
  [404] = "Not Found",
  [405] = "Method Not Allowed",
  [408] = "Request Timeout",
  [409] = "Conflict",
  [411] = "Length Required",
  [413] = "Content Too Large",
  [431] = "Request Header Fields Too Large",
  [500] = "Internal Server Error",
  [502] = "Bad Gateway",
  [505] = "HTTP Version Not Supported",
}

-- The head of an answer that goes on until either side ends it.
local function endless(kind, further)
  return ("HTTP/1.1 200 OK\r\nContent-Type: %s\r\n%sConnection: close\r\n\r\n"):format(kind or "text/plain; charset=utf-8", further or "")
end

local function response(status, body, kind, further, head_only)
  return ("HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s%sConnection: close\r\n\r\n%s"):format(status,
    reasons[status], kind or "text/plain; charset=utf-8", #body, status == 405 and "Allow: GET, HEAD\r\n" or "", further or "",
    head_only and "" or body)
end

---@class echostream.plain.request
---@field method "GET"|"HEAD"|"POST"
---@field query string  what follows the "?"
---@field headers table<string, string>  by lower-case name; of a name that comes twice, the last
---@field body string

-- The head of a request (without its empty line) -> method, path, the field Host, the request; or nil, status.
local function parse(head)
  local line, fields = head:match "^\r?\n?([^\r\n]*)\r?\n?(.*)$"
  local method, target, version = line:match "^(%u+) (%S+) HTTP/(%d%.%d)$"
  if not method then
    return nil, 400
  elseif version ~= "1.1" and version ~= "1.0" then
    return nil, 505
  end
  local hosts, host, headers = 0, "", {}
  for field in fields:gmatch "[^\r\n]+" do
    local name, value = field:match "^([%w!#$%%&'*+.^_`|~-]+):(.*)$"
    if not name then
      return nil, 400
    elseif name:lower() == "host" then
      hosts, host = hosts + 1, http_fields.trim(value)
    end
    headers[name:lower()] = http_fields.trim(value)
  end
  if hosts > 1 or (hosts == 0 and version == "1.1") then
    return nil, 400 -- RFC 9112, section 3.2
  end
  target = target:gsub("^http://[^/]*", "")
  return method, (target:gsub("[?#].*$", "")), host,
    { method = method, query = target:match "^[^?#]*%?([^#]*)" or "", headers = headers, body = "" }
end

-- How many bytes of body follow the head; or nil and the answer that refuses the request.
local function body_length(method, request, most)
  local length = request.headers["content-length"]
  if most and request.headers["transfer-encoding"] then
    return nil, response(411, "no chunks\n")
  elseif not most or method ~= "POST" or not length then
    return 0
  elseif not length:find "^%d+$" then
    return nil, response(400, "Bad Request\n")
  elseif #length > 9 or tonumber(length) > most then
    return nil, response(413, "too long\n")
  end
  return tonumber(length)
end

-- The whole answer, or the head of one that goes on and the function that it goes on with.
local function answer(method, path, host, request, handle)
  local head_only = method == "HEAD"
  local ok, status, body, kind, further = pcall(handle, path, host, request)
  if not ok then
    log.write("error", ("%s %s: %s"):format(method, path, tostring(status)))
    return response(500, "see the log\n", nil, nil, head_only)
  elseif type(body) == "function" then
    return endless(kind, further), not head_only and body or nil
  elseif status == nil then
    return nil, nil -- it answers later
  end
  return response(status, body, kind, further, head_only)
end

--- Where `bind` is: a numeric address, or localhost. Misuse is raised.
---@param where string  whose option "bind" it is
---@param bind string
---@param level integer  of the caller, for errors
---@return string ip, integer port
---@package
function M.place(where, bind, level)
  local ok, ip, port = pcall(address.parse, where, bind, "127.0.0.1")
  if not ok then
    error(ip, level + 1)
  elseif not address.literal(ip) then
    if ip ~= "localhost" then
      error(("%s: option \"bind\" wants a numeric address, got %s"):format(where, errors.show(bind)), level + 1)
    end
    ip = "127.0.0.1"
  end
  return ip, port
end

-- A connection: takes one request, answers it and closes.
local function take(connection, timeout, handle, forget, most)
  local text, answered, sent, ended, asked = "", false, false, false, nil
  local going, gone = false, nil -- of an answer that goes on: whether it still does, and who is told when its peer has left
  local function leave()
    local fn = gone
    going, gone = false, nil
    if fn then
      fn()
    end
    forget(connection)
  end
  -- Closed only when the peer has closed too: what it still sends would make the kernel drop our answer.
  local function finish(bytes)
    answered = true
    connection:send(bytes, function()
      sent = true
      connection:finish()
      if ended then
        leave()
      end
    end)
  end
  local function go_on(head, fn)
    answered = true
    connection:send(head)
    connection:after(1e9, leave) -- the time for a request does not count for it
    going = true
    local told = fn({
      --- False: the peer is gone, or does not take what comes.
      send = function(bytes)
        if not going or connection:queued() > MAX_BEHIND then
          leave()
          return false
        end
        connection:send(bytes)
        return true
      end,
    })
    if going then
      gone = told
    else
      told()
    end
  end
  local function serve()
    local head, fn = answer(asked.method, asked.path, asked.host, asked.request, function(path, host, request)
      return handle(path, host, request, function(...)
        finish(response(...))
      end)
    end)
    if fn then
      go_on(head, fn)
    elseif head then
      finish(head)
    else
      answered = true -- later
    end
  end
  connection:after(timeout, function()
    if answered then
      return leave()
    end
    connection:after(1, leave)
    finish(response(408, "too slow\n"))
  end)
  local function look()
    if not asked then
      local from, to = text:find "\r?\n\r?\n"
      if not from or from > MAX_HEAD then
        return #text > MAX_HEAD and finish(response(431, "too long\n"))
      end
      local method, path, host, request = parse(text:sub(1, from - 1))
      if not method then
        return finish(response(path, reasons[path] .. "\n"))
      elseif method ~= "GET" and method ~= "HEAD" and not (most and method == "POST") then
        return finish(response(405, most and "GET, HEAD or POST\n" or "GET or HEAD\n"))
      end
      local length, refusal = body_length(method, request, most)
      if not length then
        return finish(refusal)
      end
      asked = { method = method, path = path, host = host, request = request, length = length }
      text = text:sub(to + 1)
    end
    if #text >= asked.length then
      asked.request.body = text:sub(1, asked.length)
      serve()
    end
  end
  return function(data)
    if not data then
      ended = true
      if not answered or sent or going then
        leave()
      end
    elseif not answered then -- what follows the request is dropped
      text = text .. data
      look()
    end
  end
end

--- Listens. `handle(path, host, request, reply)` gives the status (200, 301, 403, 404, …), the body, its type (text) and further header lines;
--- it does not wait, but may give nothing and call `reply` with the same later. A body that is a function is an answer that goes on: it gets
--- `{ send(bytes) → boolean }` and gives a function that is called when the peer has left.
--- It ends with the process and does not keep it alive.
---@param ip string
---@param port integer
---@param timeout number  seconds for each request
---@param handle fun(path: string, host: string, request: echostream.plain.request, reply: function): integer?, (string|function)?, string?, string?
---@param most? integer  bytes of body of a POST; nil: POST is refused
---@return { address: string, close: fun() }|nil endpoint, echostream.error? err  `io`
---@package
function M.listen(ip, port, timeout, handle, most)
  local open, n_open = {}, 0
  local function forget(connection)
    if open[connection] then
      open[connection], n_open = nil, n_open - 1
    end
    connection:close()
  end
  local listener, err = socket.listen({ ip = ip, port = port }, function(connection)
    if n_open >= MAX_CONNECTIONS then
      connection:close()
      return function() end
    end
    open[connection], n_open = true, n_open + 1
    return take(connection, timeout, handle, forget, most)
  end)
  if not listener then
    return nil, errors.new("io", ("cannot listen on %s: %s"):format(address.join(ip, port), tostring(err)))
  end
  return {
    address = address.join(ip, listener.port),
    close = function()
      listener.close()
      for connection in pairs(open) do
        forget(connection)
      end
    end,
  }
end

return M
