-- Transcripts of terminals, played word for word.
--
--   $ echostream repl chat.lua      a command, as at a shell; the transcript goes on in it
--   > 1 + 1                         typed at its prompt ("> " or ">> "), when that is shown
--   2                               a line that shows; "…" in it stands for anything
--   …                               alone: any lines, which may be missing
--   ^C                              Ctrl-C is pressed (^D: Ctrl-D)
--
-- Lines that show come one after another; what shows between them is an error, unless a "…" stands there. A command ends before the
-- next "$" of its terminal, or at `finish`, and must end well.
--
-- Several terminals, as in a tutorial: each has a name, and goes on where its last transcript left it.
--
--   local player <close> = transcript.new { cwd = dir }
--   player:play("$ echostream serve chat.lua\nlistening on …", "server")
--   player:play("$ echostream repl 127.0.0.1:5000 --insecure\n> client:request('join', 'ann')\ntrue", "ann")
--   player:play("> client:emit('say', 'hi')\ntrue", "ann")
--   player:finish()

local pty = require "spec.support.pty"

local M = {}

-- What is on the screen without escape sequences.
local function plain(text)
  return (text:gsub("\27%[[%d;?]*%a", ""):gsub("\r", ""))
end

-- A pattern for a line of the transcript.
local function pattern_of(line)
  return "^" .. line:gsub("[%^%$%(%)%.%[%]%*%+%-%?%%]", "%%%0"):gsub("…", ".*") .. "$"
end

local function take_lines(p, wanted)
  local anything = false
  for i, line in ipairs(wanted) do
    if line == "…" then
      anything = true
    else
      local pattern = pattern_of(line)
      while true do
        local text = plain((p:expect "\n"))
        text = text:gsub("^>>? ", "") -- a prompt that stood there before the line was printed above it
        if text:find(pattern) then break end
        local slow = text:find "warn: .* held the loop" -- the machine stopped for a moment
        if not anything and not slow and text ~= "" then
          error(("line %d of the output wants %q, got %q; the screen was:\n%s"):format(i, line, text, plain(p.screen)), 0)
        end
      end
      anything = false
    end
  end
end

---@class transcript.player
local Player = {}
Player.__index = Player

--- A player without terminals yet.
---@param opts? { env?: table<string, string>, cwd?: string, columns?: integer, command?: fun(line: string): string }  `command`: what to
--- run for a line after "$"
---@return transcript.player
function M.new(opts)
  return setmetatable({ opts = opts or {}, terminals = {} }, Player)
end

local function finish(self, name)
  local p = self.terminals[name]
  if p then
    local code = p:wait()
    p:close()
    self.terminals[name] = nil
    if code ~= 0 then error(("the command at the terminal %s ended with %d; the screen was:\n%s"):format(name, code, plain(p.screen)), 0) end
  end
end

local keys = { ["^C"] = "\3", ["^D"] = "\4" }

local function play(self, text, name)
  local waiting = {}
  local function shown()
    if waiting[1] then take_lines(self.terminals[name], waiting) end
    waiting = {}
  end
  for line in text:gmatch "[^\n]+" do
    local command = line:match "^%$ (.*)$"
    local prompt, typed = line:match "^(>>? )(.*)$"
    if command then
      shown()
      finish(self, name)
      local opts = self.opts
      self.terminals[name] = pty.spawn(opts.command and opts.command(command) or command,
        { env = opts.env, cwd = opts.cwd, columns = opts.columns or 200 })
    elseif typed then
      shown()
      local p = self.terminals[name]
      p:expect(prompt)
      p:send(typed .. "\r"):expect(typed)
      p:expect "\n"
    elseif keys[line] then
      shown()
      self.terminals[name]:send(keys[line])
    else
      table.insert(waiting, line)
    end
  end
  shown()
end

--- Plays a transcript at a terminal.
---@param text string
---@param name? string  of the terminal (default "")
function Player:play(text, name)
  local ok, problem = pcall(play, self, text, name or "")
  if not ok then
    self:close()
    error(problem, 2)
  end
end

--- Waits until the commands of all terminals have ended, well.
function Player:finish()
  for _, name in ipairs(self:names()) do
    local ok, problem = pcall(finish, self, name)
    if not ok then
      self:close()
      error(problem, 2)
    end
  end
end

--- The terminals in which something runs.
---@return string[]
function Player:names()
  local names = {}
  for name in pairs(self.terminals) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- Ends whatever still runs. Harmless twice.
function Player:close()
  for _, p in pairs(self.terminals) do p:close() end
  self.terminals = {}
end

Player.__close = function(self) self:close() end

--- Plays one transcript from `$ command` to its end.
---@param text string
---@param opts? table  as for `new`
function M.play(text, opts)
  local player <close> = M.new(opts)
  player:play(text)
  player:finish()
end

return M
