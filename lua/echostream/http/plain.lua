--- Just enough of HTTP/1.1 for a page or a scraper on the loopback interface, and nothing that a slow or broken client could hold on to: one
--- request on each connection, GET and HEAD only, whole answers.

local address = require "echostream.address"
local errors = require "echostream.errors"
local http_fields = require "echostream.http.fields"
local log = require "echostream.log"
local socket = require "echostream.loop.socket"

local M = {}

-- Bytes of a request's head, and connections at once.
local MAX_HEAD <const>, MAX_CONNECTIONS <const> = 8192, 32

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
  [431] = "Request Header Fields Too Large",
  [500] = "Internal Server Error",
  [505] = "HTTP Version Not Supported",
}

local function response(status, body, kind, further, head_only)
  return ("HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s%sConnection: close\r\n\r\n%s"):format(status,
    reasons[status], kind or "text/plain; charset=utf-8", #body, status == 405 and "Allow: GET, HEAD\r\n" or "", further or "",
    head_only and "" or body)
end

-- The head of a request (without its empty line) -> method, path, the field Host; or nil, status.
local function parse(head)
  local line, fields = head:match "^\r?\n?([^\r\n]*)\r?\n?(.*)$"
  local method, target, version = line:match "^(%u+) (%S+) HTTP/(%d%.%d)$"
  if not method then
    return nil, 400
  elseif version ~= "1.1" and version ~= "1.0" then
    return nil, 505
  end
  local hosts, host = 0, ""
  for field in fields:gmatch "[^\r\n]+" do
    local name, value = field:match "^([%w!#$%%&'*+.^_`|~-]+):(.*)$"
    if not name then
      return nil, 400
    elseif name:lower() == "host" then
      hosts, host = hosts + 1, http_fields.trim(value)
    end
  end
  if hosts > 1 or (hosts == 0 and version == "1.1") then
    return nil, 400 -- RFC 9112, section 3.2
  end
  return method, (target:gsub("^http://[^/]*", ""):gsub("[?#].*$", "")), host
end

local function answer(head, handle)
  local method, path, host = parse(head)
  if not method then
    return response(path, reasons[path] .. "\n")
  end
  local head_only = method == "HEAD"
  if method ~= "GET" and not head_only then
    return response(405, "GET or HEAD\n")
  end
  local ok, status, body, kind, further = pcall(handle, path, host)
  if not ok then
    log.write("error", ("GET %s: %s"):format(path, tostring(status)))
    return response(500, "see the log\n", nil, nil, head_only)
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
local function take(connection, timeout, handle, forget)
  local head, answered, sent, ended = "", false, false, false
  -- Closed only when the peer has closed too: what it still sends would make the kernel drop our answer.
  local function finish(text)
    answered = true
    connection:send(text, function()
      sent = true
      connection:finish()
      if ended then
        forget(connection)
      end
    end)
  end
  connection:after(timeout, function()
    if answered then
      return forget(connection)
    end
    connection:after(1, function()
      forget(connection)
    end)
    finish(response(408, "too slow\n"))
  end)
  return function(data)
    if not data then
      ended = true
      if not answered or sent then
        forget(connection)
      end
    elseif not answered then -- what follows the request is dropped
      head = head .. data
      local whole = head:find "\r?\n\r?\n"
      if whole and whole <= MAX_HEAD then
        finish(answer(head:sub(1, whole - 1), handle))
      elseif #head > MAX_HEAD then
        finish(response(431, "too long\n"))
      end
    end
  end
end

--- Listens. `handle(path, host)` gives the status (200, 301, 403, 404), the body, its type (text) and further header lines; it does not wait.
--- It ends with the process and does not keep it alive.
---@param ip string
---@param port integer
---@param timeout number  seconds for each request
---@param handle fun(path: string, host: string): integer, string, string?, string?
---@return { address: string, close: fun() }|nil endpoint, echostream.error? err  `io`
---@package
function M.listen(ip, port, timeout, handle)
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
    return take(connection, timeout, handle, forget)
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
