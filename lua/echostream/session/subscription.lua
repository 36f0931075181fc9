--- Subscriptions: what the other side publishes on a topic (topic.lua).

local core = require "echostream.core"
local errors = require "echostream.errors"
local log = require "echostream.log"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

---@class echostream.subscription
---@field name string        of the topic
---@field received integer   messages so far
---@field missing integer    messages that were published in between and did not come: this side was too slow
---@field seq integer?       number of the last message
---@field error echostream.error?  why it ended, when neither side closed it
local Subscription = {}
Subscription.__index = Subscription
Subscription.__name = "echostream.session.subscription"

Subscription.__tostring = function(self)
  return ("echostream.subscription %s (%s)"):format(self.name, self._over and "over" or self.received .. " received")
end

--- Options of a subscription.
---@type table<string, echostream.options.field>
M.schema = {
  on_end = { type = "function" },
  priority = { type = "integer", min = 0, max = 7 },
  metadata = { type = "table" },
}

local TOO_SLOW = 8 -- topic.lua's

local function ended(self, err)
  if err and err.details and type(err.details) == "table" and err.details.reset == TOO_SLOW then
    err = errors.new("resource_exhausted", ("too slow for the topic %s: the subscription was ended"):format(self.name))
  end
  if err and err.code == "method_not_found" then
    err.message = "no topic " .. self.name -- not of the stream that it is underneath
  end
  if self._closed then
    err = nil
  end
  self.error = err
  if not self._over then
    self._over = true
    self._stream:close()
    if self._on_end then
      task.spawn(self._on_end, err)
    elseif err and self._fn and err.code ~= "connection_closed" then -- nobody else would hear of a wrong name
      log.write("warn", ("the subscription to %s ended: %s"):format(self.name, tostring(err)))
    end
  end
  return err
end

-- { n = …, … } of the next message, or nil, err.
local function take(self, timeout)
  if self._over then
    return nil, self.error
  end
  local frame, err = self._stream:recv(timeout)
  if not frame then
    if err and err.code == "timeout" and self._stream:state() ~= "failed" then
      return nil, err
    end
    return nil, ended(self, err)
  end
  self.received = self.received + 1
  self.missing = self.missing + (frame.gap or 0)
  self.seq = frame.seq
  local list = frame.data
  if type(list) ~= "table" then
    return nil, ended(self, errors.new("protocol", "a topic sends lists"))
  end
  list.n = #list
  for i = 1, list.n do
    if list[i] == core.null then
      list[i] = nil
    end
  end
  return list
end

local function next_values(self, timeout)
  local list, err = take(self, timeout)
  if not list then
    return nil, err
  end
  return table.unpack(list, 1, list.n)
end

--- Waits for the next message and returns what was published.
---@param timeout? number  seconds; default: as long as the subscription lives
---@param callback? fun(...)  instead of waiting
---@return any ...  or nil when it is over, nil and an error when it failed
function Subscription:next(timeout, callback)
  if type(timeout) == "function" then
    timeout, callback = nil, timeout
  end
  if timeout ~= nil then
    options.argument("subscription:next", "timeout", timeout, "seconds")
  end
  return task.wait_or_call_back("subscription:next", callback, next_values, self, timeout)
end

local function iterate(self)
  local list = task.block(take, self)
  if not list then
    return nil
  elseif list[1] == nil then
    list[1], list.n = core.null, math.max(list.n, 1) -- nil would end the loop
  end
  return table.unpack(list, 1, list.n)
end

--- Iterates over what is published until it is over (`subscription.error` says why then): `for price in client:subscribe("ticks"):each() do`.
--- A message that begins with nil begins with `echo.null` here.
---@return fun(subscription: echostream.subscription): any ...
---@return echostream.subscription
function Subscription:each()
  return iterate, self
end

--- Ends it. Harmless twice.
---@return true
function Subscription:close()
  self._closed = true
  ended(self)
  return true
end

local function traced(raised)
  return { err = errors.from(raised), traceback = debug.traceback(errors.show(raised), 2) }
end

local function run(self, fn)
  while true do
    local list = take(self)
    if not list then
      return
    end
    local ok, raised = xpcall(fn, traced, table.unpack(list, 1, list.n))
    if not ok then
      log.write("error", ("the subscriber of %s failed: %s"):format(self.name, raised.err.message),
        { traceback = raised.traceback })
    end
  end
end

local function subscribe(peer, name, fn, opts)
  if type(fn) == "table" then
    fn, opts = nil, fn
  end
  options.argument("subscribe", "name", name, "string", 3)
  if fn ~= nil then
    options.argument("subscribe", "function", fn, "function", 3)
  end
  opts = options.check("subscribe", opts, M.schema, 3)
  local opened, err = peer:create_stream("topic:" .. name, { codec = "msgpack", priority = opts.priority,
    metadata = opts.metadata })
  if not opened then
    return nil, err
  end
  local self = setmetatable({ name = name, received = 0, missing = 0, seq = nil, error = nil, _stream = opened,
    _on_end = opts.on_end, _fn = fn, _over = false, _closed = false }, Subscription)
  if fn then
    task.spawn(run, self, fn)
  end
  return self
end

local shared = {} -- of sessions and clients
M.methods = shared

--- Subscribes to a topic of the other side (`server:topic`). With a function it is called with what is published, message after
--- message; without, the subscription is read with `next` or `each`. Returns at once; when there is no such topic, or not for
--- us, it ends so: `on_end`, `next` and `error` say it, or the log where there is a function without `on_end`. It lives as long as
--- its session; with `reconnect` the plugin `echo.resubscribe` begins it again with the next one:
---
---     client:subscribe("ticks", function(symbol, price) print(symbol, price) end)
---
---     client:plugin(echo.resubscribe.new():each(function(session) session:subscribe("ticks", print) end))
---@param name string
---@param fn? fun(...)
---@param opts? echostream.options.subscribe  may come in the function's place
---@return echostream.subscription|nil, echostream.error? err
function shared:subscribe(name, fn, opts)
  local opened, err = subscribe(self, name, fn, opts) -- no tail call: misuse is blamed on the caller
  return opened, err
end

return M
