--- What a request is before it is sent: options checked, and made into fields, a body and the settings of its connection.

local codec = require "echostream.codec"
local address = require "echostream.address"
local core = require "echostream.core"
local decode = require "echostream.http.client.decode"
local errors = require "echostream.errors"
local fields = require "echostream.http.fields"
local host = require "echostream.host"
local options = require "echostream.options"
local query = require "echostream.http.query"
local responses = require "echostream.http.client.response"
local tls = require "echostream.tls"
local urls = require "echostream.http.client.url"

local M = {}

-- Options -----------------------------------------------------------------------------------------------------

--- Options of clients and of each request.
---@type table<string, echostream.options.field>
M.schema = {
  connect_timeout = { type = "seconds" },
  head_timeout = { type = "seconds" },
  idle_timeout = { type = "seconds" },
  timeout = { type = "seconds" },
  keep = { type = "seconds" },
  redirects = { type = "integer", min = 0, max = 100 },
  max_body = { type = "integer", min = 0 },
  max_header_bytes = { type = "integer", min = 256, max = 1 << 24 },
  max_header_fields = { type = "integer", min = 8, max = 1 << 20 },
  early = { type = "boolean" },
  decode = { type = "boolean" },
  headers = { type = "table" },
  bind = { type = "string" },
  transport = { type = "table" },
}
for _, more in ipairs { tls.client_schema, tls.shared_schema } do
  for name, field in pairs(more) do
    M.schema[name] = field
  end
end

--- Not in the schema, for a request takes them from its client.
M.defaults = {
  connect_timeout = 10, head_timeout = 30, idle_timeout = 30, keep = 15, redirects = 10, max_body = responses.LIMIT,
  max_header_bytes = 65536, max_header_fields = 100, early = true, decode = false,
}

-- Options of one request alone.
local own_schema = {
  method = { type = "string" },
  body = {}, -- see check_body
  json = {},
  query = { type = { "table", "string" } },
  trailers = { type = { "table", "function" } },
  expect = { type = { "boolean", "seconds" } },
  on_informational = { type = "function" },
  priority = { type = "integer", min = 0, max = 7 },
  incremental = { type = "boolean" },
}

--- Options of one request.
---@type table<string, echostream.options.field>
M.request_schema = {}
for _, part in ipairs { own_schema, M.schema } do
  for name, field in pairs(part) do
    M.request_schema[name] = field
  end
end

-- What decides whether two requests may share a connection, besides where they go.
local of_connections = { "pin", "ca", "cert", "key", "skip_verification", "server_name", "session_cache", "tls_priority", "keylog", "bind",
  "transport", "max_header_bytes", "max_header_fields", "keep" }

-- `depth`: tables below it are told apart as objects.
local function fingerprint(value, depth)
  if type(value) ~= "table" then
    return type(value) == "string" and ("%q"):format(value) or tostring(value)
  elseif depth == 0 or getmetatable(value) then
    return ("%p"):format(value)
  end
  local pieces = {}
  for key, each in pairs(value) do
    pieces[#pieces + 1] = fingerprint(key, 0) .. "=" .. fingerprint(each, depth - 1)
  end
  table.sort(pieces)
  return "{" .. table.concat(pieces, ",") .. "}"
end

--- Settings of connections, made once for each set of options.
function M.settings(where, opts, level)
  local transport, named, extra = host.split_transport(where, opts.transport)
  if extra.preferred or named.self_signed_cert ~= nil then
    error(('%s: transport options "preferred_address" and "self_signed_cert" are for servers'):format(where), level + 1)
  end
  local settings = {}
  for name in pairs(M.schema) do
    settings[name] = opts[name]
  end
  settings.cert, settings.key = opts.cert or named.cert, opts.key or named.key
  if (settings.cert == nil) ~= (settings.key == nil) then
    error(('%s: options "cert" and "key" belong together'):format(where), level + 1)
  end
  if settings.skip_verification == nil then
    settings.skip_verification = named.skip_verification
  end
  if opts.bind then
    local ok, name, port = pcall(address.parse, where, opts.bind, "0.0.0.0")
    if not ok then
      error(name, level + 1)
    end
    settings.bind = address.join(name, port)
  end
  settings.transport, settings.qlog = transport, extra.qlog
  settings.trust = tls.trust(where, settings, level + 1) or { trust = "system" }
  local pieces = {}
  for i, name in ipairs(of_connections) do
    pieces[i] = fingerprint(opts[name], name == "session_cache" and 0 or 3)
  end
  settings.id = table.concat(pieces, " ")
  return settings
end

local function is_callable(value)
  local mt = type(value) == "table" and getmetatable(value)
  return type(value) == "function" or type(mt) == "table" and type(mt.__call) == "function"
end

local function check_body(where, opts, headers, level)
  local body = opts.body
  if opts.json ~= nil then
    if body ~= nil then
      error(('%s: options "body" and "json" exclude each other'):format(where), level + 1)
    end
    local text, err = codec.json.pack(opts.json)
    if not text then
      error(('%s: option "json" cannot be written as JSON: %s'):format(where, tostring(err)), level + 1)
    end
    if not headers:has "content-type" then
      headers:set("content-type", "application/json")
    end
    body = text
  end
  if body == nil then
    return nil
  elseif type(body) == "string" then
    headers:set("content-length", #body)
  elseif is_callable(body) then
    local length = type(body) == "table" and body.length
    if length and not headers:has "content-length" then
      headers:set("content-length", length)
    end
  else
    error(('%s: option "body" wants a string or a function, got %s'):format(where, errors.show(body)), level + 1)
  end
  return body
end

--- The fields of a request. Raises when HTTP/3 has no such fields.
---@package
function M.headers(where, own, common, level)
  local ok, headers = pcall(fields.new, own)
  local base_ok, base = pcall(fields.new, common)
  if not ok or not base_ok then
    error(("%s: headers: %s"):format(where, tostring(not ok and headers or base):gsub("^[^:]*:%d+: ", "")), level + 1)
  end
  for name in headers:each() do
    base:remove(name)
  end
  for name, value in base:each() do
    headers:add(name, value)
  end
  for name in headers:each() do
    if fields.connection_specific[name] then
      error(("%s: the field \"%s\" belongs to a connection and has no place in HTTP/3"):format(where, name), level + 1)
    end
  end
  if not headers:has "user-agent" then
    headers:set("user-agent", "echostream/" .. core.version)
  end
  return headers
end

-- Requests ------------------------------------------------------------------------------------------------------

-- A URL, taken apart once when it is asked for again and again.
local function url_of(self, where, text, level)
  if text ~= nil and text == self._url_text then
    return self._url
  end
  options.argument(where, "url", text, "string", level + 1)
  local url, why = urls.parse(text)
  if not url then
    error(("%s: %s is no URL to ask: %s"):format(where, errors.show(text), why), level + 1)
  end
  self._url_text, self._url = text, url
  return url
end

-- The client's options with those of a request; the client's own where that changes nothing.
local function merged_options(self, opts)
  local changed = false
  for name in pairs(opts) do
    changed = changed or M.schema[name] ~= nil and name ~= "headers"
  end
  if not changed then
    return self._options, false
  end
  local merged = {}
  for name in pairs(M.schema) do
    merged[name] = opts[name]
    if merged[name] == nil then
      merged[name] = self._options[name]
    end
  end
  return merged, true
end

local function special(where, request, opts, level)
  local headers = request.headers
  request.body = check_body(where, opts, headers, level + 1)
  request.authority = headers:get "host"
  headers:remove "host"
  if opts.priority or opts.incremental then
    headers:set("priority", ("u=%d%s"):format(opts.priority or 3, opts.incremental and ", i" or ""))
  end
  if opts.expect and request.body ~= nil and request.body ~= "" then -- RFC 9110, section 10.1.1
    request.expect = opts.expect == true and 1 or opts.expect
    headers:set("expect", "100-continue")
  end
end

local function query_of(where, given, level)
  if type(given) == "string" then
    local url, why = urls.parse("https://a/?" .. given)
    if not url or given:find("#", 1, true) then
      error(('%s: option "query" wants a query, got %s: %s'):format(where, errors.show(given), why or "it has a #"), level + 1)
    end
    return url.target:sub(3)
  end
  local ok, text = pcall(query.build, given)
  if not ok then
    error(('%s: option "query" wants names with values, or a list of pairs'):format(where), level + 1)
  end
  return text
end

local nothing = {}

--- What is to be sent where. Raises on misuse.
---@param self echostream.http.client
---@param where string
---@param text string     the URL
---@param opts table?
---@param level integer   as for error(): whom to blame
---@return table request, echostream.http.url url
---@package
function M.request(self, where, text, opts, level)
  opts = opts and options.check(where, opts, M.request_schema, level + 1) or nothing
  local url = url_of(self, where, text, level + 1)
  local merged, changed = merged_options(self, opts)
  local request = {
    method = opts.method or (opts.body ~= nil or opts.json ~= nil) and "POST" or "GET",
    headers = opts.headers and M.headers(where, opts.headers, self._options.headers, level + 1) or self._headers:copy(),
    trailers = opts.trailers, priority = opts.priority, on_informational = opts.on_informational, begun = false,
    settings = changed and M.settings(where, merged, level + 1) or self._settings,
  }
  if not fields.is_token(request.method) or request.method == "CONNECT" then
    error(("%s: %s is no method for a request"):format(where, errors.show(request.method)), level + 1)
  end
  special(where, request, opts, level + 1)
  if merged.decode and not request.headers:has "accept-encoding" then
    request.headers:set("accept-encoding", decode.accepted)
  end
  if opts.query then
    url = urls.with_query(url, query_of(where, opts.query, level + 1))
  end
  return request, url
end

return M
