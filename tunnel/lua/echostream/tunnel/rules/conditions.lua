--- What a rule asks of a request. A condition is compiled once; each has a test for matching, and words for `explain`.

local addresses = require "echostream.tunnel.limits.addresses"
local canonical = require "echostream.tunnel.rules.canonical"
local check = require "echostream.tunnel.rules.check"
local core = require "echostream.tunnel.core"
local show = require("echostream.errors").show

local M = {}

---@class echostream.tunnel.condition
---@field field string                       "path"
---@field wants string                       "begins with /api/"
---@field test fun(request: echostream.tunnel.request): boolean
---@field got fun(request: echostream.tunnel.request): string

local fail = check.fail

--- Compiles a regular expression (POSIX extended).
---@param field string
---@param pattern any
---@param ignore_case? boolean
---@return any regex
function M.regex(field, pattern, ignore_case)
  if type(pattern) ~= "string" or pattern == "" then
    fail(field, "wants a regular expression (POSIX extended), got %s", show(pattern))
  end
  local regex, why = core.regex(pattern, ignore_case or false)
  return regex or fail(field, "%s is no regular expression of ours: %s", show(pattern), why)
end

local function set_of(list)
  local set = {}
  for _, value in ipairs(list) do
    set[value] = true
  end
  return set
end

local function words(list)
  local shown = {}
  for i, value in ipairs(list) do
    shown[i] = tostring(value)
  end
  return (#shown == 1 and "" or "one of ") .. table.concat(shown, ", ")
end

-- One of some values of a field of the request.
local function one_of(name, list)
  local test
  if #list == 1 then
    local only = list[1]
    test = function(request)
      return request[name] == only
    end
  else
    local set = set_of(list)
    test = function(request)
      local value = request[name]
      return value ~= nil and set[value] == true
    end
  end
  return { field = name, wants = words(list), test = test, got = function(request)
    return request[name] == nil and "none" or tostring(request[name])
  end }
end

-- Hosts, and names of servers -------------------------------------------------------------------------------------

--- Reads a pattern of a host: "example.org", "*.example.org" (one label or more in front), "*".
---@param field string
---@param pattern any
---@return "exact"|"wildcard"|"any" kind, string name  of a wildcard what is behind "*."
function M.host(field, pattern)
  if type(pattern) ~= "string" then
    fail(field, "wants a host such as example.org or *.example.org, got %s", show(pattern))
  elseif pattern == "*" then
    return "any", ""
  end
  local suffix = pattern:match "^%*%.(.+)$"
  local host, port = canonical.authority(suffix or pattern)
  if not host then
    fail(field, "%s is no host, and no wildcard such as *.example.org: %s", show(pattern), port)
  elseif port then
    fail(field, "%s has a port: that is the field \"port\" (of the listener)", show(pattern))
  end
  return suffix and "wildcard" or "exact", host
end

local function compile_hosts(field, name, value)
  local exact, wild, any, list = {}, {}, false, check.strings(field, value)
  for i, pattern in ipairs(list) do
    local kind, host = M.host(type(value) == "table" and ("%s[%d]"):format(field, i) or field, pattern)
    any = any or kind == "any"
    if kind == "exact" then
      exact[host] = true
    elseif kind == "wildcard" then
      wild[host] = true
    end
  end
  local function test(request)
    local host = request[name]
    if host == nil or host == "" then
      return any and host ~= nil
    elseif any or exact[host] then
      return true
    end
    local dot = host:find(".", 1, true)
    while dot do
      if wild[host:sub(dot + 1)] then
        return true
      end
      dot = host:find(".", dot + 1, true)
    end
    return false
  end
  return { field = name, wants = words(list), test = test, exact = exact, wild = wild, any = any, got = function(request)
    return (request[name] == nil or request[name] == "") and "none" or request[name]
  end }
end

-- Paths -----------------------------------------------------------------------------------------------------------

-- "/api/*": /api, /api/ and what is below. Returns the test, and the first segment, nil when it can be any.
local function path_prefix(field, base)
  if base == "" then
    return function(request)
      return request.path ~= ""
    end
  end
  local clean = check.made(field, canonical.path, base)
  if clean ~= base then
    fail(field, "requests are matched in canonical form, which is %s/*", clean)
  end
  local below, n = base .. "/", #base + 1
  return function(request)
    local path = request.path
    return path:sub(1, n) == below or path == base
  end, base:match "^/([^/]*)"
end

local function compile_path(field, value)
  local list = type(value) == "table" and value.regex == nil and value or { value }
  if #list == 0 then
    fail(field, "wants a path, a prefix such as /api/*, { regex = … }, or a list of them")
  end
  local tests, shown, segments = {}, {}, {}
  for i, one in ipairs(list) do
    local name = list == value and ("%s[%d]"):format(field, i) or field
    local segment
    if type(one) == "table" then
      local given = check.table(name, one, { regex = { type = "string", required = true }, ignore_case = { type = "boolean" } })
      local regex = M.regex(name .. ".regex", given.regex, given.ignore_case)
      tests[i], shown[i] = function(request)
        return regex:test(request.path)
      end, "matching " .. given.regex
    elseif type(one) ~= "string" then
      fail(name, "wants a path, a prefix such as /api/*, or { regex = … }, got %s", show(one))
    elseif one:sub(-2) == "/*" then
      tests[i], segment = path_prefix(name, one:sub(1, -3))
      shown[i] = one
    else
      local clean = check.made(name, canonical.path, one)
      if one:find("*", 1, true) and one ~= "*" then
        fail(name, "%s: a star stands at the end only, behind a slash; for more there is { regex = … }", show(one))
      elseif clean ~= one then
        fail(name, "requests are matched in canonical form, which is %s", clean)
      end
      tests[i], shown[i], segment = function(request)
        return request.path == one
      end, one, one:match "^/([^/]*)"
    end
    if segment and segments then
      segments[segment] = true
    else
      segments = nil
    end
  end
  local test = tests[1]
  if #tests > 1 then
    function test(request)
      for i = 1, #tests do
        if tests[i](request) then
          return true
        end
      end
      return false
    end
  end
  return { field = "path", wants = words(shown), test = test, segments = segments, got = function(request)
    return request.path == "" and "none" or request.path
  end }
end

-- Fields ----------------------------------------------------------------------------------------------------------

local function compile_header(field, name, wanted)
  if not name:find "^[%w!#$%%&'*+%-.^_`|~]+$" then
    fail(field, "%s is no name of a field", show(name))
  end
  name = name:lower()
  local text, test
  if wanted == true or wanted == false then
    text = wanted and "present" or "absent"
    function test(value)
      return (value ~= nil) == wanted
    end
  elseif type(wanted) == "table" and wanted.regex ~= nil then
    local given = check.table(field, wanted, { regex = { type = "string", required = true }, ignore_case = { type = "boolean" } })
    local regex = M.regex(field .. ".regex", given.regex, given.ignore_case)
    text = "matching " .. given.regex
    function test(value)
      return value ~= nil and regex:test(value)
    end
  else
    local list = check.strings(field, wanted)
    local set = set_of(list)
    text = words(list)
    function test(value)
      return value ~= nil and set[value] == true
    end
  end
  return { field = "header " .. name, wants = text, test = function(request)
    local head = request.head
    return head ~= nil and test(head:get(name))
  end, got = function(request)
    local value = request.head and request.head:get(name)
    -- What a visitor proves who they are with is not for logs and screens.
    return value == nil and "absent" or (name == "authorization" or name == "cookie") and "(secret)" or show(value)
  end }
end

-- The rest --------------------------------------------------------------------------------------------------------

local kinds = { http = true, grpc = true, websocket = true, connect = true, tcp = true, tls = true }
local schemes = { http = true, https = true }
local protocols = { ["http/1.1"] = true, h2 = true, h3 = true, raw = true }

local function known(field, value, allowed)
  local list = check.strings(field, value)
  for _, one in ipairs(list) do
    if not allowed[one] then
      local names = {}
      for name in pairs(allowed) do
        names[#names + 1] = name
      end
      table.sort(names)
      fail(field, "wants %s, got %s", table.concat(names, ", "), show(one))
    end
  end
  return list
end

local function compile_ports(field, value)
  local list = type(value) == "table" and value or { value }
  for _, port in ipairs(list) do
    if math.type(port) ~= "integer" or port < 1 or port > 65535 then
      fail(field, "wants ports (of listeners), got %s", show(port))
    end
  end
  return one_of("port", #list > 0 and list or fail(field, "wants a port"))
end

local function compile_client(field, value)
  local list = check.strings(field, value)
  local set = check.made(field, addresses.set, list)
  return { field = "client", wants = words(list), test = function(request)
    return set:find(request.client_ip) == true
  end, got = function(request)
    return tostring(request.client_ip)
  end }
end

--- The names of fields of a rule that are conditions, in the order in which they are looked at: what is cheap goes first.
M.names = { "host", "kind", "scheme", "protocol", "port", "listener", "method", "sni", "path", "client", "header", "when" }

--- Compiles the conditions of a rule.
---@param field string  "rules[3]"
---@param rule table    checked as to the types of its fields
---@return echostream.tunnel.condition[]
---@return echostream.tunnel.condition? host
function M.compile(field, rule)
  local list = {}
  local function put(condition)
    list[#list + 1] = condition
  end
  local host = rule.host ~= nil and compile_hosts(field .. ".host", "host", rule.host) or nil
  put(host)
  -- CONNECT to anywhere and raw connections are for rules that say so.
  put(one_of("kind", rule.kind ~= nil and known(field .. ".kind", rule.kind, kinds) or { "http", "grpc", "websocket" }))
  if rule.scheme ~= nil then
    put(one_of("scheme", known(field .. ".scheme", rule.scheme, schemes)))
  end
  if rule.protocol ~= nil then
    put(one_of("protocol", known(field .. ".protocol", rule.protocol, protocols)))
  end
  if rule.port ~= nil then
    put(compile_ports(field .. ".port", rule.port))
  end
  if rule.listener ~= nil then
    put(one_of("listener", check.strings(field .. ".listener", rule.listener)))
  end
  if rule.method ~= nil then
    put(one_of("method", check.strings(field .. ".method", rule.method)))
  end
  if rule.sni ~= nil then
    put(compile_hosts(field .. ".sni", "sni", rule.sni))
  end
  if rule.path ~= nil then
    put(compile_path(field .. ".path", rule.path))
  end
  if rule.client ~= nil then
    put(compile_client(field .. ".client", rule.client))
  end
  local names = {}
  for name in pairs(rule.header or {}) do
    names[#names + 1] = type(name) == "string" and name or fail(field .. ".header", "wants fields by name")
  end
  table.sort(names)
  for _, name in ipairs(names) do
    put(compile_header(field .. ".header." .. name, name, rule.header[name]))
  end
  if rule.when ~= nil then
    put { field = "when", wants = "the function returns true", user = true, test = rule.when, got = function()
      return "false"
    end }
  end
  return list, host
end

return M
