-- Calls over HTTP without a network: what a transport does with a request, for specs of what is behind it.
local http = require "echostream.http"
local errors = require "echostream.errors"

local M = {}

local Client = {}
Client.__index = Client

-- A client of what `server:rpc_over_http(opts)` would serve. `from`: fields that every request has. Set `gone` when its connection is over.
function M.client(server, opts, from)
  local routes = http.router.new()
  server.route = function(_, method, pattern, handler)
    routes:add(method, pattern, handler)
  end
  server:rpc_over_http(opts)
  return setmetatable({ routes = routes, from = from or {} }, Client)
end

-- A request whose answer is not read yet: what message.finish gives.
function Client:begin(method, path, headers, body)
  local request = { method = method, path = path, headers = http.fields.new(headers or {}), body = body, scheme = "https",
    authority = "127.0.0.1:5000", peer_addr = "192.0.2.1:7000" }
  for key, value in pairs(self.from) do
    request[key] = value
  end
  request.connection = request.connection or request.peer_addr
  function request.take_any_body() end
  function request.take_its_time() end
  function request.watch_connection()
    return function()
      return not self.gone
    end
  end
  local response = http.message.new()
  local ok, result, err = pcall(self.routes.handle, self.routes, request, response)
  if not ok then
    http.errors.respond(response, result)
  elseif result == nil and errors.is_error(err) then
    http.errors.respond(response, err)
  end
  return assert(http.message.finish(request, response))
end

-- The whole answer: { status, body, headers }.
function Client:fetch(...)
  local outgoing = self:begin(...)
  local pieces = {}
  if type(outgoing.body) == "function" then
    for piece in outgoing.body do
      pieces[#pieces + 1] = piece
    end
  else
    pieces[1] = outgoing.body
  end
  outgoing.close()
  return { status = outgoing.status, body = table.concat(pieces), headers = outgoing.headers }
end

-- A call: results as the native door has them, or nil, err.
function Client:call(name, headers, ...)
  local sent = {}
  for key, value in pairs(headers or {}) do
    sent[key] = value
  end
  sent["content-type"] = sent["content-type"] or "application/json"
  local codec = http.content.kind(http.fields.new(sent)) == "msgpack" and require("echostream.codec").msgpack
    or require("echostream.codec").json
  local answer = self:fetch("POST", "/rpc/" .. name, sent, assert(codec.encode(...)))
  if answer.status >= 400 then
    local err = http.errors.parse(answer.status, answer.headers, answer.body)
    return nil, err, answer
  elseif answer.headers:has "results" then
    return codec.decode(answer.body)
  end
  return (codec.unpack(answer.body))
end

return M
