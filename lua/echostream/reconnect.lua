--- Coming back: a client whose connection is lost dials again by itself, with growing, random pauses.
---
---     connecting -> connected <-> reconnecting -> closed
---
--- While it is away, the place of the core's session is taken by an object whose calls wait (or fail at once, with
--- `wait = false`); a call over a living connection passes through nothing of this.

local backoff = require "echostream.backoff"
local core = require "echostream.core"
local errors = require "echostream.errors"
local hooks = require "echostream.hooks"
local loop = require "echostream.loop"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

---@class echostream.options.reconnect  `reconnect = { … }` of clients; `true` means all the defaults
---@field first? number  seconds; the first pause is a random part of it (default: 0.1)
---@field factor? number  each further pause is at most so many times longer (default: 2)
---@field cap? number  seconds that a pause is at most (default: 5)
---@field jitter? number  0 to 1: the part of a pause that is random; 1: anything from nothing to the whole of it (default: 1)
---@field stable? number  seconds that a connection has to last before pauses are short again (default: twice `first`)
---@field attempts? integer  in a row, after which it gives up (default: as long as it takes)
---@field wait? boolean  calls made meanwhile wait for the connection, within their deadline; false: they fail at once, `unavailable` (default: true)
---@field probe? number  seconds without a word from the server under a call, after which it is asked (PING); 0: never (default: 0.5)
---@field on_change? function  `fn(client, what, detail)` is told: "lost" err, "waiting" seconds, "failed" err, "connected" session, "gave_up" err

--- Fields of the option `reconnect`.
---@type table<string, echostream.options.field>
M.fields = {
  first = { type = "seconds", default = 0.1 },
  factor = { type = "number", min = 1, default = 2 },
  cap = { type = "seconds", default = 5 },
  jitter = { type = "number", min = 0, max = 1, default = 1 },
  stable = { type = "seconds" },
  attempts = { type = "integer", min = 1 },
  wait = { type = "boolean", default = true },
  probe = { type = "seconds", max = 1e6, default = 0.5 },
  on_change = { type = "function" },
}

--- Turns what a user gave into options: nil when there is to be none of it.
---@param where string
---@param given boolean|table|nil  checked already, when it is a table
---@param level? integer
---@return table?
function M.check(where, given, level)
  if given == true then
    return options.check(where, {}, M.fields, (level or 2) + 1)
  end
  return given or nil
end

-- Of no use to try again after these: who answered has decided.
local final = { unauthenticated = true, permission_denied = true }

--- Whether an error of a connection means that another attempt is pointless. Errors of `on_connect` hooks may say so themselves, by their
--- field `permanent`.
---@param err echostream.error
---@return boolean
function M.is_final(err)
  local told = rawget(err, "permanent")
  if told ~= nil then
    return told == true
  end
  return final[err.code] == true
end

-- The stand-in ------------------------------------------------------------------------------------------------

local Absent = {}

-- What has not been sent has certainly not been processed.
local function unsent(code, message)
  local err = errors.new(code, message)
  err.processed = "no"
  return err
end

local function gone(self)
  return self.over or unsent("unavailable", "not connected: " .. (self.why and self.why.message or "the connection was lost"))
end

-- What the core's session can and this cannot.
local function not_connected(self)
  return nil, gone(self)
end

local mt = {
  __index = function(_, key)
    return Absent[key] or not_connected
  end,
}

--- Makes the stand-in for a client's session.
---@param client echostream.client
---@param why echostream.error?  how the connection was lost
---@return table
function M.absent(client, why)
  return setmetatable({ client = client, why = why or false, over = false, waiting = {}, count = 0 }, mt)
end

--- The connection is there again, or (`err`) will never be: lets those go on who wait.
---@param absent table
---@param err echostream.error?
function M.release(absent, err)
  absent.over = err or false
  local waiting = absent.waiting
  absent.waiting, absent.count = {}, 0
  for resume in pairs(waiting) do
    resume(true)
  end
end

-- Whether calls wait for the connection: not when it was switched off meanwhile, by `set_reconnect`.
local function may_wait(self)
  local policy = self.client._reconnect
  return not self.over and policy and policy.wait
end

-- The core's session once there is one again; nil, err after `timeout` seconds.
local function wait(self, timeout)
  local client = self.client
  local ends = timeout and loop.now() + timeout
  while rawequal(client._ud, self) do
    if not may_wait(self) then
      return nil, gone(self)
    elseif self.count >= client._max_waiting then
      return nil, unsent("resource_exhausted", ("%d calls wait for the connection already"):format(self.count))
    end
    local ok, err = task.await(function(resume)
      self.waiting[resume], self.count = true, self.count + 1
      return function()
        if self.waiting[resume] then
          self.waiting[resume], self.count = nil, self.count - 1
        end
      end
    end, ends and math.max(ends - loop.now(), 0))
    if not ok then
      err.processed = "no"
      if err.code == "timeout" then
        err.message = "there was no connection in time: " .. (self.why and self.why.message or "it was lost")
      end
      return nil, err
    end
  end
  return client._ud
end

-- Seconds that a call may take: its own, the client's (0: any), or what is left of the handler that makes it.
local function time_of(self, opts)
  local timeout = self.client._timeout
  timeout = timeout > 0 and timeout or nil
  if opts and opts.timeout ~= nil then
    timeout = opts.timeout or nil
  end
  local serving = core.call_info()
  if serving and serving.deadline then
    timeout = math.min(timeout or math.huge, math.max(serving.deadline - loop.now(), 0))
  end
  return timeout
end

local function request(self, name, opts, ...)
  local timeout = time_of(self, opts)
  local began = loop.now()
  local ud, err = wait(self, timeout)
  if not ud then
    return nil, err
  elseif timeout then
    local left = {}
    for key, value in pairs(opts or {}) do
      left[key] = value
    end
    left.timeout = math.max(timeout - (loop.now() - began), 0.001)
    opts = left
  end
  return ud:request(name, opts, ...)
end

function Absent:request(name, opts, ...)
  return task.either(request, self, name, opts, ...)
end

-- A stream has no deadline of its own: until it is open, the client's time-out is one.
local function open(self, method, name, opts, ...)
  local ud, err = wait(self, time_of(self, opts))
  if not ud then
    return nil, err
  end
  local channel
  repeat
    channel, err = ud[method](ud, name, opts, ...)
  until channel or err ~= "again" or not task.sleep(0.002)
  return channel, err
end

function Absent:open_channel(...)
  return task.block(open, self, "open_channel", ...)
end

function Absent:open_call(...)
  return task.block(open, self, "open_call", ...)
end

function Absent:emit(...)
  local ud = self.client._ud
  if not rawequal(ud, self) then
    return ud:emit(...)
  elseif not may_wait(self) then
    return nil, gone(self)
  end
  return nil, "again"
end

-- As the core's: `fn` runs when it can be tried again, with the error when it never can.
function Absent:on_writable(fn)
  local now = self.client._ud
  if not rawequal(now, self) then
    return now:on_writable(fn)
  end
  task.spawn(function()
    local ud, err = wait(self, time_of(self))
    fn(not ud and err or nil)
  end)
end

-- Ids go on from session to session, so one that is given now is good for the next.
function Absent:request_id()
  return self.client._host:request_id()
end

function Absent.is_open()
  return false
end

function Absent.in_flight()
  return 0
end

-- Dialling again ----------------------------------------------------------------------------------------------

-- The shortest time an attempt gets, in seconds and in round trips of the connection that was lost. A datagram to nobody has no
-- answer, and the library repeats it after a second only: short attempts find a server sooner that comes back.
local ATTEMPT, ROUND_TRIPS, LONGEST_ATTEMPT = 0.5, 12, 10

local function tell(self, what, detail)
  local fn = self._reconnect and self._reconnect.on_change
  if fn then
    hooks.call("reconnect.on_change", "internal", fn, self, what, detail)
  end
end

local function time_for_attempt(self, n)
  local least = math.max(ATTEMPT, ROUND_TRIPS * (self._last_rtt or 0))
  local most = math.max(math.min(least * 2 ^ math.min(n // 3, 16), LONGEST_ATTEMPT), least)
  return math.min(most, self._options.connect_timeout or self._options.timeout or 30)
end

local function give_up(self, absent, err)
  self:_give_up(absent, err)
  tell(self, "gave_up", err)
end

local function run(self, absent, err)
  tell(self, "lost", err)
  while self.state == "reconnecting" do
    local opts = self._reconnect
    if not opts or M.is_final(err) or opts.attempts and self._pauses.attempts >= opts.attempts then
      return give_up(self, absent, err)
    end
    local pause = self._pauses:next()
    if type(err.retry_after) == "number" then -- whoever says it has the rest of the pause on top: not all come in the same moment
      pause = pause + math.max(err.retry_after, 0)
    end
    tell(self, "waiting", pause)
    if not task.sleep(pause) or self.state ~= "reconnecting" then
      return
    end
    local peer
    peer, err = self:_establish(time_for_attempt(self, self._pauses.attempts))
    if peer then
      self.state, self.reconnects, self._absent = "connected", self.reconnects + 1, nil
      M.release(absent)
      tell(self, "connected", peer)
      return
    elseif self.state == "reconnecting" then
      tell(self, "failed", err)
    end
  end
end

--- Looks after a new connection: while calls are under way and nothing is heard, a PING goes out now and then. The library's own probes
--- come ever more rarely, so that a server that restarted would have nothing to answer with a stateless reset.
---@param self echostream.client
---@param peer echostream.session
function M.watch(self, peer)
  local seconds, seen = self._reconnect.probe, nil
  if seconds == 0 then
    return
  end
  local ud = peer._ud
  local function look()
    if self.session ~= peer or peer.closed_by then
      return
    end
    local heard = ud:in_flight() > 0 and (ud:stats() or {}).packets_received or nil
    if heard and heard == seen then
      ud:ping() -- whatever comes of it: it is the packet that matters
    end
    seen = heard
    self._watch = self._rec.core:timer(seconds, look)
  end
  self._watch = self._rec.core:timer(seconds, look)
end

--- Ends that: the connection is over, or nobody's any more.
---@param self echostream.client
function M.unwatch(self)
  if self._watch then
    self._watch:stop()
    self._watch = nil
  end
end

--- The connection is lost, or about to be: begins to dial.
---@param self echostream.client
---@param err echostream.error
function M.begin(self, err)
  M.unwatch(self)
  local absent = M.absent(self, err)
  self._ud, self._absent, self.state = absent, absent, "reconnecting"
  self._pauses:worked(loop.now() - (self._connected_at or 0))
  self._redial = task.spawn(run, self, absent, err)
end

-- It was switched off while nobody was connected: those who wait are told at once.
local function abandon(self)
  local absent, err = self._absent, unsent("unavailable", "the connection was lost, and reconnecting is switched off")
  M.stop(self)
  self.state = "closed"
  M.release(absent, err)
  task.spawn(self._give_up, self, absent, err)
end

--- The body of `client:set_reconnect`.
---@param self echostream.client
---@param policy table?  checked
---@return table|false before
function M.set(self, policy)
  local before = self._reconnect or false
  local peer = self.state == "connected" and self.session
  if peer and before then
    M.unwatch(self)
  end
  self._reconnect = policy
  self._pauses = policy and backoff.of(policy) or self._pauses
  if peer and policy then
    if not before then
      self._connected_at, self._last_rtt = loop.now(), (peer._ud:stats() or {}).rtt_min
    end
    M.watch(self, peer)
  elseif self.state == "reconnecting" and not policy and not self.session then -- with one, its on_connect hooks run
    abandon(self)
  end
  return before
end

--- Ends it: the client is closed.
---@param self echostream.client
function M.stop(self)
  M.unwatch(self)
  if self._redial then
    self._redial:cancel()
    self._redial = nil
  end
end

local function ready(self, timeout)
  if self.state == "connected" then
    return self
  elseif self.state ~= "reconnecting" then
    return nil, unsent("unavailable", "not connected")
  end
  local absent = self._absent
  local ok, err = task.await(function(resume)
    absent.waiting[resume], absent.count = true, absent.count + 1
    return function()
      if absent.waiting[resume] then
        absent.waiting[resume], absent.count = nil, absent.count - 1
      end
    end
  end, timeout)
  if not ok then
    return nil, err
  elseif absent.over then
    return nil, absent.over
  end
  return self
end

--- The body of `client:ready`.
---@param self echostream.client
---@param timeout number?
---@param callback function?
---@return any ...
function M.ready(self, timeout, callback)
  if callback ~= nil then
    return task.call_back(callback, ready, self, timeout)
  end
  return task.block(ready, self, timeout)
end

return M
