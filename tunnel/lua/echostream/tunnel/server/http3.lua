--- Visitors of HTTP/3: a request that the core's HTTP server got, as an exchange for `forward` (tunnel/DESIGN.md, "An exchange, as forward sees
--- it"). The tunnel's server takes all requests that no route of the host takes.

local address = require "echostream.address"
local core = require "echostream.tunnel.core"
local errors = require "echostream.errors"
local task = require "echostream.task"
local tunnel_errors = require "echostream.tunnel.errors"

local M = {}

---@class echostream.tunnel.http3_exchange
local Exchange = { __name = "echostream.tunnel.http3_exchange" }
Exchange.__index = Exchange

local function gone(self)
  return nil, self._gone or errors.new("cancelled", "the visitor has gone")
end

-- What a request's end is as parts.
local function last_parts(request)
  local trailers = request:trailers()
  if trailers then
    local head = core.head("trailers", {})
    for name, value in trailers:each() do
      head = head and head:add(name, value) and head
    end
    if head then
      return head:part()
    end
  end
  return core.part("end")
end

local function taken(self, piece, err)
  if piece then
    self._received = self._received + #piece
    return core.part("body", piece), false
  elseif err then
    self._gone = self._gone or err
    return nil, err
  end
  self._all_taken = true
  return last_parts(self._request), true
end

-- What `is_bare` saw of the body.
local function seen(self)
  local message, over = self._seen, self._seen_over
  self._seen = nil
  return message, over
end

--- Waits for more of the request, as parts.
---@return string? message, boolean|echostream.error over_or_err
function Exchange:take()
  if self._seen then
    return seen(self)
  elseif self._gone or self._all_taken then
    return gone(self)
  end
  return taken(self, self._request:read())
end

--- The same of what is there.
---@return string? message  nil: nothing now
---@return boolean over
function Exchange:try_take()
  if self._seen then
    return seen(self)
  elseif self._gone or self._all_taken then
    return nil, self._all_taken
  end
  local piece, err = self._request:read(0)
  if err then
    if err.code ~= "timeout" then
      self._gone = err
    end
    return nil, false
  end
  return taken(self, piece)
end

--- Sends a head. Of informational ones 103 is passed on: 100 is sent by the host when the body is asked for.
---@param head echostream.tunnel.head
---@param fin? boolean
---@return true? ok, echostream.error? err
function Exchange:send_head(head, fin)
  local response = self._response
  if self._gone then
    return gone(self)
  end
  local fields = {}
  for name, value in head:each() do
    fields[#fields + 1] = { name, value }
  end
  if head.status < 200 then
    if head.status == 103 then
      local hints = {}
      for _, field in ipairs(fields) do
        local list = hints[field[1]] or {}
        hints[field[1]] = list
        list[#list + 1] = field[2]
      end
      return response:early_hints(hints)
    end
    return true
  end
  response.status, response.headers = head.status, nil
  for _, field in ipairs(fields) do
    response.headers:add(field[1], field[2])
  end
  local ok, err
  if fin then
    self._all_sent = true
    ok, err = response:finish()
  else
    ok, err = response:write ""
  end
  return ok, err
end

local function finish(self, trailers)
  self._all_sent = true
  local list
  if trailers then
    list = {}
    for name, value in trailers:each() do
      list[#list + 1] = { name, value }
    end
  end
  return self._response:finish(list)
end

-- What to do with each part of a message; true: it was the last.
local handlers = {
  head = function(self, head)
    return self:send_head(head, false)
  end,
  body = function(self, bytes)
    self._sent = self._sent + #bytes
    return self._response:write(bytes)
  end,
  trailers = finish,
  ["end"] = function(self)
    return finish(self)
  end,
  reset = function(self, why)
    self:reset(why[1])
    return true
  end,
  note = function()
    return true
  end,
}
handlers.informational = handlers.head

local lasts = { trailers = true, ["end"] = true, reset = true }

--- Sends what the parts of a message say; returns when there is room for the next.
---@param message string
---@return true? ok, boolean|echostream.error over_or_err
function Exchange:put(message)
  if self._gone then
    return gone(self)
  end
  local parts, malformed = core.parts(message)
  if not parts then
    return nil, malformed
  end
  for kind, value in parts do
    local ok, err = handlers[kind](self, value)
    if not ok then
      return nil, err
    elseif lasts[kind] then
      return true, true
    end
  end
  return true, false
end

--- Sends plain bytes; returns when there is room for more.
---@param bytes string
---@param fin? boolean
---@return true? ok, echostream.error? err
function Exchange:write(bytes, fin)
  if self._gone then
    return gone(self)
  end
  local ok, err = true, nil
  if bytes ~= "" then
    self._sent = self._sent + #bytes
    ok, err = self._response:write(bytes)
  end
  if ok and fin then
    return finish(self)
  end
  return ok, err
end

--- Ends what is sent.
---@param trailers? echostream.tunnel.head
---@return true? ok, echostream.error? err
function Exchange:finish(trailers)
  if self._gone then
    return gone(self)
  end
  return finish(self, trailers)
end

--- Gives it up. After "no_error" the response is whole, and the rest of the request is not wanted.
---@param why? string
function Exchange:reset(why)
  if not (self._all_sent and why == "no_error") and not self._gone then
    self._gone = errors.new("cancelled", "the exchange was reset: " .. (why or "cancel"))
    self._given_up = true
    self._wake(true)
  end
end

--- Calls `fn(why, text)` once, not in a task, when the visitor gives up before the end; at once when that is so already.
---@param fn fun(why: string, text: string)
function Exchange:on_abort(fn)
  if self._left then
    fn("cancel", "the visitor has gone")
  else
    self._on_abort = fn
  end
end

--- Who is connected, and what passed.
---@return { peer: string, protocol: string, tls: boolean, sni: string, received: integer, sent: integer }
function Exchange:info()
  return { peer = self._request.peer_addr, local_address = self._local, protocol = "h3", tls = true, sni = "", received = self._received,
    sent = self._sent }
end

local function left(self)
  if not self._left and not (self._all_taken and self._all_sent) then
    self._left = true
    self._gone = self._gone or errors.new("cancelled", "the visitor has gone")
    local fn = self._on_abort
    self._on_abort = nil
    if fn then
      fn("cancel", "the visitor has gone")
    end
  end
end

-- Fields that no request of HTTP/3 has, or that are the host's matter.
local not_passed = { connection = true, ["keep-alive"] = true, ["proxy-connection"] = true, ["transfer-encoding"] = true, upgrade = true,
  host = true,
  expect = true, ["http2-settings"] = true }

-- The head of a request. Nil: it is none that can be passed on.
local function head_of(request)
  local head, err = core.head("request", { method = request.method, scheme = request.scheme, authority = request.authority, path = request.path,
    protocol = request.protocol })
  if not head then
    return nil, err
  end
  for name, value in request.headers:each() do
    if not not_passed[name] and (name ~= "te" or value == "trailers") then
      local ok, problem = head:add(name, value)
      if not ok then
        return nil, problem
      end
    end
  end
  return head
end

-- Whether a request is known to have no body. One that waits for leave to send it has one, and is not asked for it yet.
local function is_bare(self, head)
  if self._request.headers:has "expect" or head.method == "CONNECT" then
    return false
  end
  local message, over = self:try_take()
  if over and message == core.part "end" then
    return true
  end
  self._seen, self._seen_over = message, over
  return false
end

---@alias echostream.tunnel.serve fun(exchange: table, head: echostream.tunnel.head, info: echostream.tunnel.request_info, fin: boolean)

-- Runs `serve` in a task of its own, for the handler's is cancelled when the visitor goes; until it is over, or gave the exchange up.
local function wait_for(self, serve, head, info)
  local over, fin = false, is_bare(self, head)
  task.spawn(function()
    local ok, err = pcall(serve, self, head, info, fin)
    over = true
    self._wake(true)
    if not ok then
      error(err, 0)
    end
  end)
  task.await(function(resume)
    self._wake = resume
  end)
  self._wake = function() end
  if not over then
    left(self)
  end
end

--- A handler for `server:http` that makes an exchange of each request, and runs `serve` with it in a task; what `serve` leaves open is reset.
---@param serve echostream.tunnel.serve
---@param about { port: integer?, listener: string?, local_address: string? }
---@return echostream.http.handler
function M.handler(serve, about)
  return function(request, response)
    local head, err = head_of(request)
    if not head then
      err.http_status = 400
      return nil, err
    end
    local self = setmetatable({ _request = request, _response = response, _received = 0, _sent = 0, _all_taken = false, _all_sent = false,
      _local = about.local_address or "", _wake = function() end }, Exchange)
    request:on_cancel(function()
      left(self)
    end)
    local ip, port = address.parse("http3", request.peer_addr, "")
    wait_for(self, serve, head, { peer_ip = ip, peer_port = port, port = about.port, listener = about.listener, protocol = "h3" })
    if not self._all_sent then -- said once more to the host: what was begun is reset, what was not is 502
      return nil, tunnel_errors.new(502, "there is no answer", { code = "unavailable" })
    end
  end
end

--- Serves all requests of a host that no route takes: bodies of any length, for as long as they like.
---@param host echostream.server  before `start`
---@param serve echostream.tunnel.serve
---@param about { port: integer?, listener: string?, local_address: string? }
function M.attach(host, serve, about)
  host:http(M.handler(serve, about), { max_body = math.maxinteger, timeout = 0, body_timeout = 0 })
end

return M
