--- Finding servers: by multicast DNS in the local network (RFC 6762, 6763), by SRV records of a domain (RFC 2782), or from a list, all
--- by one interface.
---
---     local guard <close> = assert(echo.discovery.advertise { name = "kitchen", server = server })
---     local found = assert(echo.discovery.discover("kitchen", 3))
---     local client = assert(echo.connect(found))
---
--- Multicast DNS is not authenticated: whoever is in the network can answer, and with a pin of its own. A pin that was found this way
--- says that all connections go to the same server, not whose server that is.

local avahi = require "echostream.discovery.avahi"
local browser = require "echostream.discovery.browser"
local dns_sd = require "echostream.discovery.dns_sd"
local errors = require "echostream.errors"
local hooks = require "echostream.hooks"
local address = require "echostream.address"
local log = require "echostream.log"
local mdns = require "echostream.discovery.mdns"
local options = require "echostream.options"
local srv = require "echostream.discovery.srv"
local static = require "echostream.discovery.static"
local task = require "echostream.task"
local udp = require "echostream.loop.udp"

local M = {}

-- Advertising -------------------------------------------------------------------------------------------------

---@class echostream.options.advertise
---@field name? string  what people see, any UTF-8 of at most 63 bytes (default: this machine's name)
---@field server? table  the started server: gives `port`, the address that it listens on, and its pin as the property `pin`
---@field port? integer  (default: the server's)
---@field type? string  of service: "chat" is "_chat._udp" (default: "_echostream._udp")
---@field subtypes? string[]  for browsing by them
---@field properties? table  strings, numbers and `true` by name; `pin = false` keeps the server's pin out of it
---@field interfaces? string[]  names of the only network interfaces (default: all, the loopback too)
---@field via? string  "mdns": our own responder; "avahi": avahi-daemon; "auto": avahi where it works (default: "auto")
---@field on_rename? function  `fn(name)`: somebody else had the name

local advertise_schema = {
  name = { type = "string" },
  server = { type = "table" },
  port = { type = "integer", min = 1, max = 65535 },
  type = { type = "string" },
  subtypes = { type = "strings" },
  properties = { type = "table" },
  interfaces = { type = "strings" },
  via = { type = "string", one_of = { "auto", "mdns", "avahi" }, default = "auto" },
  on_rename = { type = "function" },
}

---@class echostream.discovery.guard
---@field name string   what the service is called now: "kitchen (2)" where there is a "kitchen" already
---@field type string
---@field port integer
---@field via "mdns"|"avahi"
local Guard = {}

local guard_meta = { __name = "echostream.discovery.guard" }

function guard_meta.__index(self, key)
  if Guard[key] then
    return Guard[key]
  end
  return rawget(self, "_inner")[key]
end

function guard_meta.__tostring(self)
  return ("echostream.discovery.guard %s.%s via %s"):format(self.name, self.type, self.via)
end

--- Withdraws the service; harmless twice. A guard does that too when it goes out of scope (`<close>`) and when it is collected.
function Guard:close()
  self._inner.remove(true)
end

function guard_meta.__close(self)
  self:close()
end

function guard_meta.__gc(self)
  pcall(self._inner.remove, false)
end

local function renamed(inner, name)
  local before = inner.name
  inner.name = name
  if before ~= name and inner.on_rename then
    task.spawn(hooks.call, "discovery.on_rename", "internal", inner.on_rename, name)
  end
end

local function by_mdns(service, interfaces, inner)
  local engine, err = mdns.shared(interfaces)
  if not engine then
    return nil, err
  end
  if not engine.responder:has_address(service) then
    engine:release()
    return nil, errors.new("failed_precondition", "no network interface that is used has the server's address" .. (service.ip
      and ", " .. service.ip or ""))
  end
  inner.via = "mdns"
  return task.await(function(resume)
    local published
    local waiting = resume -- dropped once called: it knows the task, whose result is the guard, which could never be collected
    service.changed = function(self, what)
      renamed(inner, self.name)
      if what == "up" and waiting then
        local up = waiting
        waiting = nil
        up(true)
      end
    end
    published = engine.responder:add(service)
    inner.remove = function(now)
      engine.responder:remove(published)
      if now then -- a finaliser leaves the sockets to the engine's next look around
        engine:release()
      end
    end
    return function()
      inner.remove(true)
    end
  end)
end

local function by_avahi(service, inner)
  inner.via = "avahi"
  return task.await(function(resume)
    local waiting = resume
    local published = avahi.publish(service, function(name, err)
      if name then
        renamed(inner, name)
      end
      local up = waiting
      waiting = nil
      if up then
        up(name and true or nil, err)
      end
    end, function(err)
      log.write("warn", ("discovery: %s is not published any more: %s"):format(inner.name, err.message))
    end)
    inner.remove = published.remove
    return published.remove
  end, 30)
end

local function advertise(service, opts, inner)
  if opts.via ~= "mdns" then
    local ok, reason = not opts.interfaces, "avahi publishes on every interface"
    if ok then
      ok, reason = avahi.fits(service)
    end
    local err = not ok and errors.new("failed_precondition", "not by avahi: " .. reason) or nil
    if ok then
      ok, err = by_avahi(service, inner)
    end
    if not ok and (opts.via == "avahi" or err.code == "cancelled") then
      return nil, err
    elseif ok then
      return setmetatable({ _inner = inner }, guard_meta)
    end
  end
  local ok, err = by_mdns(service, opts.interfaces, inner)
  if not ok then
    return nil, err
  end
  return setmetatable({ _inner = inner }, guard_meta)
end

-- What is to be published; raises without a position.
local function service_of(opts)
  local server, port, ip = opts.server, opts.port, nil
  local properties = {}
  for key, value in pairs(opts.properties or {}) do
    properties[key] = value
  end
  if server then
    if server.state ~= "running" then
      error(('discovery.advertise: option "server" wants a started server, this one is %s'):format(tostring(server.state)), 0)
    end
    local host, its_port = address.parse("discovery.advertise", server.address, "0.0.0.0")
    ip, port = address.literal(host) and host ~= "::" and host or nil, port or its_port
    if properties.pin == nil then
      properties.pin = server.pin
    end
  elseif not port then
    error('discovery.advertise: wants "server" or "port"', 0)
  end
  local name = opts.name or udp.hostname():match "^[^.]+" or "echostream"
  if name == "" or #name > 63 or not utf8.len(name) or name:find "%c" then
    error(("discovery.advertise: option \"name\" wants 1 to 63 bytes of UTF-8, got %s"):format(errors.show(name)), 0)
  end
  for _, subtype in ipairs(opts.subtypes or {}) do
    if not subtype:find "^[%w_-]+$" or #subtype > 63 then
      error(("discovery.advertise: option \"subtypes\" wants letters, digits and hyphens, got %s"):format(errors.show(subtype)), 0)
    end
  end
  return { name = name, type = dns_sd.type_of("discovery.advertise", opts.type), subtypes = opts.subtypes or {}, port = port, ip = ip,
    strings = dns_sd.strings_of("discovery.advertise", properties) }
end

--- Makes a service known in the local network, and returns when nobody has objected to its name (about a second).
---@param opts echostream.options.advertise
---@param callback? fun(guard: echostream.discovery.guard?, err: echostream.error?)  instead of waiting
---@return echostream.discovery.guard|nil guard  withdraws the service when it is closed or collected: keep it
---@return echostream.error? err  `unavailable`: there is no multicast here; `failed_precondition`: avahi was asked for and does not do
--- it, or no interface has the server's address
function M.advertise(opts, callback)
  opts = options.check("discovery.advertise", opts, advertise_schema)
  local ok, service = pcall(service_of, opts)
  if not ok then
    error(service, 2)
  end
  local inner = { name = service.name, type = service.type, port = service.port, on_rename = opts.on_rename, remove = function() end }
  return task.wait_or_call_back("discovery.advertise", callback, advertise, service, opts, inner)
end

-- Finding -----------------------------------------------------------------------------------------------------

---@class echostream.options.browse  besides the callbacks
---@field type? string  of service: "chat" is "_chat._udp" (default: "_echostream._udp")
---@field subtype? string  only those that advertise it
---@field interfaces? string[]  names of the only network interfaces (default: all, the loopback too)

local browse_schema = {
  type = { type = "string" },
  subtype = { type = "string" },
  interfaces = { type = "strings" },
}
for name, field in pairs(browser.schema) do
  browse_schema[name] = field
end

---@class echostream.discovery.source  where servers are found: the local network (`echo.discovery` itself), a domain, a list
local Source = {}
Source.__index = Source
Source.__name = "echostream.discovery.source"

local multicast = {}

function multicast.browse(_, what, callbacks)
  local engine, err = mdns.shared(what.interfaces)
  if not engine then
    return nil, err
  end
  return browser.new(callbacks, function(sink)
    local browse = engine.querier:browse(what.type, what.subtype, sink)
    return function()
      engine.querier:unbrowse(browse)
      engine:release()
    end
  end)
end

local network = setmetatable({ _of = multicast }, Source)

local function browse(source, opts, where)
  opts = options.check(where, opts, browse_schema, 3)
  local ok, kind = pcall(dns_sd.type_of, where, opts.type)
  if not ok then
    error(kind, 3)
  end
  return source._of:browse({ type = kind, subtype = opts.subtype, interfaces = opts.interfaces }, opts)
end

--- Looks for services until the browser is closed, and tells what comes, goes and changes: by the callbacks, or by
--- `for what, found in browser:changes() do`.
---@param opts? echostream.options.browse
---@return echostream.discovery.browser|nil browser, echostream.error? err  `unavailable`: there is no multicast here
function Source:browse(opts)
  local found, err = browse(self, opts, "discovery.browse")
  return found, err
end

local discover_schema = {
  name = { type = "string" },
  type = browse_schema.type,
  subtype = browse_schema.subtype,
  interfaces = browse_schema.interfaces,
}

local function discover(source, opts, timeout)
  local found, err = source._of:browse(opts, {})
  if not found then
    return nil, err
  end
  return browser.first(found, opts.name, timeout)
end

--- Finds one server.
---@param what? string|table  a name, or a type ("_chat._udp": the first that answers), or `{ name, type, subtype, interfaces }`
---@param timeout? number  seconds (default: 3)
---@param callback? fun(found: echostream.discovery.found?, err: echostream.error?)  instead of waiting
---@return echostream.discovery.found|nil found  what `echo.connect` takes
---@return echostream.error? err  `not_found`; `unavailable`: there is no multicast here, or no name server
function Source:discover(what, timeout, callback)
  if type(timeout) == "function" then
    timeout, callback = nil, timeout
  end
  if type(what) == "string" then
    what = dns_sd.is_type(what) and { type = what } or { name = what }
  end
  local opts = options.check("discovery.discover", what, discover_schema)
  local ok, kind = pcall(dns_sd.type_of, "discovery.discover", opts.type)
  if not ok then
    error(kind, 2)
  end
  opts.type, timeout = kind, timeout or 3
  options.argument("discovery.discover", "timeout", timeout, "seconds")
  return task.wait_or_call_back("discovery.discover", callback, discover, self, opts, timeout)
end

--- Looks for services in the local network until the browser is closed.
---@param opts? echostream.options.browse
---@return echostream.discovery.browser|nil browser, echostream.error? err  `unavailable`: there is no multicast here
function M.browse(opts)
  local found, err = browse(network, opts, "discovery.browse")
  return found, err
end

--- Finds one server in the local network.
---@param what? string|table  a name, or a type ("_chat._udp": the first that answers), or `{ name, type, subtype, interfaces }`
---@param timeout? number  seconds (default: 3)
---@param callback? fun(found: echostream.discovery.found?, err: echostream.error?)  instead of waiting
---@return echostream.discovery.found|nil found  what `echo.connect` takes
---@return echostream.error? err  `not_found`; `unavailable`: there is no multicast here
function M.discover(what, timeout, callback)
  return network:discover(what, timeout, callback)
end

--- The servers of a list, as a source: addresses, or tables with `name`, `address` or `addresses`, `properties`, `type`.
---@param list (string|integer|table)[]
---@return echostream.discovery.source source
function M.static(list)
  options.argument("discovery.static", "list", list, "table")
  local ok, made = pcall(static.new, list)
  if not ok then
    error(made, 2)
  end
  return setmetatable({ _of = made }, Source)
end

---@class echostream.options.srv
---@field domain string  "example.org": `_echostream._udp.example.org` is asked for
---@field type? string  of service: "chat" is "_chat._udp" (default: "_echostream._udp")
---@field server? string  address of the name server (default: those of /etc/resolv.conf)

local srv_schema = {
  domain = { type = "string", required = true },
  type = { type = "string" },
  server = { type = "string" },
}

--- The servers that a domain names by SRV records, as a source. Each has the name "host:port"; `priority`, `weight` and `rank` (1: to be
--- tried first, by RFC 2782) besides. They are asked for again when their time to live is over.
---@param opts echostream.options.srv
---@return echostream.discovery.source source
function M.srv(opts)
  opts = options.check("discovery.srv", opts, srv_schema)
  local ok, kind = pcall(dns_sd.type_of, "discovery.srv", opts.type)
  if not ok then
    error(kind, 2)
  end
  local servers
  if opts.server then
    local good, host, port = pcall(address.parse, "discovery.srv", opts.server, "127.0.0.1")
    if not good or not address.literal(host) then
      error(good and ("discovery.srv: option \"server\" wants a numeric address, got " .. errors.show(opts.server)) or host, 2)
    end
    servers = { { host, port } }
  end
  return setmetatable({ _of = srv.new(opts.domain, kind, servers) }, Source)
end

-- Feeding a fleet ---------------------------------------------------------------------------------------------

-- Anybody may have said it: what is no pin is none.
local function pin_of(found)
  local pin = type(found.properties) == "table" and found.properties.pin
  return type(pin) == "string" and #pin == 71 and pin:find "^sha256:%x+$" and pin or nil
end

-- What a target is made of.
local function said(found)
  return table.concat(found.addresses, " ") .. " " .. (pin_of(found) or "")
end

--- Keeps the targets of a fleet as a source says: what is found is added, what goes is removed. Targets that others added stay. Whom
--- the fleet trusts its option `client` says; where that says nothing, a pin that was found is trusted, as `echo.connect` does.
---@param fleet echostream.fleet
---@param source? echostream.discovery.source  default: the local network
---@param opts? echostream.options.browse
---@return echostream.discovery.browser|nil browser  closed: the fleet stays as it is
---@return echostream.error? err
function M.feed(fleet, source, opts)
  options.argument("discovery.feed", "fleet", fleet, "table")
  local given = options.check("discovery.feed", opts, browse_schema)
  local fed = {} -- addresses and pin by name
  local callbacks = {}
  for key, value in pairs(given) do
    callbacks[key] = value
  end
  local function add(found)
    local ok, err = pcall(fleet.add, fleet, found.name, found.addresses, { pin = pin_of(found) })
    if ok then
      fed[found.name] = said(found)
    else
      log.write("warn", ("discovery: %s was not added to the fleet: %s"):format(found.name, tostring(err)))
    end
  end
  local function remove(found)
    if fed[found.name] then
      fed[found.name] = nil
      fleet:remove(found.name)
    end
  end
  function callbacks.on_add(found)
    add(found)
    if given.on_add then
      given.on_add(found)
    end
  end
  function callbacks.on_remove(found)
    remove(found)
    if given.on_remove then
      given.on_remove(found)
    end
  end
  function callbacks.on_change(found, before)
    if fed[found.name] ~= said(found) then
      remove(before)
      add(found)
    end
    if given.on_change then
      given.on_change(found, before)
    end
  end
  return (source or network):browse(callbacks)
end

--- For `echo.connect`: the addresses of what was found, and options that trust its pin where they trust nobody else.
---@param found echostream.discovery.found
---@param opts table?
---@return string|string[] addresses, table opts
---@private
function M.dial(found, opts)
  if type(found.address) ~= "string" then
    error("echo.connect: wants an address, or what discovery found", 3)
  end
  local copy = {}
  for key, value in pairs(opts or {}) do
    copy[key] = value
  end
  local transport = type(copy.transport) == "table" and copy.transport or {}
  local trusts = copy.pin or copy.ca or copy.skip_verification or transport.skip_verification
  if not trusts then
    copy.pin = pin_of(found)
  end
  local all = type(found.addresses) == "table" and found.addresses
  return all and all[1] and all or found.address, copy
end

return M
