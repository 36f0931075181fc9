--- Standard input and output on the loop: chunks that are asked for one by one, writes that say when they are over, and what a
--- terminal can do. Everything is by callback and nothing here waits, so a reader that is slow stops nothing else.

local loop = require "echostream.loop"
local signal = require "echostream.loop.signal"

local M = {}

local CHUNK = 65536

--- Whether a descriptor is a terminal.
---@param fd integer  0, 1 or 2
---@return boolean
function M.is_terminal(fd)
  return loop.luv().guess_handle(fd) == "tty"
end

-- A handle for a descriptor that the kernel can wait for; nil for files, which are always ready.
local function handle_of(fd, readable)
  local uv = loop.luv()
  local kind = uv.guess_handle(fd)
  local handle
  if kind == "tty" then
    return uv.new_tty(fd, readable)
  elseif kind == "pipe" then
    handle = uv.new_pipe(false)
  elseif kind == "tcp" then
    handle = uv.new_tcp()
  elseif kind == "file" then
    return nil
  else
    return nil, "it is closed"
  end
  local ok, err = handle:open(fd)
  if not ok then
    loop.close_handle(handle)
    return nil, err
  end
  return handle
end

---@class echostream.stdio.source
local Source = {}
Source.__index = Source

--- Makes a source of what a descriptor has.
---@param fd integer
---@return echostream.stdio.source|nil source, string? err
function M.source(fd)
  local handle, err = handle_of(fd, true)
  if err then
    return nil, err
  end
  return setmetatable({ _fd = fd, _handle = handle }, Source)
end

--- Reads once: `done(data)` with what there is, `done(nil)` at the end, `done(nil, err)`. One read at a time.
---@param done fun(data: string?, err: string?)
function Source:read(done)
  local finish = loop.guard("what followed a read", done)
  if not self._handle then
    local ok, err = loop.luv().fs_read(self._fd, CHUNK, -1, function(problem, data)
      finish(not problem and data ~= "" and data or nil, problem)
    end)
    if not ok then
      finish(nil, tostring(err))
    end
    return
  end
  local handle = self._handle
  local ok, err = handle:read_start(function(problem, data)
    if data == "" then
      return
    end
    if not handle:is_closing() then
      handle:read_stop()
    end
    finish(not problem and data or nil, problem)
  end)
  if not ok then
    finish(nil, tostring(err))
  end
end

--- Gives it back; a read under way does not call back any more.
function Source:close()
  if self._handle then
    loop.close_handle(self._handle)
  end
end

---@class echostream.stdio.sink
local Sink = {}
Sink.__index = Sink

--- Makes a sink into a descriptor.
---@param fd integer  1 or 2
---@return echostream.stdio.sink|nil sink, string? err
function M.sink(fd)
  local file = fd == 2 and io.stderr or io.stdout
  if M.is_terminal(fd) then -- a terminal that stops takes its user's wish with it
    return setmetatable({ _file = file }, Sink)
  end
  local handle, err = handle_of(fd, false)
  if err then
    return nil, err
  end
  signal.survive_broken_pipes() -- there is a server to say goodbye to
  return setmetatable({ _file = file, _handle = handle }, Sink)
end

--- Writes bytes; `done()` when they are out, `done(err)` when that failed.
---@param data string
---@param done fun(err: string?)
function Sink:write(data, done)
  local finish = loop.guard("what followed a write", done)
  if not self._handle then
    local ok, err = self._file:write(data)
    if ok then
      ok, err = self._file:flush()
    end
    return finish(not ok and tostring(err) or nil)
  end
  -- Most writes find room, and those that do need no turn of the loop.
  local written, err, name = self._handle:try_write(data)
  if written == #data then
    return finish()
  elseif not written and name ~= "EAGAIN" then
    return finish(tostring(err))
  end
  local ok
  ok, err = self._handle:write(written and data:sub(written + 1) or data, finish)
  if not ok then
    finish(tostring(err))
  end
end

--- Gives it back. The descriptor stays as those who share it with us expect it: its writes wait.
function Sink:close()
  if self._handle and not self._handle:is_closing() then
    self._handle:set_blocking(true)
    loop.close_handle(self._handle)
  end
end

return M
