--- One exchange between a data stream and a backend: the request's body goes one way while the response comes the other. Each side is
--- taken from as fast as the other takes it. This is the part that only moves bytes; proxy.lua decides where they go.
---
--- Two tasks work on a relay: the handler's own, which waits for the response, and, for requests with a body, one that reads the stream.

local core = require "echostream.tunnel.core"
local errors = require "echostream.errors"
local waiter = require "echostream.tunnel.waiter"
local task = require "echostream.task"

local M = {}

local END <const> = core.part "end"

-- Bytes of a request's body that are kept until the response begins, to be sent again to another connection.
local REPLAY <const> = 65536

---@class echostream.tunnel.agent.relay: echostream.tunnel.job
---@field x? echostream.tunnel.core_exchange  the backend's side, once there is one
---@field request_over boolean  all of the request has come
---@field bytes_in integer   of the request's messages
---@field bytes_out integer  of the response's
local Relay = {}
Relay.__index = Relay
Relay.__name = "echostream.tunnel.agent.relay"

-- Relays that had no body and are through are used again: making one costs more than what most of them do.
local SPARES <const> = 64
local spares = {}

local function make()
  local self = setmetatable({
    head = nil, fin = true, notify = nil, careful = false, exchange = nil, record = nil, reused = false, err = nil, resume = nil, -- of a job
    owner = nil, backend = nil, own = nil, -- the proxy's
    stream = nil, x = nil, over = false, request_over = false,
    aborted = nil, -- why the server, or who asked it, does not want it any more
    moved = 0, -- when something last came or went, about
    limit = nil, timed_out = false, -- while it waits for the backend: the longest that nothing may move
    bytes_in = 0, bytes_out = 0,
    _watch = nil,
    _queue = {}, _next = 1, _kept = 0, _replayable = true, -- messages of the body
    _pump = nil,
    _woken = waiter.new(), -- for the handler's task
    _body_woken = nil, -- for the other
  }, Relay)
  local woken = self._woken
  self.notify = function(x, what)
    if x ~= self.x and self.x ~= nil then
      return -- one that was given up
    end
    woken:wake()
    if self._body_woken and (what == "room" or what == "reset" or what == "gone") then
      self._body_woken:wake()
    end
  end
  return self
end

--- Makes one.
---@param stream echostream.stream
---@param rest string  what came of the request behind its head
---@param watching echostream.tunnel.watch  of `M.check`
---@return echostream.tunnel.agent.relay
function M.new(stream, rest, watching)
  local self = table.remove(spares) or make()
  local fin = rest == END -- there is no body: told to the codec with the head
  self.stream, self.over, self.fin, self.request_over = stream, false, fin, fin
  watching:add(self) -- before the time is read: a watch that had nothing to do sleeps
  self.moved, self._watch = watching.now, watching
  self.bytes_in, self.bytes_out = #rest, 0
  if rest ~= "" and not fin then
    self:_push(rest)
  end
  return self
end

---@package
--- What happens to a relay at the end of the block of its `local … <close>`.
---@param fn fun(relay: echostream.tunnel.agent.relay)
function M.on_close(fn)
  Relay.__close = fn
end

--- For the watch: whether nothing has moved for too long.
---@param relay echostream.tunnel.agent.relay
---@param now number
function M.check(relay, now)
  if relay.limit and now - relay.moved >= relay.limit then
    relay.timed_out = true
    relay._woken:wake()
  end
end

---@package
--- Whether all that came of the request so far can be sent once more.
---@return boolean
function Relay:replayable()
  return self._replayable
end

-- The request's way ---------------------------------------------------------------------------------------------

function Relay:_push(message)
  table.insert(self._queue, message)
  self._kept = self._kept + #message
  if self._kept > REPLAY then
    self._replayable = false
  end
end

-- Gives what came to the exchange. True: there is room for more.
local function flush(self)
  local x, queue, room = self.x, self._queue, true
  while x and queue[self._next] do
    local ok, over = x:put(queue[self._next])
    if ok == nil then
      return false -- it was reset: "reset" is told to the other task
    end
    self._next = self._next + 1
    room = ok
    if over == true then
      self.request_over = true
    end
  end
  if not self._replayable and self._next > 1 then
    self._queue, self._next = {}, 1
  end
  return room and x ~= nil
end

-- Reads the stream until the request is over.
local function pump(self)
  local stream, woken = self.stream, self._body_woken
  while not self.over do
    while not flush(self) do
      if self.over or not woken:wait() then
        return
      end
    end
    if self.request_over then
      return
    end
    local frame, err = stream:recv()
    if self.over then
      return
    elseif not frame then
      self.aborted = err or errors.new("cancelled", "the request was cut")
      self._woken:wake()
      return
    end
    self.moved = self._watch.now
    self.bytes_in = self.bytes_in + #frame.data
    self:_push(frame.data)
  end
end

--- The request goes to this exchange, from its first byte.
---@param x echostream.tunnel.core_exchange
function Relay:attach(x)
  self.x = x
  self._next = 1
  if self.fin then
    return
  end
  flush(self) -- whatever the pump waits for, or when it has read everything and ended
  if self._pump then
    self._body_woken:wake()
  elseif not self.request_over then
    self._body_woken = waiter.new()
    self._pump = task.spawn(pump, self)
  end
end

---@package
--- The exchange came to nothing; another one may be attached.
---@param why? string  for its reset, "cancel"
function Relay:detach(why)
  local x = self.x
  if x then
    self.x = nil
    x:reset(why or "cancel")
  end
end

-- The response's way --------------------------------------------------------------------------------------------

-- Waits for something to happen, at most until nothing has moved for so long.
local function wait(self, timeout)
  self.limit = timeout
  local ok, err = self._woken:wait()
  self.limit = nil
  if not ok then
    return nil, err, true
  elseif self.aborted then
    return nil, self.aborted, true
  elseif self.timed_out then
    self.timed_out = false
    if self._watch.now - self.moved >= timeout then
      return nil, errors.new("timeout", ("nothing came or went for %g s"):format(timeout))
    end
  end
  return true
end

---@package
--- Waits for the final response. Informational ones are passed on at once.
---@param timeout number  seconds without anything in either direction
---@return echostream.tunnel.head? head
---@return boolean|echostream.error|nil fin_or_err
---@return "reset"|"abort"|"timeout"|nil what  the backend's side failed, the server's did, or nothing happened
function Relay:wait_for_head(timeout)
  local x = self.x
  while true do
    local head, fin = x:head()
    while head do
      self.moved = self._watch.now
      if head.status >= 200 or head.status == 101 then
        self._replayable = false
        if self._next > #self._queue then
          self._queue, self._next = {}, 1
        end
        return head, fin
      end
      local ok, err = self.stream:send(head:part())
      if not ok then
        return nil, err, "abort"
      end
      head, fin = x:head()
    end
    local why, text = x:failure()
    if why then
      return nil, errors.new("unavailable", text and text ~= "" and text or why, { reset = why }), "reset"
    end
    local ok, err, abort = wait(self, timeout)
    if not ok then
      return nil, err, abort and "abort" or "timeout"
    end
  end
end

--- Passes the response on until its end, beginning with `first`, the message of its head.
---@param first string?
---@param timeout number  seconds without anything in either direction
---@return true|nil ok
---@return echostream.error? err
---@return "reset"|"abort"|"timeout"|nil what  as of `wait_for_head`
function Relay:respond(first, timeout)
  local x, stream = self.x, self.stream
  while true do
    local message, over = x:take()
    if first then
      message, first = message and first .. message or first, nil
    end
    if message then
      local ok, err = stream:send(message)
      if not ok then
        return nil, err, "abort"
      end
      self.moved = self._watch.now
      self.bytes_out = self.bytes_out + #message
    end
    if over then
      return true
    elseif not message then
      local why, text = x:failure()
      if why then
        return nil, errors.new("unavailable", text and text ~= "" and text or why, { reset = why }), "reset"
      end
      local ok, err, abort = wait(self, timeout)
      if not ok then
        return nil, err, abort and "abort" or "timeout"
      end
    end
  end
end

---@package
--- Waits until the request's direction is over too: of tunnels, whose ends are independent of each other.
---@param timeout number  seconds without anything
---@return true|nil ok, echostream.error? err
function Relay:finish_request(timeout)
  if self._pump then
    self._pump:on_end(function()
      self._woken:wake()
    end)
  end
  while not self.request_over do
    local why = self.x:failure()
    if why or self.aborted then
      return nil, self.aborted or errors.new("unavailable", why)
    end
    if self._pump and self._pump:result() ~= nil then
      return true
    end
    local ok, err = wait(self, timeout)
    if not ok then
      return nil, err
    end
  end
  return true
end

--- Through with it: what is not over is given up.
---@param why? string  for the reset, when there is something left to reset
function Relay:close(why)
  if self.over then
    return
  end
  self.over = true
  self._watch:remove(self)
  if self._pump then
    self._pump:cancel()
  end
  if self.x and why then
    self.x:reset(why)
  end
end

---@package
--- Nobody uses it any more.
function Relay:release()
  if self.fin and not self._pump and #spares < SPARES then
    self.stream, self.x, self.exchange, self.record, self.head, self.owner, self.backend, self.own = nil, nil, nil, nil, nil, nil, nil, nil
    self.aborted, self.err, self.resume, self.limit, self.timed_out = nil, nil, nil, nil, false
    self._replayable = true
    spares[#spares + 1] = self
  end
end

return M
