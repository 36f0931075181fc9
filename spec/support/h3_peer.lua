-- An HTTP/3 server right on the core's exchanges, for what a well-behaved one never does.
--
--   local peer = h3_peer.serve(env, function(x, peer) x:respond(200, { "a", "b" }, true) end, { transport = {} })
--   … "https://" .. peer.address, pin = peer.pin …
--
-- The function runs in a task for each request; h3_peer.body(x) reads, h3_peer.send(x, data) writes, both wait.

local connections = require "echostream.quic.connection"
local core = require "echostream.core"
local echo = require "echostream"
local identity = require "echostream.tls.identity"
local loop = require "echostream.loop"
local task = require "echostream.task"
local tls = require "echostream.tls"

local M = {}

local waiters = setmetatable({}, { __mode = "k" })

local function again(x, kind, try)
  local list = waiters[x]
  if not list then
    list = connections.waiters()
    waiters[x] = list
    x:notify(function(what)
      if what == "aborted" then
        list:wake_all()
      end
      list:wake(what)
    end)
  end
  return connections.repeat_until(list, kind, nil, loop.now, try)
end

-- What is asked: { method, path, authority }.
function M.target(x)
  local method, path, authority = x:target()
  return { method = method, path = path, authority = authority }
end

-- Waits for something that happens elsewhere, on however slow a machine.
function M.eventually(fn, what)
  local ends = loop.now() + 15
  while not fn() do
    assert(loop.now() < ends, "did not happen within 15 s: " .. what)
    task.sleep(0.003)
  end
end

-- A field of a request.
function M.field(x, name)
  local list = x:fields() or {}
  for i = 1, #list, 2 do
    if list[i] == name then
      return list[i + 1]
    end
  end
end

-- The next piece of the body.
function M.read(x)
  return again(x, "readable", function()
    return x:read()
  end)
end

-- The whole body; nil, err when it was given up.
function M.body(x)
  local pieces = {}
  while true do
    local piece, err = M.read(x)
    if err then
      return nil, err
    elseif not piece then
      return table.concat(pieces)
    end
    pieces[#pieces + 1] = piece
  end
end

function M.send(x, data)
  return again(x, "writable", function()
    return x:write(data)
  end)
end

-- Status, fields and a body at once.
function M.answer(x, status, fields, body)
  body = body or ""
  assert(x:respond(status, fields or {}, body == ""))
  if body ~= "" then
    assert(M.send(x, body))
    assert(x:finish())
  end
end

local keys = {}

function M.serve(env, fn, opts)
  opts = opts or {}
  local rec = loop.current()
  local key = opts.key or "one"
  keys[key] = keys[key] or core.key_generate() -- a restarted server is the same
  local context = assert(tls.server("spec", {}, keys[key], { "localhost", "127.0.0.1" }))
  local peer = { requests = 0 }
  peer.host = core.h3_host(rec.core, function(x)
    peer.requests = peer.requests + 1
    fn(x, peer)
    x:release()
  end, opts.limits)
  local endpoint = assert(loop.endpoint {
    bind = opts.bind or "127.0.0.1:0", tls = context, apps = { { alpn = "h3", h3 = peer.host } }, transport = opts.transport or {},
  })
  peer.address = endpoint:address()
  peer.base = "https://" .. peer.address
  peer.pin = identity.pin_text((context:pin()))
  function peer.close()
    if endpoint then
      loop.close_endpoint(rec, endpoint)
      endpoint = nil
    end
  end
  table.insert(env.opened, peer)
  return peer
end

-- A server that does as told, and a client that trusts it.
function M.pair(env, fn, server_options, client_options)
  local peer = M.serve(env, fn, server_options)
  local options = { pin = peer.pin }
  for key, value in pairs(client_options or {}) do
    options[key] = value
  end
  local client = echo.http.client(options)
  table.insert(env.opened, client)
  return peer, client
end

function M.tell(x) -- what came, as the answer
  local asked = M.target(x)
  local body = assert(M.body(x))
  M.answer(x, 200, { "x-method", asked.method, "x-path", asked.path, "x-authority", asked.authority, "x-length",
    M.field(x, "content-length") or "none", "x-type", M.field(x, "content-type") or "none", "x-priority",
    M.field(x, "priority") or "none" }, body)
end

--- A body of n pieces.
function M.counter(n, piece)
  return function()
    n = n - 1
    return n >= 0 and piece or nil
  end
end

return M
