--- Text that is added to a file without anybody waiting for the disk: one write at a time is under way, what comes meanwhile is
--- queued, and what the queue has no room for is dropped and counted.

local log = require "echostream.log"
local loop = require "echostream.loop"

local M = {}

---@class echostream.appender
---@field written integer  bytes
---@field dropped integer  pieces that there was no room for, or that could not be written
local Appender = {}
Appender.__index = Appender
Appender.__name = "echostream.appender"

local function failed(self, what)
  if not self._failed then -- once: a full disk would fill the log too
    self._failed = true
    log.write("error", ("cannot write to %s: %s"):format(self.path, tostring(what)))
  end
end

local function flush(self)
  if self._busy or not self._fd then
    return
  elseif #self._queue == 0 then
    if self._closing then
      loop.luv().fs_close(self._fd)
      self._fd = nil
    end
    return
  end
  local data, pieces = table.concat(self._queue), #self._queue
  self._queue, self._bytes = {}, 0
  local function done(err, n)
    self._busy = false
    self.written = self.written + (n or 0)
    if err or n < #data then
      self.dropped = self.dropped + pieces
      failed(self, err or "only a part could be written")
    else
      self._failed = false
    end
  end
  if self._sync then
    local n, err = loop.luv().fs_write(self._fd, data, -1)
    return done(not n and err or nil, n)
  end
  self._busy = true
  local ok, err = loop.luv().fs_write(self._fd, data, -1, loop.guard("what followed a write", function(problem, n)
    done(problem, n)
    flush(self)
  end))
  if not ok then
    done(err)
  end
end

--- Adds a piece. False: there was no room, or it is closed.
---@param piece string
---@return boolean
function Appender:add(piece)
  if self._closing or self._bytes + #piece > self._max then
    self.dropped = self.dropped + 1
    return false
  end
  self._queue[#self._queue + 1], self._bytes = piece, self._bytes + #piece
  flush(self)
  return true
end

--- Writes what is queued, then closes. Harmless twice.
function Appender:close()
  self._closing = true
  flush(self)
end

--- Opens a file for adding to it; one that is not there is made, for this user only.
---@param path string
---@param max integer  bytes that may wait
---@return echostream.appender|nil, string? err
function M.open(path, max)
  local fd, err = loop.luv().fs_open(path, "a", 384) -- 0600
  if not fd then
    return nil, err
  end
  return setmetatable({
    path = path,
    written = 0,
    dropped = 0,
    _fd = fd,
    _max = max,
    _queue = {},
    _bytes = 0,
    _busy = false,
    _closing = false,
    _failed = false,
    _sync = loop.current().sim, -- virtual time does not pass while the disk works
  }, Appender)
end

return M
