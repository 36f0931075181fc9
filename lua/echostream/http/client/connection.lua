--- A connection to one origin: dialled once, shared by every request to it, closed when nobody has used it for a while.

local core = require "echostream.core"
local address = require "echostream.address"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local task = require "echostream.task"
local tls = require "echostream.tls"

local M = {}

---@class echostream.http.connection
---@field state "connecting"|"early"|"open"|"draining"|"closed"
---@field used number       when a request began or ended last
---@field requests integer  that were sent on it
---@field closed_by? echostream.error
---@field given_up boolean    it was closed here
local Connection = {}
Connection.__index = Connection
Connection.__name = "echostream.http.connection"

-- Seconds after which the next address of a name is tried beside the one that has not answered (RFC 8305, section 5).
local STAGGER = 0.25

-- Dialling ----------------------------------------------------------------------------------------------------

-- One attempt at one address: what is known of it, for whoever takes it over. Nil, err: nothing is left of it.
local function attempt(self, remote, security, timeout)
  local settings, rec = self._settings, self._rec
  local bind = settings.bind or rec.sim and loop.simulated_address(rec) or remote:sub(1, 1) == "[" and "[::]:0" or "0.0.0.0:0"
  local endpoint, err = loop.endpoint { bind = bind, qlog = settings.qlog }
  if not endpoint then
    return nil, err
  end
  local transport = {}
  for key, value in pairs(settings.transport) do
    transport[key] = value
  end
  transport.handshake_timeout = transport.handshake_timeout or timeout
  local ticket = security.ticket
  security.ticket = nil -- it is good for one connection
  local conn
  conn, err = core.h3_dial(endpoint, {
    remote = remote, tls = security.context, ticket = ticket, on_ticket = security.keep, transport = transport,
    limits = { max_header_bytes = settings.max_header_bytes, max_header_fields = settings.max_header_fields },
  })
  if not conn then
    loop.close_endpoint(rec, endpoint)
    return nil, err
  end
  local made = { conn = conn, endpoint = endpoint, seen = {}, tell = nil }
  local ok
  ok, err = task.await(function(resume)
    conn:notify(function(what)
      if made.tell then
        return made.tell(what)
      end
      made.seen[#made.seen + 1] = what
      if what == "closed" then
        resume(nil, conn:closed())
      elseif what == "open" or what == "early" then
        resume(true)
      end
    end)
  end, timeout)
  if not ok then
    conn:close()
    loop.close_endpoint(rec, endpoint)
    return nil, err
  end
  return made
end

-- Tries the addresses of a name, a little after one another; the first that answers wins, the others are given up.
local function race(self, addresses, port, security, timeout)
  if #addresses == 1 then
    return attempt(self, address.join(addresses[1], port), security, timeout)
  end
  local attempts, failed, first_err, won = {}, 0, nil, false
  local made, err = task.await(function(resume)
    for i, ip in ipairs(addresses) do
      attempts[i] = task.spawn(function()
        local late = (i - 1) * STAGGER
        if i > 1 and not task.sleep(late) then
          return
        end
        local one, problem = attempt(self, address.join(ip, port), security, math.max(timeout - late, 0.001))
        if not one then
          failed = failed + 1
          first_err = first_err or problem
          if failed == #addresses then
            resume(nil, first_err)
          end
        elseif won or not resume(one) then
          one.conn:close()
          loop.close_endpoint(self._rec, one.endpoint)
        else
          won = true
        end
      end)
    end
  end, timeout + STAGGER * #addresses)
  for _, each in ipairs(attempts) do
    each:cancel()
  end
  return made, err
end

local function dial(self)
  local settings, url = self._settings, self._url
  local deadline = self._rec.core:now() + settings.connect_timeout
  local context, err = tls.client(settings, settings.trust, url.host)
  if not context then
    return nil, err
  end
  local addresses = { url.host }
  if not address.literal(url.host) then
    addresses, err = task.await(function(resume)
      loop.resolve(url.host, resume)
    end, settings.connect_timeout)
    if not addresses then
      return nil, err
    end
  end
  local ticket, keep = tls.tickets(settings, settings.transport, settings.trust, context, url.host, url.port, "h3")
  return race(self, addresses, url.port, { context = context, ticket = ticket, keep = keep },
    math.max(deadline - self._rec.core:now(), 0.001))
end

-- Life --------------------------------------------------------------------------------------------------------

-- Requests that were never sent may be sent elsewhere.
local function fail_queue(self, err)
  local queue, first, last = self._queue, self._first, self._last
  self._queue, self._first, self._last = {}, 1, 0
  for place = first, last do -- in order: they queue up again elsewhere
    if queue[place] then
      queue[place].resume(nil, err)
    end
  end
end

local function over(self, err)
  if self.state == "closed" then
    return
  end
  local was_open = self._open
  self.state, self.closed_by = "closed", err
  if self._timer then
    self._timer:stop()
  end
  if self._endpoint then
    loop.close_endpoint(self._rec, self._endpoint)
  end
  self._on_gone(self)
  local unsent = errors.new(err.code, err.message, err.details)
  unsent.processed, unsent.retry_after = "no", err.retry_after
  unsent.unsent = was_open and not self.given_up
  fail_queue(self, unsent)
end

-- Closes what nobody has used for a while. What was dropped without being read counts as used until the collector finds it.
local function watch_idle(self)
  local core_loop, keep = self._rec.core, self._settings.keep
  local rest = math.max(self.used + keep - core_loop:now(), 0.001)
  self._timer = core_loop:timer(rest, function()
    self._timer = nil
    if self.state == "closed" then
      return
    elseif self._conn:in_flight() == 0 and self._first > self._last and core_loop:now() >= self.used + keep then
      return self:close()
    elseif core_loop:now() >= self.used + keep then
      self.used = core_loop:now()
    end
    watch_idle(self)
  end)
end

local function told(self, what)
  if what == "open" then
    self.state, self._open = self.state == "draining" and "draining" or "open", true
    self:_pump()
  elseif what == "early" or what == "credit" then
    self:_pump()
  elseif what == "goaway" then
    self:drain()
  elseif what == "idle" then
    self:close()
  elseif what == "closed" then
    over(self, self._conn:closed())
  end
end

local function take(self, made)
  self._conn, self._endpoint = made.conn, made.endpoint
  if self.state == "closed" then -- closed while it was dialled
    made.conn:close()
    return loop.close_endpoint(self._rec, made.endpoint)
  end
  self.state = "early"
  self.used = self._rec.core:now()
  made.tell = function(what)
    told(self, what)
  end
  for _, what in ipairs(made.seen) do
    told(self, what)
  end
  if self.state ~= "closed" then
    watch_idle(self)
  end
end

--- Begins a connection to where a URL leads.
---@param url echostream.http.url
---@param settings table
---@param on_gone fun(connection: echostream.http.connection)  it takes no more requests
---@return echostream.http.connection
function M.open(url, settings, on_gone)
  local self = setmetatable({
    state = "connecting", requests = 0, closed_by = nil, given_up = false, used = loop.now(), origin = url.origin,
    _url = url, _settings = settings, _rec = loop.current(), _on_gone = on_gone,
    _queue = {}, _first = 1, _last = 0, _open = false, _conn = nil, _endpoint = nil, _timer = nil,
  }, Connection)
  task.spawn(function()
    local ok, made, err = pcall(dial, self)
    if ok and made then
      take(self, made)
    else
      over(self, errors.from(ok and err or made))
    end
  end)
  return self
end

--- Whether it may be given more requests.
---@package
function Connection:usable()
  return self.state == "connecting" or self.state == "early" or self.state == "open"
end

-- Requests ----------------------------------------------------------------------------------------------------

local function try(self, entry)
  if entry.settled and not self._open then
    return nil, "again"
  end
  local x, err = self._conn:request(entry.target, entry.fields, entry.fin)
  if x then
    self.requests = self.requests + 1
    self.used = self._rec.core:now()
    return entry.wrap(x)
  elseif err ~= "again" and err.code == "connection_closed" then
    err.processed, err.unsent = "no", true
  end
  return nil, err
end

-- As many as the server lets us, in the order they were asked for.
function Connection:_pump()
  while self._first <= self._last do
    local first = self._first
    local entry = self._queue[first]
    if entry then
      local exchange, err = try(self, entry)
      if not exchange and err == "again" then
        return
      elseif self._queue[first] == entry then
        self._queue[first] = nil
      end
      if not entry.resume(exchange, err) and exchange then
        exchange:close() -- whoever asked has gone away
      end
    end
    if self._first == first then
      self._first = first + 1
    end
  end
end

--- Sends a request as soon as there is a connection and the server lets us; those that wait keep their order.
---@param entry { target: table, fields: string[], fin: boolean, settled: boolean, wrap: fun(x: userdata): table }  settled: not
--- before the end of the handshake
---@param timeout? number  seconds
---@return table|nil exchange  what `wrap` made, echostream.error? err
---@package
function Connection:request(entry, timeout)
  if not self:usable() then
    local err = errors.new("unavailable", "the connection takes no more requests")
    err.processed, err.unsent = "no", true
    return nil, err
  elseif self._conn and self._first > self._last then
    local exchange, err = try(self, entry)
    if exchange or err ~= "again" then
      return exchange, err
    end
  end
  return task.await(function(resume)
    local place = self._last + 1
    entry.resume = resume
    self._last = place
    self._queue[place] = entry
    return function()
      if self._queue[place] == entry then
        self._queue[place] = nil
      end
    end
  end, timeout)
end

--- Why it ended; nil while it lives.
---@return echostream.error?
---@package
function Connection:over()
  return self.closed_by or self._conn and self._conn:closed()
end

--- Takes no more requests; those that are under way come to their end, and with the last of them the connection.
---@package
function Connection:drain()
  if self:usable() then
    self.state = "draining"
    self._on_gone(self)
    local err = errors.new("unavailable", "the server takes no more requests on this connection")
    err.processed, err.unsent = "no", true
    fail_queue(self, err)
    if self._conn then
      self._conn:goaway() -- "idle" follows
    else
      over(self, err)
    end
  end
end

--- Closes it at once. Harmless twice.
---@package
function Connection:close()
  if self.state ~= "closed" then
    if self._conn then
      self._conn:close()
    end
    self.given_up = true -- by us: nothing of it is sent again
    over(self, errors.new("connection_closed", "the connection was closed"))
  end
end

--- Figures.
---@return table
---@package
function Connection:figures()
  local stats = self._conn and self._conn:stats() or {}
  return {
    origin = self.origin, state = self.state, requests = self.requests, in_flight = self._conn and self._conn:in_flight() or 0,
    waiting = math.max(self._last - self._first + 1, 0), peer_addr = self._conn and self._conn:peer_addr() or nil,
    resumed = stats.resumed, early_data = stats.early_data, rtt = stats.rtt_smoothed,
  }
end

return M
