--- Child processes on the loop, for helpers that other packages bring. A child is told to end when this process does.

local loop = require "echostream.loop"

local M = {}

---@class echostream.process
---@field pid integer
local Process = {}
Process.__index = Process
Process.__name = "echostream.process"

--- Asks it to end. It may be called from a finaliser; harmless twice.
function Process:stop()
  if not self._over and not self._handle:is_closing() then
    self._handle:kill "sigterm"
  end
end

local function finish(self)
  if self._over and self._open == 0 then
    for _, handle in ipairs(self._pipes) do
      loop.close_handle(handle)
    end
    loop.close_handle(self._handle)
  end
end

-- Where a program is, as a shell would find it.
local function find(name)
  local uv = loop.luv()
  for folder in (uv.os_getenv "PATH" or "/usr/bin:/bin"):gmatch "[^:]+" do
    local path = folder .. "/" .. name
    if uv.fs_access(path, "X") then
      return path
    end
  end
end

--- Whether a program is installed.
---@param name string
---@return boolean
function M.is_there(name)
  return find(name) ~= nil
end

--- Starts a program, without a shell and without input. `on_line` takes each line that it writes, `on_end` its end, after the last line.
--- Where setpriv(1) is, as on every Debian, the kernel ends the child with this process, however that ends.
---@param name string
---@param arguments string[]
---@param on_line fun(line: string)
---@param on_end fun(code: integer, signal: integer)
---@return echostream.process? process, string? err
function M.start(name, arguments, on_line, on_end)
  local uv = loop.luv()
  local path = find(name)
  if not path then
    return nil, "there is no program " .. name
  end
  local setpriv = find "setpriv"
  if setpriv then
    arguments = table.move(arguments, 1, #arguments, 5, { "--pdeathsig", "TERM", "--", path })
    path = setpriv
  end
  local out, err = uv.new_pipe(false), uv.new_pipe(false)
  local self = setmetatable({ _pipes = { out, err }, _open = 2, _over = false, pid = 0 }, Process)
  local code, signal
  local function look()
    if self._over and self._open == 0 then
      finish(self)
      on_end(code, signal)
    end
  end
  local handle, pid = uv.spawn(path, { args = arguments, stdio = { nil, out, err } }, loop.guard("a child's end", function(status, by)
    code, signal, self._over = status, by, true
    look()
  end))
  if not handle then
    loop.close_handle(out)
    loop.close_handle(err)
    return nil, tostring(pid)
  end
  self._handle, self.pid = handle, pid
  for _, pipe in ipairs(self._pipes) do
    local rest, ended = "", false
    pipe:read_start(loop.guard("a child's output", function(problem, data)
      if problem or not data then
        if not ended then
          ended, self._open = true, self._open - 1
          if rest ~= "" then
            on_line(rest)
          end
          look()
        end
        return
      end
      rest = (rest .. data):gsub("([^\n]*)\n", function(line)
        on_line(line)
        return ""
      end)
      rest = rest:sub(-4096)
    end))
  end
  return self
end

return M
