-- A program behind a pseudo-terminal, driven step by step. script(1) of util-linux holds the terminal: bytes pass as they are.
--
--   local p <close> = pty.spawn("lua5.4")
--   p:expect "> "
--   p:send "1 + 1\r"
--   p:expect "\n2\r\n"
--   p:send "\4"
--   assert.equal(0, p:wait())
--
-- `expect` waits for what it is told to wait for, and takes it: what stands before it is given back, what follows stays for the
-- next one. There are no pauses; whoever needs one waits for something that shows. A step that does not come within its time
-- fails with all that was on the screen.

local process = require "spec.support.process"
local uv = require "luv"

local M = {}

M.SECONDS = 60 -- for one step: a machine may be slow, and a step that comes takes no time

---@class pty
---@field screen string  everything that was shown, escape sequences and all
---@field rest string    what no `expect` has taken yet
local Pty = {}
Pty.__index = Pty

--- Whether it can be used.
---@return boolean
function M.available()
  return process.run("command -v script && command -v stty").code == 0
end

--- Starts a shell command on a terminal of its own.
---@param command string  one simple command: it replaces the shell
---@param opts? { env?: table<string, string>, columns?: integer, rows?: integer, seconds?: number, cwd?: string }
---@return pty
function M.spawn(command, opts)
  opts = opts or {}
  local words = { "env", "TERM=" .. process.quote(opts.env and opts.env.TERM or "xterm") }
  for name, value in pairs(opts.env or {}) do
    if name ~= "TERM" then words[#words + 1] = name .. "=" .. process.quote(value) end
  end
  if os.getenv "ASAN_OPTIONS" then
    words[#words + 1] = "ASAN_OPTIONS=" .. process.quote(os.getenv "ASAN_OPTIONS" .. ":detect_leaks=0")
  end
  -- Nothing stands between the terminal and the program: timeout(1) would pass Ctrl-C on, which then came twice.
  local inside = ("ulimit -t 300; stty cols %d rows %d; cd %s; exec %s %s"):format(opts.columns or 200, opts.rows or 50,
    process.quote(opts.cwd or process.root), table.concat(words, " "), command)
  local input, output = uv.new_pipe(false), uv.new_pipe(false)
  local self = setmetatable({ input = input, output = output, screen = "", rest = "", seconds = opts.seconds or M.SECONDS }, Pty)
  local handle, pid = uv.spawn("script", { args = { "-qfec", inside, "/dev/null" }, stdio = { input, output, 2 } }, function(code, signal)
    self.code = signal ~= 0 and 128 + signal or code
  end)
  assert(handle, pid)
  self.handle, self.pid = handle, pid
  output:read_start(function(_, data)
    if data then
      self.screen, self.rest = self.screen .. data, self.rest .. data
    else
      self.ended = true
    end
  end)
  return self
end

-- luv 1.44 does not bear handles that still close at exit.
local function come_round()
  for _ = 1, 3 do uv.run "nowait" end
end

-- Runs the loop until `done()`; false when that takes too long.
local function run_until(self, done)
  local late = false
  local timer = uv.new_timer()
  timer:start(math.ceil(self.seconds * 1000), 0, function() late = true end)
  while not done() and not late do uv.run "once" end
  timer:stop()
  timer:close()
  come_round()
  return done()
end

local function shown(self)
  return self.screen:gsub("\27%[[%d;?]*[%a]", ""):gsub("\r", "")
end

--- Types: "\r" is Enter, "\3" Ctrl-C, "\t" Tab, "\27[A" the up key.
---@param text string
---@return pty self
function Pty:send(text)
  self.input:write(text)
  return self
end

--- Waits for something to be shown.
---@param what string  exactly this text; with `pattern`, a Lua pattern
---@param pattern? boolean
---@return string before  what was shown before it
---@return string ...     the pattern's captures, or the text
function Pty:expect(what, pattern)
  local found
  local ok = run_until(self, function()
    found = table.pack(self.rest:find(what, 1, not pattern))
    return found[1] ~= nil or self.ended
  end)
  if not found[1] then
    error(("%s without %q; the screen was:\n%s"):format(ok and "it ended" or "its time went by", what, shown(self)), 2)
  end
  local before = self.rest:sub(1, found[1] - 1)
  local text = self.rest:sub(found[1], found[2])
  self.rest = self.rest:sub(found[2] + 1)
  if found.n > 2 then return before, table.unpack(found, 3, found.n) end
  return before, text
end

--- Waits until it ends by itself.
---@return integer code
function Pty:wait()
  if not run_until(self, function() return self.code ~= nil and self.ended end) then
    error("it did not end; the screen was:\n" .. shown(self), 2)
  end
  return self.code
end

--- Ends it, whatever it does: its terminal goes away. Harmless twice.
function Pty:close()
  if not self.code then
    self.handle:kill "sigkill"
    self.seconds = 10
    run_until(self, function() return self.code ~= nil end)
  end
  for _, handle in ipairs { self.input, self.output, self.handle } do
    if not handle:is_closing() then handle:close() end
  end
  come_round()
end

Pty.__close = function(self) self:close() end

return M
