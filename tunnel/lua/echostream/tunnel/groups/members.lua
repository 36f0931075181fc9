--- One group: who is in it, how they are, and who may be chosen.

local balance = require "echostream.tunnel.groups.balance"
local log = require "echostream.log"
local loop = require "echostream.loop"

local M = {}

local LONGEST <const> = 300 -- seconds that a member is left out at most

---@class echostream.tunnel.group
---@field name string
---@field nodes echostream.tunnel.node[]
local Group = { __name = "echostream.tunnel.group" }
Group.__index = Group

-- What the policies are made of is looked at again before the next choice.
local function stir(self)
  self._fit, self._any, self._tokens = nil, nil, nil
end

local function services_of(member)
  if not member.services then
    return nil
  end
  local set = {}
  for _, service in ipairs(member.services) do
    set[type(service) == "table" and service.name or service] = true
  end
  return set
end

--- A member comes. Its `weight` counts (default: 1); 0: it is chosen by nobody.
---@param member table
---@return echostream.tunnel.node
function Group:add(member)
  local id = tostring(member.id)
  local node = { member = member, id = id, weight = member.weight or 1, in_flight = 0, load = 0, seed = balance.hash(id), turn = 0, picks = 0,
    failures = 0, ejections = 0, services = services_of(member), draining = false, sick = false, ejected = false, group = self }
  node.token = self.options.sticky and self.options.sticky:token(self.name, id) or nil
  self.nodes[#self.nodes + 1] = node
  stir(self)
  return node
end

--- A member goes. What it has in flight is finished elsewhere.
---@param node echostream.tunnel.node
function Group:remove(node)
  for i, one in ipairs(self.nodes) do
    if one == node then
      table.remove(self.nodes, i)
      stir(self)
      return
    end
  end
end

--- Changes what is known of a member.
---@param node echostream.tunnel.node
---@param what "weight"|"draining"|"sick"  sick: false, or why
---@param value any
function Group:set(node, what, value)
  if node[what] ~= value then
    node[what] = value
    if what == "weight" then
      node.load = value > 0 and node.in_flight / value or 0
    end
    stir(self)
  end
end

--- How an attempt with a member ended. After `options.failures` that failed, one after the other, it is left out for a while, twice as
--- long each time.
---@param node echostream.tunnel.node
---@param ok boolean
function Group:note(node, ok)
  local options = self.options
  if ok then
    node.failures, node.ejections = 0, 0
    return
  end
  node.failures = node.failures + 1
  if options.failures and node.failures >= options.failures and not node.ejected then
    local seconds = math.min(LONGEST, options.eject * 2 ^ node.ejections)
    node.ejected, node.ejections, node.failures = loop.now() + seconds, node.ejections + 1, 0
    self._returns = math.min(self._returns or math.huge, node.ejected)
    log.write("warn", ("the group %s leaves out %s for %g s: %d failures, one after the other"):format(self.name, node.id, seconds,
      options.failures))
    stir(self)
  end
end

-- Those whose time is over are tried again.
local function take_back(self)
  local now, soonest = loop.now(), nil
  for _, node in ipairs(self.nodes) do
    if node.ejected and node.ejected <= now then
      node.ejected = false
      stir(self)
    elseif node.ejected and (not soonest or node.ejected < soonest) then
      soonest = node.ejected
    end
  end
  self._returns = soonest
end

-- Why a node is not chosen; nil: it may be.
local function fault(node)
  return node.draining and "it drains" or node.weight <= 0 and "its weight is 0" or node.sick and "it is unhealthy: " .. node.sick
    or node.ejected and ("it failed, and is left out for %.0f s"):format(math.max(0, node.ejected - loop.now())) or nil
end

local function is_fit(node)
  return not (node.draining or node.weight <= 0 or node.sick or node.ejected)
end

local function is_there(node)
  return not node.draining and node.weight > 0
end

local function policy_of(self, fits)
  local nodes = {}
  for _, node in ipairs(self.nodes) do
    if fits(node) then
      nodes[#nodes + 1] = node
    end
  end
  return nodes[1] and balance.new(self.options.balance, nodes, self.options.key) or false
end

--- A policy of those that are well; or, in a panic, of all that do not drain. False: there are none.
---@param panic boolean
---@return table|false
function Group:policy(panic)
  if self._returns and loop.now() >= self._returns then
    take_back(self)
  end
  if panic then
    if self._any == nil then
      self._any = policy_of(self, is_there)
    end
    return self._any
  end
  if self._fit == nil then
    self._fit = policy_of(self, is_fit)
    if self._fit and self._panics then
      self._panics = false
      log.write("info", ("the group %s has a healthy agent again"):format(self.name))
    end
  end
  return self._fit
end

--- Says once that nobody is well and everybody is tried.
function Group:panic()
  if not self._panics then
    self._panics = true
    log.write("warn", ("no agent of the group %s is healthy: requests go to all of them"):format(self.name))
  end
end

--- Requests of a member in flight: so many more.
---@param node echostream.tunnel.node
---@param n integer
function Group:count(node, n)
  node.in_flight = node.in_flight + n
  node.load = node.weight > 0 and node.in_flight / node.weight or 0
  if self._fit then
    self._fit.changed(node)
  end
  if self._any then
    self._any.changed(node)
  end
end

--- The node that a cookie stands for, when it may be chosen.
---@param token string
---@return echostream.tunnel.node?
function Group:by_token(token)
  local tokens = self._tokens
  if not tokens then
    tokens = {}
    for _, node in ipairs(self.nodes) do
      tokens[node.token or false] = node
    end
    self._tokens = tokens
  end
  local node = tokens[token]
  return node and is_fit(node) and node or nil
end

--- What is known of each member, for `explain` and status.
---@return { node: echostream.tunnel.node, fault: string? }[]
function Group:list()
  local list = {}
  for i, node in ipairs(self.nodes) do
    list[i] = { node = node, fault = fault(node) }
  end
  return list
end

--- Puts other options in place. Members stay, with what is known of them.
---@param options table
function Group:configure(options)
  self.options = options
  for _, node in ipairs(self.nodes) do
    node.token = options.sticky and options.sticky:token(self.name, node.id) or nil
  end
  stir(self)
end

--- Makes an empty one.
---@param name string
---@param options table  of groups.new, compiled
---@return echostream.tunnel.group
function M.new(name, options)
  return setmetatable({ name = name, nodes = {}, options = options, _panics = false }, Group)
end

return M
