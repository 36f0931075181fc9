--- What servers and clients offer: methods, events and streams with their options, and what they say about themselves.

local core = require "echostream.core"
local errors = require "echostream.errors"
local event = require "echostream.event"
local group = require "echostream.group"
local flow = require "echostream.flow"
local log = require "echostream.log"
local loop = require "echostream.loop"
local options = require "echostream.options"
local stream = require "echostream.stream"

local M = {}

---@class echostream.handler_options
---@field session? boolean          false: the handler does not get the session: `fn(...)`, streams `fn(stream)`
---@field doc? string               what it does, for people
---@field args? string|table        about the arguments: a sentence, or a list with one entry for each
---@field returns? string|table     about the results
---@field examples? string|table    one or a list
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
    args = { type = { "string", "table" } },
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
    returns = { type = { "string", "table" } },
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
    returns = { refuse = "is of methods; an event has no answer" },
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

-- What describes a handler to the other side.
local described = { "doc", "args", "returns", "examples", "version", "deprecated", "timeout", "max_calls", "idempotent", "secret",
  "priority", "stream", "concurrent", "codec" }

-- Descriptions travel: what cannot be sent is refused here, where it was written.
local function check_sendable(where, opts)
  for _, name in ipairs { "args", "returns", "examples" } do
    if type(opts[name]) == "table" then
      local bytes, problem = core.codec.msgpack.pack(opts[name])
      if not bytes then
        error(('%s: option "%s" cannot be sent: %s'):format(where, name, problem.message), 4)
      end
    end
  end
end

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

local function form(kind, name, fn, opts)
  if opts.session == false then
    fn = without_session(fn)
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
  end
  opts = options.check(where, opts, M.schemas[kind], 3)
  flow.marks(where, "queue", opts.queue, 3)
  check_sendable(where, opts)
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
  local handler, settings = form(kind, name, fn, opts), {
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
  local entry = { name = name, kind = kind }
  for _, field in ipairs(described) do
    entry[field] = opts[field]
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

-- What is offered, said to the other side ----------------------------------------------------------------------

local kinds = { "rpc", "event", "stream" }

-- The host of a session, without keeping it alive: the core keeps these functions as long as the host lives.
local function catalog_of(peer)
  local host = peer.server_ctx._host[1]
  return host and host._catalog or { rpc = {}, event = {}, stream = {} }
end

local function list(peer)
  local entries = {}
  for _, kind in ipairs(kinds) do
    for name, entry in pairs(catalog_of(peer)[kind]) do
      entries[#entries + 1] = { name = name, kind = kind, doc = entry.doc, deprecated = entry.deprecated }
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

local function describe(peer, name, kind)
  for _, each in ipairs(kinds) do
    local entry = (kind == nil or kind == each) and catalog_of(peer)[each][name]
    if entry then
      return entry
    end
  end
  return nil, errors.new("not_found", ("nothing of the name %s is offered here"):format(errors.show(name)))
end

--- Makes the catalogue of a host and, unless told not to, offers `rpc.list` and `rpc.describe`.
---@param self table
---@param introspection boolean?  default true
function M.init(self, introspection)
  self._catalog = { rpc = {}, event = {}, stream = {} }
  self._groups = { rpc = {}, stream = {} }
  if introspection ~= false then
    self._host:add("rpc", "rpc.list", list, { idempotent = true })
    self._host:add("rpc", "rpc.describe", describe, { idempotent = true })
  end
end

return M
