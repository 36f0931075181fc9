-- Processes that campaigns begin and kill, on the loop that runs anyway. Each ends with this process: its standard input ends.

local echo = require "echostream"
local uv = require "luv"

local M = {}

---@class spec.child
---@field pid integer
local Child = {}
Child.__index = Child

--- Starts a program; `arguments` are its own, without a shell.
---@param program string
---@param arguments string[]
---@return spec.child
function M.start(program, arguments)
  local input, output = uv.new_pipe(false), uv.new_pipe(false)
  local self = setmetatable({ input = input, output = output, text = "", lines = {}, waiting = {}, ended = false, closed = false }, Child)
  local handle, pid = uv.spawn(program, { args = arguments, stdio = { input, output, 2 } }, function()
    self.ended = true
    self:changed()
  end)
  assert(handle, pid)
  self.handle, self.pid = handle, pid
  output:read_start(function(_, data)
    if not data then
      self.closed = true
      return self:changed()
    end
    self.text = self.text .. data
    self.text = self.text:gsub("([^\n]*)\n", function(line)
      table.insert(self.lines, line)
      return ""
    end)
    self:changed()
  end)
  return self
end

--- In such a process: starts a server, tells its parent `ready ADDRESS PIN`, and serves until it is ended.
---@param server echostream.server
function M.serve(server)
  assert(server:start())
  print("ready " .. server.address .. " " .. server.pin)
  io.stdout:flush()
  echo.run()
end

function Child:changed()
  local waiting = self.waiting
  self.waiting = {}
  for _, resume in ipairs(waiting) do resume(true) end
end

local function wait(self)
  return echo.await(function(resume) table.insert(self.waiting, resume) end, 60)
end

--- The next line that matches; its captures. Waits for it.
---@param pattern string
---@return string ...
function Child:expect(pattern)
  while true do
    while self.lines[1] do
      local line = table.remove(self.lines, 1)
      if line:find(pattern) then return line:match(pattern) end
    end
    assert(not self.ended, "the process ended without a line like " .. pattern)
    assert(wait(self))
  end
end

--- Sends a signal; `SIGKILL` and the like.
---@param signal string
function Child:signal(signal)
  if not self.ended then self.handle:kill(signal:lower()) end
end

--- Ends it for good and waits until it has ended.
function Child:kill()
  self:signal "SIGKILL"
  self:gone()
end

--- Waits until it has ended and everything that it wrote is here; what was not taken by `expect`. Not for one whose own children go on.
---@return string
function Child:rest()
  while not self.closed do assert(wait(self)) end
  self:gone()
  return table.concat(self.lines, "\n") .. (self.lines[1] and "\n" or "") .. self.text
end

--- Waits until it has ended.
function Child:gone()
  while not self.ended do assert(wait(self)) end
  for _, handle in ipairs { self.input, self.output, self.handle } do
    if not handle:is_closing() then handle:close() end
  end
  echo.sleep(0) -- luv 1.44 does not bear handles that are still closing at exit
end

return M
