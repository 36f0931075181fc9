--- Groups: agents that serve the same, of which one is picked for each exchange. The registry says who comes and goes.
---
---     local groups = assert(groups.new { groups = { web = { balance = "least_in_flight", sticky = true, failover = { "spare" } } } })
---     groups:add { group = "web", id = "agent-1", session = session }
---     local member, info = groups:pick("web", request, tried)
---     groups:begin(member) … groups:finish(member, ok)

local balance = require "echostream.tunnel.groups.balance"
local check = require "echostream.tunnel.rules.check"
local core = require "echostream.core"
local echo_errors = require "echostream.errors"
local errors = require "echostream.tunnel.errors"
local keys = require "echostream.tunnel.limits.keys"
local members = require "echostream.tunnel.groups.members"
local sticky = require "echostream.tunnel.groups.sticky"

local M = {}

---@class echostream.tunnel.options.groups
---@field default? echostream.tunnel.options.group  of groups that are not named
---@field groups? table<string, echostream.tunnel.options.group>
---@field secret? string  of sticky cookies: the same on all servers, so that they understand each other's (default: chance)

---@class echostream.tunnel.options.group
---@field balance? "round_robin"|"least_in_flight"|"two_choices"|"random"|"hash"  each by weight (default: "round_robin")
---@field by? string|fun(request: echostream.tunnel.request): string?  what "hash" is of: "visitor", "user", "host", "header:NAME",
--- "cookie:NAME" or a function (default: "visitor")
---@field sticky? boolean|echostream.tunnel.options.sticky  visitors stay with their agent, by a cookie (default: false)
---@field failover? string[]      groups that are asked, in order, when nobody of this one is well
---@field max_in_flight? integer  requests of one agent at a time; when all have so many: 503
---@field failures? integer|false attempts that fail one after the other before an agent is left out for a while; false: never (default: 5)
---@field eject? number           seconds that it is left out the first time, twice as long each time after that, at most 300 (default: 10)
---@field panic? boolean          when nobody is well everybody is tried (default: true)

local group_schema = {
  balance = { type = "string", one_of = balance.names, default = "round_robin" },
  by = { type = { "string", "function" }, default = "visitor" },
  sticky = { type = { "boolean", "table" } },
  failover = { type = "strings" },
  max_in_flight = { type = "integer", min = 1 },
  failures = { type = { "integer", "boolean" }, min = 1, default = 5 },
  eject = { type = "seconds", default = 10 },
  panic = { type = "boolean", default = true },
}
local schema = {
  default = { type = "table" },
  groups = { type = "table" },
  secret = { type = "string" },
}

---@class echostream.tunnel.groups
local Groups = { __name = "echostream.tunnel.groups" }
Groups.__index = Groups

local function compile_group(field, given, secret)
  local checked = check.table(field, given, group_schema)
  local cookie = type(checked.by) == "string" and checked.by:match "^cookie:([%w!#$%%&'*+%-.^_`|~]+)$"
  if cookie then
    checked.key = function(request)
      local value = sticky.shown(request, cookie)
      return value and "=" .. value or keys.address(request.client_ip)
    end
  else
    checked.key = keys.compile(field .. ".by", checked.by)
  end
  checked.sticky = checked.sticky and sticky.compile(field .. ".sticky", checked.sticky, secret) or nil
  if checked.failures == true then
    checked.failures = group_schema.failures.default
  end
  return checked
end

local function group_of(self, name)
  local group = self._groups[name]
  if not group then
    group = members.new(name, self._options[name] or self._default)
    self._groups[name] = group
  end
  return group
end

-- Members ---------------------------------------------------------------------------------------------------------

--- A member comes: any table with `group`, `id` and what there is of `weight` (default: 1) and `services`.
---@param member table
function Groups:add(member)
  self:remove(member)
  self._nodes[member] = group_of(self, member.group):add(member)
end

--- A member goes. Harmless twice.
---@param member table
function Groups:remove(member)
  local node = self._nodes[member]
  if node and not node.gone then
    node.gone = true -- it stays known until what it has in flight is finished
    node.group:remove(node)
    if #node.group.nodes == 0 then -- names may be agents'
      self._groups[node.group.name] = nil
    end
  end
end

--- A member gets nothing new; what it has in flight goes on.
---@param member table
---@param draining? boolean  false: it does get new ones again (default: true)
function Groups:drain(member, draining)
  local node = self._nodes[member]
  if node then
    node.group:set(node, "draining", draining ~= false)
  end
end

--- Changes a member's weight.
---@param member table
---@param weight number  0: nothing new
function Groups:set_weight(member, weight)
  local node = self._nodes[member]
  if node then
    node.group:set(node, "weight", weight)
  end
end

--- What a member says of its health.
---@param member table
---@param ok boolean
---@param why? string
function Groups:health(member, ok, why)
  local node = self._nodes[member]
  if node then
    node.group:set(node, "sick", not ok and (why or "it says so"))
  end
end

--- An attempt with a member begins.
---@param member table
function Groups:begin(member)
  local node = self._nodes[member]
  if node then
    node.group:count(node, 1)
  end
end

--- It is over: once for each `begin`.
---@param member table
---@param ok? boolean  true: the member did what it is there for; false: it failed (no stream, no answer, cut); nil: nobody can tell
function Groups:finish(member, ok)
  local node = self._nodes[member]
  if node then
    node.group:count(node, -1)
    if ok ~= nil then
      node.group:note(node, ok)
    end
  end
end

--- What a member has in flight.
---@param member table
---@return integer
function Groups:in_flight(member)
  local node = self._nodes[member]
  return node and node.in_flight or 0
end

-- Picking ---------------------------------------------------------------------------------------------------------

local nothing = setmetatable({}, { __newindex = function()
  error "the info of a pick is not to be written"
end })

-- One of a group; nil: none that may be taken. With the cookie to set, when it is a new one.
local function choose(group, request, usable, panic, peek)
  local policy = group:policy(panic)
  if not policy then
    return nil
  end
  local keep = group.options.sticky
  if not keep then
    return policy.choose(request, usable, peek)
  end
  local token = keep:shown(request)
  local node = token and group:by_token(token)
  if node and usable(node) then
    return node
  end
  node = policy.choose(request, usable, peek)
  return node, node and node.token ~= token and keep:cookie(request, node.token) or nil
end

local function any()
  return true
end

-- fn(node): whether it may be taken, as far as it is about this request.
local function usable_of(group, tried, service)
  local most = group.options.max_in_flight
  if not most and not service and (not tried or next(tried) == nil) then
    return any
  end
  return function(node)
    return not (most and node.in_flight >= most) and not (tried and tried[node.member])
      and not (service and node.services and not node.services[service])
  end
end

local function refusal(self, name)
  local group = self._groups[name]
  local most = group and group.options.max_in_flight
  for _, node in ipairs(most and group.nodes or {}) do
    if node.in_flight >= most and not node.draining then
      return errors.new(503, ("the agents of the group %s have all that they may have in flight"):format(name), { retry_after = 1,
        limit = "agent requests" })
    end
  end
  return errors.new(503, ("the group %s has no agent for this now"):format(name), { retry_after = 1 })
end

-- The first of the groups that has somebody.
local function from(self, names, request, tried, service, panic, peek)
  for i, name in ipairs(names) do
    local group = self._groups[name]
    if group and (not panic or group.options.panic) then
      local node, cookie = choose(group, request, usable_of(group, tried, service), panic, peek)
      if node then
        if panic and not peek and not group:policy(false) then
          group:panic()
        end
        local other = i > 1 and name or nil
        local all_well = not panic and not other and not cookie
        return node.member, all_well and nothing or { cookie = cookie, group = other, panic = panic or nil }
      end
    end
  end
end

local function pick(self, name, request, tried, service, peek)
  local options = self._options[name] or self._default
  local names = { name }
  if options.failover then
    table.move(options.failover, 1, #options.failover, 2, names)
  end
  local member, info = from(self, names, request, tried, service, false, peek)
  if not member then
    member, info = from(self, names, request, tried, service, true, peek)
  end
  if not member then
    return nil, refusal(self, name)
  end
  return member, info
end

--- Picks a member for a request.
---@param name string
---@param request echostream.tunnel.request
---@param tried? table<table, any>  members that are not to be picked: those that failed
---@param service? string  members that name their services, and not this one, are not picked
---@return table? member
---@return { cookie: string?, group: string?, panic: boolean? }|echostream.error info  `cookie`: the value of a Set-Cookie field for the
--- response; `group`: of the failover order, when it is another one; `panic`: nobody is well. Or the error, 503
function Groups:pick(name, request, tried, service)
  return pick(self, name, request, tried, service, false)
end

--- Who is in a group, and who would be picked. Nothing is counted.
---@param name string
---@param request? echostream.tunnel.request
---@return { name: string, balance: string, says: string, members: { id: string, weight: number, in_flight: integer, picked: boolean, says:
--- string }[] }
function Groups:explain(name, request)
  local group = self._groups[name]
  local options = self._options[name] or self._default
  local report = { name = name, balance = options.balance, members = {} }
  local picked, info
  if request then
    picked, info = pick(self, name, request, nil, nil, true)
  end
  for i, one in ipairs(group and group:list() or {}) do
    local node = one.node
    local chosen = node.member == picked
    report.members[i] = { id = node.id, weight = node.weight, in_flight = node.in_flight, picked = chosen,
      says = ("%s, weight %g, %d in flight"):format(one.fault or "well", node.weight, node.in_flight) }
  end
  if picked then
    report.says = (info.panic and "nobody is well; " or "") .. ("%s would be picked%s"):format(tostring(picked.id),
      info.group and " of the group " .. info.group or "")
  else
    report.says = request and info.message or ("%d members"):format(#report.members)
  end
  return report
end

--- The names of the groups that have members, sorted; or the members of one.
---@param name? string
---@return table[] names_or_members
function Groups:list(name)
  local list = {}
  if name then
    for i, node in ipairs(self._groups[name] and self._groups[name].nodes or {}) do
      list[i] = node.member
    end
    return list
  end
  for one in pairs(self._groups) do
    list[#list + 1] = one
  end
  table.sort(list)
  return list
end

--- What is known of a member; nil: it is in no group.
---@param member table
---@return { weight: number, in_flight: integer, healthy: boolean, draining: boolean, fault: string? }?
function Groups:state(member)
  local node = self._nodes[member]
  if not node or node.gone then
    return nil
  end
  for _, one in ipairs(node.group:list()) do
    if one.node == node then
      return { weight = node.weight, in_flight = node.in_flight, healthy = not node.sick and not node.ejected, draining = node.draining,
        fault = one.fault }
    end
  end
end

-- Options ---------------------------------------------------------------------------------------------------------

local function settings(opts, field, secret)
  local checked = check.table(field, opts or {}, schema)
  secret = checked.secret or secret
  local made = { _secret = secret, _options = {}, _default = compile_group(field .. ".default", checked.default or {}, secret) }
  for name, given in pairs(checked.groups or {}) do
    if type(name) ~= "string" then
      check.fail(field .. ".groups", "wants groups by name, got %s", echo_errors.show(name))
    end
    made._options[name] = compile_group(field .. ".groups." .. name, given, secret)
  end
  return made
end

--- Puts other options in place. Members stay, with what is known of them.
---@param opts echostream.tunnel.options.groups
---@param field? string
---@return true? ok, echostream.error? err  `invalid_argument`: the old ones stay
function Groups:replace(opts, field)
  local made, err = check.try(settings, opts, field or "groups", self._secret)
  if not made then
    return nil, err
  end
  for name, value in pairs(made) do
    self[name] = value
  end
  for name, group in pairs(self._groups) do
    group:configure(self._options[name] or self._default)
  end
  return true
end

--- Makes groups, without members.
---@param opts? echostream.tunnel.options.groups
---@param field? string  how the options are called in errors (default: "groups")
---@return echostream.tunnel.groups? groups, echostream.error? err  `invalid_argument`, its `field` the name of the field
function M.new(opts, field)
  local self = setmetatable({ _groups = {}, _nodes = setmetatable({}, { __mode = "k" }), _secret = core.random(32) }, Groups)
  local ok, err = self:replace(opts or {}, field)
  if not ok then
    return nil, err
  end
  return self
end

return M
