--- The option `listen`: ports and unix sockets where visitors come, and their certificates.

local address = require "echostream.address"
local errors = require "echostream.errors"
local log = require "echostream.log"
local options = require "echostream.options"

local M = {}

---@class echostream.tunnel.options.cert
---@field cert string      PEM, or the path of a file with it: the certificate and those above it
---@field key string       PEM or path
---@field names? string[]  names that it is for (default: those that it names)

---@class echostream.tunnel.options.listen
---@field bind string      "0.0.0.0:443", or "unix:/run/tunnel.sock"
---@field kind? "http"|"tcp"|"tls"  "http" (default): HTTP/1.1 and HTTP/2; "tcp": every connection goes to `group`; "tls": the name in the ClientHello
--- decides: what a rule of kind "tls" fits is passed through as it is, anything else is HTTP here
---@field name? string     in rules, logs and metrics (default: what `bind` says)
---@field tls? { certs: echostream.tunnel.options.cert[], strict: boolean?, alpn: string[]? }  `strict`: other names than those of the certificates
--- are refused (default: they get the first)
---@field group? string    of kind "tcp": where it goes, unless a rule of kind "tcp" fits
---@field service? string  likewise: which of the agent's services
---@field limits? table<string, number>  of HTTP connections, times in seconds: head_bytes head_fields target_bytes head_timeout idle_timeout
--- body_timeout min_body_rate max_streams max_requests
---@field max_connections? integer  10000
---@field handshake_timeout? number seconds, 10

local number = { type = "number", min = 0 }

local fields = {
  bind = { type = "string", required = true },
  kind = { type = "string", one_of = { "http", "tcp", "tls" }, default = "http" },
  name = { type = "string" },
  tls = { type = "table", fields = {
    certs = { type = "table", required = true }, strict = { type = "boolean" }, alpn = { type = "strings" },
  } },
  group = { type = "string" },
  service = { type = "string" },
  limits = { type = "table", fields = {
    head_bytes = number, head_fields = number, target_bytes = number, head_timeout = number, idle_timeout = number, body_timeout = number,
    min_body_rate = number, max_streams = number, max_requests = number,
  } },
  max_connections = { type = "integer", min = 1 },
  handshake_timeout = { type = "seconds" },
}

local cert_fields = { cert = { type = "string", required = true }, key = { type = "string", required = true }, names = { type = "strings" } }

--- Checks the option. Raises.
---@param where string
---@param list any
---@return table[]
function M.check(where, list)
  local out, names = {}, {}
  for i, given in ipairs(list or {}) do
    local name = ("%s: listen[%d]"):format(where, i)
    local entry = options.check(name, given, fields, 3)
    entry.name = entry.name or entry.bind
    if names[entry.name] then
      error(("%s: there is a listener %s already"):format(name, errors.show(entry.name)), 3)
    end
    names[entry.name] = true
    entry.path = entry.bind:match "^unix:(.+)$"
    if not entry.path then
      local ok, host, port = pcall(address.parse, name, entry.bind, "0.0.0.0")
      if not ok then
        error(host, 3)
      elseif not address.literal(host) then
        error(("%s: bind wants a numeric address and a port, got %s"):format(name, errors.show(entry.bind)), 3)
      end
      entry.ip, entry.port = host, port
    end
    for j, cert in ipairs(entry.tls and entry.tls.certs or {}) do
      entry.tls.certs[j] = options.check(("%s.tls.certs[%d]"):format(name, j), cert, cert_fields, 3)
    end
    if entry.kind == "tcp" and entry.tls then
      error(name .. ": kind \"tcp\" takes no tls: kind \"tls\" passes it through by name, \"http\" ends it here", 3)
    end
    out[i] = entry
  end
  return out
end

-- Certificates ----------------------------------------------------------------------------------------------------

local function is_pem(text)
  return text:find("-----BEGIN", 1, true) ~= nil
end

local function read(text)
  if is_pem(text) then
    return text
  end
  local file, why = io.open(text, "rb")
  if not file then
    return nil, why
  end
  local data = file:read "a"
  file:close()
  return data
end

--- The certificates of a listener as texts, read from their files.
---@param tls table
---@return table[]? certs, echostream.error? err
function M.certs(tls)
  local out = {}
  for i, entry in ipairs(tls.certs) do
    local cert, why = read(entry.cert)
    local key
    if cert then
      key, why = read(entry.key)
    end
    if not key then
      return nil, errors.new("io", ("certificate %d cannot be read: %s"):format(i, why))
    end
    out[i] = { cert = cert, key = key, names = entry.names }
  end
  return out
end

local function files_of(tls)
  local paths = {}
  for _, entry in ipairs(tls.certs) do
    for _, text in ipairs { entry.cert, entry.key } do
      if not is_pem(text) then
        paths[#paths + 1] = text
      end
    end
  end
  return paths
end

--- Reads the certificates of a listener again. On an error the old ones stay.
---@param listener table
---@return true|nil ok, echostream.error? err
function M.renew(listener)
  local certs, err = M.certs(listener.tls)
  local ok
  if certs then
    ok, err = listener.context:swap(certs)
  end
  if not ok then
    log.write("error", ("tunnel: listener %s keeps its certificates: %s"):format(listener.name, errors.from(err).message))
    return nil, err
  end
  log.write("info", ("tunnel: listener %s has new certificates"):format(listener.name))
  return true
end

--- Opens one.
---@param entry table        checked
---@param on table           on_exchange, on_socket, on_name, on_refused
---@return table? listener, echostream.error? err
function M.open(entry, on)
  local core, engine = require "echostream.tunnel.core", require "echostream.tunnel.engine"
  local listener = { name = entry.name, kind = entry.kind, tls = entry.tls, entry = entry }
  if entry.tls then
    local certs, err = M.certs(entry.tls)
    if certs then
      listener.context, err = core.tls_server { certs = certs, alpn = entry.tls.alpn or { "h2", "http/1.1" }, strict = entry.tls.strict }
    end
    if not listener.context then
      return nil, errors.new("invalid_argument", ("listener %s: %s"):format(entry.name, errors.from(err).message))
    end
  end
  local handle, err = engine.current():listen {
    ip = entry.ip, port = entry.port, path = entry.path,
    tls = entry.kind == "http" and listener.context or nil,
    kind = entry.kind == "http" and "http" or entry.kind == "tcp" and "raw" or "tls_name",
    limits = entry.limits, max_connections = entry.max_connections, handshake_timeout = entry.handshake_timeout,
    on_exchange = function(x, head, fin) on.exchange(listener, x, head, fin) end,
    on_socket = function(socket) on.socket(listener, socket) end,
    on_name = function(socket, name) on.name(listener, socket, name) end,
    on_refused = function(peer, status, why) on.refused(listener, peer, status, why) end,
  }
  if not handle then
    return nil, errors.new(err.code, ("listener %s: %s"):format(entry.name, err.message))
  end
  listener.handle = handle
  listener.address = entry.path and "unix:" .. entry.path or handle:address()
  listener.port = entry.path and 0 or tonumber(listener.address:match ":(%d+)$")
  local paths = entry.tls and files_of(entry.tls) or {}
  if #paths > 0 then
    listener.watch = require("echostream.loop.watch").files(paths, function()
      M.renew(listener)
    end)
  end
  return listener
end

--- No new connections; those that are there end when their exchanges have.
---@param listener table
function M.drain(listener)
  if not listener.draining then
    listener.draining = true
    listener.handle:drain()
  end
end

---@param listener table
function M.close(listener)
  if listener.watch then
    listener.watch:stop()
    listener.watch = nil
  end
  listener.handle:close()
end

return M
