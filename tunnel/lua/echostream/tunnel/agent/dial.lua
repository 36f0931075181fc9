--- Connections to a backend's place: a unix socket, or a name or address with a port. Names are looked up and remembered for a while;
--- of several addresses the next is tried when one failed, or beside it when it does not answer soon (RFC 8305).

local address = require "echostream.address"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local task = require "echostream.task"

local M = {}

---@class echostream.tunnel.place
---@field path? string  of a unix socket
---@field host? string  name or address, with `port`
---@field port? integer
---@field addresses? string[]  what the name meant when it was looked up last
---@field looked_up? number

---@class echostream.tunnel.dial_callbacks  each is called from the engine's step, or from a task
---@field timeout number  seconds for all of it
---@field codec string
---@field tls? echostream.tunnel.tls_client
---@field name? string  SNI and verified name
---@field limits? table
---@field on_open fun(c: table)
---@field on_failed fun(err: echostream.error)  instead of on_open, once
---@field on_closed fun(c: table, err: echostream.error?)  after on_open
---@field on_ready? fun(c: table)

-- Seconds: how long an answer of the name service is used, how long an old one helps when there is no answer, and after
-- which the next address is tried beside one that is silent.
local FRESH, STALE, STAGGER = 10, 600, 0.25

--- A place as text, for messages.
---@param place echostream.tunnel.place
---@return string
function M.name(place)
  return place.path and "unix:" .. place.path or address.join(place.host, place.port)
end

local function explain(place, ip, err)
  local where = M.name(place)
  if ip and ip ~= place.host then
    where = ("%s (%s)"):format(where, ip)
  end
  return errors.new(err and err.code or "unavailable", ("%s: %s"):format(where, err and err.message or "the connection was closed"))
end

-- One attempt. done(c | nil, err) exactly once; on_closed of what opened goes to `callbacks`.
local function attempt(engine, place, ip, timeout, callbacks, done)
  local opened, settled = false, false
  local function settle(c, err)
    if not settled then
      settled = true
      done(c, err)
    end
  end
  local c, problem = engine:dial {
    ip = ip,
    port = ip and place.port or nil,
    path = place.path,
    timeout = timeout,
    codec = callbacks.codec,
    tls = callbacks.tls,
    name = callbacks.name,
    limits = callbacks.limits,
    on_open = function(c)
      opened = true
      settle(c)
    end,
    on_closed = function(c, err)
      if opened then
        callbacks.on_closed(c, err)
      else
        settle(nil, explain(place, ip, err))
      end
    end,
    on_ready = function(c)
      if opened and callbacks.on_ready then
        callbacks.on_ready(c)
      end
    end,
  }
  if not c then
    settle(nil, explain(place, ip, problem))
  end
  return c
end

-- Several addresses: `state` is one dial.
local function begin_next(state)
  local ip = not state.over and state.addresses[state.started + 1]
  local left = state.ends - loop.now()
  if not ip or left <= 0 then
    return false
  end
  state.started = state.started + 1
  local mine
  local function settle(c, err)
    if mine then
      state.pending[mine] = nil
    end
    if c and not state.over then
      state.over = true
      state.place.last = ip
      for other in pairs(state.pending) do
        other:close()
      end
      state.callbacks.on_open(c)
    elseif c then
      c:close()
    elseif not state.over then
      state.failed, state.problem = state.failed + 1, state.problem or err
      if not begin_next(state) and state.failed == state.started then
        state.over = true
        state.callbacks.on_failed(state.problem)
      end
    end
  end
  local shadow = setmetatable({}, { __index = state.callbacks })
  shadow.on_closed = function(c, err)
    if state.opened == nil or state.opened == c then
      state.callbacks.on_closed(c, err)
    end
  end
  mine = attempt(state.engine, state.place, ip, left, shadow, function(c, err)
    if c and not state.over then
      state.opened = c
    end
    settle(c, err)
  end)
  if mine and not state.over then
    state.pending[mine] = true
  end
  return true
end

local function dial_addresses(engine, place, addresses, timeout, callbacks)
  if #addresses == 1 then
    attempt(engine, place, addresses[1], timeout, callbacks, function(c, err)
      if c then
        callbacks.on_open(c)
      else
        callbacks.on_failed(err)
      end
    end)
    return
  end
  local order = {}
  for _, ip in ipairs(addresses) do
    table.insert(order, ip == place.last and 1 or #order + 1, ip)
  end
  local state = { engine = engine, place = place, addresses = order, callbacks = callbacks, started = 0, failed = 0,
    ends = loop.now() + timeout, over = false, problem = nil, pending = {}, opened = nil }
  begin_next(state)
  if not state.over then
    task.spawn(function()
      while task.sleep(STAGGER) and begin_next(state) do end
    end)
  end
end

--- Begins to connect. Never waits; one of `on_open` and `on_failed` is called, perhaps at once.
---@param engine table  with `dial`, as echostream.tunnel.engine has it
---@param place echostream.tunnel.place
---@param callbacks echostream.tunnel.dial_callbacks
function M.dial(engine, place, callbacks)
  if place.path then
    attempt(engine, place, nil, callbacks.timeout, callbacks, function(c, err)
      if c then
        callbacks.on_open(c)
      else
        callbacks.on_failed(err)
      end
    end)
    return
  elseif address.literal(place.host) then
    return dial_addresses(engine, place, { place.host }, callbacks.timeout, callbacks)
  end
  local began = loop.now()
  if place.addresses and began - place.looked_up < FRESH then
    return dial_addresses(engine, place, place.addresses, callbacks.timeout, callbacks)
  end
  task.spawn(function()
    local found, err = task.await(function(resume)
      loop.resolve(place.host, resume)
    end, callbacks.timeout)
    local now = loop.now()
    if found then
      place.addresses, place.looked_up = found, now
    elseif place.addresses and now - place.looked_up < STALE then
      found = place.addresses
    end
    local left = callbacks.timeout - (now - began)
    if found and left > 0 then
      dial_addresses(engine, place, found, left, callbacks)
    else
      callbacks.on_failed(explain(place, nil, err or errors.new("timeout", "its name could not be looked up in time")))
    end
  end)
end

return M
