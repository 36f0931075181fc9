--- One request under way and its answer: who waits for what, how long, and what happens when it takes longer.

local connections = require "echostream.quic.connection"
local errors = require "echostream.errors"
local task = require "echostream.task"

local M = {}

local PIECE = 65536
local MOST_INFORMS = 16
local CANCELLED, EXCESSIVE_LOAD = 0x10c, 0x107

---@class echostream.http.exchange
---@field informs { status: integer, fields: string[] }[]  1xx answers, in order
---@field error? echostream.error  why it failed
local Exchange = {}
Exchange.__index = Exchange
Exchange.__name = "echostream.http.exchange"

local function release(self)
  if not self._released then
    self._released = true
    self.early = self._x:early()
    self._x:release()
    self._connection.used = self._now()
  end
end

local function maybe_release(self)
  if self._sent and self._received then
    release(self)
  end
end

-- The body's function may wait for something that has nothing to do with us.
local function end_upload(self)
  if self._uploader and task.current() ~= self._uploader then
    self._uploader:cancel()
  end
end

--- Gives it up: what is not over is cancelled, and who waits for it hears why. Harmless twice.
---@param err? echostream.error
---@param code? integer  HTTP/3's
---@package
function Exchange:close(err, code)
  if not self._released then
    self.error = self.error or err or errors.new("cancelled", "the request was given up")
    self._x:reset(code or CANCELLED)
    release(self)
    self._sent, self._received = true, true
    self._waiters:wake_all()
    end_upload(self)
  end
end

local function told(self, what)
  if what == "informed" then
    local status, list = self._x:informed()
    while status do
      if #self.informs == MOST_INFORMS then
        return self:close(errors.new("resource_exhausted", ("more than %d interim answers"):format(MOST_INFORMS)), EXCESSIVE_LOAD)
      end
      table.insert(self.informs, { status = status, fields = list })
      status, list = self._x:informed()
    end
    self._waiters:wake "response"
    self._waiters:wake "continue"
  elseif what == "aborted" then
    self._waiters:wake_all()
  else
    self._waiters:wake(what)
    if what == "response" then
      self._waiters:wake "continue"
    end
  end
end

--- Takes what the core made for a request.
---@param x userdata
---@param connection echostream.http.connection
---@param rec table       the loop's record
---@param limits { idle_timeout: number, deadline?: number, timeout?: number }
---@param sent boolean    it has no body
---@return echostream.http.exchange
function M.new(x, connection, rec, limits, sent)
  local self = setmetatable({
    informs = {}, error = nil, early = false, _x = x, _connection = connection, _limits = limits, _waiters = connections.waiters(),
    _sent = sent, _received = false, _released = false, _seen = 0, _ahead = nil, _uploader = nil, _written = 0,
    _now = function()
      return rec.core:now()
    end,
  }, Exchange)
  x:notify(function(what)
    if not self._released then
      told(self, what)
    end
  end)
  return self
end

-- What became of it, as the caller is to see it.
local function explain(self, err)
  if self.error then
    return self.error
  end
  local lost = self._connection:over()
  local unprocessed = err.details and err.details.unprocessed
  if lost and not unprocessed then
    local shown = errors.new(lost.code, lost.message, lost.details)
    shown.lost, shown.processed = not self._connection.given_up, "maybe"
    return shown
  end
  err.processed = unprocessed and "no" or "maybe"
  return err
end

-- Repeats `try` until it gives something else than nil, "again", for at most `seconds` since the last piece of the request's body was
-- taken, and as long as the whole may take. Also: whether it was the whole that took too long.
local function repeat_in_time(self, kind, seconds, try)
  local deadline = self._limits.deadline
  local since = self._now()
  while true do
    local ends = since + seconds
    local whole = deadline ~= nil and deadline < ends
    local result, err = connections.repeat_until(self._waiters, kind, math.max((whole and deadline or ends) - self._now(), 0), self._now,
      function()
        if self.error then
          return nil, self.error
        end
        return try(self._x)
      end)
    if err == nil or err.code ~= "timeout" or whole or self._written <= since then
      return result, err, whole
    end
    since = self._written
  end
end

-- The same; what takes too long is given up.
local function until_told(self, kind, seconds, what, try)
  if self._released and self.error then
    return nil, self.error
  end
  local limits = self._limits
  local result, err, whole = repeat_in_time(self, kind, seconds, try)
  if err == nil or self.error == err then
    return result, err
  elseif err.code == "timeout" and not (err.details and err.details.http3) and not self._connection:over() then
    err = whole and errors.new("timeout", ("the request took longer than %g s"):format(limits.timeout))
      or errors.new("timeout", what:format(seconds))
    err.processed = "maybe"
  else
    err = explain(self, err)
  end
  self:close(err)
  return nil, self.error
end

-- The request's body -------------------------------------------------------------------------------------------

local function write(self, piece)
  return until_told(self, "writable", self._limits.idle_timeout, "the server took nothing of the body for %g s", function(x)
    local ok, err = x:write(piece)
    if not ok and err ~= "again" and err.code == "connection_closed" and not self._connection:over() then
      return false -- the server wants no more of it: its answer is what counts
    end
    self._written = ok and self._now() or self._written
    return ok, err
  end)
end

local function finish(self, trailers)
  if type(trailers) == "function" then
    trailers = trailers()
  end
  local list = trailers and M.flatten(trailers)
  local ok, err = self._x:finish(list)
  if not ok and err.code == "invalid_argument" then
    self:close(errors.new("invalid_argument", "the request's body or trailers are not what its headers say"))
  end
end

local function pieces_of(body)
  if type(body) ~= "string" then
    return body
  end
  local at = 1
  return function()
    if at <= #body then
      at = at + PIECE
      return body:sub(at - PIECE, at - 1)
    end
  end
end

-- Answers nothing: the request's body is not sent before the server wants it (RFC 9110, section 10.1.1), or took long to say so.
local function wait_for_continue(self, seconds)
  connections.repeat_until(self._waiters, "continue", seconds, self._now, function()
    if self._released then
      return false
    end
    for _, inform in ipairs(self.informs) do
      if inform.status == 100 then
        return true
      end
    end
    local status = self._x:status()
    if status then
      return status
    end
    return nil, "again"
  end)
  if self._released then
    return false
  end
  local status = self._x:status()
  return not status or status < 300
end

local function upload(self, body, trailers, expect)
  if expect and not wait_for_continue(self, expect) then
    return -- refused: the stream's sending side ends with the answer
  end
  local next_piece = pieces_of(body)
  while not self._released do
    local piece, err = next_piece()
    if piece == nil then
      if err ~= nil then
        return self:close(errors.from(err))
      end
      finish(self, trailers)
      break
    elseif type(piece) ~= "string" then
      return self:close(errors.new("invalid_argument", "a body is made of strings, it gave " .. errors.show(piece)))
    elseif piece ~= "" and not write(self, piece) then
      break
    end
  end
  self._sent = true
  maybe_release(self)
end

--- Sends the request's body, in a task of its own unless it is short.
---@param body string|fun(): string?
---@param trailers? table|fun(): table?
---@param expect? number  seconds to wait for 100 (Continue)
---@package
function Exchange:send(body, trailers, expect)
  if type(body) == "string" and #body <= PIECE and not expect and type(trailers) ~= "function" and self._x:write(body) == true then
    finish(self, trailers)
    self._sent = true
    return
  end
  self._uploader = task.spawn(function()
    local ok, err = pcall(upload, self, body, trailers, expect)
    if not ok then
      self:close(errors.from(err))
    end
    self._uploader = nil
    if type(body) == "table" and type(body.close) == "function" then
      body:close()
    end
  end)
end

-- The answer ---------------------------------------------------------------------------------------------------

--- Waits for the head. `on_inform(status, list)` hears of each 1xx answer before.
---@param seconds number
---@param on_inform? fun(status: integer, list: string[])
---@return integer|nil status, echostream.error? err
---@package
function Exchange:head(seconds, on_inform)
  return until_told(self, "response", seconds, "no answer came within %g s", function(x)
    while self._seen < #self.informs do
      self._seen = self._seen + 1
      if on_inform then
        local inform = self.informs[self._seen]
        on_inform(inform.status, inform.fields)
      end
    end
    return x:status()
  end)
end

local function ended(self)
  self._received = true
  self.trailers = self._x:fields(true)
  if not self._sent then -- a server that has said everything wants no more of the request
    self._sent = true
    end_upload(self)
  end
  release(self)
end

--- The answer's fields, as the core's list. An answer without a body is over then.
---@return string[]
---@package
function Exchange:fields()
  local list = self._x:fields() or {}
  if not self._released then
    local piece, err = self._x:read(PIECE)
    self._ahead = piece
    if piece == nil and err == nil then
      ended(self)
    end
  end
  return list
end

--- Whether the request went before the end of the handshake.
---@return boolean
---@package
function Exchange:was_early()
  return self._released and self.early or not self._released and self._x:early()
end

--- The next piece of the body. nil: the end; what follows the body is in `trailers` then.
---@param timeout? number  of the caller's own: after it nil, err `timeout`, and it goes on
---@return string|nil piece, echostream.error? err
---@package
function Exchange:read(timeout)
  local ahead = self._ahead
  if ahead and not self.error then
    self._ahead = nil
    return ahead
  elseif self._received then
    return nil, self.error
  end
  local idle = self._limits.idle_timeout
  local piece, err
  local deadline = self._limits.deadline
  if timeout and timeout < idle and not (deadline and deadline - self._now() <= timeout) then
    piece, err = connections.repeat_until(self._waiters, "readable", timeout, self._now, function()
      if self.error then
        return nil, self.error
      end
      return self._x:read(PIECE)
    end)
    if err and err.code == "timeout" and not self.error then
      return nil, err
    elseif err then
      self:close(explain(self, err))
      return nil, self.error
    end
  else
    piece, err = until_told(self, "readable", idle, "the server sent nothing for %g s", function(x)
      return x:read(PIECE)
    end)
  end
  if piece == nil and err == nil then
    ended(self)
  end
  return piece, err
end

--- Urgency of what we send (RFC 9218).
---@param urgency integer
---@package
function Exchange:priority(urgency)
  self._x:priority(urgency)
end

--- Fields as the core wants them.
---@param fields echostream.http.fields|table
---@return string[]
function M.flatten(fields)
  if type(fields.each) ~= "function" then
    fields = require("echostream.http.fields").new(fields)
  end
  local list = {}
  for name, value in fields:each() do
    list[#list + 1] = name
    list[#list + 1] = value
  end
  return list
end

return M
