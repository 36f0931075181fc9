-- An agent in the simulator, with a server that is only as much of a tunnel server as the spec makes it, and backends that are fakes.

local codec = require "echostream.codec"
local core = require "echostream.tunnel.core"
local echo = require "echostream"
local fake_engine = require "tunnel.spec.support.fake_engine"

local M = {}

-- env: of net.only("sim", …). → world: server, client, agent, engine, session (the server's side), heartbeats, registrations
function M.new(env, opts)
  opts = opts or {}
  local world = { heartbeats = {}, registrations = {}, engine = opts.real and {} or fake_engine.new(), drained = {}, unregistered = 0 }
  world.server = env.server({}, function(server)
    server:add_rpc("tunnel.challenge", function() return { nonce = ("n"):rep(32) } end)
    server:add_rpc("tunnel.register", function(session, given)
      table.insert(world.registrations, given)
      if world.refuse then return nil, world.refuse end
      world.session = session
      return world.answer or { accepted = true, server_id = "s1", heartbeat = 10 }
    end)
    server:add_rpc("tunnel.drain", function(_, given)
      table.insert(world.drained, given)
      return true
    end)
    server:add_rpc("tunnel.unregister", function()
      world.unregistered = world.unregistered + 1
      return true
    end)
    server:add_event("tunnel.heartbeat", function(_, given) table.insert(world.heartbeats, given) end)
  end)
  local agents = require "echostream.tunnel.agent"
  world.agent = agents.new(opts.agent or { backend = "http://10.9.9.9:80" }, not opts.real and world.engine or nil)
  world.client = env.client(world.server, opts.client)
  world.client:plugin(world.agent)
  if opts.connect ~= false then
    assert(world.client:connect(world.server.address))
  end
  return world
end

-- A request's head.
function M.head(given)
  local fields = { method = "GET", scheme = "http", authority = "example.org", path = "/" }
  for name, value in pairs(given or {}) do fields[name] = value end
  return assert(core.head("request", fields))
end

-- Opens a stream with the first message of a request.
function M.request(world, head, rest)
  local stream = assert(world.session:create_stream "tunnel.http")
  assert(stream:send(head:part(rest == nil) .. (rest or "")))
  return stream
end

-- All parts that came until the stream's end: list of { kind, value }, and how it failed if it did.
function M.collect(stream)
  local list = {}
  for frame in stream:frames() do
    for kind, value in core.parts(frame.data) do table.insert(list, { kind, value }) end
  end
  return list, stream.error
end

-- "note head:200 body:hello end" of such a list.
function M.words(list)
  local words = {}
  for i, part in ipairs(list) do
    local kind, value = part[1], part[2]
    words[i] = (kind == "head" or kind == "informational") and ("%s:%d"):format(kind, value.status)
      or kind == "body" and "body:" .. value or kind == "reset" and "reset:" .. value[1] or kind
  end
  return table.concat(words, " ")
end

function M.note(list)
  for _, part in ipairs(list) do
    if part[1] == "note" then return codec.msgpack.unpack(part[2]) end
  end
end

-- Waits for the nth dial of the engine; simulated time is free.
function M.dial(world, n)
  while not world.engine.dials[n or 1] do echo.sleep(0.001) end
  return world.engine.dials[n or 1]
end

-- Waits for the nth exchange of a connection.
function M.exchange(c, n)
  while not c.exchanges[n or 1] do echo.sleep(0.001) end
  return c.exchanges[n or 1]
end

function M.response(status, fields)
  local given = { status = status }
  for i, field in ipairs(fields or {}) do given[i] = field end
  return assert(core.head("response", given))
end

M.END = core.part "end"

return M
