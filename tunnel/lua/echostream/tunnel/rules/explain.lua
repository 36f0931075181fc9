--- Which rule matches a request, and why the others do not: nothing is counted, taken or sent.

local functions = require "echostream.tunnel.rules.functions"
local shadow = require "echostream.tunnel.rules.shadow"

local M = {}

---@class echostream.tunnel.explained_step
---@field rule string
---@field index integer
---@field shadow boolean
---@field matched boolean
---@field field string?   the first condition that fails
---@field wants string?
---@field got string?
---@field says string?    what a rule that matches decides, or that its function left it to the next one, or failed

---@class echostream.tunnel.explanation
---@field request table
---@field steps echostream.tunnel.explained_step[]  up to the rule that decides; shadow rules after it are left out
---@field total integer   rules in the list
---@field rule string?    that decides
---@field outcome string  "group web", "refuse: no rule matches", …
---@field status integer? of the answer when nothing is forwarded
---@field second string?  what the second list would do
---@field group table?    groups:explain()
---@field limits table?   gate:explain()
local Explanation = { __name = "echostream.tunnel.explanation" }
Explanation.__index = Explanation

-- One step: the rule's conditions in order, until one fails.
local function step_of(rule, request)
  local step = { rule = rule.name, index = rule.index, shadow = rule.shadow, matched = false }
  for _, condition in ipairs(rule.conditions) do
    local ok, fits = pcall(condition.test, request) -- some are functions of the user's
    if not ok or not fits then
      step.field, step.wants, step.got = condition.field, condition.wants, ok and condition.got(request) or "it failed: " .. tostring(fits)
      return step, nil, not ok
    end
  end
  local decision, err = functions.decide(rule, request)
  step.matched = decision and true or false
  if err then
    step.says = "its function failed"
  elseif not decision then
    step.says = "its function leaves it to the next rule"
  else
    step.says = shadow.outcome(decision)
  end
  return step, decision, err ~= nil
end

-- A port of kind "tcp" that no rule takes goes to its listener's own group.
local function own_decision(request, listen)
  for _, entry in ipairs(request.kind == "tcp" and listen or {}) do
    local name = entry.name or entry.bind
    if entry.kind == "tcp" and entry.group and (request.listener == name or entry.bind:match ":(%d+)$" == tostring(request.port)) then
      return { rule = { name = "listener " .. name }, group = entry.group, service = entry.service }
    end
  end
end

local function walk(rules, request)
  local steps, decided, failed = {}, nil, false
  for _, rule in ipairs(rules) do
    local step, decision, err = step_of(rule, request)
    steps[#steps + 1] = step
    if not rule.shadow and (decision or err) then
      decided, failed = decision, err
      break
    end
  end
  return steps, decided, failed
end

--- What happens to a request. The functions of rules are called, as they would be.
---@param set echostream.tunnel.rules
---@param request echostream.tunnel.request
---@param state? { groups: echostream.tunnel.groups?, limits: echostream.tunnel.limits?, listen: table[]? }  of a server that runs: who would be
--- picked, and how full it is; `listen`: its listeners, some of which have a group of their own
---@return echostream.tunnel.explanation
function M.explain(set, request, state)
  local rules, second = set:list()
  local steps, decision, failed = walk(rules, request)
  if not failed and not (decision and decision.group) then -- what is no HTTP takes no other answers
    decision = own_decision(request, state and state.listen) or decision
  end
  local report = { steps = steps, total = #rules, request = { kind = request.kind, host = request.host, path = request.path, query = request.query,
    method = request.method, scheme = request.scheme, port = request.port, listener = request.listener, protocol = request.protocol,
    client_ip = request.client_ip, sni = request.sni } }
  report.rule = decision and decision.rule.name or nil
  report.outcome = failed and "refuse: a rule failed" or shadow.outcome(decision)
  if not decision then
    report.status = failed and 500 or 404
  elseif decision.answer then
    report.status = decision.answer(request).status
  end
  if second then
    local _, would, bad = walk(second, request)
    report.second = bad and "refuse: a rule failed" or shadow.outcome(would)
  end
  if decision and state and state.limits then
    report.limits = state.limits:explain(request, decision)
  end
  if decision and decision.group and state and state.groups then
    report.group = state.groups:explain(decision.group, request)
  end
  return setmetatable(report, Explanation)
end

local function line_of(step)
  local name = ("%s%s"):format(step.rule, step.shadow and " (shadow)" or "")
  if step.field then
    return ("  - %s: %s wants %s, got %s"):format(name, step.field, step.wants, step.got)
  end
  return ("  %s %s: %s"):format(step.matched and "+" or "-", name, step.says)
end

--- The explanation as lines for people.
---@return string
function Explanation:text()
  local r = self.request
  local what = r.protocol == "raw" and ("a connection to port %d%s"):format(r.port, r.host ~= "" and " for " .. r.host or "")
    or ("%s %s://%s%s%s"):format(r.method, r.scheme ~= "" and r.scheme or r.kind, r.host, r.path, r.query and "?" .. r.query or "")
  local lines = { ("%s (%s, %s) from %s"):format(what, r.kind, r.protocol, tostring(r.client_ip)), ("rules, of %d:"):format(self.total) }
  local others = 0
  for _, step in ipairs(self.steps) do
    if step.field == "host" and #self.steps > 20 then -- long lists are mostly about others
      others = others + 1
    else
      lines[#lines + 1] = line_of(step)
    end
  end
  if others > 0 then
    lines[#lines + 1] = ("  (%d rules for other hosts)"):format(others)
  end
  lines[#lines + 1] = ("decision: %s%s%s"):format(self.outcome, self.rule and ", by " .. self.rule or "", self.status
    and (" (%d)"):format(self.status) or "")
  if self.second then
    lines[#lines + 1] = ("second list: %s%s"):format(self.second, self.second == self.outcome and "" or "  <- differs")
  end
  for _, limit in ipairs(self.limits or {}) do
    lines[#lines + 1] = ("limit: %s: %s"):format(limit.limit, limit.says)
  end
  if self.group then
    lines[#lines + 1] = ("group %s, %s: %s"):format(self.group.name, self.group.balance, self.group.says)
    for _, member in ipairs(self.group.members) do
      lines[#lines + 1] = ("  %s %s: %s"):format(member.picked and "+" or "-", member.id, member.says)
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

return M
