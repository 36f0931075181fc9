-- Transcripts of terminals, played word for word.
--
--   $ echostream repl chat.lua      a command, as at a shell; the transcript goes on in it
--   > 1 + 1                         typed at its prompt ("> " or ">> "), when that is shown
--   2                               a line that shows; "…" in it stands for anything
--   …                               alone: any line, which may be missing
--
-- Lines that show come one after another; what shows between them is an error, unless a "…" stands there. Between the prompt and the
-- lines that are shown above it the order is the transcript's.

local pty = require "spec.support.pty"

local M = {}

-- What is on the screen without escape sequences and without the prompts that were drawn again.
local function plain(text)
  return (text:gsub("\27%[[%d;?]*%a", ""):gsub("\r", ""))
end

-- A pattern for a line of the transcript.
local function pattern_of(line)
  return "^" .. line:gsub("[%^%$%(%)%.%[%]%*%+%-%?%%]", "%%%0"):gsub("…", ".*") .. "$"
end

local function take_lines(p, wanted, prompt)
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
        if not anything and text ~= "" then
          error(("line %d of the output wants %q, got %q; the screen was:\n%s"):format(i, line, text, plain(p.screen)), 0)
        end
      end
      anything = false
    end
  end
  if prompt then p:expect(prompt) end
end

--- Plays a transcript from `$ command` to its end; the last command must end well.
---@param text string
---@param opts? { env?: table<string, string>, cwd?: string, command?: fun(line: string): string }  `command`: what to run for one
function M.play(text, opts)
  opts = opts or {}
  local p, waiting
  local function finish()
    if p then
      take_lines(p, waiting)
      local code = p:wait()
      p:close()
      assert(code == 0, "the command ended with " .. code)
    end
    p = nil
  end
  local ok, problem = pcall(function()
    for line in text:gmatch "[^\n]+" do
      local command = line:match "^%$ (.*)$"
      local prompt, typed = line:match "^(>>? )(.*)$"
      if command then
        finish()
        p = pty.spawn(opts.command and opts.command(command) or command, { env = opts.env, cwd = opts.cwd, columns = 200 })
        waiting = {}
      elseif typed then
        take_lines(p, waiting, prompt)
        waiting = {}
        p:send(typed .. "\r"):expect(typed)
        p:expect "\n"
      else
        table.insert(waiting, line)
      end
    end
    finish()
  end)
  if p then p:close() end
  if not ok then error(problem, 2) end
end

return M
