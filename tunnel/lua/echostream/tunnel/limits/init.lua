--- What stands before a group: addresses, rates, credentials, and how much may be in flight. One gate for a server; rules say more of it.
---
---     local gate = assert(limits.new { global = { requests = 10000 }, visitor = { requests = 100 }, rate = { rate = 200 } })
---     local slot, err = gate:admit(request, decision)     -- 403, 429, 401 or 503 with Retry-After
---     …
---     slot:release()

local addresses = require "echostream.tunnel.limits.addresses"
local bandwidth = require "echostream.tunnel.limits.bandwidth"
local buckets = require "echostream.tunnel.limits.buckets"
local check = require "echostream.tunnel.rules.check"
local in_flight = require "echostream.tunnel.limits.in_flight"
local keys = require "echostream.tunnel.limits.keys"
local loop = require "echostream.loop"
local rate = require "echostream.tunnel.limits.rate"

local M = {}

---@class echostream.tunnel.options.limits
---@field global? { requests: integer?, bytes: integer? }   in flight, all together
---@field visitor? { requests: integer?, bytes: integer? }  of each address (IPv6: /64)
---@field group? { requests: integer?, bytes: integer? }    of each group
---@field groups? table<string, { requests: integer?, bytes: integer? }>  of some groups, instead
---@field rate? echostream.tunnel.options.rate  for everything
---@field addresses? { allow: string|string[]?, deny: string|string[]? }  for everything
---@field retry_after? number  seconds that a 503 names (default: 1)
---@field max_keys? integer    keys of rates and bandwidths that are remembered (default: 100,000)

local pair = { type = "table", fields = { requests = { type = "integer", min = 1 }, bytes = { type = "integer", min = 1 } } }
local schema = {
  global = pair,
  visitor = pair,
  group = pair,
  groups = { type = "table" },
  rate = { type = "table" },
  addresses = { type = "table", fields = { allow = { type = { "string", "table" } }, deny = { type = { "string", "table" } } } },
  retry_after = { type = "seconds", default = 1 },
  max_keys = { type = "integer", min = 2, max = 1 << 26, default = 100000 },
}

---@class echostream.tunnel.limits
---@field refused table<string, integer>  by limit's name, of limits that are not a rule's or a group's; those are counted as "rule …" and
--- "group …"
local Gate = { __name = "echostream.tunnel.limits" }
Gate.__index = Gate

---@class echostream.tunnel.slot
---@field private _bytes integer
local Slot = { __name = "echostream.tunnel.slot" }
Slot.__index = Slot

local function group_limits(self, group)
  return self._groups[group] or self._group
end

-- What all requests of a decision count for, whoever they are of.
local function plan_of(self, decision)
  local plan, own, name = {}, decision.limits, decision.rule and decision.rule.name or ""
  local function want(key, what, limit)
    if limit then
      plan[#plan + 1] = { key = key, name = what, requests = limit.requests, bytes = limit.bytes }
    end
  end
  want("global", "global", self._global)
  if decision.group then
    want("group\0" .. decision.group, "group " .. decision.group, group_limits(self, decision.group))
  end
  if own and (own.requests or own.bytes) then
    want("rule\0" .. name, "rule " .. name, own)
  end
  plan.visitor = self._visitor or nil
  plan.per_visitor = own and own.per_visitor
  self._plans[decision] = plan
  return plan
end

-- The counters that a request counts for.
local function wanted_of(self, request, decision)
  local plan = self._plans[decision] or plan_of(self, decision)
  local visitor, own = plan.visitor, plan.per_visitor
  if not visitor and not own then
    return plan
  end
  local list = table.move(plan, 1, #plan, 1, {})
  local key = keys.address(request.client_ip)
  if visitor then
    list[#list + 1] = { key = key, name = "visitor", requests = visitor.requests, bytes = visitor.bytes }
  end
  if own then
    local name = decision.rule.name
    list[#list + 1] = { key = "both\0" .. name .. "\0" .. key, name = "rule " .. name .. " visitor", requests = own }
  end
  return list
end

local function own_buckets()
  return buckets.new(2)
end

-- Addresses, rates, credentials: what takes nothing that is to be given back.
local function judge(self, request, decision)
  local now = loop.now()
  local ok, err = true, nil
  if self._addresses then
    ok, err = self._addresses:judge(request.client_ip)
  end
  if ok and decision.addresses then
    ok, err = decision.addresses:judge(request.client_ip)
  end
  if not ok then
    return nil, err
  end
  if self._rate then
    ok, err = self._rate:take(self._buckets, "global", request, now)
    if not ok then
      return nil, err
    end
  end
  -- A limit per user wants to know who it is; others come before credentials are looked at, for guessing is what they are against.
  local by_user = decision.rate and decision.rate.per == "user" and decision.auth
  if decision.rate and not by_user then
    ok, err = decision.rate:take(self._buckets, "rule " .. decision.rule.name, request, now)
    if not ok then
      return nil, err
    end
  end
  if decision.auth then
    ok, err = decision.auth:check(request)
    if not ok then
      return nil, err
    end
  end
  if by_user then
    return decision.rate:take(self._buckets, "rule " .. decision.rule.name, request, loop.now())
  end
  return true
end

local function refuse(self, err)
  local name = err.limit or "error"
  self.refused[name] = (self.refused[name] or 0) + 1
  return nil, err
end

--- Lets a request in, or says why not. May wait, where a rule's `verify` does.
---@param request echostream.tunnel.request
---@param decision echostream.tunnel.decision
---@return echostream.tunnel.slot? slot  to be released when the exchange is over, however it ends
---@return echostream.error? err  403, 429, 401, 503: its `limit` names which, its `retry_after` says when
function Gate:admit(request, decision)
  local taken, err = true, nil
  if self._addresses or self._rate or decision.addresses or decision.rate or decision.auth then
    taken, err = judge(self, request, decision)
  end
  local pacer
  if taken and decision.bandwidth then -- before anything is counted: a function of the user's may fail in it
    pacer = bandwidth.pacer(decision.bandwidth, self._buckets, own_buckets, "rule " .. decision.rule.name, request)
  end
  if taken then
    taken, err = self._counters:take(wanted_of(self, request, decision), self._retry_after)
  end
  if not taken then
    return refuse(self, err)
  end
  self.admitted, self.in_flight = self.admitted + 1, self.in_flight + 1
  return setmetatable({ _gate = self, _taken = taken, _bytes = 0, _pacer = pacer }, Slot)
end

--- Counts bytes of the exchange that came into flight, or (negative) left it.
---@param n integer
---@return true? ok, echostream.error? err  503: a limit of bytes is reached; nothing was counted
function Slot:bytes(n)
  local gate = self._gate
  if not self._taken then
    return true
  end
  if n < -self._bytes then
    n = -self._bytes
  end
  local ok, err = gate._counters:add(self._taken, n, gate._retry_after)
  if not ok then
    return refuse(gate, err)
  end
  self._bytes = self._bytes + n
  return true
end

--- Tells that bytes pass.
---@param direction "in"|"out"  from, or to the visitor
---@param n integer
---@return number wait  seconds before more of this direction may pass; 0: at once
function Slot:pace(direction, n)
  return self._pacer and self._pacer:pass(direction, n, loop.now()) or 0
end

--- Whether `pace` has anything to say.
---@return boolean
function Slot:paced()
  return self._pacer ~= nil
end

--- Gives everything back. Harmless twice.
function Slot:release()
  local taken = self._taken
  if taken then
    self._taken = nil
    self._gate._counters:give(taken, self._bytes)
    self._gate.in_flight = self._gate.in_flight - 1
  end
end
Slot.__close = Slot.release
Slot.__gc = Slot.release -- who forgets a slot loses it until the collector comes by, not for ever

--- How full what a request would count for is: `{ limit, says }`, in order.
---@param request echostream.tunnel.request
---@param decision echostream.tunnel.decision
---@return { limit: string, says: string }[]
function Gate:explain(request, decision)
  local list = {}
  local function put(limit, ...)
    list[#list + 1] = { limit = limit, says = (...):format(select(2, ...)) }
  end
  for _, one in ipairs { { "addresses", self._addresses }, { "addresses of the rule", decision.addresses } } do
    if one[2] then
      local _, _, why = one[2]:judge(request.client_ip)
      put(one[1], "%s", why)
    end
  end
  local function tell_rate(scope, spec)
    local key = spec and spec.key(request)
    if key then
      local level = self._buckets:level(scope .. "\0" .. key, spec.rate, spec.burst, loop.now())
      put(scope .. " rate", "%.1f of %g requests left, %g a second", level, spec.burst, spec.rate)
    end
  end
  tell_rate("global", self._rate)
  tell_rate("rule " .. (decision.rule and decision.rule.name or ""), decision.rate)
  if decision.auth then
    put("auth", "credentials are asked for")
  end
  for _, want in ipairs(wanted_of(self, request, decision)) do
    local counts = self._counters:of(want.key)
    if want.requests then
      put(want.name .. " requests", "%d of %d in flight", counts.requests, want.requests)
    end
    if want.bytes then
      put(want.name .. " bytes", "%d of %d in flight", counts.bytes, want.bytes)
    end
  end
  return list
end

-- The settings that options make.
local function settings(opts, field)
  local checked = check.table(field, opts or {}, schema)
  local made = { _global = checked.global, _visitor = checked.visitor, _group = checked.group, _groups = {}, _retry_after = checked.retry_after,
    _max_keys = checked.max_keys, _plans = setmetatable({}, { __mode = "k" }) }
  for name, limit in pairs(checked.groups or {}) do
    made._groups[name] = check.table(("%s.groups.%s"):format(field, tostring(name)), limit, pair.fields)
  end
  made._rate = checked.rate and rate.compile(field .. ".rate", checked.rate) or false
  made._addresses = false
  if checked.addresses then
    local lists = {}
    for name, list in pairs(checked.addresses) do
      lists[name] = type(list) == "table" and #list == 0 and {} or check.strings(("%s.addresses.%s"):format(field, name), list)
    end
    made._addresses = check.made(field .. ".addresses", addresses.policy, lists)
  end
  made._global, made._visitor, made._group = made._global or false, made._visitor or false, made._group or false
  return made
end

--- Puts other limits in place: for requests that come. What is in flight, and what was used of rates, counts on.
---@param opts echostream.tunnel.options.limits
---@param field? string
---@return true? ok, echostream.error? err  `invalid_argument`: the old ones stay
function Gate:replace(opts, field)
  local made, err = check.try(settings, opts, field or "limits")
  if not made then
    return nil, err
  end
  if made._max_keys ~= self._max_keys then
    self._buckets = buckets.new(made._max_keys)
  end
  for name, value in pairs(made) do
    self[name] = value
  end
  return true
end

--- Makes a gate. What is not said has no limit.
---@param opts? echostream.tunnel.options.limits
---@param field? string  how the options are called in errors (default: "limits")
---@return echostream.tunnel.limits? gate, echostream.error? err  `invalid_argument`, its `field` the name of the field
function M.new(opts, field)
  local self = setmetatable({ admitted = 0, in_flight = 0, refused = {}, _counters = in_flight.new() }, Gate)
  local ok, err = self:replace(opts or {}, field)
  if not ok then
    return nil, err
  end
  return self
end

return M
