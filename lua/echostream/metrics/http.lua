--- The HTTP endpoint of metrics: just enough of HTTP/1.1 for a scraper, and nothing that a slow or broken one could hold on to.

local address = require "echostream.address"
local errors = require "echostream.errors"
local log = require "echostream.log"
local socket = require "echostream.loop.socket"
local options = require "echostream.options"

local M = {}

-- Bytes of a request's head, and connections at once.
local MAX_HEAD, MAX_CONNECTIONS = 8192, 32

local schema = {
  bind = { type = "string", default = "127.0.0.1:9464" },
  hosts = { type = "table" },
  timeout = { type = "seconds", min = 0.001, max = 3600, default = 10 },
}
M.schema = schema

local reasons = {
  [200] = "OK",
  [400] = "Bad Request",
  [404] = "Not Found",
  [405] = "Method Not Allowed",
  [408] = "Request Timeout",
  [431] = "Request Header Fields Too Large",
  [500] = "Internal Server Error",
  [505] = "HTTP Version Not Supported",
}

local function response(status, body, kind, head_only)
  return ("HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%sConnection: close\r\n\r\n%s"):format(status,
    reasons[status], kind or "text/plain; charset=utf-8", #body, status == 405 and "Allow: GET, HEAD\r\n" or "",
    head_only and "" or body)
end

-- The head of a request (without its empty line) -> method, path; or nil, status.
local function parse(head)
  local line, fields = head:match "^\r?\n?([^\r\n]*)\r?\n?(.*)$"
  local method, target, version = line:match "^(%u+) (%S+) HTTP/(%d%.%d)$"
  if not method then
    return nil, 400
  elseif version ~= "1.1" and version ~= "1.0" then
    return nil, 505
  end
  local hosts = 0
  for field in fields:gmatch "[^\r\n]+" do
    local name = field:match "^([%w!#$%%&'*+.^_`|~-]+):"
    if not name then
      return nil, 400
    elseif name:lower() == "host" then
      hosts = hosts + 1
    end
  end
  if hosts > 1 or (hosts == 0 and version == "1.1") then
    return nil, 400 -- RFC 9112, section 3.2
  end
  return method, (target:gsub("^http://[^/]*", ""):gsub("[?#].*$", ""))
end

local function answer(head, hosts)
  local method, path = parse(head)
  if not method then
    return response(path, reasons[path] .. "\n")
  end
  local head_only = method == "HEAD"
  if method ~= "GET" and not head_only then
    return response(405, "GET or HEAD\n")
  elseif path == "/metrics" then
    local ok, text = pcall(require("echostream.metrics").prometheus, table.unpack(hosts))
    if not ok then
      log.write("error", "metrics cannot be shown: " .. tostring(text))
      return response(500, "see the log\n", nil, head_only)
    end
    return response(200, text, "text/plain; version=0.0.4; charset=utf-8", head_only)
  elseif path == "/" then
    return response(200, "<a href=\"/metrics\">metrics</a>\n", "text/html; charset=utf-8", head_only)
  end
  return response(404, "there is only /metrics\n", nil, head_only)
end

--- See `metrics.serve`.
---@param opts? { bind?: string, hosts?: echostream.host[], timeout?: number }
---@param level integer  of the caller, for errors
---@return echostream.metrics.endpoint?, echostream.error?
function M.serve(opts, level)
  local checked = options.check("metrics.serve", opts, schema, level + 1)
  local ok, ip, port = pcall(address.parse, "metrics.serve", checked.bind, "127.0.0.1")
  if not ok then
    error(ip, level + 1)
  elseif not address.literal(ip) then
    if ip ~= "localhost" then
      error(("metrics.serve: option \"bind\" wants a numeric address, got %s"):format(errors.show(checked.bind)), level + 1)
    end
    ip = "127.0.0.1"
  end
  local open, n_open = {}, 0
  local function forget(connection)
    if open[connection] then
      open[connection], n_open = nil, n_open - 1
    end
    connection:close()
  end
  local listener, err = socket.listen({ ip = ip, port = port }, function(connection)
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
    if n_open >= MAX_CONNECTIONS then
      connection:close()
      return function() end
    end
    open[connection], n_open = true, n_open + 1
    connection:after(checked.timeout, function()
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
          finish(answer(head:sub(1, whole - 1), checked.hosts or {}))
        elseif #head > MAX_HEAD then
          finish(response(431, "too long\n"))
        end
      end
    end
  end)
  if not listener then
    return nil, errors.new("io", ("cannot listen on %s: %s"):format(checked.bind, tostring(err)))
  end
  ---@class echostream.metrics.endpoint
  ---@field address string  with the real port
  ---@field close fun(self)  harmless twice
  local endpoint = { address = address.join(ip, listener.port) }
  function endpoint.close()
    listener.close()
    for connection in pairs(open) do
      forget(connection)
    end
  end
  return endpoint
end

return M
