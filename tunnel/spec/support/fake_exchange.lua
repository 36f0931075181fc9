-- An exchange of a visitor that is a spec: the face that forward sees (tunnel/DESIGN.md), in plain Lua.

local core = require "echostream.tunnel.core"
local task = require "echostream.task"

local M = {}

local Exchange = {}
Exchange.__index = Exchange

local function wake(self)
  local waiting = self._waiting
  self._waiting = {}
  for _, resume in ipairs(waiting) do resume(true) end
end

local function wait(self)
  return task.await(function(resume) table.insert(self._waiting, resume) end)
end

-- opts: info (of info()), stuck (put waits until `unstick`).
function M.new(opts)
  opts = opts or {}
  return setmetatable({
    heads = {}, trailers = nil, body = {}, over = false, was_reset = nil, stuck = opts.stuck or false, puts = 0,
    _info = opts.info or { peer = "192.0.2.1:4000", protocol = "h2", tls = true, sni = "" },
    _queue = {}, _in_over = false, _gone = nil, _aborts = {}, _waiting = {},
  }, Exchange)
end

-- The visitor's doings.

function Exchange:push(bytes)
  table.insert(self._queue, core.part("body", bytes))
  wake(self)
end

function Exchange:push_end(trailers)
  table.insert(self._queue, trailers and trailers:part() or core.part "end")
  self._in_over = true
  wake(self)
end

function Exchange:abort(why)
  if not self._gone then
    self._gone = why or "cancel"
    for _, fn in ipairs(self._aborts) do fn(self._gone, "the visitor went") end
    wake(self)
  end
end

-- Gone, but nobody has been told yet.
function Exchange:vanish()
  self._gone = "cancel"
end

function Exchange:unstick()
  self.stuck = false
  wake(self)
end

-- What came back.

function Exchange:head() return self.heads[#self.heads] end
function Exchange:text() return table.concat(self.body) end

function Exchange:wait_until(fn)
  while not fn(self) do wait(self) end
end

-- The face.

function Exchange:try_take()
  if #self._queue == 0 then return nil, false end
  local message = table.concat(self._queue)
  self._queue = {}
  return message, self._in_over
end

function Exchange:take(max)
  while true do
    if self._gone or self.was_reset then
      return nil, require("echostream.errors").new("cancelled", "the exchange is over")
    elseif #self._queue > 0 then
      return self:try_take(max)
    end
    local ok, err = wait(self)
    if not ok then return nil, err end
  end
end

local function is_open(self)
  return not (self._gone or self.was_reset or self.over)
end

function Exchange:send_head(head, fin)
  if not is_open(self) then return nil, require("echostream.errors").new("cancelled", "the exchange is over") end
  table.insert(self.heads, head)
  self.over = fin == true
  wake(self)
  return true
end

function Exchange:put(message)
  while is_open(self) and self.stuck do
    local ok, err = wait(self)
    if not ok then return nil, err end
  end
  if not is_open(self) then return nil, require("echostream.errors").new("cancelled", "the exchange is over") end
  self.puts = self.puts + 1
  for kind, value in core.parts(message) do
    if kind == "body" then
      table.insert(self.body, value)
    elseif kind == "end" or kind == "trailers" then
      self.over, self.trailers = true, kind == "trailers" and value or nil
    elseif kind == "reset" then
      self.over, self.was_reset = true, "internal"
    elseif kind == "informational" then
      table.insert(self.heads, value)
    end
  end
  wake(self)
  return true, self.over
end

function Exchange:write(bytes, fin)
  if not is_open(self) then return nil, require("echostream.errors").new("cancelled", "the exchange is over") end
  table.insert(self.body, bytes)
  self.over = fin == true
  wake(self)
  return true
end

function Exchange:reset(why)
  if not self.was_reset and not (self.over and self._in_over) then
    self.was_reset = why
    wake(self)
  end
end

function Exchange:on_abort(fn)
  if self._gone then fn(self._gone, "the visitor went") else table.insert(self._aborts, fn) end
end

function Exchange:info() return self._info end

return M
