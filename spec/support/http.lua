-- A bare HTTP/3 client for specs: the core's own, without anything that would follow rules for its user.
local core = require "echostream.core"
local connections = require "echostream.quic.connection"
local loop = require "echostream.loop"
local tls = require "echostream.tls"

local M = {}

local LIMIT <const> = 60 -- seconds that anything may take

local Conn = {}
Conn.__index = Conn

local function again(waiters, kind, try, ...)
  return connections.repeat_until(waiters, kind, LIMIT, loop.now, try, ...)
end

-- An open connection to a server. `opts`: `transport`, `bind`, and what tls.client takes.
function M.dial(server, opts)
  opts = opts or {}
  local endpoint = assert(loop.endpoint { bind = opts.bind or "127.0.0.1:0" })
  local context = assert(tls.client({ cert = opts.cert, key = opts.key }, tls.trust("spec", { pin = server.pin }), "127.0.0.1"))
  local conn = assert(core.h3_dial(endpoint, { remote = server.address, tls = context, transport = opts.transport or {} }))
  local waiters = connections.waiters()
  local self = setmetatable({ conn = conn, waiters = waiters, seen = {}, endpoint = endpoint, rec = loop.current() }, Conn)
  conn:notify(function(what)
    self.seen[what] = true
    waiters:wake "any"
  end)
  self:wait "open"
  return self
end

-- Waits until the connection said `what`: "open", "goaway", "closed".
function Conn:wait(what)
  while not self.seen[what] do
    if what ~= "closed" then
      assert(not self.conn:closed(), self.conn:closed())
    end
    assert(self.waiters:wait("any", LIMIT))
  end
end

function Conn:close()
  self.conn:close()
  loop.close_endpoint(self.rec, self.endpoint)
end

local Exchange = {}
Exchange.__index = Exchange

local function started(x, err)
  if not x then
    return nil, err
  end
  local waiters = connections.waiters()
  x:notify(function(what)
    waiters:wake(what)
    if what == "aborted" then
      waiters:wake_all()
    end
  end)
  return setmetatable({ x = x, waiters = waiters }, Exchange)
end

-- Begins a request; `open` true: a body follows.
function Conn:begin(method, path, fields, open)
  return started(self.conn:request({ method = method, scheme = "https", authority = "127.0.0.1", path = path }, fields or {}, not open))
end

-- Begins an extended CONNECT (RFC 9220).
function Conn:connect(path, protocol, fields)
  return started(self.conn:request({ method = "CONNECT", scheme = "https", authority = "127.0.0.1", path = path, protocol = protocol },
    fields or {}, false))
end

function Exchange:write(piece)
  return again(self.waiters, "writable", self.x.write, self.x, piece)
end

function Exchange:finish(...)
  return self.x:finish(...)
end

function Exchange:status()
  return again(self.waiters, "response", self.x.status, self.x)
end

-- The next 1xx: status, fields.
function Exchange:informed()
  return again(self.waiters, "informed", function()
    local status, fields = self.x:informed()
    if status then
      return { status, fields }
    end
    local err = self.x:error()
    return nil, err or "again"
  end)
end

function Exchange:read()
  return again(self.waiters, "readable", self.x.read, self.x)
end

function Exchange:headers()
  local list, headers = self.x:fields() or {}, {}
  for i = 1, #list, 2 do
    headers[list[i]] = list[i + 1]
  end
  return headers
end

function Exchange:trailers()
  return self.x:fields(true)
end

function Exchange:reset(code)
  return self.x:reset(code)
end

function Exchange:release()
  self.x:release()
end

-- The rest of the answer: { status, body, headers, trailers }, or nil, err.
function Exchange:answer()
  local status, err = self:status()
  if not status then
    return nil, err
  end
  local pieces = {}
  while true do
    local piece, problem = self:read()
    if problem then
      return nil, problem
    elseif not piece then
      break
    end
    pieces[#pieces + 1] = piece
  end
  local result = { status = status, body = table.concat(pieces), headers = self:headers(), trailers = self:trailers() }
  self:release()
  return result
end

-- One request with its answer. `body`: a string or a list of pieces.
function Conn:fetch(method, path, fields, body)
  local x, err = self:begin(method, path, fields, body ~= nil)
  if not x then
    return nil, err
  end
  if body then
    for _, piece in ipairs(type(body) == "table" and body or { body }) do
      local ok = x:write(piece) -- the server may answer before it took all
      if not ok then
        break
      end
    end
    x:finish()
  end
  return x:answer()
end

return M
