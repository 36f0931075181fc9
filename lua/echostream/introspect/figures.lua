--- What `echostream top` shows: servers answer `rpc.stats` with a snapshot of what they count anyway, and whoever asked twice knows what
--- happened between. No addresses and nothing about single sessions: whoever may call may see it.

local core = require "echostream.core"
local errors = require "echostream.errors"
local loop = require "echostream.loop"

local M = {}

-- A snapshot copies the histogram of each method; asked for more often, it is the one from before (seconds).
local FRESH = 0.1

---@class echostream.top.snapshot
---@field time number       seconds on the server's own clock
---@field uptime number     seconds since the server was made
---@field sessions integer  open now
---@field sessions_total integer
---@field running integer   handlers of calls and events at work
---@field refused integer   calls that no handler saw
---@field events integer    received
---@field bytes_in integer
---@field bytes_out integer
---@field packets_lost integer
---@field memory integer    bytes of the core
---@field methods echostream.top.method[]

---@class echostream.top.method
---@field name string
---@field kind "call"|"stream"|"event"
---@field running integer?
---@field count integer     that ended
---@field errors integer?   of them, not with "ok"
---@field times integer[]?  nanoseconds and how often, in turns (histogram:buckets())

local function methods_of(figures)
  local out = {}
  local function add(list, kind)
    for _, entry in ipairs(list) do
      local codes, count = entry.codes or {}, 0
      for _, n in pairs(codes) do
        count = count + n
      end
      out[#out + 1] = {
        name = entry.name,
        kind = entry.streaming and "stream" or kind,
        running = entry.running,
        count = kind == "event" and entry.calls or count,
        errors = kind ~= "event" and count - (codes.ok or 0) or nil,
        times = entry.time and core.array(entry.time:buckets()) or nil,
      }
    end
  end
  add(figures.methods, "call")
  add(figures.streams, "stream")
  add(figures.event_handlers, "event")
  return core.array(out)
end

--- What a server or client has counted until now.
---@param host echostream.host
---@return echostream.top.snapshot
function M.snapshot(host)
  local figures, stats = host._host:figures(), host._host:stats()
  local now = loop.now()
  return {
    time = now,
    uptime = now - host._made_at,
    sessions = figures.open,
    sessions_total = stats.sessions_total,
    running = figures.running + figures.events,
    refused = stats.calls_in_refused,
    events = stats.events_in,
    bytes_in = figures.quic.bytes_received,
    bytes_out = figures.quic.bytes_sent,
    packets_lost = figures.quic.packets_lost,
    memory = core.memory().in_use,
    methods = methods_of(figures),
  }
end

local function stats(peer)
  local host = peer.server_ctx._host[1]
  local last = host._last_snapshot
  if not last or loop.now() - last.time >= FRESH then
    last = M.snapshot(host)
    host._last_snapshot = last
  end
  return last
end

--- Makes a host answer `rpc.stats`.
---@param self table
---@param wanted boolean
---@param offer fun(self: table, kind: string, name: string, fn: function, opts: table)
function M.init(self, wanted, offer)
  self._made_at = loop.now()
  if wanted then
    offer(self, "rpc", "rpc.stats", stats, { idempotent = true })
  end
end

-- What a peer answered -----------------------------------------------------------------------------------------

-- Nothing that is counted is larger: floats are exact up to here, and nothing that is printed overflows.
local MOST = 2 ^ 53

local function is_number(value)
  return type(value) == "number" and value >= 0 and value <= MOST -- NaN is neither
end

local function is_count(value)
  return is_number(value) and math.tointeger(value) ~= nil
end

local fields = {
  time = is_number, uptime = is_number, sessions = is_count, sessions_total = is_count, running = is_count, refused = is_count,
  events = is_count, bytes_in = is_count, bytes_out = is_count, packets_lost = is_count, memory = is_count,
}

local kinds = { call = true, stream = true, event = true }

local method_fields = {
  name = function(value)
    return type(value) == "string" and #value <= 256 and value:find "^[%w._/:-]+$" ~= nil
  end,
  kind = function(value)
    return type(value) == "string" and kinds[value] == true
  end,
  count = is_count,
  running = function(value)
    return value == nil or is_count(value)
  end,
  errors = function(value)
    return value == nil or is_count(value)
  end,
  times = function(value)
    if value == nil then
      return true
    elseif type(value) ~= "table" or rawlen(value) % 2 ~= 0 then
      return false
    end
    for i = 1, rawlen(value) do
      if not is_count(value[i]) then
        return false
      end
    end
    return true
  end,
}

-- The fields of a table, whole numbers as integers; or nil and which one is not as it should be.
local function taken(given, wanted)
  local made = {}
  for name, fits in pairs(wanted) do
    local value = given[name]
    if value == core.null then
      value = nil
    end
    if not fits(value) then
      return nil, name
    end
    made[name] = fits ~= is_number and math.tointeger(value) or value
  end
  return made
end

local function nonsense(where)
  return errors.new("protocol", ("the server's answer to rpc.stats makes no sense (%s)"):format(where))
end

--- What a peer answered, as a snapshot: every field is there and of its kind. It may be anything at all.
---@param answer any
---@return echostream.top.snapshot|nil snapshot
---@return echostream.error? err  `protocol`
function M.check(answer)
  if type(answer) ~= "table" then
    return nil, nonsense("it is a " .. type(answer))
  end
  local snapshot, problem = taken(answer, fields)
  if not snapshot then
    return nil, nonsense(problem)
  elseif type(answer.methods) ~= "table" then
    return nil, nonsense "methods"
  end
  snapshot.methods = core.array {}
  for i = 1, rawlen(answer.methods) do
    local method
    method, problem = nil, "it is no table"
    if type(answer.methods[i]) == "table" then
      method, problem = taken(answer.methods[i], method_fields)
    end
    if not method then
      return nil, nonsense(("methods[%d]: %s"):format(i, problem))
    end
    snapshot.methods[i] = method
  end
  return snapshot
end

-- What happened between -----------------------------------------------------------------------------------------

-- The times that came since; nil: none.
local function times_between(before, after)
  local old = {}
  for i = 1, before and #before or 0, 2 do
    old[before[i]] = before[i + 1]
  end
  local histogram
  for i = 1, after and #after or 0, 2 do
    local n = after[i + 1] - (old[after[i]] or 0)
    if n > 0 then
      histogram = histogram or core.histogram()
      histogram:add(after[i], n)
    end
  end
  return histogram
end

---@class echostream.top.row
---@field name string
---@field kind "call"|"stream"|"event"
---@field running integer?
---@field total integer  since the server was made
---@field rate number    a second
---@field errors number? a second
---@field p50 number?    seconds; nil: nothing ended
---@field p95 number?
---@field p99 number?

---@class echostream.top.view
---@field seconds number   between the snapshots
---@field uptime number
---@field sessions integer
---@field sessions_total integer
---@field running integer
---@field memory integer
---@field calls number     a second, and so the following
---@field errors number
---@field refused number
---@field events number
---@field bytes_in number
---@field bytes_out number
---@field packets_lost number
---@field methods echostream.top.row[]  the busiest first

local function row_of(old, new, seconds)
  local histogram = times_between(old and old.times, new.times)
  local function quantile(share)
    return histogram and histogram:quantile(share) / 1e9 or nil
  end
  return {
    name = new.name,
    kind = new.kind,
    running = new.running,
    total = new.count,
    rate = math.max(new.count - (old and old.count or 0), 0) / seconds,
    errors = new.errors and math.max(new.errors - (old and old.errors or 0), 0) / seconds or nil,
    p50 = quantile(0.5),
    p95 = quantile(0.95),
    p99 = quantile(0.99),
  }
end

--- What happened between two snapshots of one server. Those of a peer have gone through `check`.
---@param before echostream.top.snapshot
---@param after echostream.top.snapshot
---@return echostream.top.view
function M.between(before, after)
  local seconds = math.max(after.time - before.time, 1e-3)
  local old = {}
  for _, method in ipairs(before.methods) do
    old[method.kind .. " " .. method.name] = method
  end
  local view = { seconds = seconds, uptime = after.uptime, sessions = after.sessions, sessions_total = after.sessions_total,
    running = after.running, memory = after.memory, calls = 0, errors = 0, methods = core.array {} }
  for _, name in ipairs { "refused", "events", "bytes_in", "bytes_out", "packets_lost" } do
    view[name] = math.max(after[name] - before[name], 0) / seconds
  end
  for _, method in ipairs(after.methods) do
    -- What looking costs is not what is looked for, and what every server offers is shown where somebody uses it.
    if method.name ~= "rpc.stats" and (method.count > 0 or not method.name:find "^rpc%.") then
      local row = row_of(old[method.kind .. " " .. method.name], method, seconds)
      view.methods[#view.methods + 1] = row
      if row.kind ~= "event" then
        view.calls, view.errors = view.calls + row.rate, view.errors + (row.errors or 0)
      end
    end
  end
  table.sort(view.methods, function(a, b)
    if a.rate ~= b.rate then
      return a.rate > b.rate
    elseif a.total ~= b.total then
      return a.total > b.total
    end
    return a.name < b.name
  end)
  return view
end

return M
