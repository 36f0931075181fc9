--- Which way a client goes: QUIC, or TCP where UDP does not get through.
---
---     transport = "quic"   QUIC only (the default)
---     transport = "tcp"    TCP only
---     transport = "auto"   QUIC; TCP when QUIC has not answered within `fallback_after`, and back as soon as QUIC answers again
---
--- The way back makes before it breaks: the session over QUIC is there, and its on_connect hooks have run, before new calls take it; what
--- is under way over TCP ends there, and that session is closed when nothing is left of it.

local errors = require "echostream.errors"
local hooks = require "echostream.hooks"
local log = require "echostream.log"
local loop = require "echostream.loop"
local task = require "echostream.task"

local M = {}

-- Seconds that one attempt to go back may take.
local ATTEMPT = 5
-- Pauses between those attempts grow up to so many seconds, and up to a fifth of each is left out, at random.
local LAST, JITTER = 300, 0.2
-- When UDP was blocked the last time, TCP follows soon.
local HEAD_START = 0.3

-- Seconds between attempts to reach one that is awaited.
local PAUSE = 0.1

-- Whoever answered has decided: another way leads to the same server.
local final = { unauthenticated = true, permission_denied = true }

---@class echostream.fallback
---@field reason string     why TCP is in use, in a sentence
---@field since number      seconds since 1970
---@field attempts integer  times that QUIC was tried again meanwhile

--- Those of the transport options (host.lua) that are about this, for clients only.
M.names = { "carrier", "fallback_after", "retry_quic", "tcp_port" }

--- What `split_transport` found of them, of a client: a table when the client may go over TCP.
---@param where string
---@param extra table
---@param opts table  checked options of the client
---@return table?
function M.check(where, extra, opts)
  local way = extra.way
  if way.carrier == "quic" then
    return nil
  elseif opts.webtransport then
    error(('%s: option "webtransport" is QUIC\'s: it does not go with transport "%s"'):format(where, way.carrier), 3)
  end
  return way
end

local function tell(self, carrier, peer, reason)
  local fn = self._options.on_carrier
  if fn then
    hooks.call("on_carrier", "internal", fn, self, carrier, peer, reason)
  end
end

-- The race ----------------------------------------------------------------------------------------------------

local function failure(quic, tcp, waited)
  local err = errors.new(quic and quic.code or "unavailable", ("neither QUIC nor TCP gets there: QUIC (UDP), %.1f s: %s; TCP: %s")
    :format(waited, quic and quic.message or "no answer", tcp and tcp.message or "no answer"))
  err.details = { quic = quic, tcp = tcp }
  return err
end

-- Starts `go("quic")`, and `go("tcp")` when that failed or `after` seconds passed; the first that is there wins.
-- go returns what a dial does; `drop` gets what came too late.
local function race(go, drop, after, timeout)
  local began, over = loop.now(), false
  local tasks, problem, running = {}, {}, 0
  local why
  local ud, endpoint, peer, carrier = task.await(function(resume)
    local start
    local function attempt(kind)
      local a, b, c = go(kind, math.max(timeout - (loop.now() - began), 0.001))
      running = running - 1
      if a and (over or not resume(a, b, c, kind)) then
        drop(b)
      elseif a then
        over = true
      elseif not over then
        problem[kind] = b
        if kind == "quic" and not final[b.code] and not tasks.tcp then
          why = ("QUIC (UDP) failed after %.1f s: %s"):format(loop.now() - began, b.message)
          start "tcp"
        elseif final[b.code] then
          over = true
          resume(nil, b)
        elseif running == 0 then
          resume(nil, failure(problem.quic, problem.tcp, loop.now() - began))
        end
      end
    end
    function start(kind)
      running = running + 1
      tasks[kind] = task.spawn(attempt, kind)
    end
    start "quic"
    tasks.clock = task.spawn(function()
      if task.sleep(after) and not over and not tasks.tcp then
        why = ("QUIC (UDP) gave no answer within %.1f s"):format(loop.now() - began)
        start "tcp"
      end
    end)
  end)
  over = true
  for _, other in pairs(tasks) do
    other:cancel()
  end
  return ud, endpoint, peer, carrier, why
end

--- Dials the way that the client's options say.
---@param self echostream.client
---@param go fun(carrier: "quic"|"tcp", timeout: number): any, any, any  as client.lua's dial_any
---@param timeout number
---@return any ud, any endpoint, any peer  or nil, err
function M.dial(self, go, timeout)
  local way = self._way
  if not way then
    return go("quic", timeout)
  elseif way.carrier == "tcp" then
    local ends = loop.now() + timeout
    local ud, endpoint, peer
    repeat -- with `wait_for_ready` a server that does not listen yet is waited for
      ud, endpoint, peer = go("tcp", math.max(ends - loop.now(), 0.001))
    until ud or not (self._transport.wait_for_ready and endpoint.code == "unavailable") or loop.now() + PAUSE > ends
      or not task.sleep(PAUSE)
    return ud, endpoint, peer
  end
  local after = math.min(self.fallback and HEAD_START or way.fallback_after, timeout / 2)
  local ud, endpoint, peer, carrier, why = race(go, function(late)
    loop.close_endpoint(self._rec, late)
  end, after, timeout)
  if ud and carrier == "tcp" then
    local before = self.fallback
    self.fallback = { reason = why, since = before and before.since or self._rec.core:wall(), attempts = before and before.attempts or 0 }
    if not before then
      log.write("warn", ("%s: %s; over TCP now, QUIC is tried again every %g s"):format(self.address, why, way.retry_quic))
    end
    peer._fell_back = why
  elseif ud then
    self.fallback = nil
  end
  return ud, endpoint, peer
end

-- The way back ------------------------------------------------------------------------------------------------

local function retire(self, old)
  if not old._ud:is_open() then
    return
  end
  old._retired = true
  -- New calls of the other side are refused here from now on, and said to be not processed; what is under way ends.
  old._ud:goaway(0, 0, "the client goes on over QUIC")
  self._on_idle = self._on_idle or function(peer)
    if peer._retired and peer._ud:is_open() then
      task.spawn(require("echostream.session").close_in_task, peer)
    end
  end
  if old._ud:in_flight() == 0 then
    self._on_idle(old)
  end
end

local function try(self, go, adopt)
  local old, way = self.session, self._way
  local pause = way.retry_quic
  while task.sleep(pause * (1 - JITTER * loop.random())) and self.session == old and self.state == "connected" do
    self.fallback.attempts = self.fallback.attempts + 1
    local ud, endpoint, peer = go("quic", math.min(ATTEMPT, math.max(pause, 1)))
    if ud and (self.session ~= old or self.state ~= "connected") then
      loop.close_endpoint(self._rec, endpoint)
      return
    elseif ud and adopt(ud, endpoint, peer) then
      local took = self._rec.core:wall() - self.fallback.since
      self.fallback, self._way_back = nil, nil
      log.write("info", ("%s: QUIC answers again after %.0f s over TCP; new calls take it, what is under way ends over TCP"):format(
        self.address, took))
      retire(self, old)
      tell(self, "quic", peer)
      return
    end
    pause = math.min(pause * 2, math.max(LAST, way.retry_quic))
  end
end

--- A new session is the client's: over TCP for want of QUIC, that is tried again from now on.
---@param self echostream.client
---@param peer echostream.session
---@param go fun(carrier: string, timeout: number): any, any, any
---@param adopt fun(ud: any, endpoint: any, peer: echostream.session): boolean?  takes it as the client's session
function M.watch(self, peer, go, adopt)
  M.stop(self)
  if peer._fell_back then
    self._way_back = task.spawn(try, self, go, adopt)
    tell(self, "tcp", peer, peer._fell_back)
  end
end

--- The connection is over, or the client is.
---@param self echostream.client
function M.stop(self)
  local running = self._way_back
  self._way_back = nil
  if running and running ~= task.current() then
    running:cancel()
  end
end

return M
