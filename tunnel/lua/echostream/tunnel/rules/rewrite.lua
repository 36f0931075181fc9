--- What a rule changes in heads: host, path and fields of the request, fields of the response; and texts with `${names}` in them.

local canonical = require "echostream.tunnel.rules.canonical"
local check = require "echostream.tunnel.rules.check"
local conditions = require "echostream.tunnel.rules.conditions"
local errors = require "echostream.tunnel.errors"
local options = require "echostream.options"
local show = require("echostream.errors").show

local M = {}

local fail = check.fail

local variables = {
  host = true, path = true, method = true, scheme = true, client_ip = true, peer_ip = true, id = true, trace_id = true, user = true, port = true,
  sni = true, listener = true, protocol = true,
  query = function(request)
    return request.query or ""
  end,
  uri = function(request)
    return request.query and request.path .. "?" .. request.query or request.path
  end,
}

local escapes = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

local function value_of(request, name)
  local how = variables[name]
  local value = how == true and request[name]
  if how ~= true then
    value = how(request)
  end
  return value == nil and "" or tostring(value)
end

--- Compiles a text with `${host}`, `${path}`, `${query}`, `${uri}`, `${method}`, `${scheme}`, `${client_ip}`, `${peer_ip}`, `${id}`, `${trace_id}`,
--- `${user}`, `${port}`, `${sni}`, `${listener}` or `${protocol}` in it.
---@param field string
---@param text string
---@param html? boolean  it is HTML: what stands for the names is escaped
---@return fun(request: echostream.tunnel.request): string
function M.template(field, text, html)
  if not text:find("${", 1, true) then
    return function()
      return text
    end
  end
  for name in text:gmatch "%${([^}]*)}" do
    if not variables[name] then
      local guess = options.nearest(name, variables)
      fail(field, "there is no ${%s}%s", name, guess and (" (did you mean ${%s}?)"):format(guess) or "")
    end
  end
  return function(request)
    return (text:gsub("%${([^}]*)}", function(name)
      local value = value_of(request, name)
      return html and value:gsub("[&<>\"']", escapes) or value
    end))
  end
end

-- Fields ----------------------------------------------------------------------------------------------------------

-- Framing and the connection are the codecs'; the service is the decision's.
local ours = {}
for _, name in ipairs { "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te", "trailer", "content-length", "host",
  "http2-settings", "x-echostream-service", "x-echostream-tunnel" } do
  ours[name] = true
end

local function field_name(field, name)
  if type(name) ~= "string" or not name:find "^[%w!#$%%&'*+%-.^_`|~]+$" then
    fail(field, "%s is no name of a field", show(name))
  elseif ours[name:lower()] then
    fail(field, "%s is not for rules to change%s", name, name:lower() == "host" and ": that is rewrite.host" or "")
  end
  return name:lower()
end

local function templates(field, map)
  local list = {}
  for name, value in pairs(map or {}) do
    local where = field .. "." .. tostring(name)
    local lower = field_name(where, name)
    if type(value) ~= "string" or value:find "[%z\1-\8\10-\31\127]" then
      fail(where, "wants a text that can be the value of a field, got %s", show(value))
    end
    list[#list + 1] = { lower, M.template(where, value) }
  end
  table.sort(list, function(a, b)
    return a[1] < b[1]
  end)
  return list
end

local header_schema = { set = { type = "table" }, add = { type = "table" }, remove = { type = { "string", "strings" } } }

--- Compiles changes of fields: what is removed goes first, then what is set, then what is added.
---@param field string
---@param given any  { set = { name = text }, add = { name = text }, remove = { names } }
---@return fun(request: echostream.tunnel.request, head: echostream.tunnel.head): true|nil, echostream.error?
function M.headers(field, given)
  local checked = check.table(field, given, header_schema)
  local removed = checked.remove and check.strings(field .. ".remove", checked.remove) or {}
  for i, name in ipairs(removed) do
    field_name(("%s.remove[%d]"):format(field, i), name)
  end
  local set, add = templates(field .. ".set", checked.set), templates(field .. ".add", checked.add)
  return function(request, head)
    for _, name in ipairs(removed) do
      head:remove(name)
    end
    for _, one in ipairs(set) do
      local ok, err = head:set(one[1], one[2](request))
      if not ok then
        return nil, err
      end
    end
    for _, one in ipairs(add) do
      local ok, err = head:add(one[1], one[2](request))
      if not ok then
        return nil, err
      end
    end
    return true
  end
end

-- Targets ---------------------------------------------------------------------------------------------------------

local schema = {
  host = { type = "string" },
  path = { type = "string" },
  prefix = { type = "string" },
  regex = { type = "table", fields = { pattern = { type = "string", required = true }, with = { type = "string", required = true } } },
}

-- The prefixes of a rule's path, longest first: what `prefix` stands for.
local function prefixes(field, path)
  local list = {}
  for _, one in ipairs(type(path) == "table" and path.regex == nil and path or { path }) do
    local base = type(one) == "string" and one:match "^(.*)/%*$"
    if not base then
      fail(field, "wants a rule whose path is a prefix, such as /api/*")
    end
    list[#list + 1] = base
  end
  if #list == 0 then
    fail(field, "wants a rule whose path is a prefix, such as /api/*")
  end
  table.sort(list, function(a, b)
    return #a > #b
  end)
  return list
end

-- fn(path) -> new path; nil: it stays.
local function by_prefix(field, new, path)
  local list = prefixes(field, path)
  if new:byte() ~= 47 then
    fail(field, "wants a path, got %s", show(new))
  end
  new = new:gsub("/$", "")
  return function(old)
    for _, base in ipairs(list) do
      if old == base or old:sub(1, #base + 1) == base .. "/" then
        local rest = new .. old:sub(#base + 1)
        return rest == "" and "/" or rest
      end
    end
  end
end

local function by_regex(field, given)
  local regex = conditions.regex(field .. ".pattern", given.pattern)
  for digit in given.with:gmatch "\\(.?)" do
    if not digit:find "[%d\\]" then
      fail(field .. ".with", "a backslash stands before a group's digit or another backslash")
    end
  end
  return function(old)
    local found = { regex:exec(old) }
    if not found[1] then
      return nil
    end
    local whole = old:sub(found[1], found[2])
    local new = given.with:gsub("\\(.)", function(c)
      return c == "\\" and "\\" or c == "0" and whole or found[2 + tonumber(c)] or ""
    end)
    return old:sub(1, found[1] - 1) .. new .. old:sub(found[2] + 1)
  end
end

local function path_changer(field, checked, rule_path)
  local ways = (checked.path and 1 or 0) + (checked.prefix and 1 or 0) + (checked.regex and 1 or 0)
  if ways > 1 then
    fail(field, "path, prefix and regex exclude each other")
  elseif checked.prefix then
    return by_prefix(field .. ".prefix", checked.prefix, rule_path)
  elseif checked.regex then
    return by_regex(field .. ".regex", checked.regex)
  elseif checked.path then
    local make = M.template(field .. ".path", checked.path)
    if checked.path:byte() ~= 47 then
      fail(field .. ".path", "wants a path, got %s", show(checked.path))
    end
    return function(_, request)
      return make(request)
    end
  end
end

--- Compiles `rewrite` and `request_headers`.
---@param field string           "rules[3]"
---@param rule table
---@return (fun(request: echostream.tunnel.request): true|nil, echostream.error?)|nil
function M.request(field, rule)
  if rule.rewrite == nil and rule.request_headers == nil then
    return nil
  end
  local checked = rule.rewrite ~= nil and check.table(field .. ".rewrite", rule.rewrite, schema) or {}
  local change = path_changer(field .. ".rewrite", checked, rule.path)
  local headers = rule.request_headers ~= nil and M.headers(field .. ".request_headers", rule.request_headers)
  if checked.host then
    check.made(field .. ".rewrite.host", canonical.authority, checked.host)
  end
  return function(request)
    local head = request.head
    if not head then
      return true
    end
    local new = change and change(request.path, request)
    if new then
      local path, query = canonical.target(new) -- a query of the new path goes before the visitor's
      if not path then
        return nil, errors.new(400, "the path that a rule makes of yours is none: " .. query)
      end
      local both = query and request.query and query .. "&" .. request.query or query or request.query
      head.path = both and path .. "?" .. both or path
    end
    if checked.host then
      head.authority = checked.host
    end
    if headers then
      return headers(request, head)
    end
    return true
  end
end

return M
