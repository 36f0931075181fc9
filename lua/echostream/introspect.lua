--- A server that describes itself: `rpc.list`, `rpc.describe` and `rpc.health`, which it answers unless told not to
--- (`introspection = false`), and the other side's view of them. Clients answer them too when they are told to
--- (`introspection = true`).
---
--- They are calls like any other: middleware sees them, so what refuses strangers refuses them here too.

local core = require "echostream.core"
local errors = require "echostream.errors"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

---@class echostream.introspect  of servers and clients
local methods = {}
M.methods = methods

---@class echostream.description
---@field name string
---@field kind "rpc"|"event"|"stream"
---@field doc string?
---@field arguments echostream.description.value[]?
---@field results echostream.description.value[]?
---@field examples echostream.description.example[]?
---@field idempotent boolean?
---@field version string?             the handler's own, as its author gave it
---@field deprecated boolean|string?
---@field deadline number?            seconds it may take
---@field stream string?              of streaming methods: "in", "out" or "both"
---@field versions string?            of the code that is running: "v3: 12 in flight, v2: 1"

---@class echostream.description.value
---@field name string?
---@field type string?     "integer", or whatever its author wrote
---@field doc string?
---@field optional boolean?
---@field schema table?    JSON Schema

---@class echostream.description.example
---@field arguments any[]?
---@field results any[]?
---@field doc string?

-- Names that begin so are ours.
local RESERVED = "^rpc%."

--- Whether a name belongs to introspection: handlers of users cannot have it.
---@param name string
---@return boolean
---@package
function M.is_reserved(name)
  return name:find(RESERVED) ~= nil
end

-- rpc.list and rpc.describe --------------------------------------------------------------------------------------

local kinds = { "rpc", "event", "stream" }
local nothing = { rpc = {}, event = {}, stream = {} }

-- The host of a session, without keeping it alive: the core keeps our functions as long as the host lives.
local function host_of(peer)
  return peer.server_ctx._host[1]
end

local function versions_text(host, entry)
  local parts = {}
  for i, each in ipairs(host._host:versions(entry.kind, entry.name)) do
    parts[i] = ("v%d: %d%s"):format(each.version, each.running, i == 1 and " in flight" or "")
  end
  return #parts > 0 and table.concat(parts, ", ") or nil
end

local function whole(host, entry)
  local out = {}
  for key, value in pairs(entry) do
    out[key] = value
  end
  out.versions = versions_text(host, entry)
  return out
end

--- Everything that a server or client offers, in the order of names, as `rpc.describe` says it.
---@param host echostream.host
---@return echostream.description[]
---@package
function M.catalogue(host)
  local entries = {}
  for _, kind in ipairs(kinds) do
    for _, entry in pairs((host and host._catalog or nothing)[kind]) do
      entries[#entries + 1] = whole(host, entry)
    end
  end
  table.sort(entries, function(a, b)
    if a.name == b.name then
      return a.kind < b.kind
    end
    return a.name < b.name
  end)
  return core.array(entries)
end

local function list(peer)
  local entries = M.catalogue(host_of(peer))
  for i, entry in ipairs(entries) do
    entries[i] = { name = entry.name, kind = entry.kind, doc = entry.doc, idempotent = entry.idempotent,
      version = entry.version, deprecated = entry.deprecated }
  end
  return entries
end

local function describe(peer, name, kind)
  local host = host_of(peer)
  if name == nil or name == core.null then
    return M.catalogue(host)
  end
  for _, each in ipairs(kinds) do
    local entry = (kind == nil or kind == each) and (host and host._catalog or nothing)[each][name]
    if entry then
      return whole(host, entry)
    end
  end
  return nil, errors.new("not_found", ("nothing of the name %s is offered here"):format(errors.show(name)))
end

-- rpc.health -----------------------------------------------------------------------------------------------------

-- gRPC's health protocol (grpc.health.v1): "" is the server as a whole; what is not known is SERVICE_UNKNOWN.
local SERVING, NOT_SERVING, UNKNOWN = "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"

local function health_of(self, service)
  local of_all = self.state ~= "stopping" and self.state ~= "stopped" and (self._health[""] or SERVING) or NOT_SERVING
  if service == nil or service == "" then
    return of_all
  end
  local said = self._health[service]
  if said == nil and not self._services[service] then
    return UNKNOWN
  end
  return of_all == SERVING and said or of_all
end

-- Wakes those who watch.
local function changed(self)
  local waiting = self._health_waiting
  self._health_waiting = {}
  for resume in pairs(waiting) do
    resume(true)
  end
end

--- Says whether a service can be used; `rpc.health` tells whoever asks, and those who watch learn of it at once. What nothing was
--- said about: the server as a whole serves until it stops, a service of `add_service` is as the server is, others are unknown.
---@param service string  "" means the server as a whole: no service is better than that
---@param status "SERVING"|"NOT_SERVING"|nil  nil: forgets what was said about it
---@return self
function methods:set_health(service, status)
  options.argument("set_health", "service", service, "string")
  if status ~= nil and status ~= SERVING and status ~= NOT_SERVING then
    error("set_health: status wants \"SERVING\", \"NOT_SERVING\" or nil, got " .. errors.show(status), options.users_level(2))
  end
  self._health[service] = status
  changed(self)
  return self
end

local function status_of(peer, service)
  if service == core.null then
    service = nil
  elseif service ~= nil and type(service) ~= "string" then
    return nil, errors.new("invalid_argument", "rpc.health: the service is a name, got " .. errors.show(service))
  end
  local host = host_of(peer)
  return host and health_of(host, service) or NOT_SERVING
end

local function health(peer, service)
  local status, err = status_of(peer, service)
  if not status then
    return nil, err
  end
  return { status = status }
end

-- Sends the status now and at every change, until the caller has enough or the server stops.
local function watch(peer, channel, service)
  local last
  while true do
    local status, err = status_of(peer, service)
    if not status then
      return nil, err
    elseif status ~= last then
      last = status
      local sent = channel:send { status = status }
      if not sent then
        return
      end
    end
    local host = host_of(peer)
    if not host or host.state == "stopping" or host.state == "stopped" then
      return
    end
    local woken = task.await(function(resume)
      host._health_waiting[resume] = true
      return function()
        host._health_waiting[resume] = nil
      end
    end)
    if not woken then
      return -- nobody listens any more
    end
  end
end

--- The server is about to stop: those who watch learn it, and their streams end, which would hold the stop up.
---@param self echostream.host
---@package
function M.drain(self)
  changed(self)
end

--- Makes what a host needs for it and, when it is wanted, offers the methods.
---@param self table
---@param wanted boolean
---@param offer fun(self: table, kind: string, name: string, fn: function, opts?: table)  registers without looking at names
---@package
function M.init(self, wanted, offer)
  self._health, self._health_waiting = {}, {}
  if wanted then
    offer(self, "rpc", "rpc.list", list, { idempotent = true })
    offer(self, "rpc", "rpc.describe", describe, { idempotent = true })
    offer(self, "rpc", "rpc.health", health, { idempotent = true })
    offer(self, "rpc", "rpc.health.watch", watch, { stream = "out" })
  end
end

-- A page of documentation ----------------------------------------------------------------------------------------

local page_options = { format = { type = "string", one_of = { "markdown", "html" }, default = "markdown" },
  title = { type = "string" } }

--- A page of documentation made of a description, as `client:describe()` and `rpc.describe` give it: Markdown, or one HTML file that
--- needs nothing else. Everything in it is escaped.
---@param description echostream.description[]
---@param opts? { format?: "markdown"|"html", title?: string }  default: "markdown", "What this server offers"
---@return string
function M.page(description, opts)
  options.argument("introspect.page", "description", description, "table")
  opts = options.check("introspect.page", opts, page_options)
  return require("echostream.introspect.page").write(description, opts.format, opts.title or "What this server offers")
end

--- A page of documentation of what this server or client offers.
---@param opts? { format?: "markdown"|"html", title?: string }  default: "markdown", "What this server offers"
---@return string
function methods:documentation(opts)
  return M.page(M.catalogue(self), opts)
end

-- The other side's view ------------------------------------------------------------------------------------------

local order = { "arguments", "results", "examples", "idempotent", "stream", "codec", "concurrent", "deadline", "max_calls",
  "priority", "version", "versions", "deprecated" }

local function value_text(entry)
  if type(entry) ~= "table" then
    return tostring(entry)
  end
  local text = tostring(entry.name or "") .. (entry.optional and "?" or "")
  for _, part in ipairs { entry.type or false, entry.doc or false } do
    if part then
      text = text .. (text ~= "" and ": " or "") .. tostring(part)
    end
  end
  return text
end

local function example_text(example, name)
  if type(example) ~= "table" then
    return tostring(example)
  end
  local function in_json(values)
    local parts = {}
    for i, value in ipairs(type(values) == "table" and values or { values }) do
      parts[i] = core.codec.json.pack(value) or errors.show(value)
    end
    return table.concat(parts, ", ")
  end
  local text = example.arguments and ("%s(%s)"):format(name, in_json(example.arguments)) or ""
  if example.results then
    text = text .. " --> " .. in_json(example.results)
  end
  return text .. (example.doc and (text ~= "" and "  " or "") .. tostring(example.doc) or "")
end

local function field_text(self, field)
  local value = self[field]
  if type(value) ~= "table" then
    return tostring(value)
  end
  local parts = {}
  for i, each in ipairs(value) do
    parts[i] = field == "examples" and example_text(each, self.name) or value_text(each)
  end
  return table.concat(parts, "; ")
end

local function title(entry)
  return ("%s (%s)%s"):format(tostring(entry.name), tostring(entry.kind), entry.doc and ": " .. tostring(entry.doc) or "")
end

local Description = { __name = "echostream.description" }

function Description.__tostring(self)
  local lines = { title(self) }
  for _, field in ipairs(order) do
    if self[field] ~= nil then
      lines[#lines + 1] = ("  %s: %s"):format(field, field_text(self, field))
    end
  end
  return table.concat(lines, "\n")
end

local Descriptions = { __name = "echostream.descriptions" }

function Descriptions.__tostring(self)
  local lines = {}
  for i, entry in ipairs(self) do
    lines[i] = title(entry)
  end
  return table.concat(lines, "\n")
end

local function ask(calls, method, name)
  local answer, err = calls:request(method, name)
  if type(answer) ~= "table" then
    return nil, err or errors.new("protocol", method .. ": the answer is no table")
  elseif method == "rpc.health" then
    return answer.status
  elseif name then
    return setmetatable(answer, Description)
  end
  for i, entry in ipairs(answer) do
    answer[i] = type(entry) == "table" and setmetatable(entry, Description) or entry
  end
  return setmetatable(answer, Descriptions)
end

local function ask_or_call_back(where, self, method, name, callback)
  if type(name) == "function" then
    name, callback = nil, name
  end
  if name ~= nil then
    options.argument(where, "name", name, "string")
  end
  if callback ~= nil then
    options.argument(where, "callback", callback, "function")
    return task.call_back(callback, ask, self, method, name)
  end
  return ask(self, method, name)
end

---@class echostream.introspect.shared  of sessions and clients
local shared = {}
M.shared = shared

--- What the other side offers: a list of [descriptions](#introspection), or the one of a name. `tostring` makes text of both. The
--- other side may have turned it off (`introspection = false`), and clients do not answer unless they were told to.
---@param name? string
---@param callback? fun(description: table?, err: echostream.error?)  instead of waiting
---@return table|nil description, echostream.error? err  `not_found`, `method_not_found`
function shared:describe(name, callback)
  return ask_or_call_back("describe", self, "rpc.describe", name, callback)
end

--- The names of what the other side offers: a list of `{ name, kind, doc, idempotent, version, deprecated }`, shorter than `describe`.
---@param callback? fun(list: table?, err: echostream.error?)  instead of waiting
---@return table|nil list, echostream.error? err  `method_not_found`
function shared:methods(callback)
  return ask_or_call_back("methods", self, "rpc.list", nil, callback)
end

--- Whether the other side, or one of its services, can be used.
---@param service? string
---@param callback? fun(status: string?, err: echostream.error?)  instead of waiting
---@return "SERVING"|"NOT_SERVING"|"SERVICE_UNKNOWN"|nil status, echostream.error? err  `method_not_found`
function shared:health(service, callback)
  return ask_or_call_back("health", self, "rpc.health", service, callback)
end

return M
