--- A plugin for clients: answers of calls that were made before and still hold.
---
---     local cache = echo.plugins.cache { ttl = 30, methods = { "user.get", "price.*" }, on_event = { ["user.changed"] = { "user.*" } } }
---     client:plugin(cache)

local loop = require "echostream.loop"
local middleware = require "echostream.middleware"
local lru = require "echostream.plugins.lru"
local options = require "echostream.options"
local parts = require "echostream.plugins.parts"
local task = require "echostream.task"
local values = require "echostream.plugins.values"

local M = {}

---@class echostream.options.cache
---@field ttl? number  seconds that an answer holds (default: 60)
---@field methods? string[]|table<string, number>  names, or beginnings and "*"; a table of seconds (default: calls `with { idempotent = true }`)
---@field vary? string[]  keys of the calls' metadata that make a difference (default: none)
---@field max_entries? integer  of more, the answers that were asked for longest ago go (default: 1,000)
---@field max_bytes? integer  the same for their size (default: 16 MiB)
---@field after? table<string, string[]|fun(cache: echostream.cache, ...)>  when a call of this name (or beginning and "*") was made here, answers of
--- these go; or a function that gets the call's arguments
---@field on_event? table<string, string[]|fun(cache: echostream.cache, ...)>  the same when an event comes, before its
--- handler runs, if it has one. With this option a lost connection empties the cache

local schema = {
  ttl = { type = "seconds", default = 60 },
  methods = { type = "table" },
  vary = { type = "strings", default = {} },
  max_entries = { type = "integer", min = 1, default = 1000 },
  max_bytes = { type = "integer", min = 1, default = 16 << 20 },
  after = { type = "table" },
  on_event = { type = "table" },
}

local personal = { timeout = true, cancelled = true, deadlock = true } -- failures of one caller: who waits with it asks again

---@class echostream.cache: echostream.plugin
---@field hits integer     answered from here
---@field misses integer   asked
---@field joined integer   waited with somebody who was asking already
local Cache = { __name = "echostream.cache" }
Cache.__index = Cache

--- Forgets answers. What is being asked for meanwhile is not kept either.
---@param name? string  of the method, or its beginning and "*" (default: everything)
---@param ... any       arguments: only the answer to these
---@return integer n    how many went
function Cache:invalidate(name, ...)
  options.argument("cache:invalidate", "name", name, select("#", ...) == 0 and { "string", "nil" } or "string")
  local fits, n = parts.one_of(name and { name }), select("#", ...)
  local text = n > 0 and values.text_of(name, n, { ... })
  for key, flight in pairs(self._flights) do
    if fits(flight.name) and (n == 0 or flight.text == text) then
      self._flights[key] = nil -- who asks from now on asks anew
    end
  end
  return self._answers:remove(function(entry)
    return fits(entry.name) and (n == 0 or entry.text == text)
  end)
end

-- What is being asked for: `name`, `text`, `key`, whose it is, who waits, and then how it ended. It is told when it is closed, which happens
-- also when the task ends in the middle.
local Flight = {}

function Flight.__close(flight)
  local flights = flight.cache._flights
  if flights[flight.key] == flight then
    flights[flight.key] = nil
  end
  for resume in pairs(flight.waiting or {}) do
    resume(flight)
  end
end

-- Asks. `flight` is no longer the key's when the answer was invalidated before it came.
local function lead(self, call, proceed, key, flight, ttl)
  local _ <close> = flight
  local response = proceed(call)
  if response.ok then
    flight.packed = values.pack(response)
    if flight.packed and self._flights[key] == flight then
      self._answers:put(key, { name = flight.name, text = flight.text, packed = flight.packed, expires = loop.now() + ttl },
        #key + #flight.packed)
    end
  else
    flight.err = response.err
  end
  return response
end

local function follow(self, call, proceed, flight)
  self.joined = self.joined + 1
  local outcome, err = task.await(function(resume)
    flight.waiting = flight.waiting or {}
    flight.waiting[resume] = true
    return function()
      flight.waiting[resume] = nil
    end
  end, call.deadline)
  err = outcome and outcome.err or err
  if outcome and outcome.packed then
    return call:reply(values.unpack(outcome.packed)) -- tables of its own
  elseif err and not (outcome and personal[err.code]) then
    return call:reject(values.copy_error(err))
  end
  return proceed(call)
end

local function serve(self, call, proceed)
  local ttl = self._ttl_of(call)
  local args = ttl and call.args
  local text = ttl and values.text_of(call.name, args.n or #args, args)
  if not text then
    return proceed(call)
  end
  local key = text
  for _, name in ipairs(self._vary) do
    key = key .. "\0" .. (values.canonical(call.metadata[name]) or "")
  end
  local entry, flight = self._answers:get(key), self._flights[key]
  if entry and loop.now() < entry.expires then
    self.hits = self.hits + 1
    return call:reply(values.unpack(entry.packed))
  elseif flight then
    return follow(self, call, proceed, flight)
  end
  self.misses = self.misses + 1
  flight = setmetatable({ cache = self, key = key, name = call.name, text = text, waiting = false, packed = false, err = false }, Flight)
  self._flights[key] = flight
  return lead(self, call, proceed, key, flight, ttl)
end

local function run(self, action, args)
  if type(action) == "function" then
    return action(self, table.unpack(args, 1, args.n or #args))
  end
  for _, pattern in ipairs(action or {}) do
    self:invalidate(pattern)
  end
end

function Cache:install(host)
  if type(host.connect) ~= "function" then
    return nil, "it is for clients"
  end
  self:invalidate() -- it may have been another client's
  host:middleware(function(call, proceed)
    if call.kind ~= "rpc" then
      return proceed(call)
    end
    local response = serve(self, call, proceed)
    local action = self._after(call.name)
    if action and (response.ok or not response.err or response.err.processed ~= "no") then
      run(self, action, call.args)
    end
    return response
  end, { direction = "out" })
  if self._events then
    for name, action in pairs(self._events) do
      host:tap(name, function(_, ...)
        run(self, action, { n = select("#", ...), ... })
      end)
    end
    host:on_disconnect(function()
      self:invalidate() -- events may be missed
    end)
  end
end

-- The seconds that the answer to a call holds; nil: it is not cached.
local function ttl_of(ttl, methods)
  if not methods then
    return function(call)
      local opts = middleware.made_with(call)
      return opts and opts.idempotent and ttl or nil
    end
  end
  local find = parts.values("plugins.cache", "methods", methods, ttl, 3)
  return function(call)
    return find(call.name)
  end
end

--- Makes the plugin. Calls of the same method with the same arguments are asked once while their answer holds, and once at a time; failures are not
--- kept. It is yours to know that the answer does not depend on anything else.
---@param opts? echostream.options.cache
---@return echostream.cache
function M.cache(opts)
  local checked = options.check("plugins.cache", opts, schema)
  parts.check_patterns("plugins.cache", "after", checked.after or {}, 2)
  parts.check_values("plugins.cache", "after", checked.after or {}, { "table", "function" }, 2)
  parts.check_values("plugins.cache", "on_event", checked.on_event or {}, { "table", "function" }, 2)
  return setmetatable({
    name = "cache", hits = 0, misses = 0, joined = 0, _ttl_of = ttl_of(checked.ttl, checked.methods), _vary = checked.vary,
    _after = parts.matcher(checked.after or {}), _events = checked.on_event, _flights = {},
    _answers = lru.new(checked.max_entries, checked.max_bytes),
  }, Cache)
end

return M
