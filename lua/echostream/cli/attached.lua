--- What a server on this machine says to lines of Lua, for commands such as `echostream top --attach`: by the socket that
--- `echostream attach` uses, so neither a certificate nor the server's introspection is needed, only to be the same user.

local attach = require "echostream.attach"
local core = require "echostream.core"
local errors = require "echostream.errors"
local socket = require "echostream.loop.socket"
local task = require "echostream.task"
local wire = require "echostream.attach.wire"

local M = {}

-- What the server is asked to run; the mark tells its answer from what else is printed there.
local MARK = "echostream.snapshot "
local LINE = ('print("%s" .. require("echostream.core").codec.json.pack(require("echostream.introspect.figures").snapshot(server)))'):format(MARK)

---@class echostream.cli.attached
local Attached = {}
Attached.__index = Attached

-- The socket's end: whoever waits is told.
local function over(self)
  self._over = true
  if self._waiting then
    self._waiting(nil, errors.new("connection_closed", "the server's process is gone, or let go of us"))
  end
end

local function taker(self)
  local feed = wire.decoder(function(kind, body)
    if kind == "out" then
      self._out[#self._out + 1] = body
    elseif kind == "ready" and self._waiting then
      self._waiting(table.concat(self._out))
    end
  end)
  return function(data)
    if not data or not feed(data) then
      self._connection:close()
      over(self)
    end
  end
end

-- Until the server is ready for another line; what it printed meanwhile.
local function exchange(self, message, timeout)
  if self._over then
    return nil, errors.new("connection_closed", "the server's process is gone, or let go of us")
  end
  local text, err = task.await(function(resume)
    self._out, self._waiting = {}, resume
    self._connection:send(message)
  end, timeout)
  self._waiting = nil
  return text, err
end

--- Attaches. In a task.
---@param word? string  the server's name, its process id or its socket; nil: the only one that runs
---@param timeout number  seconds for each answer
---@return echostream.cli.attached|nil attached, echostream.error? err
function M.open(word, timeout)
  local path, problem = attach.find(word)
  if not path then
    return nil, problem
  end
  local self = setmetatable({ _timeout = timeout, _out = {}, _over = false, _waiting = nil, _connection = nil }, Attached)
  local made, err = task.await(function(resume)
    return socket.connect({ path = path }, function(connection, failure)
      self._connection = connection
      resume(connection ~= nil, failure)
      return connection and taker(self)
    end)
  end, timeout)
  if not made then
    return nil, errors.is_error(err) and err or errors.new("unavailable", ("%s: %s"):format(path, tostring(err)))
  end
  local ok
  ok, err = exchange(self, wire.encode("hello", "10000 0"), timeout)
  if not ok then
    self:close()
    return nil, err
  end
  return self
end

--- Runs a line of Lua there.
---@param line string
---@return string|nil printed, echostream.error? err
function Attached:run(line)
  return exchange(self, wire.encode("line", line), self._timeout)
end

--- What the server has counted until now.
---@return echostream.top.snapshot|nil snapshot, echostream.error? err
function Attached:ask()
  local text, err = self:run(LINE)
  if not text then
    return nil, err
  end
  local from = select(2, text:find(MARK, 1, true))
  local snapshot = from and core.codec.json.unpack(text:sub(from + 1))
  if type(snapshot) ~= "table" then
    return nil, errors.new("failed_precondition", "the process tells nothing of a server: " .. text:match "^[^\n]*")
  end
  return snapshot
end

--- Lets go.
function Attached:close()
  if self._connection then
    self._connection:close()
  end
end

return M
