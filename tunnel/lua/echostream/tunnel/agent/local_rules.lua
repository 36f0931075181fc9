--- The agent's own rules, in the form of the server's: they choose among the agent's services, rewrite, set fields, or answer. What no rule
--- matches goes where the server sent it. Limits, rates and authentication are the server's business; rules here may not have them.

local errors = require "echostream.tunnel.errors"
local rules = require "echostream.tunnel.rules"

local M = {}

-- Fields of rules that nobody would look at here.
local servers_own = { limits = true, rate = true, auth = true, max_body = true, bandwidth = true, allow = true, deny = true }

--- Makes the set. A path is watched: a good file replaces the rules at once, a bad one leaves them.
---@param given table|string  a list, or the path of a file
---@return echostream.tunnel.rules? set, string? why
function M.new(given)
  local list = type(given) == "table" and given or {}
  for i, rule in ipairs(list) do
    for name in pairs(type(rule) == "table" and rule or {}) do
      if servers_own[name] then
        return nil, ("rules[%d].%s: is for rules of the server"):format(i, name)
      end
    end
  end
  local set, err = rules.new(list)
  if set and type(given) == "string" then
    local ok
    ok, err = set:watch(given)
    if not ok then
      set:stop_watching()
      return nil, err.message
    end
  elseif not set then
    return nil, err.message
  end
  return set
end

-- Who asked: the last hop is the one that the server itself has seen.
local function visitor_of(head, session)
  local hops = head:get "x-forwarded-for"
  return hops and hops:match "([^,%s]+)%s*$" or session.peer_addr:match "^%[?(.-)%]?:%d+$" or session.peer_addr
end

--- What the rules say of a request.
---@param set echostream.tunnel.rules
---@param head echostream.tunnel.head
---@param session echostream.session
---@return echostream.tunnel.decision? decision  nil: none matches
---@return echostream.tunnel.request|echostream.error|nil request_or_err
function M.judge(set, head, session)
  local request, err = rules.request.new(head, { peer_ip = visitor_of(head, session), protocol = "h2" })
  if not request then
    return nil, err
  end
  local decision
  decision, err = set:match(request)
  if not decision then
    return nil, errors.status(err) ~= 404 and err or nil
  end
  if decision.rewrite and not decision.answer then
    local ok
    ok, err = decision.rewrite(request)
    if not ok then
      return nil, err
    end
  end
  return decision, request
end

return M
