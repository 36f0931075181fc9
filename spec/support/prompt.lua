-- A bare `lua5.4` prompt behind a pseudo-terminal, driven by `expect` (Debian's package expect).
--
--   local p = prompt.new()
--   p:type("1 + 1"); p:see("2"); p:ready()
--   local result = p:run()     -- does it all; raises with everything that was on the screen when a step failed

local process = require "spec.support.process"

local M = {}

---@class prompt
local Prompt = {}
Prompt.__index = Prompt

-- A Tcl word that stands for exactly this text.
local function tcl(text)
  return '"' .. text:gsub('[\\"$%[%]{}]', "\\%0"):gsub("%c", function(c) return ("\\x%02x"):format(c:byte()) end) .. '"'
end

--- Whether the tool is there.
---@return boolean
function M.available()
  return process.run("command -v expect").code == 0
end

--- A prompt that will be started by `run`.
---@param opts? { seconds?: number }  how long one step may take (default 20)
---@return prompt
function M.new(opts)
  local self = setmetatable({
    script = {},
    steps = 0,
    commands = 0,
    dir = process.directory(),
    seconds = opts and opts.seconds or 20,
  }, Prompt)
  self:_add [[
log_user 0
set stty_init "columns 400 rows 50"
proc fail {step what} {
    puts "\nstep $step: $what"
    exit 1
}
]]
  self:_add(("log_file -a -noappend %s"):format(tcl(self.dir .. "/screen")))
  self:_add(("set timeout %d"):format(self.seconds))
  self:_add "spawn -noecho lua5.4"
  self:_expect(tcl "> ", "the first prompt")
  return self
end

function Prompt:_add(text) self.script[#self.script + 1] = text end

function Prompt:_expect(word, what, kind)
  self.steps = self.steps + 1
  -- The newlines tell expect that these are patterns and actions, and not one pattern.
  self:_add(("expect {\n%s %s {}\ntimeout { fail %d %s }\neof { fail %d %s }\n}"):format(kind or "-ex", word, self.steps,
    tcl(what .. ": did not appear"), self.steps, tcl(what .. ": the interpreter ended")))
  return self
end

--- Types a line and Enter, and reads it back.
---@param line string
---@return prompt self
function Prompt:type(line)
  self:_add("send -- " .. tcl(line .. "\r"))
  return self:_expect(tcl(line .. "\r\n"), "the echo of " .. line)
end

--- Types something without Enter.
---@param text string
---@return prompt self
function Prompt:half(text)
  self:_add("send -- " .. tcl(text))
  return self:_expect(tcl(text), "the echo of " .. text)
end

--- Waits for a line of output. "…" in it stands for anything.
---@param line string
---@return prompt self
function Prompt:see(line)
  if not line:find("…", 1, true) then return self:_expect(tcl(line .. "\r\n"), "the line " .. line) end
  local pattern = line:gsub("[%^%$%(%)%.%[%]%*%+%-%?{}|\\]", "\\%0"):gsub("…", "[^\r\n]*")
  return self:_expect(tcl(pattern .. "\r\n"), "the line " .. line, "-re")
end

--- Waits for the prompt.
---@return prompt self
function Prompt:ready() return self:_expect(tcl "> ", "the prompt") end

--- Types a line, waits for the prompt after it.
---@param line string
---@return prompt self
function Prompt:line(line) return self:type(line):ready() end

--- Presses Ctrl-C.
---@return prompt self
function Prompt:interrupt()
  self:_add "send -- \\x03"
  return self
end

--- Leaves it alone.
---@param seconds number
---@return prompt self
function Prompt:idle(seconds)
  self:_add(("sleep %g"):format(seconds))
  return self
end

--- Runs a shell command meanwhile; its output is in the result, one entry for each `meanwhile`.
---@param command string
---@return prompt self
function Prompt:meanwhile(command)
  self.commands = self.commands + 1
  local file = ("%s/command.%d"):format(self.dir, self.commands)
  process.write(file, command)
  self:_add(("catch { exec sh %s >>& %s/meanwhile }"):format(file, self.dir))
  return self
end

--- Ends it with Ctrl-D and does everything.
---@return { screen: string, meanwhile: string, code: integer }
function Prompt:run()
  self:_add [[
send -- \x04
expect {
    eof {}
    timeout { fail 999 "the interpreter did not end" }
}
set ended [wait]
exit [expr {[llength $ended] > 4 ? 99 : [lindex $ended 3]}]
]]
  process.write(self.dir .. "/script", table.concat(self.script, "\n"))
  local result = process.run("exec expect -f " .. self.dir .. "/script", { seconds = 200, env = { TERM = "dumb", INPUTRC = "/dev/null" } })
  local function content(name)
    local file = io.open(self.dir .. "/" .. name)
    if not file then return "" end
    local text = file:read "a"
    file:close()
    return text
  end
  local screen, meanwhile = content "screen", content "meanwhile"
  process.remove(self.dir)
  if result.code ~= 0 then
    error(("%s%s(status %d) The screen was:\n%s"):format(result.out, result.err, result.code, screen), 2)
  end
  return { screen = screen, meanwhile = meanwhile, code = result.code }
end

return M
