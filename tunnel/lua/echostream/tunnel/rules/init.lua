--- Rules: one ordered list, of which the first that matches a request decides.
---
---     local rules = require "echostream.tunnel.rules"
---     local set = assert(rules.new {
---       { host = "api.example.org", path = "/v1/*", group = "api", rate = { rate = 50 } },
---       { host = "*.example.org", header = { ["x-canary"] = "yes" }, group = "canary", shadow = true },
---       function(request) return request.method == "GET" and "readers" end,
---       { host = "example.org", redirect = "https://www.example.org${uri}" },
---       { group = "web" },
---     })
---     local decision, err = set:match(request)

local errors = require "echostream.tunnel.errors"
local explain = require "echostream.tunnel.rules.explain"
local file = require "echostream.tunnel.rules.file"
local functions = require "echostream.tunnel.rules.functions"
local log = require "echostream.log"
local loop = require "echostream.loop"
local matcher = require "echostream.tunnel.rules.matcher"
local options = require "echostream.options"
local rule_table = require "echostream.tunnel.rules.table"
local shadow = require "echostream.tunnel.rules.shadow"
local watch = require "echostream.loop.watch"

local M = {}

M.request = require "echostream.tunnel.rules.request"

---@class echostream.tunnel.rules
---@field version integer     grows with each list that is put in place
---@field loaded_at number    seconds, as of loop.now()
---@field last_error echostream.error?  why the last attempt to put another list in place failed; nil: it did not
---@field matched integer     requests that a rule decided
---@field unmatched integer
---@field path string?        the file they are from
---@field failed integer      requests whose rule's function failed
---@field shadows table<string, echostream.tunnel.shadow_counts>  by rule's name; "(none)": the second list had none
local Rules = { __name = "echostream.tunnel.rules" }
Rules.__index = Rules

-- The first rule that decides. Shadow rules on the way: the first of them is noted.
local function walk(one, request, is_shadow_list)
  local candidates = one:candidates(request)
  local noted
  for i = 1, #candidates do
    local rule = candidates[i]
    local shadowed = rule.shadow and not is_shadow_list
    if not (shadowed and noted) then
      local matches, err = functions.matches(rule, request)
      local decision
      if matches then
        decision, err = functions.decide(rule, request)
      end
      if shadowed then
        if decision or err then
          noted = { rule = rule, decision = decision, err = err, list = false }
        end
      elseif err then
        return nil, err, noted, rule
      elseif decision then
        return decision, nil, noted, rule
      end
    end
  end
  return nil, nil, noted
end

--- The decision for a request: the first rule that matches makes it. A list that is put in place meanwhile changes nothing for it.
---@param request echostream.tunnel.request
---@return echostream.tunnel.decision? decision
---@return echostream.error? err  404: no rule matches; 500: a rule's function failed, which is in the log
function Rules:match(request)
  local state = self._state
  local decision, err, noted = walk(state.matcher, request, false)
  if decision then
    self.matched = self.matched + 1
  elseif err then
    self.failed = self.failed + 1
  else
    self.unmatched = self.unmatched + 1
    err = errors.new(404, "no rule is for this request")
  end
  if noted or state.second then
    local does = shadow.outcome(decision, err)
    if noted then
      shadow.note(self.shadows, request, noted, does)
    end
    if state.second then
      local would, why, _, rule = walk(state.second, request, true)
      shadow.note(self.shadows, request, { rule = rule, decision = would, err = why, list = true }, does)
    end
  end
  return decision, err
end

-- The compiled form of a list and of a second one.
local function compile(list, second)
  local rules, err = rule_table.compile(list, "rules")
  if not rules then
    return nil, err
  end
  local others
  if second then
    others, err = rule_table.compile(second, "shadow")
    if not others then
      return nil, err
    end
  end
  return { rules = rules, matcher = matcher.new(rules), second = others and matcher.new(others) or nil, second_rules = others }
end

local function put(self, state)
  self._state = state
  self.version, self.loaded_at, self.last_error, self.shadows = self.version + 1, loop.now(), nil, {}
  return true
end

--- Puts another list in place, at once for all requests that come; those that are under way keep their decision.
---@param list (echostream.tunnel.options.rule|function)[]
---@param second? (echostream.tunnel.options.rule|function)[]  a list that is only compared
---@return true? ok, echostream.error? err  `invalid_argument` ("rules[3].path: …"): the old ones stay
function Rules:replace(list, second)
  local state, err = compile(list, second)
  if not state then
    self.last_error = err
    return nil, err
  end
  return put(self, state)
end

--- Puts the rules of a file in place: Lua or JSON, a list or `{ rules = {…}, shadow = {…} }`.
---@param path string
---@return true? ok, echostream.error? err  "file.lua:12: rules[3].path: …": the old ones stay
function Rules:load(path)
  options.argument("rules:load", "path", path, "string")
  local state, err, used = file.load(path, compile)
  if not state then
    self.last_error = err
    return nil, err
  end
  self.path, self._used = path, used
  if self._watch then
    self._watch:update(used)
  end
  return put(self, state)
end

--- Loads a file now and whenever it changes (or a file that it reads). A bad one is said in the log, and the old rules stay.
---@param path string
---@param fn? fun(ok: true|nil, err: echostream.error?)  told after each attempt but the first
---@return true? ok, echostream.error? err  of the first attempt; it is watched in any case
function Rules:watch(path, fn)
  local ok, err = self:load(path)
  self:stop_watching()
  self._watch = watch.files(self._used or { path }, function()
    local loaded, why = self:load(path)
    if loaded then
      log.write("info", ("rules: %s was loaded again: %d rules"):format(path, #self._state.rules))
    else
      log.write("error", ("rules: %s; the old ones stay"):format(why.message))
    end
    if fn then
      fn(loaded, why)
    end
  end)
  return ok, err
end

--- Looks at its file no more.
function Rules:stop_watching()
  if self._watch then
    self._watch:stop()
    self._watch = nil
  end
end

--- The rules that are in place, in order.
---@return echostream.tunnel.rule[] rules, echostream.tunnel.rule[]? second
function Rules:list()
  return self._state.rules, self._state.second_rules
end

--- Makes a set of rules.
---@param list (echostream.tunnel.options.rule|function)[]
---@param second? (echostream.tunnel.options.rule|function)[]  a list that is compared, counted and logged, but not followed
---@return echostream.tunnel.rules? set, echostream.error? err  `invalid_argument`, its `field` the name of the field
function M.new(list, second)
  local state, err = compile(list, second)
  if not state then
    return nil, err
  end
  local self = setmetatable({ version = 0, matched = 0, unmatched = 0, failed = 0, shadows = {} }, Rules)
  put(self, state)
  return self
end

--- What happens to a request, step by step: see explain.lua.
M.explain = explain.explain

--- Checks what a user gave as a list of rules.
---@param list any
---@param field? string
---@return true? ok, echostream.error? err
function M.check(list, field)
  local rules, err = rule_table.compile(list, field)
  return rules and true, err
end

return M
