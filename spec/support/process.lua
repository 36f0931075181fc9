-- Other processes, for specs of what users start from a shell. Everything has a time limit, nothing outlives its spec.

local M = {}

local root = io.popen("pwd"):read "l"

--- The top of the checkout.
M.root = root

--- Quotes one word for the shell.
---@param word string
---@return string
function M.quote(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

local made = {}

--- A new empty directory. The caller removes it with `M.remove`.
---@return string
function M.directory()
  local path = assert(io.popen("mktemp -d"):read "l")
  made[path] = true
  return path
end

function M.remove(path)
  assert(made[path], "not made here")
  made[path] = nil
  os.execute("rm -rf " .. M.quote(path))
end

function M.write(path, text)
  local file <close> = assert(io.open(path, "w"))
  assert(file:write(text))
end

function M.read(path)
  local file <close> = assert(io.open(path))
  return file:read "a"
end

-- Leaks are looked for in the specs' own processes, which run the same code. In those that they start it would put the exit code at
-- risk that the specs ask for: GCC 12's LeakSanitizer sometimes dies while it looks (see .ci/test), or makes timeout(1) hang.
local sanitizer = os.getenv "ASAN_OPTIONS"

local function environment(settings)
  local words = {}
  if sanitizer then
    words[1] = "ASAN_OPTIONS=" .. M.quote(sanitizer .. ":detect_leaks=0")
  end
  for name, value in pairs(settings or {}) do
    words[#words + 1] = name .. "=" .. M.quote(value)
  end
  return #words > 0 and "env " .. table.concat(words, " ") .. " " or ""
end

---@class process.result
---@field code integer  exit code; 124: it did not end in time
---@field out string
---@field err string

--- Runs a shell command to its end.
---@param command string
---@param opts? { seconds?: number, input?: string, env?: table<string, string>, cwd?: string }
---@return process.result
function M.run(command, opts)
  opts = opts or {}
  local dir = M.directory()
  M.write(dir .. "/in", opts.input or "")
  M.write(dir .. "/command", command)
  local _, how, code = os.execute(("cd %s && %s timeout -k 5 %g sh %s/command <%s/in >%s/out 2>%s/err"):format(
    M.quote(opts.cwd or root), environment(opts.env), opts.seconds or 60, dir, dir, dir, dir))
  local result = { code = how == "signal" and 128 + code or code, out = M.read(dir .. "/out"), err = M.read(dir .. "/err") }
  M.remove(dir)
  return result
end

---@class process.running
---@field pid string
local Running = {}
Running.__index = Running

--- Starts a command that goes on; its standard output and error are read with `expect`.
---@param command string  one simple command: it replaces the shell
---@param opts? { seconds?: number, env?: table<string, string>, cwd?: string }
---@return process.running
function M.start(command, opts)
  opts = opts or {}
  -- In the foreground, timeout passes a signal on once, and not to the group as well.
  local pipe = assert(io.popen(("cd %s && echo $$ && exec %s timeout --foreground -k 5 %g %s 2>&1 </dev/null"):format(
    M.quote(opts.cwd or root), environment(opts.env), opts.seconds or 60, command)))
  return setmetatable({ _pipe = pipe, pid = pipe:read "l", text = "" }, Running)
end

--- Reads lines until one matches the pattern; returns its captures. Fails when the process ends before.
---@param pattern string
---@return string ...
function Running:expect(pattern)
  for line in self._pipe:lines() do
    self.text = self.text .. line .. "\n"
    if line:find(pattern) then return line:match(pattern) end
  end
  error(("the process ended without a line that matches %q; it said:\n%s"):format(pattern, self.text), 2)
end

--- Waits until it ends by itself.
---@return integer code
---@return string rest  what it wrote since the last expect
function Running:wait()
  if not self._pipe then return self.code, "" end
  local rest = self._pipe:read "a"
  local _, how, code = self._pipe:close()
  self._pipe = nil
  self.code = how == "signal" and 128 + code or code
  return self.code, rest
end

--- Sends a signal and waits for the end. Harmless twice. A process that is about to end by itself may die of the signal:
--- for that one, `wait`.
--- Not KILL: it would end timeout(1), whose command then goes on and keeps the pipe open that `wait` reads.
---@param signal? string  default TERM
---@return integer code
---@return string rest  what it wrote since the last expect
function Running:stop(signal)
  if self._pipe then os.execute(("kill -%s %s 2>/dev/null"):format(signal or "TERM", self.pid)) end
  return self:wait()
end

--- The shell command that starts our `echostream`.
M.echostream = "lua5.4 " .. M.quote(root .. "/lua/echostream/bin/echostream")

--- A UDP port that nobody uses now. It is none of those that the system gives to sockets without one (32768 and up): a server
--- that is restarted finds it free again, whatever its clients' sockets got meanwhile.
---@return integer
function M.free_port()
  local uv = require "luv"
  local random <close> = assert(io.open("/dev/urandom", "rb"))
  for _ = 1, 1000 do
    local port = 12000 + ("I2"):unpack(random:read(2)) % 20000
    local socket = uv.new_udp()
    local ok = socket:bind("127.0.0.1", port)
    socket:close()
    uv.run "nowait"
    if ok then
      return port
    end
  end
  error "no free port"
end

return M
