-- Visitors of HTTP/2 and HTTP/1.1 before what the spec says: a function that answers, or a backend of HTTP/2 to which each exchange is
-- passed on part by part, as both ends of the tunnel do it. Without sessions: what is tried is the codec in both roles.

local core = require "echostream.tunnel.core"
local engines = require "echostream.tunnel.engine"

local M = {}

local BLOCK <const> = ("y"):rep(65536)

-- Moves what there is from one exchange to another until the other is full.
local function pump(from, to)
  while to:queued() < 262144 do
    local message, over = from:take()
    if not message then return end
    if to:put(message) == nil or over then return end -- how the other one ended is told by its own "reset"
  end
end

local function pass_on(connection, x, head, fin)
  local y, err
  local function heads()
    while true do
      local h, over = y:head()
      if not h then return end
      if not x:send_head(h, over) then y:reset "cancel" end
    end
  end
  y, err = connection:request(head, fin, function(_, what)
    if what == "head" then
      heads()
      pump(y, x)
    elseif what == "data" then
      pump(y, x)
    elseif what == "room" then
      pump(x, y)
    elseif what == "reset" then
      heads()
      pump(y, x) -- a response may be whole, and its request not wanted any more
      x:reset((y:failure()))
    end
  end)
  if not y then
    return x:send_head(core.head("response", { status = 503, { "x-why", tostring(err) } }), true)
  end
  x:notify(function(_, what)
    if what == "data" then
      pump(x, y)
    elseif what == "room" then
      pump(y, x)
    elseif what == "reset" then
      y:reset((x:failure()))
    end
  end)
  pump(x, y)
end

--- Listens; each exchange goes to the backend at 127.0.0.1:`port`, over one connection. In a task.
---@param port integer
---@param opts? { tls?: table }
---@return { address: string, engine: table, stop: fun(), resets: table }
function M.to(port, opts)
  local self = { refused = {} }
  self.engine = engines.new()
  local waiting = {}
  self.connection = assert(self.engine:dial {
    ip = "127.0.0.1", port = port, codec = "h2",
    on_open = function()
      self.open = true
      for _, fn in ipairs(waiting) do fn() end
    end,
    on_closed = function() self.open = false end,
  })
  self.listener = assert(self.engine:listen {
    ip = "127.0.0.1", port = 0, kind = "http", tls = opts and opts.tls,
    on_exchange = function(x, head, fin)
      if self.open then return pass_on(self.connection, x, head, fin) end
      table.insert(waiting, function() pass_on(self.connection, x, head, fin) end)
    end,
    on_refused = function(_, status, why) table.insert(self.refused, { status = status, why = why }) end,
  })
  self.address = self.listener:address()
  function self.stop() self.engine:close() end
  return self
end

-- The request's body is read, then the path is answered: /bytes/N with so many, /count with how many came, /trailers, /early at once.
local function answer(x, head, count)
  local n = tonumber(head.path:match "^/bytes/(%d+)")
  if head.path == "/count" then
    assert(x:send_head(assert(core.head("response", { status = 200 }))))
    return assert(x:write(tostring(count), true))
  elseif head.path == "/trailers" then
    assert(x:send_head(assert(core.head("response", { status = 103, { "link", "</a>; rel=preload" } }))))
    assert(x:send_head(assert(core.head("response", { status = 200 }))))
    assert(x:write "body")
    return assert(x:finish(assert(core.head("trailers", { { "x-sum", "1" } }))))
  elseif not n then
    return assert(x:send_head(assert(core.head("response", { status = 404, { "content-length", "0" } })), true))
  end
  assert(x:send_head(assert(core.head("response", { status = 200, { "content-length", tostring(n) } })), n == 0))
  local function more()
    while n > 0 do
      local k = math.min(n, #BLOCK)
      n = n - k
      if not x:write(k == #BLOCK and BLOCK or BLOCK:sub(1, k), n == 0) then return end
    end
  end
  x:notify(function(_, what)
    if what == "room" then more() end
  end)
  more()
end

--- Listens and answers by itself. In a task.
---@param opts? { tls?: table, limits?: table }
function M.answers(opts)
  opts = opts or {}
  local self = { refused = {}, seen = {}, protocols = {} }
  self.engine = engines.new()
  self.listener = assert(self.engine:listen {
    ip = "127.0.0.1", port = 0, kind = "http", tls = opts.tls, limits = opts.limits,
    on_exchange = function(x, head, fin)
      table.insert(self.seen, head.method .. " " .. head.path)
      self.protocols[x:info().protocol] = (self.protocols[x:info().protocol] or 0) + 1
      if fin or head.path == "/early" then return answer(x, head, 0) end
      local count = 0
      local function take()
        while true do
          local bytes, over = x:read()
          count = count + #(bytes or "")
          if over then return answer(x, head, count) end
          if not bytes then return end
        end
      end
      x:notify(function(_, what)
        if what == "data" then take() end
      end)
      take()
    end,
    on_refused = function(_, status, why) table.insert(self.refused, { status = status, why = why }) end,
  })
  self.address = self.listener:address()
  function self.stop() self.engine:close() end
  return self
end

return M
