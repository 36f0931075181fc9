--- Services: a table or a module of functions becomes methods with a common name in front, and the other side calls them as
--- if it had that table.

local errors = require "echostream.errors"
local handlers = require "echostream.handlers"
local options = require "echostream.options"

local M = {}

---@class echostream.services  of servers and clients
local methods = {}
M.methods = methods

-- Offering -----------------------------------------------------------------------------------------------------

local function misuse(where, ...)
  error(where .. ": " .. string.format(...), 0)
end

-- The functions of `given` with their options, as { name =, fn =, opts = } in `out`. A module may hold constants beside its
-- functions; a table that was written for us may not.
local function collect(out, prefix, given, lenient, inside)
  if inside[given] then
    misuse(prefix, "the table contains itself")
  end
  inside[given] = true
  for key, value in pairs(given) do
    if type(key) ~= "string" then
      misuse(prefix, "wants functions by name, got one under %s", errors.show(key))
    end
    local name = prefix .. "." .. key
    if key:sub(1, 1) == "_" then -- luacheck: ignore 542
      -- private
    elseif type(value) == "function" then
      out[#out + 1] = { name = name, fn = value }
    elseif type(value) == "table" and type(value[1]) == "function" then
      local opts = {}
      for option, setting in pairs(value) do
        if option ~= 1 then
          opts[option] = setting
        end
      end
      out[#out + 1] = { name = name, fn = value[1], opts = opts }
    elseif type(value) == "table" then
      collect(out, name, value, lenient, inside)
    elseif not lenient then
      misuse(name, "wants a function, { function, option = … } or a table of those, got %s", errors.show(value))
    end
  end
  inside[given] = nil
  return out
end

local function load_module(name)
  local ok, module = pcall(require, name)
  if not ok then
    misuse("add_service", "the module %s cannot be loaded: %s", errors.show(name), errors.from(module).message)
  elseif type(module) ~= "table" then
    misuse("add_service", "the module %s gives %s, not a table of functions", errors.show(name), errors.show(module))
  end
  return module
end

local function plain(raised)
  return type(raised) == "string" and raised:gsub("^[^\n]-:%d+: ", "", 1) or raised
end

local function add_service(self, name, given, opts)
  local lenient = type(given) == "string"
  local found = collect({}, name, lenient and load_module(given) or given, lenient, {})
  if #found == 0 then
    misuse("add_service", "%s has no functions to offer", errors.show(name))
  end
  table.sort(found, function(a, b)
    return a.name < b.name
  end)
  local added = {}
  for _, entry in ipairs(found) do
    local merged = {}
    for _, from in ipairs { opts, entry.opts or {} } do
      for option, setting in pairs(from) do
        merged[option] = setting
      end
    end
    local ok, raised = pcall(self.add_rpc, self, entry.name, entry.fn, merged)
    if not ok then
      for _, before in ipairs(added) do
        self:remove_rpc(before)
      end
      misuse("add_service", "%s: %s", entry.name, plain(raised))
    end
    added[#added + 1] = entry.name
  end
  self._services[name] = added
end

--- Offers the functions of a table as methods: `add_service("user", { login = fn, admin = { kick = fn } })` gives
--- `user.login` and `user.admin.kick`. A function with options of its own is `{ fn, idempotent = true, doc = "…" }`. Names that
--- begin with `_` are private. All are added or, when one cannot be, none.
---
--- Handlers get the session first; with `{ session = false }`, of the service or of one function, they do not.
---@param name string
---@param given table<string, function|table>|string  or the name of a module that is such a table; its constants are left out
---@param opts? echostream.handler_options  of every function that does not say otherwise
---@return self
function methods:add_service(name, given, opts)
  options.argument("add_service", "name", name, "string")
  options.argument("add_service", "service", given, { "table", "string" })
  opts = options.check("add_service", opts, handlers.schemas.rpc)
  if self._services[name] then
    error(("add_service: there is a service %s already"):format(errors.show(name)), 2)
  end
  local ok, raised = pcall(add_service, self, name, given, opts)
  if not ok then
    error(raised, 2)
  end
  return self
end

--- Takes a service away; calls under way go on. False when there was none.
---@param name string
---@return boolean
function methods:remove_service(name)
  options.argument("remove_service", "name", name, "string")
  local added = self._services[name]
  if not added then
    return false
  end
  self._services[name] = nil
  for _, method in ipairs(added) do
    self:remove_rpc(method)
  end
  return true
end

--- Makes what a host needs for its services.
---@param self table
function M.init(self)
  self._services = {}
end

-- Calling ------------------------------------------------------------------------------------------------------

local Proxy = { __name = "echostream.service" }

-- What every proxy hides behind names that no method can have.
local CALLS, NAME, PARENT = {}, {}, {}

local function proxy(calls, name, parent)
  return setmetatable({ [CALLS] = calls, [NAME] = name, [PARENT] = parent }, Proxy)
end

--- "no method math.sub" becomes more helpful when the other side says what it has. It costs a call, after a failure only.
---@param calls table
---@param name string
---@param err echostream.error  its message is added to, unless the other side does not say
---@return echostream.error err
---@package
function M.with_hint(calls, name, err)
  local entries = calls:with({ timeout = 2 }):request("rpc.list")
  if type(entries) ~= "table" then
    return err
  end
  local names, siblings = {}, {}
  local service = name:match("^(.*)%.") or ""
  for _, entry in ipairs(entries) do
    if type(entry) ~= "table" or type(entry.name) ~= "string" then -- who knows who answers
      return err
    elseif entry.name == name and entry.kind ~= "rpc" then
      err.message = ("%s (it is %s %s)"):format(err.message, entry.kind == "event" and "an" or "a", errors.show(entry.kind):gsub('"', ""))
      return err
    elseif entry.kind == "rpc" then
      names[entry.name] = true
      if entry.name:sub(1, #service + 1) == service .. "." then
        siblings[#siblings + 1] = entry.name
      end
    end
  end
  local hint
  local nearest = options.nearest(name, names)
  if nearest then
    hint = ("did you mean %s?"):format(nearest)
  elseif service ~= "" and #siblings > 0 then
    hint = ("there are %s"):format(table.concat(siblings, ", ", 1, math.min(#siblings, 10)))
  elseif service ~= "" then
    hint = ("there is no service %s"):format(service)
  else
    return err
  end
  err.message = ("%s (%s)"):format(err.message, hint)
  return err
end

local function raise_failure(calls, name, ...)
  local first, err = ...
  if first == nil and errors.is_error(err) then
    if err.code == "method_not_found" and err.processed == "no" then
      err = M.with_hint(calls, name, err)
    end
    error(err, 0)
  end
  return ...
end

function Proxy.__index(self, key)
  if type(key) ~= "string" then
    error(("service %s: a method has a name, got %s"):format(self[NAME], errors.show(key)), 2)
  end
  local method = proxy(rawget(self, CALLS), rawget(self, NAME) .. "." .. key, self)
  rawset(self, key, method)
  return method
end

local function request(calls, name, ...)
  return raise_failure(calls, name, calls:request(name, ...))
end

-- `service.add(1, 2)`; `service:add(1, 2)` means the same, and `service:with{ … }` is the service with other options.
function Proxy.__call(self, ...)
  local calls, name, parent = rawget(self, CALLS), rawget(self, NAME), rawget(self, PARENT)
  if parent == nil or not rawequal((...), parent) then
    return request(calls, name, ...)
  elseif name == rawget(parent, NAME) .. ".with" then
    return proxy(calls:with((select(2, ...))), rawget(parent, NAME))
  end
  return request(calls, name, select(2, ...))
end

function Proxy.__tostring(self)
  return "echostream.service " .. rawget(self, NAME)
end

--- The service `name` of the other side, as a table of functions.
---@param calls table  a client, a session or what their `with` gave
---@param name string
---@return table
function M.proxy(calls, name)
  options.argument("service", "name", name, "string", 3)
  return proxy(calls, name)
end

return M
