--- Functions of the user's in rules: an error in one of them is the request's, 500 and a line in the log with the rule's name.

local errors = require "echostream.tunnel.errors"
local log = require "echostream.log"
local show = require("echostream.errors").show
local rule_table = require "echostream.tunnel.rules.table"

local M = {}

local function failed(rule, what, raised)
  log.write("error", ("the %s of the rule %s failed: %s"):format(what, rule.name, tostring(raised):match "^[^\n]*"),
    { traceback = tostring(raised) })
  return nil, errors.new(500, "a rule failed", { rule = rule.name })
end

--- Whether a rule matches a request (whose host fits).
---@param rule echostream.tunnel.rule
---@param request echostream.tunnel.request
---@return boolean? matches, echostream.error? err  nil: its function failed
function M.matches(rule, request)
  local tests = rule.tests
  local n = #tests
  if not rule.user_test then
    for i = 1, n do
      if not tests[i](request) then
        return false
      end
    end
    return true
  end
  for i = 1, n - 1 do
    if not tests[i](request) then
      return false
    end
  end
  local ok, result = xpcall(tests[n], debug.traceback, request)
  if not ok then
    return failed(rule, "function when", result)
  end
  return result and true or false
end

--- What a rule that matches says is to be done.
---@param rule echostream.tunnel.rule
---@param request echostream.tunnel.request
---@return echostream.tunnel.decision|false|nil decision  false: its function wants the next rule; nil: it failed
---@return echostream.error? err
function M.decide(rule, request)
  if rule.decision then
    return rule.decision
  end
  local ok, fields = xpcall(rule.decide, debug.traceback, request)
  if not ok then
    return failed(rule, "function", fields)
  elseif not fields then
    return false
  elseif type(fields) ~= "table" and type(fields) ~= "string" then
    return failed(rule, "function", "it returned " .. show(fields))
  end
  local by_group = rule.by_group -- functions that return names of groups get the same decision for the same name
  if type(fields) == "string" and by_group and by_group[fields] then
    return by_group[fields]
  end
  local decision, err = rule_table.decision(rule, fields)
  if not decision then
    return failed(rule, "function", err.message)
  end
  if type(fields) == "string" then
    if not by_group or rule.n_groups >= 1000 then
      rule.by_group, rule.n_groups = {}, 0
    end
    rule.by_group[fields], rule.n_groups = decision, rule.n_groups + 1
  end
  return decision
end

return M
