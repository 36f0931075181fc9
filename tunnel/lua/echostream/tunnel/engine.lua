--- The engine: the C module's sockets on the loop, one engine for each Lua state. It is stepped when its descriptor is ready, and keeps
--- the loop running while it has a listener or a connection.

local core = require "echostream.tunnel.core"
local errors = require "echostream.errors"
local log = require "echostream.log"
local loop = require "echostream.loop"
local poll = require "echostream.loop.poll"

local M = {}

-- Sockets in one step; then the others of the loop have their turn.
local BUDGET <const> = 64

-- How often one step sends, tells what comes of that, and sends again.
local ROUNDS <const> = 8

---@class echostream.tunnel.loop_engine
local Engine = {}
Engine.__index = Engine
Engine.__name = "echostream.tunnel.engine"

-- Functions that a step calls are guarded in C: what they raise comes here, with its traceback.
local function on_problem(text)
  local message = tostring(text)
  log.write("error", "tunnel: a function raised: " .. (message:match "^[^\n]*" or ""), { traceback = message })
end

local function settle(self)
  local alive = self._core:alive()
  if alive ~= self._referenced then
    self._referenced = alive
    if alive then
      self._watch:ref()
    else
      self._watch:unref()
    end
  end
end

--- Makes one of its own, for who wants to close it. Everybody else uses `current`.
---@return echostream.tunnel.loop_engine
function M.new()
  if loop.current().sim then
    error("the tunnel needs sockets, which the simulation does not have", 2)
  end
  local self = setmetatable({ _core = core.engine(on_problem), _referenced = false, _watch = nil, _stepping = false,
    _leave = nil }, Engine)
  local ud = self._core
  -- Tasks that a step makes ready run before it sends, and what tasks write in a step of the core's leaves with it.
  local function receive()
    ud:receive(BUDGET)
  end
  local function hold()
    if not self._stepping and self._watch then
      ud:hold()
    end
  end
  local function tell()
    ud:tell()
  end
  local function send()
    for round = 1, ROUNDS do
      if not ud:flush(round == ROUNDS) then
        break
      elseif round < ROUNDS then
        loop.inside(tell)
      end
      if not self._watch then
        break -- one of those that were told closed it
      end
    end
  end
  local function flush()
    if self._stepping or not self._watch then
      return -- somebody runs the loop inside of a step, or it was closed
    end
    self._stepping = true
    local ok, err = pcall(send)
    self._stepping = false
    if not ok then
      log.write("error", "the tunnel's step failed: " .. tostring(err))
    end
    if self._watch then
      settle(self)
    end
  end
  local function step()
    if self._stepping then
      return
    end
    self._stepping = true
    local ok, err = pcall(loop.inside, receive)
    self._stepping = false
    if not ok then
      log.write("error", "the tunnel's step failed: " .. tostring(err))
    end
    flush()
  end
  self._watch = assert(poll.open(ud:fd(), step))
  self._leave = loop.around_steps(hold, flush)
  return self
end

local current

--- The engine of this Lua state; made when it is asked for first.
---@return echostream.tunnel.loop_engine
function M.current()
  current = current or M.new()
  return current
end

local function closed()
  return nil, errors.new("connection_closed", "the engine is closed")
end

--- Listens. As the C module's `engine:listen`.
---@param options echostream.tunnel.listen
---@return echostream.tunnel.listener? listener, echostream.error? err
function Engine:listen(options)
  if not self._watch then
    return closed()
  end
  local listener, err = self._core:listen(options)
  settle(self)
  return listener, err
end

--- Begins to connect. As the C module's `engine:dial`: `on_open` or `on_closed` follow later, never at once.
---@param options echostream.tunnel.dial
---@return echostream.tunnel.connection|echostream.tunnel.socket|nil connection, echostream.error? err
function Engine:dial(options)
  if not self._watch then
    return closed()
  end
  local connection, err = self._core:dial(options)
  settle(self)
  return connection, err
end

--- What there is, and was.
---@return table<string, integer>
function Engine:stats()
  return self._watch and self._core:stats() or {}
end

--- Closes everything at once; nobody hears of it any more. Harmless twice. Not for the engine that all share.
function Engine:close()
  if self._watch then
    self._leave()
    self._watch:close()
    self._watch = nil
    self._core:close()
  end
  if current == self then
    current = nil
  end
end

return M
