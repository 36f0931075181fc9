--- Heartbeats: PING and PONG on the control stream, which measure the round trip through the peer's event loop and the difference of
--- the clocks, and find out that a peer does not answer although its machine still acknowledges packets.

local errors = require "echostream.errors"
local log = require "echostream.log"
local loop = require "echostream.loop"
local metrics = require "echostream.metrics"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

---@class echostream.options.heartbeat  `heartbeat = { … }` of servers and clients; a number is the interval
---@field interval? number  seconds from one question to the next, 0.1 or more (default: 10)
---@field timeout? number  seconds to wait for each answer (default: the interval)
---@field misses? integer  so many in a row without an answer close the session; 0: never (default: 3)

---@class echostream.heartbeat  `session.heartbeat`, once something was heard
---@field rtt number     seconds, of the last answer: there, through the peer's loop, and back
---@field clock number   seconds that the peer's clock is ahead of ours, give or take half of rtt
---@field at number      when it came, on the loop's clock (`echo.now()`)
---@field answered integer
---@field missed integer  in all
---@field silent integer  in a row, now

--- Fields of the option `heartbeat`.
---@type table<string, echostream.options.field>
M.fields = {
  interval = { type = "seconds", min = 0.1, max = 1e6, default = 10 },
  timeout = { type = "seconds", min = 0.01, max = 1e6 },
  misses = { type = "integer", min = 0, default = 3 },
}

local round_trips = metrics.histogram("echostream_heartbeat_seconds", "Round trips of heartbeats and pings.")
local missed = metrics.counter("echostream_heartbeats_missed_total", "Heartbeats and pings that were not answered in time.")

--- Turns what a user gave into options: nil when there is to be none of it.
---@param where string
---@param given number|boolean|table|nil
---@param level integer
---@return table?
function M.check(where, given, level)
  if given == nil or given == false then
    return nil
  end
  local checked = options.check(where .. ".heartbeat", type(given) == "number" and { interval = given } or given ~= true and given or {},
    M.fields, level + 1)
  checked.timeout = checked.timeout or checked.interval
  return checked
end

-- What `pong` resumes: by session, then by the number of the question.
local waiting = setmetatable({}, { __mode = "k" })

local function note(peer, rtt, clock)
  local seen = peer.heartbeat
  if not seen then
    seen = { answered = 0, missed = 0, silent = 0 }
    peer.heartbeat = seen
  end
  if rtt then
    seen.rtt, seen.clock, seen.at = rtt, clock, loop.now()
    seen.answered, seen.silent = seen.answered + 1, 0
    round_trips:observe(rtt)
    if peer._clock then
      peer._clock:_observe(rtt, clock)
    end
  else
    seen.missed, seen.silent = seen.missed + 1, seen.silent + 1
    missed:inc()
  end
  return seen
end

--- An answer came. Late ones count as signs of life too.
---@param peer echostream.session
---@param id integer
---@param rtt number
---@param clock number
function M.pong(peer, id, rtt, clock)
  note(peer, rtt, clock)
  local resume = waiting[peer] and waiting[peer][id]
  if resume then
    resume(rtt, clock)
  end
end

--- Sends a question, as soon as the peer introduced itself. In a task.
---@param peer echostream.session
---@param deadline number  on the loop's clock
---@return integer? id, echostream.error? err
function M.ask(peer, deadline)
  local began = loop.now()
  local id, err = peer._ud:ping()
  while err == "again" do
    if loop.now() >= deadline or not task.sleep(math.min(0.005, math.max(deadline - loop.now(), 0))) then
      return nil, errors.new("timeout", ("the peer did not introduce itself within %g s"):format(loop.now() - began))
    end
    id, err = peer._ud:ping()
  end
  if not id then
    return nil, err
  end
  if not peer._rec.stepping then
    loop.touch(peer._rec)
  end
  return id
end

--- Waits for the answer to a question that was just sent. In a task.
---@param peer echostream.session
---@param id integer
---@param deadline number  on the loop's clock
---@return { rtt: number, clock: number }|nil, echostream.error?
function M.await(peer, id, deadline)
  local began, mine = loop.now(), waiting[peer] or {}
  waiting[peer] = mine
  local rtt, clock = task.await(function(resume)
    mine[id] = resume
  end, math.max(deadline - began, 0))
  mine[id] = nil
  if rtt then
    return { rtt = rtt, clock = clock }
  elseif clock.code == "timeout" then
    note(peer)
    return nil, errors.new("timeout", ("the peer did not answer within %g s"):format(deadline - began))
  end
  return nil, clock
end

--- Asks once. In a task.
---@param peer echostream.session
---@param timeout number
---@return { rtt: number, clock: number }|nil, echostream.error?
function M.ping(peer, timeout)
  local deadline = loop.now() + timeout
  local id, err = M.ask(peer, deadline)
  if not id then
    return nil, err
  end
  return M.await(peer, id, deadline)
end

local shared = {} -- of sessions and clients
M.shared = shared

-- The session behind a session or a client.
local function session_of(self)
  if self.server_ctx then
    return self
  end
  return self.session
end

local function ping(self, timeout)
  local peer = session_of(self)
  if not peer then
    local _, err = self._ud:ping() -- which says why: never connected, closed, on its way back
    return nil, err
  end
  return M.ping(peer, timeout)
end

--- Asks the peer for a sign of life, through its event loop: how long that takes, and by how much its clock is ahead of ours. The option
--- `heartbeat` of servers and clients does this again and again.
---@param timeout? number  seconds (5)
---@param callback? fun(answer: { rtt: number, clock: number }?, err: echostream.error?)
---@return { rtt: number, clock: number }|nil answer  seconds
---@return echostream.error? err  `timeout`; `failed_precondition`: the peer does not know how; `unavailable`,
--- `connection_closed`; `resource_exhausted`: sixteen are not
--- answered yet
function shared:ping(timeout, callback)
  if type(self) ~= "table" then
    options.colon "ping"
  end
  if type(timeout) == "function" then
    timeout, callback = nil, timeout
  end
  if timeout ~= nil then
    options.argument("ping", "timeout", timeout, "seconds")
  end
  return task.wait_or_call_back("ping", callback, ping, self, timeout or 5)
end

local function beat(peer, opts)
  while task.sleep(opts.interval) and peer._ud:is_open() do
    local _, err = M.ping(peer, opts.timeout)
    if err and err.code == "failed_precondition" then
      return -- a peer that does not know how
    elseif err and err.code == "resource_exhausted" then
      note(peer) -- so many wait for an answer already that no further one was asked
    end
    local silent = peer.heartbeat and peer.heartbeat.silent or 0
    if opts.misses > 0 and silent >= opts.misses then
      log.write("warn", ("the peer answered none of %d heartbeats"):format(silent), { session = peer })
      peer._ud:close(nil, ("no heartbeat was answered for %g s"):format(silent * math.max(opts.interval, opts.timeout)))
      return
    end
  end
end

--- A session begins.
---@param peer echostream.session
---@param opts table  checked
function M.start(peer, opts)
  peer._beat = task.spawn(beat, peer, opts)
end

--- It is over.
---@param peer echostream.session
---@param err echostream.error
function M.stop(peer, err)
  if peer._beat then
    peer._beat:cancel()
    peer._beat = nil
  end
  for _, resume in pairs(waiting[peer] or {}) do
    resume(nil, err)
  end
  waiting[peer] = nil
end

return M
