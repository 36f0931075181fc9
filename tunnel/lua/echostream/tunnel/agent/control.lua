--- What an agent and its server say to each other on one session: registration, configuration, heartbeats, drain.

local core = require "echostream.core"
local errors = require "echostream.errors"
local log = require "echostream.log"
local loop = require "echostream.loop"
local sessions = require "echostream.tunnel.session"
local task = require "echostream.task"

local M = {}

-- Seconds for each of the registration's calls; between heartbeats when the server does not say.
local PATIENCE, HEARTBEAT = 10, 10

---@class echostream.tunnel.agent.link  one session that is registered, or was
---@field session echostream.session
---@field server_id? string
---@field registered boolean
---@field draining boolean  the server said that it stops, or we did
---@field leaving? boolean  it was we
local Link = {}
Link.__index = Link
Link.__name = "echostream.tunnel.agent.link"

-- What the server's refusal means for coming back: the fields that the client's option `reconnect` looks at.
local function refusal(err)
  local details = type(err.details) == "table" and err.details or {}
  local refused = errors.new(err.code, err.message, err.details)
  if type(details.permanent) == "boolean" then
    refused.permanent = details.permanent
  elseif err.code == "method_not_found" then
    refused.message = "the server is no tunnel server, or not yet: " .. err.message
    refused.permanent = false
  end
  if type(details.retry_after) == "number" then
    refused.retry_after = details.retry_after
  end
  return refused
end

local function challenge(session, options)
  if not options.token then
    return nil
  end
  local calls = session:with { timeout = PATIENCE }
  local reply, err = calls:request "tunnel.challenge"
  if reply == nil then
    return nil, refusal(err)
  elseif type(reply) ~= "table" or type(reply.nonce) ~= "string" or #reply.nonce < 16 then
    return nil, errors.new("protocol", "tunnel.challenge answered something else than a nonce")
  end
  local exporter, problem = session:export_key(sessions.EXPORTER, 32)
  if not exporter then
    return nil, problem
  end
  return sessions.proof(options.token, options.client_id, options.group, reply.nonce, exporter)
end

local boot_id = core.random(16):gsub(".", function(c)
  return ("%02x"):format(c:byte())
end)

--- Registers the agent with the server of a session.
---@param agent echostream.tunnel.agent
---@param session echostream.session
---@return echostream.tunnel.agent.link? link, echostream.error? err  with `permanent` and `retry_after`
function M.register(agent, session)
  local options = agent.options
  local proof, err = challenge(session, options)
  if err then
    return nil, err
  end
  local reply
  reply, err = session:with { timeout = PATIENCE }:request("tunnel.register", {
    protocol = 1,
    client_id = options.client_id,
    group = options.group,
    version = options.version,
    labels = core.map(options.labels),
    weight = options.weight,
    services = core.array(agent.backends:list()),
    config_version = agent.config_version,
    boot_id = boot_id,
    proof = proof,
  })
  if reply == nil then
    return nil, refusal(err)
  elseif type(reply) ~= "table" or reply.accepted ~= true then
    return nil, errors.new("protocol", "tunnel.register answered something else than a registration")
  end
  session:set_hold_cap(sessions.HOLD)
  local link = setmetatable({
    session = session,
    server_id = type(reply.server_id) == "string" and reply.server_id or nil,
    registered = true,
    draining = false,
    _agent = agent,
    _beating = nil,
  }, Link)
  if type(reply.config) == "table" and reply.config_version ~= nil and reply.config_version ~= agent.config_version then
    local ok, why = agent:apply_config(reply.config_version, reply.config)
    if not ok then
      log.write("warn", ("configuration %s of the server is not applied: %s"):format(tostring(reply.config_version), why.message))
    end
  end
  local interval = type(reply.heartbeat) == "number" and reply.heartbeat > 0 and reply.heartbeat or HEARTBEAT
  link._beating = task.spawn(Link._beat, link, interval)
  return link
end

--- Tells the server once how the agent is.
---@return true|nil ok, echostream.error? err
function Link:heartbeat()
  local agent, stats = self._agent, self._agent.stats
  return self.session:emit("tunnel.heartbeat", {
    at = loop.current().core:wall(),
    in_flight = stats.in_flight,
    served = stats.served,
    errors = stats.errors,
    bytes_in = stats.bytes_in,
    bytes_out = stats.bytes_out,
    backends = core.map(agent.backends:report()),
    config_version = agent.config_version,
    config_error = agent.config_error,
  })
end

function Link:_beat(interval)
  repeat
    if not self:heartbeat() then
      return
    end
  until not task.sleep(interval)
end

--- Asks the server for no more streams. What is under way goes on.
---@param grace number  seconds that this may take
---@return true|nil ok, echostream.error? err
function Link:drain(grace)
  self.draining = true
  local ok, err = self.session:with { timeout = math.min(grace, PATIENCE) }:request("tunnel.drain", { grace = grace })
  if ok == nil then
    return nil, err
  end
  return true
end

--- The agent is no longer of its group there.
---@return true|nil ok, echostream.error? err
function Link:unregister()
  if not self.registered then
    return true
  end
  self:close()
  local ok, err = self.session:with { timeout = PATIENCE }:request "tunnel.unregister"
  if ok == nil then
    return nil, err
  end
  return true
end

--- The session is over, or about to be.
function Link:close()
  self.registered = false
  if self._beating then
    self._beating:cancel()
    self._beating = nil
  end
end

return M
