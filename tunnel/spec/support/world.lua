-- A whole tunnel in one process: server, agents and a backend that is a Lua function, with visitors that are Lua too.
--
--   net.only("quic", function(env)
--     env.it("…", function()
--       local w = world.new(env, { backend = function(x, head) … end })
--       local response = w:get("/path")              --> { status, head, body, trailers }
--
-- opts: backend (function(exchange, head, fin), in a task; or options of the agent as `agent`), agents (how many, 1), server (options of
-- tunnel.server, over ours), listen, rules, agent (options of tunnel.agent, over ours), backend_listen (options of the backend's listener).

local core = require "echostream.tunnel.core"
local echo = require "echostream"
local engine = require "echostream.tunnel.engine"
local exchanges = require "echostream.tunnel.exchange"
local tunnel = require "echostream.tunnel"

local M = {}

local World = {}
World.__index = World

local function merge(into, from)
  for name, value in pairs(from or {}) do into[name] = value end
  return into
end

-- A listener that serves exchanges by `fn(exchange, head, fin)`; closed with the environment.
function M.serve(env, fn, opts)
  local listener = assert(engine.current():listen(merge({
    ip = "127.0.0.1", port = 0, kind = "http",
    on_exchange = function(x, head, fin)
      echo.spawn(fn, exchanges.new(x, fin), head, fin)
    end,
  }, opts)))
  table.insert(env.opened, { close = function() listener:close() end })
  return listener
end

-- A connection of a visitor; `codec`: "http/1.1", "h2" or "raw". In a task.
function M.dial(env, address, codec, opts)
  local ip, port = address:match "^(.*):(%d+)$"
  local dialled = merge({ ip = ip, port = tonumber(port), codec = codec or "http/1.1" }, opts)
  local connection
  local c, err = echo.await(function(resume)
    dialled.on_open = function(c) resume(c) end
    dialled.on_closed = function(_, why) resume(nil, why) end
    connection = assert(engine.current():dial(dialled))
  end)
  table.insert(env.opened, { close = function() connection:close() end })
  return c, err
end

-- A head of a request; fields: a list of { name, value }.
function M.head(method, path, fields, authority)
  local given = { method = method, scheme = "http", authority = authority or "example.org", path = path }
  for i, field in ipairs(fields or {}) do given[i] = field end
  return assert(core.head("request", given))
end

-- The whole response: informational heads are listed.
function M.response(x, timeout)
  local informational = {}
  while true do
    local head, fin = x:head(timeout)
    if not head then return nil, fin end
    if head.status >= 200 then
      local body = {}
      while not fin do
        local bytes, err = x:read()
        if not bytes then
          if err then return nil, err, { head = head, status = head.status, body = table.concat(body) } end
          break
        end
        body[#body + 1] = bytes
      end
      return { status = head.status, head = head, body = table.concat(body), trailers = x:trailers(), informational = informational }
    end
    informational[#informational + 1] = head
  end
end

function M.new(env, opts)
  opts = opts or {}
  local self = setmetatable({ env = env, records = {}, events = {}, agents = {}, clients = {} }, World)
  if opts.backend then
    self.backend = M.serve(env, opts.backend, opts.backend_listen)
  end
  self.plugin = tunnel.server(merge({
    agents = { { anyone = true } },
    listen = opts.listen or { { bind = "127.0.0.1:0", name = "web" } },
    rules = opts.rules or { { group = "web" } },
    on_exchange = function(record) table.insert(self.records, record) end,
    on_agent = function(member, what) table.insert(self.events, { what, member and member.id }) end,
  }, opts.server))
  self.server = env.server(opts.echo_server, function(server) server:plugin(self.plugin) end)
  self.address = self.plugin:addresses().web
  for i = 1, opts.agents or 1 do self:add_agent("a" .. i, opts.agent, opts.client) end
  return self
end

-- One more agent, once it is registered.
function World:add_agent(id, opts, client_options)
  local backend = not (opts and opts.services) and self.backend and "http://" .. self.backend:address() or nil
  local agent = tunnel.agent(merge({ client_id = id, group = "web", backend = backend }, opts))
  local client = self.env.client(self.server, merge({ max_named_streams = 10000 }, client_options))
  client:plugin(agent)
  assert(client:connect(self.server.address))
  self.agents[#self.agents + 1], self.clients[#self.clients + 1] = agent, client
  self:wait(function() return self.plugin.registry:get(id) end)
  return agent, client
end

-- Waits until it is so; the time limit of the spec is the only one.
function World.wait(_, fn)
  while not fn() do echo.sleep(0.005) end
end

-- One request on a connection of its own.
function World:request(head, body, opts)
  local connection, err = M.dial(self.env, opts and opts.address or self.address, opts and opts.codec, opts and opts.dial)
  if not connection then return nil, err end
  local x
  x, err = exchanges.request(connection, head, body == nil)
  if not x then return nil, err end
  if body then x:write(body, true) end
  local response, why, partial = M.response(x)
  connection:close()
  return response, why, partial
end

function World:get(path, fields, opts)
  return self:request(M.head("GET", path, fields, opts and opts.authority), nil, opts)
end

return M
