--- What every way of finding servers gives: what is there now, and how that changes. A source (multicast DNS, DNS, a list) calls `set`
--- and `unset`; whoever looks has callbacks, an iterator, or both.

local errors = require "echostream.errors"
local hooks = require "echostream.hooks"
local loop = require "echostream.loop"
local message = require "echostream.discovery.message"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

-- Changes that nobody has taken from `next` yet; older ones are dropped then.
local MAX_WAITING = 4096

---@class echostream.discovery.found
---@field name string
---@field address string        "10.0.0.1:5000": the best of `addresses`
---@field addresses string[]    IPv4 before IPv6, then link-local ones, then the loopback's
---@field properties table<string, string|true>  names in lower case
---@field type? string
---@field host? string
---@field port? integer

---@class echostream.options.watch  of browsing
---@field on_add? function  `fn(found)`, in a task of its own
---@field on_remove? function  `fn(found)`, as it was last
---@field on_change? function  `fn(found, before)`: other addresses or properties

--- The callbacks.
---@type table<string, echostream.options.field>
M.schema = {
  on_add = { type = "function" },
  on_remove = { type = "function" },
  on_change = { type = "function" },
}

---@class echostream.discovery.browser
---@field error echostream.error?  what keeps it from finding anything, at the moment
local Browser = {}
Browser.__index = Browser
Browser.__name = "echostream.discovery.browser"

Browser.__close = function(self)
  self:close()
end

Browser.__tostring = function(self)
  return ("echostream.discovery.browser (%d found%s)"):format(#self:list(), self._closed and ", closed" or "")
end

local function tell(self, what, found, before)
  local fn = self["_on_" .. what]
  if fn then
    self._told = task.spawn(function(previous)
      if previous then
        previous:wait() -- one after another, as it happened
      end
      hooks.call("discovery.on_" .. what, "internal", fn, found, before)
    end, self._told)
  end
  local waiting = self._waiting
  if self._taken then
    if #waiting >= MAX_WAITING then
      table.remove(waiting, 1)
    end
    waiting[#waiting + 1] = { what, found }
  end
  local resumes = self._resumes
  self._resumes = {}
  for _, resume in ipairs(resumes) do
    resume(true)
  end
end

--- For sources: what is there under a key.
---@param key string
---@param found echostream.discovery.found
---@package
function Browser:set(key, found)
  if self._closed then
    return
  end
  local before = self._found[key]
  self._found[key] = found
  tell(self, before and "change" or "add", found, before)
end

--- For sources: it is gone.
---@param key string
---@package
function Browser:unset(key)
  local before = self._found[key]
  if before and not self._closed then
    self._found[key] = nil
    tell(self, "remove", before)
  end
end

--- For sources: something failed, or works again (nil).
---@param err echostream.error?
---@package
function Browser:fail(err)
  self.error = err
  local resumes = self._resumes
  self._resumes = {}
  for _, resume in ipairs(resumes) do
    resume(true)
  end
end

--- What is there now: by name, those of a domain in the order in which they are to be tried.
---@return echostream.discovery.found[]
function Browser:list()
  local list = {}
  for _, found in pairs(self._found) do
    list[#list + 1] = found
  end
  table.sort(list, function(a, b)
    if (a.rank or 0) ~= (b.rank or 0) then
      return (a.rank or 0) < (b.rank or 0)
    elseif a.name ~= b.name then
      return a.name < b.name
    end
    return a.address < b.address
  end)
  return list
end

local function wait_until(self, timeout, done)
  local deadline = timeout and loop.now() + timeout
  while true do
    local a, b = done()
    if a ~= nil or self._closed then
      return a, b
    end
    local _, err = task.await(function(resume)
      table.insert(self._resumes, resume)
    end, deadline and math.max(deadline - loop.now(), 0))
    if err then
      return nil, err
    end
  end
end

local function next_change(self, timeout)
  if not self._taken then
    self._taken = true
    for _, found in ipairs(self:list()) do
      table.insert(self._waiting, { "add", found })
    end
  end
  return wait_until(self, timeout, function()
    local change = table.remove(self._waiting, 1)
    if change then
      return change[1], change[2]
    end
  end)
end

--- Waits for the next change. The first calls give what was there already.
---@param timeout? number  seconds; default: until it is closed
---@param callback? fun(what: string?, found: any)  instead of waiting
---@return "add"|"remove"|"change"|nil what, echostream.discovery.found|echostream.error|nil found  nil: closed; nil and an error
function Browser:next(timeout, callback)
  if type(timeout) == "function" then
    timeout, callback = nil, timeout
  end
  if timeout ~= nil then
    options.argument("browser:next", "timeout", timeout, "seconds")
  end
  return task.wait_or_call_back("browser:next", callback, next_change, self, timeout)
end

--- Iterates over the changes: `for what, found in browser:changes() do … end`, until it is closed.
---@return fun(): string?, echostream.discovery.found?
function Browser:changes()
  return function()
    return self:next()
  end
end

--- Looks no more; harmless twice. Callbacks that were due still run.
function Browser:close()
  if self._closed then
    return
  end
  self._closed = true
  if self._stop then
    self._stop()
  end
  self:fail(self.error)
end

--- Makes one. `start(browser)` begins to look and returns what ends it; or nil, err.
---@param callbacks table  of the schema
---@param start fun(browser: echostream.discovery.browser): fun()?, echostream.error?
---@return echostream.discovery.browser? browser, echostream.error? err
function M.new(callbacks, start)
  local self = setmetatable({
    _found = {}, _waiting = {}, _resumes = {}, _taken = false, _closed = false, error = nil, _told = nil,
    _on_add = callbacks.on_add, _on_remove = callbacks.on_remove, _on_change = callbacks.on_change,
  }, Browser)
  local stop, err = start(self)
  if not stop then
    return nil, err
  end
  self._stop = stop
  return self
end

--- Waits until something is found: the first, or the one with this name.
---@param browser echostream.discovery.browser  is closed afterwards
---@param name string?
---@param timeout number
---@return echostream.discovery.found? found, echostream.error? err  `not_found`
function M.first(browser, name, timeout)
  local closing <close> = browser -- luacheck: ignore 211
  local wanted = name and message.key(name)
  local found, err = wait_until(browser, timeout, function()
    for _, found in ipairs(browser:list()) do
      if not wanted or message.key(found.name) == wanted then
        return found
      end
    end
    if browser.error then
      return false, browser.error
    end
  end)
  if found then
    return found
  elseif err and err.code ~= "timeout" then
    return nil, err
  end
  return nil, errors.new("not_found", ("%s was not found within %g s"):format(name and "the service " .. errors.show(name)
    or "a service", timeout))
end

return M
