--- An agent with clients of its own, one for each server: it dials until somebody answers, and comes back whenever it is lost.

local agent = require "echostream.tunnel.agent"
local backoff = require "echostream.backoff"
local client = require "echostream.client"
local errors = require "echostream.errors"
local log = require "echostream.log"
local options = require "echostream.options"
local reconnect = require "echostream.reconnect"
local task = require "echostream.task"

local M = {}

---@class echostream.tunnel.options.agent_server  one of `servers`; a string is its `address`
---@field address string|string[]  "tunnel.example.org:5000"; a list: addresses of the same server, best first
---@field client? echostream.options.client  instead of what `client` says for all

---@class echostream.tunnel.options.run_agent: echostream.tunnel.options.agent
---@field servers (string|echostream.tunnel.options.agent_server)[]  each gets a session of its own
---@field client? echostream.options.client  whom to trust and what else clients can be told (pin, ca, cert, key, …); unless it says otherwise
--- they come back by themselves, and go over TCP where UDP does not get through (`transport = "auto"`)

-- Streams of one session: WebSockets stay for long, so there are many.
local STREAMS = 10000

--- The pauses between attempts: full jitter, the first at most two seconds, later ones up to a minute, short again after half a minute
--- that went well. Two seconds spread 200 agents that lose one server at one moment so that it has about 10 handshakes in 100 ms.
M.PAUSES = { first = 2, factor = 2, cap = 60, jitter = 1, stable = 30 }

---@class echostream.tunnel.running_agent
---@field agent echostream.tunnel.agent
---@field clients echostream.client[]
local Running = {}
Running.__index = Running
Running.__name = "echostream.tunnel.running_agent"

-- Options for a client, the given ones over ours.
local function client_options(given)
  local opts = { max_named_streams = STREAMS, reconnect = true }
  for name, value in pairs(given or {}) do
    opts[name] = value
  end
  if opts.reconnect == true then
    opts.reconnect = {}
  end
  if opts.reconnect then
    local policy = {}
    for name, value in pairs(M.PAUSES) do
      policy[name] = value
    end
    for name, value in pairs(opts.reconnect) do
      policy[name] = value
    end
    opts.reconnect = policy
  end
  local transport = { max_streams_bidi = STREAMS, carrier = "auto" }
  for name, value in pairs(type(opts.transport) == "string" and { carrier = opts.transport } or opts.transport or {}) do
    transport[name] = value
  end
  opts.transport = transport
  return opts
end

-- Dials until it is connected; from then on the client comes back by itself. Ends when it was refused for good.
local function keep_dialling(self, one, address, policy)
  local pauses = backoff.new { first = policy.first, factor = policy.factor, cap = policy.cap, jitter = policy.jitter }
  while not self._stopping do
    local ok, err = one:connect(address)
    if ok then
      return
    elseif self._stopping then
      return
    elseif reconnect.is_final(err) then
      log.write("error", ("no more attempts with %s: %s"):format(tostring(one.address), err.message))
      self._errors[one] = err
      self:_gave_up()
      return
    end
    local pause = pauses:next() + math.max(type(err.retry_after) == "number" and err.retry_after or 0, 0)
    log.write("warn", ("no session with %s: %s (again in %.1f s)"):format(tostring(one.address), err.message, pause))
    if not task.sleep(pause) then
      return
    end
  end
end

-- A client that was connected is over.
local function stopped(self, one)
  if not self._stopping then
    local refusal = self.agent.refusal
    self._errors[one] = self._errors[one] or refusal and reconnect.is_final(refusal) and refusal
      or errors.new("unavailable", "the client gave up")
    self:_gave_up()
  end
end

--- Begins to dial all servers. Raises what is wrong with the options.
---@param given echostream.tunnel.options.run_agent
---@param engine? table  whose connections are used (default: the loop's engine)
---@return echostream.tunnel.running_agent
function M.run(given, engine)
  options.argument("tunnel.run_agent", "options", given, "table")
  local own, servers, shared = {}, given.servers, given.client
  for name, value in pairs(given) do
    own[name] = value
  end
  own.servers, own.client = nil, nil
  if type(servers) == "string" then
    servers = { servers }
  end
  options.argument("tunnel.run_agent", "servers", servers, "table")
  if servers[1] == nil then
    error("tunnel.run_agent: servers is empty", 2)
  end
  local list = {}
  for i, server in ipairs(servers) do
    if type(server) == "string" then
      server = { address = server }
    end
    list[i] = options.check(("tunnel.run_agent.servers[%d]"):format(i), server, {
      address = { type = { "string", "strings" }, required = true },
      client = { type = "table" },
    })
  end
  local self = setmetatable({ agent = agent.new(own, engine), clients = {}, _dialling = {}, _stopping = false, _done = false, _errors = {},
    _waiters = {} }, Running)
  for i, server in ipairs(list) do
    local opts = client_options(server.client or shared)
    self.clients[i] = client.new(opts):plugin(self.agent)
    self.clients[i]:on_stop(function()
      stopped(self, self.clients[i])
    end)
    list[i].policy = opts.reconnect or M.PAUSES
  end
  for i, server in ipairs(list) do
    self._dialling[i] = task.spawn(keep_dialling, self, self.clients[i], server.address, server.policy)
  end
  return self
end

-- A client came to its end: when it was the last one, those who wait are told.
function Running:_gave_up()
  for _, one in ipairs(self.clients) do
    if not self._errors[one] then
      return
    end
  end
  self:_over()
end

function Running:_over()
  self._done = true
  local waiters = self._waiters
  self._waiters = {}
  for resume in pairs(waiters) do
    resume(true)
  end
end

--- Waits until an agent is registered with at least `n` servers.
---@param timeout? number  seconds
---@param n? integer  default: 1
---@return true|nil ok, echostream.error? err  `timeout`, or why every server refused it
function Running:ready(timeout, n)
  n = n or 1
  local ok, err = task.await(function(resume)
    local function look()
      if #self.agent:links() >= n then
        resume(true)
      end
    end
    self._waiters[resume] = true
    self.agent:listen(look)
    look()
    return function()
      self._waiters[resume] = nil
      self.agent:unlisten(look)
    end
  end, timeout)
  if not ok then
    return nil, err
  elseif #self.agent:links() < n then
    return nil, self:error() or errors.new("unavailable", "the agent was stopped")
  end
  return true
end

---@package
-- The servers without a session, for `echostream tunnel status`.
function Running:absent()
  local list = {}
  for _, one in ipairs(self.clients) do
    if one.state ~= "connected" then
      local err = self._errors[one]
      list[#list + 1] = { address = tostring(one.address), state = err and "given up" or "dialling", why = err and err.message or nil }
    end
  end
  return list
end

--- Why a server refused the agent for good, if one did.
---@return echostream.error?
function Running:error()
  for _, one in ipairs(self.clients) do
    if self._errors[one] then
      return self._errors[one]
    end
  end
end

--- Waits until it was stopped, or every server refused it for good.
---@param timeout? number  seconds
---@return true|nil ok, echostream.error? err
function Running:wait(timeout)
  if not self._done then
    local ok, err = task.await(function(resume)
      self._waiters[resume] = true
      return function()
        self._waiters[resume] = nil
      end
    end, timeout)
    if not ok then
      return nil, err
    end
  end
  local err = self:error()
  if err then
    return nil, err
  end
  return true
end

--- Drains and ends everything. Waits for it.
---@param given? { grace?: number }  seconds for what is under way (default: option drain_grace); 0: none
---@return true|nil ok, echostream.error? err  as of `agent:drain`
function Running:stop(given)
  self._stopping = true
  local ok, err = true, nil
  if self.agent.backends and #self.agent:links() > 0 then
    ok, err = self.agent:drain(given)
  end
  for i, one in ipairs(self.clients) do
    self._dialling[i]:cancel()
    one:close()
    one:remove_plugin "tunnel.agent"
  end
  self:_over()
  return ok, err
end

return M
