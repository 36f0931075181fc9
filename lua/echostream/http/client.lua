--- HTTP/3 clients: requests to any server of HTTP/3, over connections that are kept and shared.
---
---     local response = assert(echo.http.request("https://127.0.0.1:5000/users?page=2", { pin = "sha256:…" }))
---     print(response.status, response.headers:get "content-type", response:body())

local codec = require "echostream.codec"
local address = require "echostream.address"
local connection = require "echostream.http.client.connection"
local core = require "echostream.core"
local decode = require "echostream.http.client.decode"
local errors = require "echostream.errors"
local exchange = require "echostream.http.client.exchange"
local fields = require "echostream.http.fields"
local host = require "echostream.host"
local loop = require "echostream.loop"
local options = require "echostream.options"
local query = require "echostream.http.query"
local redirect = require "echostream.http.client.redirect"
local responses = require "echostream.http.client.response"
local task = require "echostream.task"
local tls = require "echostream.tls"
local urls = require "echostream.http.client.url"

local M = {}

-- How often a request is sent, at most, when servers say that they did nothing with it, or connections are found dead.
local MOST_SENT = 4

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

-- Not in the schema, for a request takes them from its client.
local defaults = {
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

local function fingerprint(value)
  if type(value) ~= "table" then
    return type(value) == "string" and ("%q"):format(value) or tostring(value)
  elseif getmetatable(value) or type(value.get) == "function" then
    return ("%p"):format(value)
  end
  local pieces = {}
  for key, each in pairs(value) do
    pieces[#pieces + 1] = fingerprint(key) .. "=" .. fingerprint(each)
  end
  table.sort(pieces)
  return "{" .. table.concat(pieces, ",") .. "}"
end

-- Settings of connections, made once for each set of options.
local function settings_of(where, opts, level)
  local pieces = {}
  for i, name in ipairs(of_connections) do
    pieces[i] = fingerprint(opts[name])
  end
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

local function headers_of(where, own, common, level)
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

-- Sending -----------------------------------------------------------------------------------------------------

---@class echostream.http.client
local Client = {}
Client.__index = Client
Client.__name = "echostream.http.client"

local idempotent = { GET = true, HEAD = true, OPTIONS = true, TRACE = true, PUT = true, DELETE = true }

-- The connection for an origin: the one that is there, or a new one.
local function connection_to(self, url, settings)
  local key = url.origin .. " " .. settings.id
  local there = self._connections[key]
  if there and there:usable() then
    return there, false
  end
  local made
  made = connection.open(url, settings, function()
    if self._connections[key] == made then
      self._connections[key] = nil
    end
  end)
  self._connections[key] = made
  self._all[made] = true
  return made, true
end

-- Sends a request once. The exchange comes back when its head is there.
local function send_once(rec, shared, request, url, deadline, settled)
  local settings = request.settings
  local body = request.body
  local bare = (body == nil or body == "") and not request.trailers
  local under_way, err = shared:request({
    target = { method = request.method, scheme = "https", authority = request.authority or url.authority, path = url.target },
    fields = exchange.flatten(request.headers),
    fin = bare,
    settled = settled or not settings.early,
    wrap = function(x)
      return exchange.new(x, shared, rec, { idle_timeout = settings.idle_timeout, deadline = deadline, timeout = settings.timeout }, bare)
    end,
  }, deadline and math.max(deadline - rec.core:now(), 0))
  if not under_way then
    return nil, err
  end
  if request.priority then
    under_way:priority(request.priority)
  end
  if not bare then
    request.begun = type(body) ~= "string" and body ~= nil
    under_way:send(body or "", request.trailers, request.expect)
  end
  local status
  status, err = under_way:head(settings.head_timeout, request.on_informational and function(code, list)
    request.on_informational(code, responses.parse(list) or fields.new())
  end)
  if not status then
    under_way:close(err)
    return nil, err
  end
  return under_way, status
end

-- Whether a request that failed is sent again: nobody did anything with it, or a connection that was kept turned out to be dead and the
-- request may be repeated (RFC 9110, section 9.2.2).
local function may_go_again(err, request, fresh)
  if request.begun then
    return false -- its body has begun, and comes only once
  elseif err.processed == "no" then
    return err.unsent or err.details and err.details.unprocessed
  end
  return err.lost and not fresh and idempotent[request.method]
end

local function send(self, request, url, deadline)
  local rec, settled, err = self._rec, false, nil
  for sent = 1, MOST_SENT do
    local shared, fresh = connection_to(self, url, request.settings)
    local under_way, status = send_once(rec, shared, request, url, deadline, settled)
    if under_way then
      if status == 425 and under_way:was_early() and not request.begun and sent < MOST_SENT then
        under_way:close() -- RFC 8470, section 5.2
        settled = true
      else
        return under_way, status
      end
    else
      err = status
      if not may_go_again(err, request, fresh) then
        return nil, err
      elseif shared:usable() then
        shared:drain()
      end
    end
  end
  return nil, err
end

local function too_late(err, deadline, rec, request)
  if err.code == "timeout" and deadline and rec.core:now() >= deadline then
    return errors.new("timeout", ("the request took longer than %g s"):format(request.settings.timeout))
  end
  return err
end

-- In a task: a request with its redirections.
local function run(self, request, url)
  local rec, settings = self._rec, request.settings
  local deadline = settings.timeout and rec.core:now() + settings.timeout
  local asked = {}
  while true do
    local under_way, status = send(self, request, url, deadline)
    if not under_way then
      return nil, too_late(status, deadline, rec, request)
    end
    local response, err = responses.new(under_way, status, {
      url = url.text, method = request.method, limit = settings.max_body, decode = settings.decode,
    })
    if not response then
      return nil, err
    end
    response.redirects = asked
    local target
    if settings.redirects > 0 then
      target, err = redirect.target(url, status, response.headers)
    end
    if target and #asked >= settings.redirects then
      err = errors.new("failed_precondition", ("more than %d redirections, the last to %s"):format(settings.redirects, target.text))
    elseif target then
      request, err = redirect.follow(request, status, url, target)
    end
    if err then
      response:close()
      return nil, err
    elseif not target then
      return response
    end
    response:close()
    asked[#asked + 1] = url.text
    url = target
  end
end

-- Public ------------------------------------------------------------------------------------------------------

local function prepare(self, where, text, opts, level)
  opts = options.check(where, opts, M.request_schema, level + 1)
  options.argument(where, "url", text, "string", level + 1)
  local url, why = urls.parse(text)
  if not url then
    error(("%s: %s is no URL to ask: %s"):format(where, errors.show(text), why), level + 1)
  end
  local headers = headers_of(where, opts.headers, self._options.headers, level + 1)
  local merged, changed = {}, false
  for name in pairs(M.schema) do
    if opts[name] == nil then
      merged[name] = self._options[name]
    else
      merged[name], changed = opts[name], true
    end
  end
  for name, value in pairs(defaults) do
    if merged[name] == nil then
      merged[name] = value
    end
  end
  local request = { method = opts.method or (opts.body ~= nil or opts.json ~= nil) and "POST" or "GET", headers = headers,
    body = check_body(where, opts, headers, level + 1), trailers = opts.trailers, priority = opts.priority, begun = false,
    on_informational = opts.on_informational, authority = headers:get "host" }
  if not fields.is_token(request.method) or request.method == "CONNECT" then
    error(("%s: %s is no method for a request"):format(where, errors.show(request.method)), level + 1)
  end
  headers:remove "host"
  if merged.decode and not headers:has "accept-encoding" then
    headers:set("accept-encoding", decode.accepted)
  end
  if opts.priority or opts.incremental then
    headers:set("priority", ("u=%d%s"):format(opts.priority or 3, opts.incremental and ", i" or ""))
  end
  if opts.expect and request.body ~= nil and request.body ~= "" then -- RFC 9110, section 10.1.1
    request.expect = opts.expect == true and 1 or opts.expect
    headers:set("expect", "100-continue")
  end
  if opts.query then
    url = urls.with_query(url, type(opts.query) == "string" and opts.query or query.build(opts.query))
  end
  request.settings = changed and settings_of(where, merged, level + 1) or self._settings or settings_of(where, merged, level + 1)
  if not changed then
    self._settings = request.settings
  end
  return request, url
end

--- Sends a request and waits for the head of its answer. Connections are kept and shared: requests to one origin travel together on one
--- connection, each on a stream of its own. Redirections are followed. What a server did nothing with is sent again, and so are methods that
--- may be repeated when a kept connection turns out to be dead. Who is cancelled, or drops the answer, cancels the request.
---@param url string  "https://host:port/path?query"
---@param opts? echostream.options.http_request
---@param callback? fun(response: echostream.http.answer?, err: echostream.error?)
---@return echostream.http.answer|nil response  whatever its status
---@return echostream.error? err  `timeout`, `unauthenticated` (not the server that it should be), `unavailable`, `connection_closed`,
--- `cancelled`, `resource_exhausted` (a head over the limits), `failed_precondition` (redirections) …; `err.processed` as everywhere
function Client:request(url, opts, callback)
  if type(opts) == "function" then
    opts, callback = nil, opts
  end
  local request, where_to = prepare(self, "http:request", url, opts, 2)
  if callback ~= nil then
    options.argument("http:request", "callback", callback, "function")
    return task.call_back(callback, run, self, request, where_to)
  end
  return task.block(run, self, request, where_to)
end

--- The connections that are there now: `origin state requests in_flight waiting peer_addr resumed early_data rtt`.
---@return table[]
function Client:connections()
  local list = {}
  for each in pairs(self._all) do
    if each.state ~= "closed" then
      list[#list + 1] = each:figures()
    end
  end
  table.sort(list, function(a, b)
    return a.origin < b.origin
  end)
  return list
end

--- Closes its connections; requests under way fail. It can be used again. Harmless twice.
---@return true
function Client:close()
  for each in pairs(self._all) do
    each:close()
  end
  return true
end

Client.__close = Client.close

--- Makes a client: options for all its requests, and connections of its own.
---@param opts? echostream.options.http_client
---@return echostream.http.client
function M.client(opts)
  local checked = options.check("echo.http.client", opts, M.schema)
  headers_of("echo.http.client", nil, checked.headers, 2)
  local self = setmetatable({
    _options = checked, _settings = nil, _connections = {}, _all = setmetatable({}, { __mode = "k" }), _rec = loop.current(),
  }, Client)
  local merged = {}
  for name in pairs(M.schema) do
    merged[name] = checked[name]
    if merged[name] == nil then
      merged[name] = defaults[name]
    end
  end
  self._settings = settings_of("echo.http.client", merged, 2)
  return self
end

-- One for each loop: a simulation has its own.
local shared_clients = setmetatable({}, { __mode = "k" })

local function shared_client()
  local rec = loop.current()
  local client = shared_clients[rec]
  if not client then
    client = M.client()
    shared_clients[rec] = client
  end
  return client
end

--- `request` of a client that everybody shares.
---@param url string  "https://host:port/path?query"
---@param opts? echostream.options.http_request
---@param callback? fun(response: echostream.http.answer?, err: echostream.error?)
---@return echostream.http.answer|nil response, echostream.error? err  as of `http:request`
function M.request(url, opts, callback)
  return shared_client():request(url, opts, callback)
end

--- Closes the connections that `echo.http.request` keeps. Harmless twice.
---@return true
function M.close()
  return shared_client():close()
end

return M
