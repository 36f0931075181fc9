--- What an agent serves: services and their backends, as options say or the server sends; and the last good configuration on disk.

local address = require "echostream.address"
local codec = require "echostream.codec"
local errors = require "echostream.errors"
local files = require "echostream.loop.files"
local options = require "echostream.options"

local M = {}

---@class echostream.tunnel.options.health  `health = { … }` of a service; `true` means all the defaults
---@field path? string  what is asked for with GET; nil: it is enough that a TCP connection opens
---@field host? string  the authority that is asked for (default: the backend's)
---@field status? string  codes that are good, "200-399" or "200,204,301" (default: "200-399")
---@field interval? number  seconds from check to check, give or take a tenth (default: 10)
---@field timeout? number  seconds for one check (default: 5)
---@field rise? integer  good checks in a row that make an unhealthy backend healthy (default: 2)
---@field fall? integer  bad checks in a row that make a healthy one unhealthy (default: 3)

---@class echostream.tunnel.options.backend_tls  `tls = { … }` of a service or of one of its backends
---@field ca? string  PEM text or file of who may have issued the backend's certificate (default: whom the system trusts)
---@field pin? string  "sha256:…" of its public key, instead of a name and an issuer
---@field name? string  the name to ask for and to verify (default: the backend's)
---@field cert? string  PEM text or file, with `key`: what the agent shows
---@field key? string
---@field skip_verification? boolean  anybody is believed who has the key of `pin`, if there is one: for trials only (default: false)

---@class echostream.tunnel.options.backend  one of `backends`; a string is its `url`
---@field url string  "http://127.0.0.1:8080", "https://app.internal", "unix:/run/app.sock", "tcp://127.0.0.1:5432"; "127.0.0.1:8080"
--- is http or tcp, as the service is
---@field weight? integer  its part of the requests (default: 1)
---@field protocol? string  instead of the service's
---@field tls? echostream.tunnel.options.backend_tls  instead of the service's

---@class echostream.tunnel.options.service  one of `services`; a string or a list is its `backends`
---@field kind? string  "http" or "tcp" (default: "http")
---@field backends (string|echostream.tunnel.options.backend)[]
---@field balance? string  "round_robin" or "least_in_flight" (default: "round_robin")
---@field protocol? string  "auto" (HTTP/2 when TLS agrees on it, or for gRPC; else HTTP/1.1), "http/1.1", "h2c", "h2" (default: "auto")
---@field host? string  what the backend is told as the authority (default: what the visitor asked for)
---@field tls? echostream.tunnel.options.backend_tls
---@field connect_timeout? number  seconds for a connection, with the wait for it (default: 10)
---@field headers_timeout? number  seconds without a byte in either direction until the response begins (default: 60)
---@field idle_timeout? number  the same from then on (default: 60)
---@field websocket_timeout? number  both of what is quiet by nature: WebSockets and other tunnels, TCP, gRPC, Server-Sent Events (default: 3600)
---@field max_connections? integer  to each backend; each WebSocket is one (default: 10,000)
---@field max_waiting? integer  requests for each backend that may wait for a connection (default: 1024)
---@field keepalive? integer  idle connections kept to each backend for long; more only for two seconds (default: 10)
---@field keepalive_timeout? number  seconds that they are kept (default: 90)
---@field max_failures? integer  connections in a row that fail before a backend is left alone; 0: never (default: 5)
---@field failure_pause? number  seconds that it is left alone then (default: 2)
---@field health? boolean|echostream.tunnel.options.health  active checks (default: none)

local tls_fields = {
  ca = { type = "string" },
  pin = { type = "string" },
  name = { type = "string" },
  cert = { type = "string" },
  key = { type = "string" },
  skip_verification = { type = "boolean" },
}

local protocols = { "auto", "http/1.1", "h2c", "h2" }

local backend_schema = {
  url = { type = "string", required = true },
  weight = { type = "integer", min = 1, max = 1000, default = 1 },
  protocol = { type = "string", one_of = protocols },
  tls = { type = "table", fields = tls_fields },
}

local health_schema = {
  path = { type = "string" },
  host = { type = "string" },
  status = { type = "string", default = "200-399" },
  interval = { type = "seconds", min = 0.01, default = 10 },
  timeout = { type = "seconds", min = 0.01, default = 5 },
  rise = { type = "integer", min = 1, default = 2 },
  fall = { type = "integer", min = 1, default = 3 },
}

local service_schema = {
  kind = { type = "string", one_of = { "http", "tcp" }, default = "http" },
  backends = { type = { "table", "string" }, required = true },
  balance = { type = "string", one_of = { "round_robin", "least_in_flight" }, default = "round_robin" },
  protocol = { type = "string", one_of = protocols, default = "auto" },
  host = { type = "string" },
  tls = { type = "table", fields = tls_fields },
  connect_timeout = { type = "seconds", min = 0.001, default = 10 },
  headers_timeout = { type = "seconds", min = 0.001, default = 60 },
  idle_timeout = { type = "seconds", min = 0.001, default = 60 },
  websocket_timeout = { type = "seconds", min = 0.001, default = 3600 },
  max_connections = { type = "integer", min = 1, default = 10000 },
  max_waiting = { type = "integer", min = 0, default = 1024 },
  keepalive = { type = "integer", min = 0, default = 10 },
  keepalive_timeout = { type = "seconds", default = 90 },
  max_failures = { type = "integer", min = 0, default = 5 },
  failure_pause = { type = "seconds", default = 2 },
  health = { type = { "boolean", "table" }, fields = health_schema },
}

-- Raises without a position: who calls says whose line it is.
local function fail(...)
  error((...):format(select(2, ...)), 0)
end

local default_ports = { http = 80, https = 443 }

--- Reads a backend's URL.
---@param url string
---@param kind "http"|"tcp"  of its service
---@return { scheme: "http"|"https"|"tcp", place: echostream.tunnel.place, authority: string }
function M.parse_url(url, kind)
  local path = url:match "^unix:/?/?(/.+)$"
  if path then
    return { scheme = kind, place = { path = path }, authority = "localhost" }
  end
  local scheme, rest = url:match "^(%a[%w+.-]*)://(.*)$"
  if not scheme then
    scheme, rest = kind, url
  end
  scheme, rest = scheme:lower(), rest:gsub("/$", "")
  if scheme ~= "tcp" and not default_ports[scheme] or (scheme == "tcp") ~= (kind == "tcp") then
    fail("%s: a service of kind %s has backends such as %s or unix:/path", errors.show(url), kind,
      kind == "tcp" and "tcp://host:port" or "http://host:port, https://host")
  elseif rest:find "[/?#@]" then
    fail("%s: a backend has a host and a port, and no path or user", errors.show(url))
  end
  if default_ports[scheme] and not rest:find ":%d+$" then
    rest = rest .. ":" .. default_ports[scheme]
  end
  local ok, host, port = pcall(address.parse, "backend", rest, "127.0.0.1")
  if not ok then
    fail("%s", (tostring(host):gsub("^backend: ", "")))
  elseif port == 0 then
    fail("%s: port 0 is no port to connect to", errors.show(url))
  end
  local authority = address.join(host, port)
  if port == default_ports[scheme] then
    authority = authority:gsub(":%d+$", "")
  end
  return { scheme = scheme, place = { host = host, port = port }, authority = authority }
end

-- "200-399" or "200,204": a function that judges.
local function status_set(text)
  local ranges = {}
  for part in text:gmatch "[^,%s]+" do
    local from, to = part:match "^(%d%d%d)%-(%d%d%d)$"
    from = from or part:match "^%d%d%d$"
    if not from then
      fail("health.status: %s is no code such as 204 and no range such as 200-399", errors.show(part))
    end
    ranges[#ranges + 1] = { tonumber(from), tonumber(to or from) }
  end
  if not ranges[1] then
    fail "health.status: it is empty"
  end
  return function(status)
    for _, range in ipairs(ranges) do
      if status >= range[1] and status <= range[2] then
        return true
      end
    end
    return false
  end
end

local function check_backend(where, service, given)
  if type(given) == "string" then
    given = { url = given }
  end
  local backend = options.check(where, given, backend_schema)
  local ok, at = pcall(M.parse_url, backend.url, service.kind)
  if not ok then
    fail("%s: %s", where, at)
  end
  backend.scheme, backend.place, backend.authority = at.scheme, at.place, at.authority
  backend.protocol = backend.protocol or service.protocol
  backend.tls = backend.tls or service.tls
  if backend.scheme == "https" then
    if backend.protocol == "h2c" then
      fail("%s: protocol \"h2c\" is HTTP/2 without TLS; with https it is \"h2\"", where)
    end
    backend.tls = backend.tls or {}
    if (backend.tls.cert == nil) ~= (backend.tls.key == nil) then
      fail("%s: tls.cert and tls.key belong together", where)
    end
  elseif backend.tls and given.tls then
    fail("%s: it has tls, but %s is not https", where, errors.show(backend.url))
  elseif backend.protocol == "h2" then
    fail("%s: protocol \"h2\" wants https; without TLS it is \"h2c\"", where)
  else
    backend.tls = nil
  end
  return backend
end

--- Checks one service. Raises, without a position, what is wrong.
---@param where string
---@param given string|table
---@return table service  with every default
function M.check_service(where, given)
  if type(given) == "string" or type(given) == "table" and given[1] ~= nil then
    given = { backends = given }
  end
  local service = options.check(where, given, service_schema)
  local list = type(service.backends) == "string" and { service.backends } or service.backends
  service.backends = {}
  for i, backend in ipairs(list) do
    service.backends[i] = check_backend(("%s.backends[%d]"):format(where, i), service, backend)
  end
  if not service.backends[1] then
    fail("%s: option \"backends\" is empty", where)
  end
  if service.health == true then
    service.health = options.check(where, {}, health_schema)
  end
  if service.health then
    if service.kind == "tcp" and service.health.path then
      fail("%s: a service of kind tcp is not asked for a path", where)
    end
    service.health.good = status_set(service.health.status)
  end
  return service
end

--- Checks all services. Raises, without a position, what is wrong.
---@param where string
---@param given table<string, any>
---@return table<string, table> services  by name, with every default
function M.check_services(where, given)
  local services = {}
  for name, one in pairs(given) do
    if type(name) ~= "string" or not name:find "^[%w._-]+$" or #name > 64 then
      fail("%s: a service has a name of 1 to 64 characters of A-Z a-z 0-9 . _ -, got %s", where, errors.show(name))
    end
    services[name] = M.check_service(("%s.%s"):format(where, name), one)
  end
  return services
end

local remote_schema = {
  services = { type = "table" },
}

--- Checks a configuration that the server sent. Never raises.
---@param given any
---@return { services: table<string, table>? }|nil config, string? why
function M.check_remote(given)
  if type(given) ~= "table" then
    return nil, "a configuration is a map, got " .. errors.show(given)
  end
  local ok, result = pcall(function()
    local config = options.check("config", given, remote_schema)
    return { services = config.services and M.check_services("config.services", config.services) }
  end)
  if not ok then
    return nil, (tostring(result):gsub("^[^\n:]*:%d+: ", ""))
  end
  return result
end

-- Last good configuration ---------------------------------------------------------------------------------------

--- Writes what the server sent, whole or not at all.
---@param path string
---@param version integer|string
---@param config table
---@return true|nil ok, string? why
function M.save(path, version, config)
  local packed, err = codec.msgpack.pack { version = version, config = config }
  if not packed then
    return nil, tostring(err)
  end
  local folder = path:match "^(.+)/[^/]+$"
  if folder then
    local ok, problem = files.make_directories(folder)
    if not ok then
      return nil, problem
    end
  end
  return files.replace_secret(path, packed)
end

--- Reads it back.
---@param path string
---@return { version: any, config: table }|nil saved, string? why  nil, nil when there is none
function M.load(path)
  local data, err = files.read_secret(path)
  if not data then
    return nil, err
  end
  local saved = codec.msgpack.unpack(data)
  if type(saved) ~= "table" or type(saved.config) ~= "table" or saved.version == nil then
    return nil, path .. " is no configuration that an agent wrote"
  end
  return saved
end

return M
