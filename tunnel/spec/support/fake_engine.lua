-- The engine's dials in plain Lua, for specs that want no sockets: what is dialled is kept, and the spec says what comes of it.
--
--     local engine = fake_engine.new()
--     …engine:dial{…} is called…
--     local c = engine.dials[1]:open("http/1.1")      -- or :fail("unavailable", "connection refused")
--     c.exchanges[1]:done()                             -- its request is over: there is room for another

local errors = require "echostream.errors"

local M = {}

local Exchange = {}
Exchange.__index = Exchange

-- What the relay and its like call, as of echostream.tunnel.core_exchange.
function Exchange:head()
  local entry = table.remove(self.heads, 1)
  if entry then return entry[1], entry[2] end
end

function Exchange:take()
  local message = table.remove(self.inbox, 1)
  return message, self.ended and #self.inbox == 0
end

Exchange.read = Exchange.take

function Exchange:put(message)
  if self.why then return nil, errors.new("cancelled", self.why) end
  table.insert(self.sent, message)
  local over = false
  for kind in require("echostream.tunnel.core").parts(message) do
    over = over or kind == "end" or kind == "trailers" or kind == "reset"
  end
  return not self.full, over
end

function Exchange:failure() return self.why, self.text end
function Exchange:reset(why) self.was_reset = self.was_reset or why or "cancel" end

-- What the spec makes the other side do.
function Exchange:respond(head, fin)
  table.insert(self.heads, { head, fin or false })
  self.ended = self.ended or fin and head.status >= 200
  self.notify(self, "head")
end

function Exchange:push(message, over)
  table.insert(self.inbox, message)
  self.ended = over
  self.notify(self, "data")
end

function Exchange:fail(why, text)
  self.why, self.text = why, text
  self.notify(self, "reset")
end

function Exchange:set_full(full)
  self.full = full
  if not full then self.notify(self, "room") end
end

function Exchange:done()
  local c = self.connection
  for i, x in ipairs(c.live) do
    if x == self then table.remove(c.live, i) break end
  end
  if c.dial.options.on_ready then c.dial.options.on_ready(c) end
end

local Connection = {}
Connection.__index = Connection

function Connection:room()
  if self.closed or self.draining then return 0 end
  return self.most - #self.live
end
function Connection:count() return #self.live end
function Connection:protocol() return self.is end
function Connection:request(head, fin, notify)
  if self:room() == 0 then return nil, errors.new("resource_exhausted", "no room") end
  local x = setmetatable({ request = head, fin = fin, notify = notify, connection = self, heads = {}, inbox = {}, sent = {}, ended = false,
    full = false }, Exchange)
  table.insert(self.live, x)
  table.insert(self.exchanges, x)
  return x
end
function Connection:drain() self.draining = true end
function Connection:close() self.closed = true end

-- The other side ended it, or it is closed at last.
function Connection:gone(err)
  self.closed = true
  self.dial.options.on_closed(self, err)
end

local Dial = {}
Dial.__index = Dial

function Dial:open(protocol, most)
  local c = self.connection
  c.is, c.most, c.opened = protocol, most or 1, true
  self.options.on_open(c)
  return c
end

function Dial:fail(code, message)
  self.options.on_closed(self.connection, errors.new(code, message))
end

-- A raw socket: `inbox` is what comes, `sent` what was written.
local Socket = {}
Socket.__index = Socket

function Socket:notify(fn) self.fn = fn end
function Socket:read()
  local bytes = table.remove(self.inbox, 1)
  return bytes, self.eof and #self.inbox == 0
end
function Socket:write(bytes)
  table.insert(self.sent, bytes)
  return true
end
function Socket:finish() self.finished = true end
function Socket:close(graceful) self.closed = graceful and "graceful" or "at once" end
function Socket:push(bytes)
  table.insert(self.inbox, bytes)
  self.fn(self, "data")
end
function Socket:failure() return self.problem end
function Socket:half_close()
  self.eof = true
  self.fn(self, "eof")
end
function Socket:gone(err)
  self.problem = err
  self.dial.options.on_closed(self, err)
end

local Engine = {}
Engine.__index = Engine

function Engine:dial(options)
  local dial = setmetatable({ options = options }, Dial)
  if options.codec == "raw" then
    dial.connection = self.raw(dial)
  end
  dial.connection = dial.connection or setmetatable({ dial = dial, live = {}, exchanges = {}, closed = false, draining = false,
    most = 1 }, Connection)
  table.insert(self.dials, dial)
  if self.on_dial then self.on_dial(dial) end
  return dial.connection
end

function Engine.raw(dial)
  return setmetatable({ dial = dial, inbox = {}, sent = {}, eof = false }, Socket)
end

function M.new()
  return setmetatable({ dials = {} }, Engine)
end

return M
