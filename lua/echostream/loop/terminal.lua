--- The terminal (or pipe, or file) that is this process' standard input: bytes of it as they come, the mode that line editors want, its
--- size. Whatever happens, the mode is put back at the end.

local log = require "echostream.log"
local loop = require "echostream.loop"

local M = {}

-- Opening a terminal again gives a description of its own, which may be non-blocking without the shell's becoming so.
local O_RDONLY_NONBLOCK_NOCTTY = 0 | 2048 | 256
local BYTES = 65536

---@class echostream.terminal
---@field interactive boolean  a line editor makes sense: both ends are one terminal, which is not dumb
local Terminal = {}
Terminal.__index = Terminal

local function open_again()
  local uv = loop.luv()
  for _, path in ipairs { "/dev/fd/0", "/dev/tty" } do
    local fd = uv.fs_open(path, O_RDONLY_NONBLOCK_NOCTTY, 0)
    if fd then
      return fd
    end
  end
end

--- Standard input and output. Only one may be in use.
---@param plain? boolean  lines as they come, whatever it is
---@return echostream.terminal
function M.open(plain)
  local uv = loop.luv()
  local kind = uv.guess_handle(0)
  local self = setmetatable({
    interactive = false,
    _kind = kind,
    _fd = 0,
    _raw = false,
    _poll = nil,
    _tty = nil,
  }, Terminal)
  if not plain and kind == "tty" and uv.guess_handle(1) == "tty" and os.getenv("TERM") ~= "dumb" and (os.getenv("TERM") or "") ~= "" then
    local fd = open_again()
    if fd then
      self._fd, self._tty, self.interactive = fd, uv.new_tty(fd, true), true
      self._tty:unref()
      self._sentinel = setmetatable({}, { __gc = function()
        if self._raw then
          uv.tty_reset_mode()
        end
      end })
    end
  end
  return self
end

--- Whether somebody types, rather than a pipe or a file.
---@return boolean
function Terminal:is_terminal()
  return self._kind == "tty"
end

--- Columns of the window.
---@return integer
function Terminal:columns()
  local width = self._tty and self._tty:get_winsize()
  return math.tointeger(width) and width > 0 and width or 80
end

--- Rows of the window.
---@return integer
function Terminal:rows()
  local height
  if self._tty then
    height = select(2, self._tty:get_winsize())
  end
  return math.tointeger(height) and height > 0 and height or 24
end

--- Keys one by one and without echo, or lines as always.
---@param on boolean
function Terminal:raw(on)
  if self._tty and on ~= self._raw then
    self._raw = on
    self._tty:set_mode(on and 1 or 0)
  end
end

--- Stops this process as Ctrl-Z does for others, until the shell goes on with it.
function Terminal:suspend()
  local uv = loop.luv()
  self:raw(false)
  uv.kill(uv.os_getpid(), "sigtstp")
  self:raw(true)
end

--- What has been typed, without waiting. For terminals only.
---@return string bytes  "" when there is nothing
function Terminal:typed()
  return self.interactive and loop.luv().fs_read(self._fd, BYTES, -1) or ""
end

--- Gives bytes to `take` as they come, and nil once at the end. A terminal or a pipe keeps the process alive until `close`.
---@param take fun(bytes: string?)
function Terminal:read(take)
  local uv = loop.luv()
  take = loop.guard("what read the terminal", take)
  if self._kind == "file" then -- which cannot be polled, and is all there
    local parts = {}
    while true do
      local data = uv.fs_read(0, BYTES, -1)
      if not data or data == "" then
        break
      end
      parts[#parts + 1] = data
    end
    take(table.concat(parts))
    return take(nil)
  end
  local ok, poll = pcall(uv.new_poll, self._fd)
  if not ok or not poll then
    return take(nil)
  end
  self._poll = poll
  poll:start("r", function(problem)
    local data, err, name
    if not problem then
      data, err, name = uv.fs_read(self._fd, BYTES, -1)
    end
    if data == nil and name == "EAGAIN" then
      return
    elseif data == nil or data == "" then
      poll:stop()
      if err and name ~= "EIO" then -- EIO: the terminal went away
        log.write("debug", "standard input: " .. tostring(err))
      end
      return take(nil)
    end
    take(data)
  end)
end

--- Calls `fn` instead of ending the process when somebody asks it to end, or its terminal goes away.
---@param fn fun(signal: string)
function Terminal:on_end(fn)
  self._signals = {}
  for _, name in ipairs { "sigterm", "sighup" } do
    local handle = loop.luv().new_signal()
    handle:unref()
    handle:start(name, loop.guard("what a signal began", function()
      fn(name)
    end))
    self._signals[#self._signals + 1] = handle
  end
end

--- Puts the mode back and lets go of everything. Harmless twice.
function Terminal:close()
  self:raw(false)
  if self._poll then
    self._poll:stop()
    loop.close_handle(self._poll)
    self._poll = nil
  end
  for _, handle in ipairs(self._signals or {}) do
    handle:stop()
    loop.close_handle(handle)
  end
  self._signals = nil
  if self._fd ~= 0 then
    loop.luv().fs_close(self._fd)
    self._fd = 0
    self.interactive = false
  end
end

return M
