--- Compiles a list of rules: each is a table of conditions and what is to be done, or a function that decides.

local addresses = require "echostream.tunnel.limits.addresses"
local auth = require "echostream.tunnel.limits.auth"
local bandwidth = require "echostream.tunnel.limits.bandwidth"
local check = require "echostream.tunnel.rules.check"
local conditions = require "echostream.tunnel.rules.conditions"
local core = require "echostream.tunnel.core"
local errors = require "echostream.tunnel.errors"
local rate = require "echostream.tunnel.limits.rate"
local rewrite = require "echostream.tunnel.rules.rewrite"
local show = require("echostream.errors").show

local M = {}

local fail = check.fail

---@class echostream.tunnel.options.rule
---@field name? string               for logs, metrics and `explain`; unique (default: "rules[3]", by its place)
---@field description? string
---@field host? string|string[]      "example.org", "*.example.org" (one label or more in front), "*"
---@field path? string|table         "/exact", "/prefix/*" (which is /prefix, too), { regex = "^/v[0-9]+/", ignore_case = false }, or a list of them
---@field method? string|string[]
---@field header? table<string, string|string[]|boolean|{ regex: string, ignore_case: boolean? }>  true: present, false: absent; a text: exactly
---@field port? integer|integer[]    of the listener
---@field listener? string|string[]
---@field protocol? string|string[]  "http/1.1", "h2", "h3", "raw"
---@field scheme? string|string[]    "http", "https": what the visitor used, by this server or a trusted proxy
---@field kind? string|string[]      "http", "grpc", "websocket", "connect", "tcp", "tls" (default: the first three)
---@field client? string|string[]    networks of who asks: "10.0.0.0/8", "::1"
---@field sni? string|string[]       as host
---@field when? fun(request: echostream.tunnel.request): boolean   asked last
---@field decide? fun(request: echostream.tunnel.request): table|string|nil|false  instead of a fixed decision: a group, or fields as here from
--- `group` on; nil or false: the next rule is looked at
---@field group? string              who serves it
---@field service? string            which service of the agent (default: the rule's group's only one, or "default")
---@field redirect? string|{ to: string, status: integer? }  "https://${host}${uri}"; 307 unless said
---@field respond? { status: integer, headers: table<string, string>?, body: string? }  `${host}` and the like in the body are escaped where
--- its type is HTML or XML
---@field rewrite? { host: string?, path: string?, prefix: string?, regex: { pattern: string, with: string }? }
---@field request_headers? { set: table<string, string>?, add: table<string, string>?, remove: string|string[]? }
---@field response_headers? { set: table<string, string>?, add: table<string, string>?, remove: string|string[]? }
---@field timeout? { connect: number?, headers: number?, idle: number? }  seconds
---@field max_body? integer          bytes of a request's body; 413
---@field limits? { requests: integer?, bytes: integer?, per_visitor: integer? }  in flight at a time; 503
---@field rate? echostream.tunnel.options.rate  429
---@field bandwidth? echostream.tunnel.options.bandwidth
---@field auth? echostream.tunnel.options.auth  401
---@field addresses? { allow: string|string[]?, deny: string|string[]? }  403
---@field shadow? boolean            compared, counted and logged, but not followed

local texts = { "string", "table" }
local action_schema = {
  group = { type = "string" },
  service = { type = "string" },
  redirect = { type = { "string", "table" } },
  respond = { type = "table" },
  rewrite = { type = "table" },
  request_headers = { type = "table" },
  response_headers = { type = "table" },
  timeout = { type = "table", fields = { connect = { type = "seconds" }, headers = { type = "seconds" }, idle = { type = "seconds" } } },
  max_body = { type = "integer", min = 0 },
  limits = { type = "table", fields = { requests = { type = "integer", min = 1 }, bytes = { type = "integer", min = 1 },
    per_visitor = { type = "integer", min = 1 } } },
  rate = { type = "table" },
  bandwidth = { type = "table" },
  auth = { type = "table" },
  addresses = { type = "table" },
}
local rule_schema = {
  name = { type = "string" },
  description = { type = "string" },
  host = { type = texts },
  path = { type = texts },
  method = { type = texts },
  header = { type = "table" },
  port = { type = { "integer", "table" } },
  listener = { type = texts },
  scheme = { type = texts },
  protocol = { type = texts },
  kind = { type = texts },
  client = { type = texts },
  sni = { type = texts },
  when = { type = "function" },
  decide = { type = "function" },
  shadow = { type = "boolean", default = false },
}
for name, field in pairs(action_schema) do
  rule_schema[name] = field
end

-- Answers of our own ----------------------------------------------------------------------------------------------

local redirects = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }

local function redirect(field, given)
  if type(given) == "string" then
    given = { to = given }
  end
  local checked = check.table(field, given, { to = { type = "string", required = true }, status = { type = "integer", default = 307 } })
  if not redirects[checked.status] then
    fail(field .. ".status", "wants 301, 302, 303, 307 or 308, got %d", checked.status)
  end
  local to = rewrite.template(field .. ".to", checked.to)
  return function(request)
    local head = assert(core.head("response", {}))
    head.status = checked.status
    local ok, err = head:set("location", to(request))
    if not ok then
      return errors.response(request, err)
    end
    head:set("content-length", "0")
    return head, ""
  end
end

local function respond(field, given)
  local checked = check.table(field, given, { status = { type = "integer", min = 200, max = 599, required = true }, headers = { type = "table" },
    body = { type = "string", default = "" } })
  local headers = rewrite.headers(field .. ".headers", { set = checked.headers or {} })
  local html = false
  for name, value in pairs(checked.headers or {}) do
    html = html or name:lower() == "content-type" and value:lower():find("ml", 1, true) ~= nil -- HTML, XHTML, XML, SVG as image/svg+xml
  end
  local body = rewrite.template(field .. ".body", checked.body, html)
  local has_body = checked.status ~= 204 and checked.status ~= 304
  return function(request)
    if request.kind == "grpc" then -- it understands nothing else
      local status = checked.status >= 400 and checked.status or 404
      return errors.response(request, errors.new(status, checked.body ~= "" and body(request) or "a rule answers this"))
    end
    if checked.status < 300 and (request.kind == "websocket" or request.kind == "connect") then -- which would be the tunnel that was asked for
      return errors.response(request, errors.new(404, "a rule answers this"))
    end
    local head = assert(core.head("response", {}))
    head.status = checked.status
    local text = has_body and body(request) or ""
    if text ~= "" then
      head:set("content-type", "text/plain; charset=utf-8")
    end
    local ok, err = headers(request, head)
    if not ok then
      return errors.response(request, err)
    end
    if has_body then
      head:set("content-length", tostring(#text))
    end
    return head, request.method == "HEAD" and "" or text
  end
end

-- Decisions -------------------------------------------------------------------------------------------------------

---@class echostream.tunnel.decision  shared by all exchanges of a rule: not to be written
---@field rule echostream.tunnel.rule
---@field group string?
---@field service string?
---@field answer (fun(request: echostream.tunnel.request): echostream.tunnel.head, string)|nil  it is answered here: head and body
---@field rewrite (fun(request: echostream.tunnel.request): true|nil, echostream.error?)|nil
---@field response (fun(request: echostream.tunnel.request, head: echostream.tunnel.head): true|nil, echostream.error?)|nil
---@field timeout { connect: number?, headers: number?, idle: number? }
---@field max_body integer?
---@field limits { requests: integer?, bytes: integer?, per_visitor: integer? }?
---@field rate table?
---@field bandwidth table?
---@field auth table?
---@field addresses echostream.tunnel.address_policy?

--- Compiles what a rule (or what its function returned) says is to be done.
---@param field string
---@param given table  checked
---@param rule echostream.tunnel.rule
---@return echostream.tunnel.decision
local function action(field, given, rule)
  local ways = (given.group and 1 or 0) + (given.redirect and 1 or 0) + (given.respond and 1 or 0)
  if ways ~= 1 then
    fail(field, ways == 0 and "wants group, redirect, respond or decide" or "group, redirect and respond exclude each other")
  elseif given.group == "" then
    fail(field .. ".group", "wants the name of a group")
  end
  local decision = { rule = rule, group = given.group, service = given.service, timeout = given.timeout or {}, max_body = given.max_body,
    limits = given.limits }
  decision.rewrite = rewrite.request(field, given)
  decision.response = given.response_headers and rewrite.headers(field .. ".response_headers", given.response_headers)
  decision.answer = given.redirect and redirect(field .. ".redirect", given.redirect) or given.respond and respond(field .. ".respond",
    given.respond)
    or nil
  decision.rate = given.rate and rate.compile(field .. ".rate", given.rate)
  decision.bandwidth = given.bandwidth and bandwidth.compile(field .. ".bandwidth", given.bandwidth)
  decision.auth = given.auth and auth.compile(field .. ".auth", given.auth, rule)
  if given.addresses then
    local lists = check.table(field .. ".addresses", given.addresses, { allow = { type = texts }, deny = { type = texts } })
    for name, list in pairs(lists) do
      lists[name] = type(list) == "table" and #list == 0 and {} or check.strings(field .. ".addresses." .. name, list)
    end
    decision.addresses = check.made(field .. ".addresses", addresses.policy, lists)
  end
  return decision
end

--- The decision that a rule's function means.
---@param rule echostream.tunnel.rule
---@param fields table|string
---@return echostream.tunnel.decision? decision, echostream.error? err
function M.decision(rule, fields)
  if type(fields) == "string" then
    fields = { group = fields }
  end
  return check.try(function()
    local field = rule.name .. " returned"
    local checked = check.table(field, fields, action_schema)
    checked.path = rule.path
    return action(field, checked, rule)
  end)
end

-- Rules -----------------------------------------------------------------------------------------------------------

---@class echostream.tunnel.rule
---@field index integer
---@field name string
---@field description string?
---@field shadow boolean
---@field conditions echostream.tunnel.condition[]  all of them, for `explain`
---@field tests (fun(request: echostream.tunnel.request): boolean)[]  without the host's, which is found by index
---@field user_test boolean  the last test is a function of the user's
---@field host echostream.tunnel.condition?
---@field segments table<string, true>?  first segments of paths that it can match; nil: any
---@field decision echostream.tunnel.decision?  nil: `decide` says
---@field decide function?
---@field tried table?         of auth.lua

local function compile_rule(field, index, given)
  if type(given) == "function" then
    given = { decide = given }
  end
  local checked = check.table(field, given, rule_schema)
  local rule = { index = index, name = checked.name or field, description = checked.description, shadow = checked.shadow, decide = checked.decide,
    path = checked.path, user_test = checked.when ~= nil }
  if rule.name == "" then
    fail(field .. ".name", "wants a name")
  end
  rule.conditions, rule.host = conditions.compile(field, checked)
  rule.tests = {}
  for _, condition in ipairs(rule.conditions) do
    if condition.field == "path" then
      rule.segments = condition.segments
    end
    if condition ~= rule.host then
      rule.tests[#rule.tests + 1] = condition.test
    end
  end
  if not rule.decide then
    rule.decision = action(field, checked, rule)
    return rule
  end
  for name in pairs(action_schema) do
    if checked[name] ~= nil then
      fail(field .. "." .. name, "a rule with decide has it from its function")
    end
  end
  return rule
end

--- Compiles a list of rules.
---@param list (echostream.tunnel.options.rule|function)[]
---@param field? string  how the list is called in errors and names (default: "rules")
---@return echostream.tunnel.rule[]? rules
---@return echostream.error? err  `field` names the field, such as "rules[3].path"
function M.compile(list, field)
  field = field or "rules"
  return check.try(function()
    if type(list) ~= "table" then
      fail(field, "wants a list of rules, got %s", show(list))
    end
    local rules, names = {}, {}
    for key in pairs(list) do
      if math.type(key) ~= "integer" or key < 1 or key > #list then
        fail(field, "wants a list of rules, and %s is no place in it", show(key))
      end
    end
    for index, given in ipairs(list) do
      local rule = compile_rule(("%s[%d]"):format(field, index), index, given)
      if names[rule.name] then
        fail(("%s[%d].name"):format(field, index), "%s[%d] has this name, too", field, names[rule.name])
      end
      names[rule.name] = index
      rules[index] = rule
    end
    return rules
  end)
end

return M
