--- What servers and clients offer: methods, events and streams with their options, and what they say about themselves.

local core = require "echostream.core"
local errors = require "echostream.errors"
local event = require "echostream.handlers.event"
local group = require "echostream.handlers.group"
local flow = require "echostream.session.flow"
local introspect = require "echostream.introspect"
local introspect_entry = require "echostream.introspect.entry"
local log = require "echostream.log"
local loop = require "echostream.loop"
local options = require "echostream.options"
local stream = require "echostream.stream"

local M = {}

---@class echostream.handler_options
---@field session? boolean          false: the handler does not get the session: `fn(...)`, streams `fn(stream)`
---@field doc? string               what it does, for people
---@field arguments? string|table   what it takes, in order: text, `"a: a number"`, or a [schema](#schemas), or both
---@field results? string|table     the same of what it gives
---@field examples? string|table    text, or `{ arguments = { 1, 2 }, results = { 3 }, doc = "…" }`, or a list of those
---@field version? string           of the handler, as text
---@field deprecated? boolean|string  since when, or what to use instead
---@field timeout? number           seconds it may take: then it is cancelled, and the caller gets `timeout` (default: the caller's)
---@field max_calls? integer        calls of it that may run at once, of all sessions; more get `resource_exhausted` (default: any number)
---@field idempotent? boolean       methods: running it twice does no harm (default: false)
---@field secret? boolean           methods and streams: what it sends is never compressed (default: false)
---@field stream? "in"|"out"|"both" methods: a streaming one
---@field priority? integer         urgency of what it sends, 0 first to 7 last (default: what its caller asked for, 3)
---@field balance? "round_robin"|"least_in_flight"|"power_of_two"  methods and streams: [several handlers](#handlers-that-share-a-name)
---@field concurrent? integer       events: so many of one lane at once (default: 1)
---@field codec? string             streams: messages are values (default: "raw", bytes)
---@field queue? integer|table      streams: as in the options of calls, for what the handler sends
---@field when_full? "wait"|"drop_oldest"|"drop_newest"|"error"  streams: the same
---@field outbox? integer           streams: the same
---@field idle_timeout? number      streams: the same
---@field numbered? boolean         streams: the same

---@class echostream.handlers  of servers and clients
local methods = {}
M.methods = methods

-- Options ------------------------------------------------------------------------------------------------------

local function schema(own)
  local fields = {
    session = { type = "boolean" },
    doc = { type = "string" },
    arguments = { type = { "string", "table" } },
    args = { refuse = 'is called "arguments"' },
    returns = { refuse = 'is called "results"' },
    examples = { type = { "string", "table" } },
    version = { type = "string" },
    deprecated = { type = { "boolean", "string" } },
    timeout = { type = "seconds", min = 0.001, max = 1e9 },
  }
  for name, field in pairs(own) do
    fields[name] = field
  end
  return fields
end

local function with_stream(fields)
  for name, field in pairs(flow.stream_schema) do
    fields[name] = field
  end
  return fields
end

local limit = { type = "integer", min = 1, max = 1 << 30 }
local sharing = { type = "string", one_of = group.names }
local urgency = { type = "integer", min = 0, max = 7 }

--- The options of each kind of handler.
---@type table<"rpc"|"event"|"stream", table<string, echostream.options.field>>
M.schemas = {
  rpc = schema(with_stream {
    results = { type = { "string", "table" } },
    idempotent = { type = "boolean" },
    secret = { type = "boolean" },
    max_calls = limit,
    priority = urgency,
    balance = sharing,
    stream = { type = "string", one_of = { "in", "out", "both" } },
  }),
  event = schema {
    concurrent = { type = "integer", min = 1, max = 1 << 20 },
    max_calls = { refuse = 'is of methods and streams; an event has "concurrent"' },
    priority = { refuse = "is of methods and streams; an event sends nothing" },
    balance = { refuse = "is of methods and streams" },
    idempotent = { refuse = "is of methods; an event is delivered at most once" },
    secret = { refuse = "is of methods and streams; an event sends nothing" },
    results = { refuse = "is of methods; an event has no answer" },
  },
  stream = schema(with_stream {
    codec = stream.codec_option,
    max_calls = limit,
    priority = urgency,
    balance = sharing,
    idempotent = { refuse = "is of methods" },
    secret = { type = "boolean" },
  }),
}

-- Forms of handlers --------------------------------------------------------------------------------------------

local function without_session(fn)
  return function(_, ...)
    return fn(...)
  end
end

-- Methods and streams have their limit in the core; an event has no deadline there.
local function within(seconds, name, fn)
  return function(...)
    local me = core.current()
    local timer = loop.current().core:timer(seconds, function()
      log.write("warn", ("the handler was cancelled: it took longer than its %g s"):format(seconds), { method = name })
      me:cancel()
    end)
    local _ <close> = setmetatable({}, {
      __close = function()
        timer:stop()
      end,
    })
    return fn(...)
  end
end

-- What its schemas refuse never gets to a handler; what they refuse of its results never gets to the caller.
local function checked(kind, name, fn, opts, checks)
  local arguments, results = checks.arguments, checks.results
  local function outcome(...)
    if not (select("#", ...) == 2 and (...) == nil and errors.is_error((select(2, ...)))) then
      local err = results(...)
      if err then
        log.write("error", err.message, { method = name })
        return nil, errors.new("internal", "the handler's results are not what it promised")
      end
    end
    return ...
  end
  local told = -math.huge
  local function refuse(err)
    if kind == "event" and loop.now() - told >= 10 then -- nobody is there to be told, and peers choose how often
      told = loop.now()
      log.write("warn", "an event was dropped: " .. err.message, { method = name })
    end
    return nil, err
  end
  local function run(...)
    if results then
      return outcome(fn(...))
    end
    return fn(...)
  end
  if opts.stream then
    return function(peer, channel, ...)
      local err = arguments and arguments(...)
      if err then
        return refuse(err)
      end
      return run(peer, channel, ...)
    end
  end
  return function(peer, ...)
    local err = arguments and arguments(...)
    if err then
      return refuse(err)
    end
    return run(peer, ...)
  end
end

local function form(kind, name, fn, opts, checks)
  if opts.session == false then
    fn = without_session(fn)
  end
  if checks.arguments or checks.results then
    fn = checked(kind, name, fn, opts, checks)
  end
  if kind == "stream" then
    local codec, handler = opts.codec, fn
    return function(peer, channel)
      local opened = stream.new(channel, peer, name, codec, opts)
      if opts.when_full then
        return stream.drained(opened, handler(peer, opened))
      end
      return handler(peer, opened)
    end
  elseif kind == "rpc" and opts.stream then
    return stream.method(name, fn, opts)
  elseif kind == "event" and opts.timeout then
    return within(opts.timeout, name, fn)
  end
  return fn
end

-- Registration -------------------------------------------------------------------------------------------------

-- The function that calls this must not do so by a tail call: its own caller is blamed for misuse.
local function add(self, kind, name, fn, opts)
  local where = "add_" .. kind
  options.argument(where, "name", name, "string", 3)
  options.argument(where, "handler", fn, "function", 3)
  if not name:find "^[%w._/:-]+$" or #name > 256 then
    error(("%s: a name is 1 to 256 characters of A-Z a-z 0-9 . _ / : -, got %s"):format(where, errors.show(name)), 3)
  elseif introspect.is_reserved(name) then
    error(("%s: %s: names that begin with \"rpc.\" are what a server says about itself; take another"):format(where,
      errors.show(name)), 3)
  end
  opts = options.check(where, opts, M.schemas[kind], 3)
  flow.marks(where, "queue", opts.queue, 3)
  local entry, checks = introspect_entry.entry(where, kind, name, opts)
  local members = self._groups[kind] and self._groups[kind][name]
  if members and opts.balance then
    local ok, problem = pcall(members.add, members, fn, opts)
    if not ok then
      error(("%s: %s: %s"):format(where, errors.show(name), problem), 3)
    end
    return self
  elseif opts.balance then
    members = group.new(opts)
    members:add(fn, opts)
    fn = members.handler
  end
  local limits = kind ~= "event" and opts or {}
  local handler, settings = form(kind, name, fn, opts, checks), {
    idempotent = opts.idempotent,
    secret = opts.secret,
    concurrent = opts.concurrent,
    stream = opts.stream,
    timeout = limits.timeout,
    max_calls = limits.max_calls,
    priority = limits.priority,
  }
  local ok, err
  if kind == "event" then
    ok, err = event.add(self, name, handler, settings)
  else
    ok, err = self._host:add(kind, name, handler, settings)
  end
  if not ok then
    error(("%s: %s: %s"):format(where, errors.show(name), err.code == "already_exists"
      and (members and "its handlers share the name by the option balance, which this one has not"
        or "there is a handler of that name already") or err.message), 3)
  end
  self._catalog[kind][name] = entry
  if opts.balance then
    self._groups[kind][name] = members
  end
  return self
end

local function remove(self, kind, name, fn)
  options.argument("remove_" .. kind, "name", name, "string", 3)
  local members = self._groups[kind] and self._groups[kind][name]
  if members then
    if fn ~= nil then
      local removed, last = members:remove(fn)
      if not last then
        return removed
      end
    end
    self._groups[kind][name] = nil
  end
  self._catalog[kind][name] = nil
  if kind == "event" then
    return event.remove(self, name)
  end
  return self._host:remove(kind, name)
end

--- Offers a method. The handler's results are the answer (none: `true`); it fails by raising or by
--- `return nil, echo.error(code, message, details)`.
---
--- `stream` makes it a streaming method, whose handler gets a stream of values before its arguments: "in", the caller sends
--- messages; "out", the handler does; "both". Messages are values in the codec of the call.
---@param name string  1 to 256 characters of A-Z a-z 0-9 . _ / : -
---@param fn fun(session: echostream.session, ...): any ...  streaming: fun(session, stream, ...)
---@param opts? echostream.handler_options
---@return self
function methods:add_rpc(name, fn, opts)
  return (add(self, "rpc", name, fn, opts))
end

--- Handles an event. Events of one lane are handled one after another, unless `concurrent` allows n at once.
---@param name string
---@param fn fun(session: echostream.session, ...)
---@param opts? echostream.handler_options
---@return self
function methods:add_event(name, fn, opts)
  return (add(self, "event", name, fn, opts))
end

--- Handles streams of a name. The stream ends when the handler returns. With a `codec` messages are values instead of bytes;
--- the other end must say the same.
---@param name string
---@param fn fun(session: echostream.session, stream: echostream.stream)
---@param opts? echostream.handler_options
---@return self
function methods:add_stream(name, fn, opts)
  return (add(self, "stream", name, fn, opts))
end

--- Takes a method away; calls under way go on. False when there was none.
---@param name string
---@param fn? function  of several handlers (`balance`): this one only
---@return boolean
function methods:remove_rpc(name, fn)
  return (remove(self, "rpc", name, fn))
end

--- Takes an event handler away.
---@param name string
---@return boolean
function methods:remove_event(name)
  return (remove(self, "event", name))
end

--- Takes a stream handler away; streams under way go on.
---@param name string
---@param fn? function  of several handlers (`balance`): this one only
---@return boolean
function methods:remove_stream(name, fn)
  return (remove(self, "stream", name, fn))
end

--- Offers one of the methods that a server has by itself: a reserved name, which `rpc.list` does not show.
---@param self table
---@param kind "rpc"|"event"|"stream"
---@param name string
---@param fn function
---@param opts? table  of `add_rpc`, not checked
function M.offer(self, kind, name, fn, opts)
  opts = opts or {}
  assert(self._host:add(kind, name, form(kind, name, fn, opts, {}), { idempotent = opts.idempotent, stream = opts.stream }))
end

--- Makes the catalogue of a host.
---@param self table
function M.init(self)
  self._catalog = { rpc = {}, event = {}, stream = {} }
  self._groups = { rpc = {}, stream = {} }
end

return M
