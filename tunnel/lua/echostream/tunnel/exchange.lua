--- The blocking face of an exchange, for tasks: what forward sees of a visitor (tunnel/DESIGN.md), and what asks a backend. One task at a
--- time takes, one sends; both may be the same.

local errors = require "echostream.errors"
local loop = require "echostream.loop"
local waiter = require "echostream.tunnel.waiter"

local M = {}

---@class echostream.tunnel.exchange
---@field core echostream.tunnel.core_exchange
local Exchange = {}
Exchange.__index = Exchange
Exchange.__name = "echostream.tunnel.exchange"

-- Codes of errors for why an exchange was reset.
local codes = { cancel = "cancelled", refused = "unavailable", protocol = "protocol", truncated = "connection_closed",
  timeout = "timeout", internal = "internal", enhance_calm = "resource_exhausted", no_error = "connection_closed" }

local function fail(self)
  local why, text = self.core:failure()
  if not why then
    return nil, errors.new("connection_closed", "the exchange is over")
  end
  return nil, errors.new(codes[why], text ~= "" and text or why, { reset = why })
end

local function tell_abort(self)
  local fn = self._on_abort
  if fn and self._aborted then
    self._on_abort = nil
    local why, text = self.core:failure()
    fn(why or "cancel", text or "")
  end
end

local function notify(self, what)
  if what == "data" then
    self._taking:wake()
  elseif what == "room" then
    self._sending:wake()
  elseif what == "head" then
    if self._heads then
      self._heads:wake()
    end
  else -- reset, gone
    self._over = true
    if what == "reset" and not (self._all_taken and self._all_sent) then
      self._aborted = true
    end
    self._taking:wake()
    self._sending:wake()
    if self._heads then
      self._heads:wake()
    end
    tell_abort(self)
  end
end

--- The face of an exchange of the C module's: of a visitor, or none yet for a request (`notify` then goes to `connection:request`).
---@param x? echostream.tunnel.core_exchange
---@param fin? boolean  the request that came has no body
---@return echostream.tunnel.exchange
function M.new(x, fin)
  local self = setmetatable({
    core = x,
    _taking = waiter.new(), _sending = waiter.new(), _heads = not x and waiter.new() or nil, -- a visitor's has come
    _all_taken = fin or false, _all_sent = false,
    _over = false, _aborted = false, _on_abort = nil,
  }, Exchange)
  if x then
    x:notify(function(_, what)
      notify(self, what)
    end)
  end
  return self
end

--- Sends a request on a connection to a backend.
---@param connection echostream.tunnel.connection
---@param head echostream.tunnel.head
---@param fin? boolean  it has no body
---@return echostream.tunnel.exchange? exchange, echostream.error? err
function M.request(connection, head, fin)
  local self = M.new(nil)
  local x, err = connection:request(head, fin or false, function(_, what)
    notify(self, what)
  end)
  if not x then
    return nil, err
  end
  self.core = x
  self._all_sent = fin or false
  return self
end

--- Waits for the next head: informational ones, then the response's.
---@param timeout? number  seconds
---@return echostream.tunnel.head? head, boolean|echostream.error fin_or_err
function Exchange:head(timeout)
  local deadline = timeout and loop.now() + timeout
  while true do
    local head, fin = self.core:head()
    if head then
      if fin then
        self._all_taken = true
      end
      return head, fin
    elseif self._over then
      return fail(self)
    end
    local ok, err = self._heads:wait(deadline and math.max(deadline - loop.now(), 0))
    if not ok then
      return nil, err
    end
  end
end

local function count(self, over)
  if over then
    self._all_taken = true
  end
end

--- What there is of body, trailers and end, as parts of a data stream; without waiting.
---@param max? integer  bytes of body, 65536
---@return string? message  nil: nothing now
---@return boolean over     the end is in it
function Exchange:try_take(max)
  local message, over = self.core:take(max)
  count(self, over)
  return message, over
end

--- The same, once there is something.
---@param max? integer
---@return string? message, boolean|echostream.error over_or_err  nil: it was reset
function Exchange:take(max)
  while true do
    local message, over = self.core:take(max)
    if message then
      count(self, over)
      return message, over
    elseif over or self._over then
      return fail(self)
    end
    local ok, err = self._taking:wait()
    if not ok then
      return nil, err
    end
  end
end

--- Plain bytes of the body, once there are some.
---@param max? integer
---@return string? bytes  nil: the end, or it was reset
---@return echostream.error? err
---@return echostream.tunnel.head? trailers  with the end
function Exchange:read(max)
  while true do
    if self._all_taken then
      return nil
    end
    local bytes, over, trailers = self.core:read(max)
    if trailers then
      self._trailers = trailers
    end
    count(self, over)
    if bytes then
      return bytes, nil, over and self._trailers or nil
    elseif over then
      return nil, nil, self._trailers
    elseif self._over then
      return fail(self)
    end
    local ok, err = self._taking:wait()
    if not ok then
      return nil, err
    end
  end
end

--- The trailers that came with the end, after `read` told it.
---@return echostream.tunnel.head?
function Exchange:trailers()
  return self._trailers
end

-- Waits until the queue has room, after something was sent.
local function wait_for_room(self)
  while not self.core:room() do
    local ok, err = self._sending:wait()
    if not ok then
      return nil, err
    end
  end
  if self._over and self.core:failure() then
    return fail(self)
  end
  return true
end

--- Sends a head: informational or final.
---@param head echostream.tunnel.head
---@param fin? boolean  that is all
---@return true|nil ok, echostream.error? err
function Exchange:send_head(head, fin)
  local ok, err = self.core:send_head(head, fin or false)
  if not ok then
    return nil, err
  end
  self._all_sent = fin or false
  return true
end

--- Sends what the parts of a message say; returns when there is room for the next.
---@param message string
---@return true|nil ok, boolean|echostream.error over_or_err
function Exchange:put(message)
  local room, over = self.core:put(message)
  if room == nil then
    return nil, over
  end
  if over then
    self._all_sent = true
  elseif not room then
    local ok, err = wait_for_room(self)
    if not ok then
      return nil, err
    end
  end
  return true, over
end

--- Sends plain bytes; returns when there is room for more.
---@param bytes string
---@param fin? boolean  that is all
---@return true|nil ok, echostream.error? err
function Exchange:write(bytes, fin)
  local room, err = self.core:write(bytes, fin or false)
  if room == nil then
    return nil, err
  end
  if fin then
    self._all_sent = true
  elseif not room then
    return wait_for_room(self)
  end
  return true
end

--- Ends what is sent.
---@param trailers? echostream.tunnel.head
---@return true|nil ok, echostream.error? err
function Exchange:finish(trailers)
  local ok, err = self.core:finish(trailers)
  if not ok then
    return nil, err
  end
  self._all_sent = true
  return true
end

--- Gives it up. Nothing when it is over.
---@param why? string  "cancel" (default), "refused", "protocol", "truncated", "timeout", "internal", "enhance_calm", "no_error"
function Exchange:reset(why)
  if not self._over then
    self.core:reset(why)
  end
end

--- Calls `fn(why, text)` once, not in a task, when the other side goes before the end; at once when it has gone already.
---@param fn fun(why: string, text: string)
function Exchange:on_abort(fn)
  self._on_abort = fn
  tell_abort(self)
end

--- Whose it is: as of the C module's exchange.
---@return table
function Exchange:info()
  return self.core:info()
end

return M
