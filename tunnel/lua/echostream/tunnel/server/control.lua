--- Registration and control: the methods that agents call, and those of theirs that are called from here. See tunnel/DESIGN.md.

local admission = require "echostream.tunnel.server.admission"
local ask = require "echostream.tunnel.server.ask"
local core = require "echostream.core"
local errors = require "echostream.errors"
local log = require "echostream.log"
local loop = require "echostream.loop"
local sessions = require "echostream.tunnel.session"
local task = require "echostream.task"
local text_of = require "echostream.metrics.text"

local M = {}

-- A nonce is good for one registration, and for so many seconds.
local NONCE_TIME <const> = 30
-- So many registrations may come at once, and so many a second go on; the others come back a little later.
local BURST <const>, RATE <const> = 20, 200
local CALL_TIME <const> = 10
-- Seconds that a session stays at least when another one of its client id has come.
local LINGER <const> = 2

---@class echostream.tunnel.control
---@field registry echostream.tunnel.registry
local Control = { __name = "echostream.tunnel.control" }
Control.__index = Control

---@class echostream.tunnel.control.options
---@field registry echostream.tunnel.registry
---@field entries echostream.tunnel.options.agent_entry[]
---@field server_id string
---@field heartbeat number       seconds between those of agents
---@field replace_grace number   seconds that a replaced one has for what it is doing
---@field config? table|fun(member: echostream.tunnel.member): table?
---@field config_version? string
---@field on_change fun(member: echostream.tunnel.member, what: string, more: any)  "registered", "replaced", "draining", "heartbeat",
--- "config", "unregistered", "lost", and "refused" (whose member is what was asked for, if it could be read)

---@param opts echostream.tunnel.control.options
---@return echostream.tunnel.control
function M.new(opts)
  return setmetatable({
    registry = opts.registry,
    draining = false, -- no registrations any more
    _entries = opts.entries, _server_id = opts.server_id, _heartbeat = opts.heartbeat, _replace_grace = opts.replace_grace,
    _config = opts.config, _config_version = opts.config_version, _changed = opts.on_change,
    _nonces = setmetatable({}, { __mode = "k" }), -- by session: { nonce, until when }
    _members = setmetatable({}, { __mode = "k" }), -- by session
    _budget = BURST, _budget_at = loop.now(),
  }, Control)
end

-- Registration -------------------------------------------------------------------------------------------------

local function refusal(code, reason, permanent, retry_after)
  local err = errors.new(code, reason, { permanent = permanent, retry_after = retry_after, reason = reason })
  err.retry_after = retry_after
  return err
end

-- Whoever comes too early in a storm is told a moment of its own.
local function is_storm(self)
  local now = loop.now()
  self._budget = math.min(BURST, self._budget + (now - self._budget_at) * RATE)
  self._budget_at = now
  if self._budget < 1 then
    return true
  end
  self._budget = self._budget - 1
  return false
end

local function admit(self, session, given)
  local asked, why = ask.registration(given)
  if not asked then
    return nil, refusal("invalid_argument", "tunnel.register: " .. why, true)
  elseif self.draining then
    return nil, refusal("unavailable", "this server is stopping", false, 2 + 3 * loop.random()), asked
  end
  local nonce = self._nonces[session]
  self._nonces[session] = nil
  local entry, err = admission.find(self._entries, session, asked, nonce and nonce[2] > loop.now() and nonce[1] or nil)
  if not entry then
    return nil, refusal(err.code, err.message, true), asked
  elseif is_storm(self) then -- after the credentials: who has none uses up nothing of what agents may
    return nil, refusal("unavailable", "many agents come at once", false, 0.5 + 2.5 * loop.random()), asked
  elseif not self.registry:has_room(asked.client_id) then
    return nil, refusal("resource_exhausted", "this server has as many agents as it takes", false, 20 + 20 * loop.random()), asked
  end
  local there = self.registry:get(asked.client_id)
  if there and there.entry ~= entry then
    return nil, refusal("already_exists", ("client id %s is in use, by somebody with other credentials"):format(asked.client_id), false, 30), asked
  end
  return entry, nil, asked
end

local function member_of(session, asked, entry)
  local now = loop.now()
  return {
    id = asked.client_id, group = asked.group, session = session, state = "up", version = asked.version, labels = asked.labels,
    weight = asked.weight, services = asked.services, boot_id = asked.boot_id, entry = entry, config_version = asked.config_version,
    config_error = nil, registered_at = now, last_seen = now, streams = 0, served = 0, errors = 0, bytes_in = 0, bytes_out = 0,
    backends = {}, reported = {},
  }
end

-- The old twin gets nothing new from now on, and goes when it has finished.
local function retire(self, old)
  old.state = "replaced"
  self._changed(old, "replaced")
  task.spawn(function()
    local began = loop.now()
    local ends, earliest = began + self._replace_grace, began + math.min(LINGER, self._replace_grace)
    -- An agent that changes its way has not heard yet that it is registered: what it has must not end before it goes over to the new one.
    while (old.streams > 0 or loop.now() < earliest) and old.session:is_open() and loop.now() < ends do
      task.sleep(0.1)
    end
    old.session:close "another session of this client id has taken over"
  end)
end

local function config_of(self, member)
  local config = self._config
  if type(config) == "function" then
    local ok, made = pcall(config, member)
    if not ok then
      log.write("error", ("tunnel: the configuration of agent %s could not be made: %s"):format(member.id, errors.from(made).message))
      return nil
    end
    config = made
  end
  return config
end

local function register(self, session, given)
  local entry, err, asked = admit(self, session, given)
  if not entry then
    self._changed(asked, "refused", err)
    return nil, err
  end
  local before = self._members[session]
  if before then -- it says something new of itself
    self.registry:remove(before)
    before.state = "gone"
    self._changed(before, "unregistered")
  end
  local member = member_of(session, asked, entry)
  session:set_hold_cap(sessions.HOLD)
  local old = self.registry:add(member)
  self._members[session] = member
  if old then
    retire(self, old)
  end
  self._changed(member, "registered")
  local config
  if self._config_version ~= nil and member.config_version ~= self._config_version then
    config = config_of(self, member)
  end
  return { accepted = true, server_id = self._server_id, heartbeat = self._heartbeat, config_version = self._config_version, config = config }
end

-- A nonce for the proof of a token.
local function challenge(self, session)
  local nonce = core.random(32)
  self._nonces[session] = { nonce, loop.now() + NONCE_TIME }
  return { nonce = nonce }
end

-- What members say later ---------------------------------------------------------------------------------------

local function nobody()
  return nil, errors.new("failed_precondition", "this session is not registered: call tunnel.register first")
end

local function beat(self, session, given)
  local member, figures = self._members[session], ask.heartbeat(given)
  if not member or not figures then
    return
  end
  member.last_seen = loop.now()
  member.backends, member.reported = figures.backends, figures
  figures.backends = nil
  if figures.config_version then
    member.config_version = figures.config_version
  end
  member.config_error = figures.config_error
  self._changed(member, "heartbeat")
end

--- A member gets nothing new.
---@param member echostream.tunnel.member
function Control:drain_one(member)
  if member.state == "up" then
    member.state = "draining"
    self._changed(member, "draining")
  end
end

local function drain_member(self, session)
  local member = self._members[session]
  if not member then
    return nobody()
  end
  self:drain_one(member)
  return true
end

local function forget(self, session, what, err)
  local member = self._members[session]
  self._members[session] = nil
  if member and self.registry:remove(member) then
    local was = member.state
    member.state = "gone"
    if what == "lost" and was == "up" then
      self.registry.lost = self.registry.lost + 1
    end
    self._changed(member, was == "replaced" and "unregistered" or what, err)
  end
  return member
end

local function unregister(self, session)
  if not forget(self, session, "unregistered") then
    return nobody()
  end
  return true
end

--- A session is over.
---@param session echostream.session
---@param err echostream.error
function Control:lost(session, err)
  forget(self, session, "lost", err)
end

--- Registers all that agents call.
---@param host echostream.plugin.host
function Control:install(host)
  host:add_rpc("tunnel.challenge", function(session) return challenge(self, session) end)
  host:add_rpc("tunnel.register", function(session, given) return register(self, session, given) end)
  host:add_rpc("tunnel.drain", function(session) return drain_member(self, session) end)
  host:add_rpc("tunnel.unregister", function(session) return unregister(self, session) end)
  host:add_event("tunnel.heartbeat", function(session, given) beat(self, session, given) end)
  host:on_disconnect(function(session, err) self:lost(session, err) end)
end

-- Towards members ----------------------------------------------------------------------------------------------

-- fn(member) for each member, all at a time; when all have ended.
local function for_all(self, fn)
  local running = {}
  for i, member in ipairs(self.registry:members()) do
    running[i] = task.spawn(fn, member)
  end
  for _, one in ipairs(running) do
    one:wait()
  end
end

--- Gives a new configuration to all who are registered and to those who come. Waits until all have answered.
---@param config table|fun(member: echostream.tunnel.member): table?
---@param version string
---@return { id: string, applied: boolean, error: echostream.error? }[] results  sorted by id
function Control:push(config, version)
  self._config, self._config_version = config, version
  local results = {}
  for_all(self, function(member)
    local made = config_of(self, member)
    if made == nil or member.state == "replaced" then
      return
    end
    local answer, err = member.session:with { timeout = CALL_TIME }:request("tunnel.config", { version = version, config = made })
    local applied = type(answer) == "table" and answer.applied == true
    if applied then
      member.config_version, member.config_error = version, nil
    else
      err = err or errors.new("protocol", "the agent's answer was none")
      member.config_error = text_of.utf8(err.message, 1024)
    end
    results[#results + 1] = { id = member.id, applied = applied, error = err }
    self._changed(member, "config", err)
  end)
  table.sort(results, function(a, b)
    return a.id < b.id
  end)
  return results
end

--- Tells every agent that this server stops: they go elsewhere, and nobody may register here any more.
---@param grace number  seconds
function Control:say_drain(grace)
  self.draining = true
  for_all(self, function(member)
    member.session:with { timeout = math.max(math.min(grace, CALL_TIME), 0.1) }:request("tunnel.drain", { grace = grace })
  end)
end

return M
