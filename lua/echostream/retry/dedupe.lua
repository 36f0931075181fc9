--- Deduplication: a retry of an idempotent call gets the answer of the first attempt instead of running again.
---
--- A server with the option `dedupe` remembers the answers to calls that caller and method both call idempotent, for a while. A call
--- that comes again (its client lost the connection, or the patience) is recognised by the client's instance and the request's id;
--- when the first still runs, it waits for the same answer. Of those that were lost the handler goes on for a while, because
--- somebody may come back for its answer. It is the innermost middleware: whatever decides about calls decides about retries too.

local core = require "echostream.core"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local metrics = require "echostream.metrics"
local middleware = require "echostream.middleware"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

local pack, unpack = table.pack, table.unpack

---@class echostream.options.dedupe  `dedupe = { … }`
---@field entries? integer  answers that are remembered; more push the oldest out (default: 10,000)
---@field bytes? integer  of the answers together (default: 8 MiB)
---@field seconds? number  that an answer is remembered (default: 60)
---@field patience? number  seconds that a handler whose caller was lost goes on while nobody asks again; then it is cancelled (default: 5)
---@field principal? fun(session: echostream.session): string  who asks: an answer is only for the same again
--- (default: the key of the certificate, and `session.identity` when it is a string)

---@type table<string, echostream.options.field>
M.schema = {
  entries = { type = "integer", min = 1, max = 1 << 30, default = 10000 },
  bytes = { type = "integer", min = 1, default = 8 << 20 },
  seconds = { type = "seconds", max = 1e9, default = 60 },
  patience = { type = "seconds", max = 1e6, default = 5 },
  principal = { type = "function" },
}

--- What `dedupe` may be as an option.
M.option = { type = { "boolean", "table" }, fields = M.schema }

-- What an entry needs beside its answer, about.
local OVERHEAD <const> = 400

-- Errors that say "again": they are no answer to remember.
local passing = { unavailable = true, connection_closed = true, io = true, resource_exhausted = true, cancelled = true,
  timeout = true }

---@class echostream.dedupe
---@field counters table<string, integer>
local Window = { __name = "echostream.retry.dedupe" }
Window.__index = Window

local function principal_of(session)
  local cert, identity = session.peer_cert, session.identity
  return (cert and cert.pin or "") .. "\0" .. (type(identity) == "string" and identity or "")
end

---@package
--- Makes a window, whose `middleware` is to be the innermost of a server.
---@param given boolean|echostream.options.dedupe|nil  checked
---@return echostream.dedupe
function M.new(given)
  local opts = type(given) == "table" and given or options.check("dedupe", nil, M.schema)
  local self = setmetatable({
    _opts = opts,
    _principal = opts.principal or principal_of,
    _entries = {},         -- by key: running or answered
    _queue = {},           -- the answered ones, oldest first,
    _first = 1, _last = 0, -- from here to there
    _kept = {},            -- running ones whose caller was lost
    _bytes = 0,
    _closed = false,
    counters = { recorded = 0, replayed = 0, joined = 0, evicted = 0, kept = 0, abandoned = 0 },
  }, Window)
  self.middleware = function(call, proceed)
    return self:_handle(call, proceed)
  end
  return self
end

local happened = metrics.counter("echostream_dedupe_total", "What became of calls in a deduplication window.", { "what" })

local function count(self, what)
  happened:inc(what)
  self.counters[what] = self.counters[what] + 1
end

-- The answers -------------------------------------------------------------------------------------------------

-- Encoded: what a handler returned may be changed by it later, and is as long as it says. What MessagePack cannot carry (values of
-- a codec of one's own) is kept as it is.
local function encode(response)
  if not response.ok then
    local err = response.err
    local details = err.details
    if type(details) == "table" then
      details = core.codec.msgpack.pack(details) or nil
    end
    return { err = err, details = details, packed = type(err.details) == "table" },
      #tostring(err.message) + (type(details) == "string" and #details or 0)
  end
  local bytes = core.codec.msgpack.encode(unpack(response, 1, response.n))
  if bytes then
    return { bytes = bytes }, #bytes
  end
  return { values = pack(unpack(response, 1, response.n)) }, 1024
end

local function reply(call, answer)
  if answer.trailers then
    local trailers = {}
    for key, value in pairs(answer.trailers) do
      trailers[key] = value
    end
    call.trailers = trailers
  end
  if answer.err then
    local err = setmetatable({}, getmetatable(answer.err))
    for key, value in pairs(answer.err) do
      err[key] = value
    end
    if answer.packed then
      err.details = answer.details and (core.codec.msgpack.unpack(answer.details)) or nil
    end
    return nil, err
  elseif answer.bytes then
    return call:reply(core.codec.msgpack.decode(answer.bytes))
  end
  return call:reply(unpack(answer.values, 1, answer.values.n))
end

local function drop_first(self)
  local entry = self._queue[self._first]
  self._queue[self._first] = nil
  self._first = self._first + 1
  self._bytes = self._bytes - entry.size
  if self._entries[entry.key] == entry then
    self._entries[entry.key] = nil
  end
end

local function drop_old(self)
  local limit = loop.now() - self._opts.seconds
  while self._first <= self._last and self._queue[self._first].ended <= limit do
    drop_first(self)
  end
end

local function remember(self, entry, size)
  entry.size, entry.ended = size + OVERHEAD, loop.now()
  drop_old(self)
  self._last = self._last + 1
  self._queue[self._last] = entry
  self._bytes = self._bytes + entry.size
  count(self, "recorded")
  while self._bytes > self._opts.bytes or self._last - self._first >= self._opts.entries do
    drop_first(self)
    count(self, "evicted")
  end
end

-- Running -----------------------------------------------------------------------------------------------------

-- Nobody waits for it at the moment: it has `patience` seconds.
local function wait_for_somebody(self, entry)
  if self._closed then
    entry.task:give_up(entry.code)
    return
  end
  entry.timer = loop.current().core:timer(self._opts.patience, function()
    entry.timer = nil
    if self._kept[entry] and next(entry.waiting) == nil then
      count(self, "abandoned")
      self._kept[entry] = nil
      entry.task:give_up(entry.code)
    end
  end)
end

local function lost(self, entry, code)
  count(self, "kept")
  entry.code = code
  self._kept[entry] = true
  if next(entry.waiting) == nil then
    wait_for_somebody(self, entry)
  end
end

-- The handler ended, or its task was thrown away.
local function over(self, entry, answer)
  entry.over = true
  entry.answer = answer
  self._kept[entry] = nil
  if entry.timer then
    entry.timer:stop()
    entry.timer = nil
  end
  local waiting = entry.waiting
  entry.waiting, entry.task = {}, nil
  for resume in pairs(waiting) do
    resume(true)
  end
end

local function run(self, entry, call, proceed)
  local _ <close> = setmetatable({}, { __close = function()
    if not entry.over then -- an error that no middleware sees
      self._entries[entry.key] = nil
      over(self, entry, { err = errors.new("internal", "the handler did not end"), packed = false })
    end
  end })
  local running = entry.task
  core.keep_call(function(code)
    if entry.over then -- what middleware still does with the answer is of no use to anybody
      running:give_up(code)
    else
      lost(self, entry, code)
    end
  end)
  local response = proceed(call)
  local answer, size = encode(response)
  answer.trailers = core.call_trailers()
  if response.ok or not passing[response.err.code] then
    remember(self, entry, size)
  else
    self._entries[entry.key] = nil
  end
  over(self, entry, answer)
  return response
end

local function join(self, entry, call)
  count(self, "joined")
  if entry.timer then
    entry.timer:stop()
    entry.timer = nil
  end
  local resume_mine
  local ok, err = task.await(function(resume)
    resume_mine = resume
    entry.waiting[resume] = true
    return function()
      entry.waiting[resume] = nil
    end
  end)
  entry.waiting[resume_mine] = nil
  if not ok then -- this one was lost too
    if self._kept[entry] and next(entry.waiting) == nil and not entry.timer then
      wait_for_somebody(self, entry)
    end
    return nil, err
  end
  return reply(call, entry.answer)
end

---@package
function Window:_handle(call, proceed)
  local key, print = nil, nil
  if call.kind == "rpc" then
    key, print = core.call_key()
  end
  if not key then
    return proceed(call)
  end
  key = key .. self._principal(call.session)
  drop_old(self)
  local entry = self._entries[key]
  if not entry then
    entry = { key = key, name = call.name, print = print, waiting = {}, task = core.current(), over = false }
    self._entries[key] = entry
    return run(self, entry, call, proceed)
  elseif entry.name ~= call.name or entry.print ~= print then
    return call:reject("invalid_argument", "another request had the same id")
  end
  middleware.mark_begun(call) -- by the first attempt
  if entry.over then
    count(self, "replayed")
    return reply(call, entry.answer)
  end
  return join(self, entry, call)
end

---@package
--- Figures since it was made: answers `recorded`, `replayed` and `evicted` before their time; calls that `joined` a running one;
--- handlers `kept` though their caller was lost, and `abandoned` later because nobody asked again. `entries` and `bytes`: now.
---@return table<string, integer>
function Window:stats()
  drop_old(self)
  local stats = { entries = self._last - self._first + 1, bytes = self._bytes }
  for name, value in pairs(self.counters) do
    stats[name] = value
  end
  return stats
end

---@package
--- Nobody will ask again: handlers that were kept are cancelled, and answers forgotten.
function Window:close()
  self._closed = true
  local kept = self._kept
  self._kept = {}
  for entry in pairs(kept) do
    if entry.timer then
      entry.timer:stop()
      entry.timer = nil
    end
    if entry.task then
      entry.task:give_up(entry.code)
    end
  end
  while self._first <= self._last do
    drop_first(self)
  end
end

return M
