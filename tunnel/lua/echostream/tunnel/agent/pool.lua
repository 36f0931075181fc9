--- Connections to one place of a backend, kept for the requests to come.
---
--- HTTP/1.1: a connection has one request at a time; the one used last is used next, so that those too many grow old and go.
--- HTTP/2: requests share a connection while it has room. Requests that find none wait in a bounded queue, first come first
--- served; each connection that opens or becomes free takes the next of them.

local dial = require "echostream.tunnel.agent.dial"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local task = require "echostream.task"

local M = {}

---@class echostream.tunnel.pool_options
---@field place echostream.tunnel.place
---@field codec "http/1.1"|"h2"|"auto"
---@field tls? echostream.tunnel.tls_client
---@field name? string  SNI and verified name
---@field connect_timeout number  seconds
---@field max_connections integer
---@field max_waiting integer  requests that may wait for a connection
---@field max_idle integer  connections of HTTP/1.1 that are kept without a request
---@field idle_timeout number  seconds that they are kept
---@field limits? table  of the codec, see echostream.tunnel.dial

---@class echostream.tunnel.pool
local Pool = {}
Pool.__index = Pool
Pool.__name = "echostream.tunnel.pool"

-- How many requests a connection that is being opened may be expected to take: one of HTTP/2, or one that may become it, many.
local MANY = 100

-- Seconds that a kept connection may have been idle when a request must not be sent twice takes it. Servers give kept
-- connections up after some seconds, the common ones after five and more; a request that crosses such an end is lost.
M.CAREFUL_IDLE = 4

-- Seconds that more idle connections are kept than `max_idle`: where many requests are under way at a time, the next come at once.
M.SURPLUS = 2

--- Makes an empty pool.
---@param engine table  with `dial`
---@param options echostream.tunnel.pool_options  complete
---@return echostream.tunnel.pool
function M.new(engine, options)
  return setmetatable({
    _engine = engine,
    _options = options,
    _records = {}, -- connection → record, of those that opened
    _idle = {}, -- records of HTTP/1.1 without a request; the last was used last
    _shared = {}, -- records of HTTP/2
    _waiting = {}, _first = 1, _last = 0, -- jobs, from _first to _last; false where one gave up
    _count = 0, -- jobs that wait
    _open = 0,
    _dialing = 0,
    _protocol = options.codec ~= "auto" and options.codec or nil,
    _closed = false,
  }, Pool)
end

-- Requests ------------------------------------------------------------------------------------------------------

-- A job is what `request` is given: who waits for it (resume) and what came of it (exchange or err, and facts) are put there too.
local function begin(record, job)
  local x, err = record.c:request(job.head, job.fin, job.notify)
  if not x then
    return false, err
  end
  job.exchange, job.record = x, record
  job.reused = record.used > 0
  record.used = record.used + 1
  record.idle_since = nil
  return true
end

local function forget_idle(self, record)
  for i = #self._idle, 1, -1 do
    if self._idle[i] == record then
      table.remove(self._idle, i)
      return
    end
  end
end

-- Begins the request on a connection that is there. False: none has room.
local function take(self, job)
  for _, record in ipairs(self._shared) do
    if record.c:room() > 0 and begin(record, job) then
      return true
    end
  end
  local idle, now = self._idle, nil
  for i = #idle, 1, -1 do
    local record = idle[i]
    if job.careful then
      now = now or loop.now()
      if now - record.idle_since > M.CAREFUL_IDLE then
        return false -- those below are older still
      end
    end
    table.remove(idle, i)
    if record.c:room() > 0 and begin(record, job) then
      return true
    end
    record.c:close() -- the other side ended it
  end
  return false
end

local function next_job(self)
  while self._first <= self._last do
    local job = self._waiting[self._first]
    self._waiting[self._first] = nil
    self._first = self._first + 1
    if job then
      self._count = self._count - 1
      return job
    end
  end
  self._first, self._last = 1, 0
end

local function put_back(self, job)
  self._first = self._first - 1
  self._waiting[self._first] = job
  self._count = self._count + 1
end

-- Gives waiting requests to a connection that has room; what is left over of its room is kept.
local function serve(self, record)
  while record.c:room() > 0 do
    local job = next_job(self)
    if not job then
      break
    end
    local ok, err = begin(record, job)
    if not ok then
      if record.c:room() > 0 then -- the request's own fault
        job.err = err
        job.resume(true)
      else
        put_back(self, job)
        break
      end
    else
      job.resume(true)
    end
  end
  if record.protocol == "h2" or record.idle_since or record.c:room() == 0 then
    return
  elseif self._closed then
    record.c:close()
  else
    record.idle_since = loop.now()
    table.insert(self._idle, record)
  end
end

local function fail_waiting(self, n, err)
  for _ = 1, n do
    local job = next_job(self)
    if not job then
      return
    end
    job.err = err
    job.resume(true)
  end
end

local grow

local function opened(self, c, began)
  self._dialing = self._dialing - 1
  if self._closed then
    return c:close()
  end
  local record = { c = c, protocol = c:protocol(), used = 0, idle_since = nil, connect_time = loop.now() - began }
  self._records[c] = record
  self._open = self._open + 1
  self._protocol = record.protocol
  if record.protocol == "h2" then
    table.insert(self._shared, record)
  end
  serve(self, record)
  grow(self) -- an HTTP/1.1 that was hoped to be an HTTP/2 serves one
end

local function failed(self, err)
  self._dialing = self._dialing - 1
  -- The others that are on their way are for those who wait longest.
  local expected = self._protocol == "http/1.1" and 1 or MANY
  fail_waiting(self, math.max(self._count - self._dialing * expected, 0), err)
end

local function closed(self, c)
  local record = self._records[c]
  if not record then
    return
  end
  self._records[c] = nil
  self._open = self._open - 1
  if record.protocol == "h2" then
    for i, other in ipairs(self._shared) do
      if other == record then
        table.remove(self._shared, i)
        break
      end
    end
  elseif record.idle_since then
    forget_idle(self, record)
  end
  grow(self)
end

local function dial_one(self)
  local o, began = self._options, loop.now()
  self._dialing = self._dialing + 1
  dial.dial(self._engine, o.place, {
    timeout = o.connect_timeout,
    codec = o.codec,
    tls = o.tls,
    name = o.name,
    limits = o.limits,
    on_open = function(c)
      opened(self, c, began)
    end,
    on_failed = function(err)
      failed(self, err)
    end,
    on_closed = function(c)
      closed(self, c)
    end,
    on_ready = function(c)
      local record = self._records[c]
      if record and record.idle_since and c:room() == 0 then
        forget_idle(self, record) -- it drains, or is about to end
        record.idle_since = nil
        c:close()
      elseif record then
        serve(self, record)
      end
    end,
  })
end

-- Opens as many connections as those who wait need, and may have.
function grow(self)
  local expected = self._protocol == "http/1.1" and 1 or MANY
  while not self._closed and self._count > self._dialing * expected
    and self._open + self._dialing < self._options.max_connections do
    dial_one(self)
  end
end

local function where(self)
  return dial.name(self._options.place)
end

-- Waits for the connection that the request begins on.
local function wait(self, job, timeout)
  if self._count >= self._options.max_waiting then
    local err = errors.new("resource_exhausted", ("%s: %d connections are busy and %d requests wait for one already"):format(
      where(self), self._open, self._count))
    err.processed = "no"
    return nil, err
  end
  local ok, err = task.await(function(resume)
    job.resume = resume
    self._last = self._last + 1
    local at = self._last
    self._waiting[at] = job
    self._count = self._count + 1
    grow(self)
    return function()
      for i = self._first, self._last do -- its place may have moved by one
        if self._waiting[i] == job then
          self._waiting[i] = false
          self._count = self._count - 1
          break
        end
      end
    end
  end, timeout)
  if job.exchange then
    if ok then
      return job.exchange
    end
    job.exchange:reset("cancel") -- it began, and nobody is there any more
    return nil, err
  elseif job.err then
    return nil, job.err
  elseif ok then
    return nil, errors.new("unavailable", where(self) .. ": no connection")
  elseif err.code == "timeout" then
    if self._dialing > 0 then
      err = errors.new("timeout", ("%s: no connection within %g s"):format(where(self), timeout))
    else -- the backend is well; there are too many requests for it
      err = errors.new("resource_exhausted", ("%s: %d connections are busy, and none became free within %g s"):format(where(self), self._open,
        timeout))
    end
    err.processed = "no"
  end
  return nil, err
end

---@class echostream.tunnel.job  a request that wants a connection; whoever has it may use it again
---@field head echostream.tunnel.head
---@field fin boolean
---@field notify fun(x: echostream.tunnel.core_exchange, what: string)
---@field careful? boolean  it must not be lost: it takes no old connection
---@field exchange? echostream.tunnel.core_exchange  what it became
---@field record? table       its connection: { protocol, connect_time, used }
---@field reused? boolean     the connection had requests before

--- Begins a request on a connection of the pool; waits for one when there is none free.
---@param job echostream.tunnel.job
---@param timeout number  seconds for the wait
---@return echostream.tunnel.core_exchange? x, echostream.error? err
function Pool:request(job, timeout)
  if self._closed then
    return nil, errors.new("unavailable", where(self) .. ": no longer a backend")
  end
  job.exchange, job.record, job.err, job.resume = nil, nil, nil, nil
  if not take(self, job) then
    return wait(self, job, timeout)
  end
  return job.exchange
end

-- Life ----------------------------------------------------------------------------------------------------------

--- Ends connections that were idle for too long, and those that are too many.
---@param now number
function Pool:sweep(now)
  local idle, timeout, most = self._idle, self._options.idle_timeout, self._options.max_idle
  while idle[1] and now - idle[1].idle_since >= (#idle > most and M.SURPLUS or timeout) do
    local record = table.remove(idle, 1)
    record.idle_since = nil
    record.c:close()
  end
  for i = #self._shared, 1, -1 do
    local record = self._shared[i]
    if record.c:count() > 0 then
      record.quiet_since = nil
    elseif not record.quiet_since then
      record.quiet_since = now
    elseif now - record.quiet_since >= timeout then
      record.c:drain()
    end
  end
end

--- Ends the connections that have nothing to do. The pool goes on.
function Pool:flush()
  local all = {}
  for c in pairs(self._records) do
    all[#all + 1] = c
  end
  for _, c in ipairs(all) do
    if c:count() == 0 then
      local record = self._records[c]
      if record and record.idle_since then
        forget_idle(self, record)
        record.idle_since = nil
      end
      c:close()
    end
  end
end

--- What there is.
---@return { open: integer, idle: integer, dialing: integer, waiting: integer, protocol: string? }
function Pool:stats()
  return { open = self._open, idle = #self._idle, dialing = self._dialing, waiting = self._count, protocol = self._protocol }
end

--- No more requests; connections end when their requests have.
function Pool:close()
  if self._closed then
    return
  end
  self._closed = true
  fail_waiting(self, self._count, errors.new("unavailable", where(self) .. ": no longer a backend"))
  local all = {}
  for c in pairs(self._records) do
    all[#all + 1] = c
  end
  for _, c in ipairs(all) do
    if c:count() > 0 then
      c:drain()
    else
      c:close()
    end
  end
end

return M
