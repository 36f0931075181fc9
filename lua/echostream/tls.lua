--- TLS as options say: whom clients and servers trust, which certificates they show, and what they remember of each other.

local core = require "echostream.core"
local address = require "echostream.address"
local errors = require "echostream.errors"
local identity = require "echostream.tls.identity"
local log = require "echostream.log"
local options = require "echostream.options"
local session_cache = require "echostream.session_cache"

local M = {}

--- Options of servers, clients and raw QUIC.
---@type table<string, echostream.options.field>
M.shared_schema = {
  cert = { type = "string" },
  key = { type = "string" },
  ca = { type = "string" },
  tls_priority = { type = "string" },
  keylog = { type = "string" },
}

--- Options of what dials.
---@type table<string, echostream.options.field>
M.client_schema = {
  pin = { type = { "string", "strings" } },
  skip_verification = { type = "boolean" },
  server_name = { type = "string" },
  session_cache = { type = { "boolean", "table" } },
}

--- Options of what listens.
---@type table<string, echostream.options.field>
M.server_schema = {
  certs = { type = "table" },
  client_pins = { type = "strings" },
  require_client_cert = { type = "boolean" },
}

--- Options of `set_certificate`.
---@type table<string, echostream.options.field>
M.certificate_schema = {
  cert = { type = "string" },
  key = { type = "string" },
  certs = { type = "table" },
}

-- Puts a file name or PEM text where core.tls wants it.
local function set_pem(config, field, value)
  if value then
    config[field .. (value:find("-----BEGIN", 1, true) and "_pem" or "_file")] = value
  end
end

local function pin_list(where, option, given, level)
  local pins = {}
  for _, text in ipairs(type(given) == "table" and given or { given }) do
    local raw = identity.pin_bytes(text)
    if not raw then
      error(('%s: option "%s" wants "sha256:" and 64 hex digits, got %s'):format(where, option, errors.show(text)), level + 1)
    end
    pins[#pins + 1] = raw
  end
  if #pins == 0 then
    error(('%s: option "%s" is an empty list'):format(where, option), level + 1)
  end
  return pins
end

local warned_env = false

-- Whoever has the secrets reads the traffic: never in silence.
local function warn_of_keylog(path)
  if path then
    log.write("warn", ("the secrets of connections are written to %s (keylog): who has them reads the traffic"):format(path))
  end
  local env = os.getenv "SSLKEYLOGFILE"
  if env and env ~= "" and not warned_env then
    warned_env = true
    log.write("warn", ("the secrets of connections are written to %s (SSLKEYLOGFILE): who has them reads the traffic")
      :format(env))
  end
end

local function context(config, opts)
  config.priority, config.keylog = opts.tls_priority, opts.keylog
  local tls, err = core.tls(config)
  if tls then
    warn_of_keylog(opts.keylog)
  end
  return tls, err
end

--- What a certificate says, as users see it.
---@param raw table?  from the core
---@return echostream.certificate?
function M.describe(raw)
  if raw then
    raw.pin, raw.hash = identity.pin_text(raw.spki), identity.pin_text(raw.der)
    raw.spki, raw.der = nil, nil
  end
  return raw
end

-- Clients -----------------------------------------------------------------------------------------------------

--- Whom a client trusts, as core.tls wants it; nil when the options do not say. Raises when they say it wrongly.
---@param where string
---@param opts table  checked
---@param level? integer  as for error(); default 2, the function that called the caller
---@return table?
function M.trust(where, opts, level)
  level = (level or 2) + 1
  session_cache.check(where, opts.session_cache, level)
  if opts.skip_verification then
    return { trust = "skip" }
  elseif opts.pin then
    return { trust = "pin", pins = pin_list(where, "pin", opts.pin, level) }
  elseif opts.ca == "system" then
    return { trust = "system" }
  elseif opts.ca then
    return { trust = "ca", ca_file = opts.ca }
  end
end

--- A client's context for connecting to `name`.
---@param opts table  checked
---@param trust table?
---@param name string  host name or address
---@return echostream.core.tls? tls, echostream.error? err
function M.client(opts, trust, name)
  if not trust then
    return nil, errors.new("unauthenticated", 'no way to tell the right server from a wrong one: give pin = "sha256:…" '
      .. '(the server prints it), ca = "system" or a file, or skip_verification = true for a trial')
  end
  local config = {}
  for key, value in pairs(trust) do
    config[key] = value
  end
  if config.trust == "skip" then
    log.write("warn", ("connecting to %s without verifying who it is (skip_verification)"):format(name))
  end
  set_pem(config, "cert", opts.cert)
  set_pem(config, "key", opts.key)
  -- An address is looked for among the certificate's addresses, and no name is asked for (RFC 6066, section 3).
  config.server_name = opts.server_name or (name:gsub("%%.*$", ""))
  return context(config, opts)
end

-- What a ticket is good for: this server, this protocol, this trust, and us as we show ourselves.
local function cache_key(opts, trust, tls, name, port, alpn)
  local whom = trust.trust
  if trust.pins then
    local pins = {}
    for i, raw in ipairs(trust.pins) do
      pins[i] = identity.pin_text(raw)
    end
    table.sort(pins)
    whom = table.concat(pins, ",")
  elseif trust.ca_file then
    whom = "ca:" .. trust.ca_file
  end
  local _, own = tls:pin()
  return table.concat({ alpn, address.join(name, port), opts.server_name or "", whom, opts.tls_priority or "",
    own and identity.pin_text(own) or "" }, " ")
end

--- The ticket for a connection that is about to be dialled, and what keeps the next one. Nothing without a store.
---@param opts table  checked
---@param transport table  checked
---@param trust table
---@param tls echostream.core.tls
---@param name string
---@param port integer
---@param alpn string
---@return string? ticket, fun(ticket: string)? keep
function M.tickets(opts, transport, trust, tls, name, port, alpn)
  local wanted = opts.session_cache
  if wanted == nil then
    wanted = transport.enable_0rtt
  end
  local store = session_cache.of(wanted)
  if not store then
    return nil
  end
  local key = cache_key(opts, trust, tls, name, port, alpn)
  return session_cache.take(store, key), session_cache.keeper(store, key)
end

-- Servers -----------------------------------------------------------------------------------------------------

-- The option `certs`, as core.tls wants it.
local function further(where, certs, level)
  local list = {}
  for name, pair in pairs(certs) do
    local cert = type(pair) == "table" and (pair.cert or pair[1])
    local key = type(pair) == "table" and (pair.key or pair[2])
    if type(name) ~= "string" or type(cert) ~= "string" or type(key) ~= "string" then
      error(('%s: option "certs" wants { ["host.example"] = { cert, key }, … }'):format(where), level + 1)
    end
    local entry = { name = name }
    set_pem(entry, "cert", cert)
    set_pem(entry, "key", key)
    list[#list + 1] = entry
  end
  return list
end

--- Checks the options of a server that belong together.
---@param where string
---@param opts table  checked
---@param level? integer
function M.check_server(where, opts, level)
  level = (level or 2) + 1
  if opts.certs then
    further(where, opts.certs, level)
  end
  if opts.client_pins then
    pin_list(where, "client_pins", opts.client_pins, level)
    if opts.ca then
      error(('%s: options "ca" and "client_pins" exclude each other'):format(where), level)
    end
  end
  if opts.require_client_cert == false and not opts.ca and not opts.client_pins then
    error(('%s: "require_client_cert = false" needs "ca" or "client_pins": what to check of those who show one'):format(where),
      level)
  end
end

--- How peers have to prove themselves: "ca", by somebody who issued the certificate (what it says of names counts); "pin", by its
--- key alone; false: not at all.
---@param trust table?  a client's, from M.trust
---@param opts table    a server's, checked
---@return "ca"|"pin"|false
function M.checked_by(trust, opts)
  if trust then
    return (trust.trust == "ca" or trust.trust == "system") and "ca" or trust.trust == "pin" and "pin"
  end
  return opts.ca and "ca" or opts.client_pins and "pin" or false
end

--- A server's context: with the certificate of its options, or with a new one for the key that is given.
---@param where string
---@param opts table  checked
---@param key_pem string?  the made key, where the options have no certificate
---@param names string[]?  of a made certificate
---@return echostream.core.tls? tls, echostream.error? err
function M.server(where, opts, key_pem, names)
  local config = { server = true }
  if opts.cert then
    set_pem(config, "cert", opts.cert)
    set_pem(config, "key", opts.key)
  else
    local cert, err = identity.certificate(key_pem, names)
    if not cert then
      return nil, err
    end
    config.cert_pem, config.key_pem = cert, key_pem
  end
  if opts.certs then
    config.certs = further(where, opts.certs, 2)
  end
  if opts.ca then
    config.trust, config.ca_file = "ca", opts.ca
  elseif opts.client_pins then
    config.trust, config.pins = "pin", pin_list(where, "client_pins", opts.client_pins, 2)
  elseif opts.require_client_cert then
    config.trust = "skip" -- any certificate: its key is who the client is
  end
  config.client_optional = opts.require_client_cert == false
  return context(config, opts)
end

--- The options of a server with other certificates: those that are not given stay as they are.
---@param where string
---@param opts table  checked
---@param change table?
---@param level? integer  as for error(); default 3, who called the caller
---@return table
function M.changed(where, opts, change, level)
  level = level or 3
  change = options.check(where, change, M.certificate_schema, level)
  local new = {}
  for name, value in pairs(opts) do
    new[name] = value
  end
  for name, value in pairs(change) do
    new[name] = value
  end
  if change.cert and not new.key then
    error(('%s: option "cert" needs "key"'):format(where), level)
  end
  M.check_server(where, new, level)
  return new
end

-- What listens: a server or a listener of raw QUIC ---------------------------------------------------------------

--- The context of what listens: with the certificate of its options, or with a new one for a key that it keeps.
---@param where string
---@param host table    has `_rec`; `_key` is the kept key
---@param opts table    checked
---@param names string[]?  of a made certificate
---@return echostream.core.tls? tls, echostream.error? err
function M.identity(where, host, opts, names)
  if not opts.cert and not host._key then
    local key, err
    if host._rec.sim and not opts.key and not opts.state_dir then
      key = core.key_generate() -- simulations leave nothing on disk
    else
      key, err = identity.key(opts.key, opts.state_dir)
    end
    if not key then
      return nil, err
    end
    host._key = key
  end
  return M.server(where, opts, host._key, names)
end

--- From now on it shows this context's certificate: sets its `pin` and `cert_hash`.
---@param host table
---@param tls echostream.core.tls
function M.show(host, tls)
  local spki, der = tls:pin()
  host._tls = tls
  rawset(host, "pin", identity.pin_text(spki))
  rawset(host, "cert_hash", identity.pin_text(der))
end

--- Replaces its certificates; misuse is raised at who called the caller.
---@param where string
---@param host table      has `_options` and, once it listens, `_endpoint`
---@param change table?   new options
---@param make fun(host: table, opts: table): echostream.core.tls?, echostream.error?
---@return true|nil ok, echostream.error? err  then everything stays as it was
function M.replace(where, host, change, make)
  local new = M.changed(where, host._options, change, 4)
  local tls, err = make(host, new)
  if not tls then
    return nil, err
  end
  if host._endpoint then
    local ok
    ok, err = host._endpoint:set_tls(tls)
    if not ok then
      return nil, err
    end
  end
  host._options = new
  M.show(host, tls)
  return true
end

return M
