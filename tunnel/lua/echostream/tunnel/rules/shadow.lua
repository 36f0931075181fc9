--- Rules that are tried on live traffic without being followed: what they would have done is counted, and said where it differs.

local log = require "echostream.log"

local M = {}

---@class echostream.tunnel.shadow_verdict  in `request.shadowed`
---@field rule string?   the shadow rule that matched first; nil: none of the second list
---@field list boolean   it is of the second list
---@field would string   "group web", "redirect or response of its own", "refuse: no rule matches"
---@field does string
---@field differs boolean

---@class echostream.tunnel.shadow_counts
---@field matched integer
---@field differed integer
---@field failed integer  its function raised an error

--- What a decision comes to, in words.
---@param decision echostream.tunnel.decision?
---@param err echostream.error?
---@return string
function M.outcome(decision, err)
  if not decision then
    return err and err.http_status == 500 and "refuse: a rule failed" or "refuse: no rule matches"
  elseif decision.answer then
    return "an answer of the rule " .. decision.rule.name
  end
  return "group " .. decision.group .. (decision.service and " service " .. decision.service or "")
end

local function counts_of(counts, name)
  local one = counts[name]
  if not one then
    one = { matched = 0, differed = 0, failed = 0 }
    counts[name] = one
  end
  return one
end

--- Notes what a shadow rule (or the second list) would have done.
---@param counts table<string, echostream.tunnel.shadow_counts>
---@param request echostream.tunnel.request
---@param noted { rule: echostream.tunnel.rule?, decision: echostream.tunnel.decision?, err: echostream.error?, list: boolean }
---@param does string  what is done indeed
function M.note(counts, request, noted, does)
  local name = noted.rule and noted.rule.name
  local one = counts_of(counts, name or "(none)")
  local would = M.outcome(noted.decision, noted.err)
  local differs = would ~= does
  one.matched = one.matched + 1
  if noted.err and noted.err.http_status == 500 then
    one.failed = one.failed + 1
  end
  if differs then
    one.differed = one.differed + 1
    log.write("info", ("shadow: %s would: %s; done: %s"):format(name and "the rule " .. name or "the second list", would, does),
      { method = request.host .. request.path })
  end
  local list = request.shadowed or {}
  request.shadowed = list
  list[#list + 1] = { rule = name, list = noted.list, would = would, does = does, differs = differs }
end

return M
