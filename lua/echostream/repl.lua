--- The engine of a prompt: lines of Lua in, text out. It knows no terminal: `echostream repl` puts a line editor in front of it,
--- `echostream attach` a socket, a spec nothing.
---
---     local prompt = repl.new { write = function(text) io.write(text) end, ready = function(word) io.write(word) end }
---     prompt:start()
---     prompt:line("client:request('math.add', 1, 2)")   -- runs in a task; `ready` says when it is over
---
--- Each input runs in a task of its own, so what waits in it lets everything else go on. Expressions are printed without `return`;
--- `_` is the last value. Lines that begin with a dot are commands (repl/commands.lua).

local errors = require "echostream.errors"
local loop = require "echostream.loop"
local options = require "echostream.options"
local pretty = require "echostream.pretty"
local task = require "echostream.task"

local M = {}

---@class echostream.options.repl
---@field write fun(text: string)     takes output: whole lines, with their newlines
---@field ready fun(prompt: string)   the next line may come; `prompt` is what to show before it
---@field leave? fun()                somebody asked to leave
---@field env? table                  the globals of what is typed (default: those of this Lua state)
---@field colour? boolean             with colours (default: false)
---@field width? fun(): integer       columns that output should fit in (default: 80)
---@field busy? fun(): boolean|string asked now and then while code computes without waiting: whether to interrupt it, or why
---@field hosts? fun(): echostream.host[]  servers and clients that commands show (default: all that run in this Lua state)
local schema = {
  write = { type = "function", required = true },
  ready = { type = "function", required = true },
  leave = { type = "function" },
  env = { type = "table" },
  colour = { type = "boolean", default = false },
  width = { type = "function" },
  busy = { type = "function" },
  hosts = { type = "function" },
}

---@class echostream.repl
---@field env table
---@field failed integer   inputs that failed
---@field timing boolean   say how long each input took
local Repl = {}
Repl.__index = Repl
Repl.__name = "echostream.repl"

local FIRST, MORE = "> ", ">> "
local CHUNK = "=input"
-- Instructions between two looks at whether Ctrl-C was pressed: some milliseconds.
local LOOK = 1000000

--- Makes an engine; `start` asks for the first line.
---@param opts echostream.options.repl
---@return echostream.repl
function M.new(opts)
  local checked = options.check("repl.new", opts, schema)
  return setmetatable({
    _opts = checked,
    env = checked.env or _G,
    failed = 0,
    timing = false,
    _lines = nil,   -- of an input that is not complete
    _task = nil,
    _closed = false,
    _traced = {},   -- hosts whose calls are shown
  }, Repl)
end

local function width(self)
  return self._opts.width and self._opts.width() or 80
end

-- Output ------------------------------------------------------------------------------------------------------

--- Writes text as output of the prompt.
---@param text string  ends with a newline
function Repl:write(text)
  options.argument("prompt:write", "text", text, "string")
  if not self._closed then
    self._opts.write(text)
  end
end

--- Writes text in a colour, where there are colours.
---@param text string
---@param style string  as for `pretty.paint`
---@return string
function Repl:paint(text, style)
  return pretty.paint(text, style, self._opts.colour)
end

--- What `print` does for the code that is typed.
function Repl:print(...)
  local words = table.pack(...)
  for i = 1, words.n do
    words[i] = tostring(words[i])
  end
  self:write(table.concat(words, "\t") .. "\n")
end

--- Shows values as results.
function Repl:show(...)
  local n = select("#", ...)
  local parts, flat = {}, 0
  for i = 1, n do
    parts[i] = pretty.format((select(i, ...)), { width = math.max(width(self) - 1, 10), colour = self._opts.colour })
    flat = parts[i]:find("\n", 1, true) and math.huge or flat + #parts[i] + 2
  end
  if n > 0 then
    self:write(table.concat(parts, flat <= math.max(width(self), 80) * 2 and ", " or ",\n") .. "\n")
  end
end

-- Failures ----------------------------------------------------------------------------------------------------

local ours = debug.getinfo(1, "S").source:match("^@(.*/)[^/]*$") or "@"

-- Where in the user's code it was raised, innermost first: neither C nor echostream itself.
local function places(from)
  local list, level = {}, from
  while #list < 8 do
    local info = debug.getinfo(level, "Sln")
    if not info then
      break
    elseif info.what ~= "C" and info.source:sub(2, #ours + 1) ~= ours and info.currentline > 0 then
      local what = info.what == "main" and "" or info.name and (" in %s"):format(info.name)
        or (" in a function of line %d"):format(info.linedefined)
      list[#list + 1] = ("%s:%d%s"):format(info.short_src, info.currentline, what)
    end
    level = level + 1
  end
  return list
end

local function raised(value)
  return { raised = value, places = places(3) }
end

local function failure_text(self, failure)
  local value = failure.raised
  local text
  if errors.is_error(value) or type(value) ~= "string" then
    text = pretty.format(value, { width = width(self) })
  else
    text = pretty.safe(value, true)
    -- Ours, given something else than the object it belongs to.
    if value:sub(1, #ours) == ours and (value:find("nil value (field '_", 1, true) or value:find("(local 'self')", 1, true)) then
      text = text .. "\n(a method is called with a colon: client:request(…), not client.request(…))"
    end
  end
  local lines = { self:paint("error: " .. text, "fault") }
  -- One place says no more than the message, which names it.
  if #failure.places > 1 or type(value) ~= "string" then
    for _, place in ipairs(failure.places) do
      lines[#lines + 1] = self:paint("  at " .. pretty.safe(place), "dim")
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

-- Running -----------------------------------------------------------------------------------------------------

local function watch(self)
  if self._opts.busy then
    debug.sethook(function()
      local why = self._opts.busy()
      if why then
        error("interrupted" .. (type(why) == "string" and ": " .. why or ""), 0)
      end
    end, "", LOOK)
  end
end

local function finish(self, began, ok, ...)
  debug.sethook()
  local took = loop.now() - began
  if ok then
    if select("#", ...) > 0 then
      self.env._ = (...)
    end
    self:show(...)
  else
    self.failed = self.failed + 1
    self:write(failure_text(self, (...)))
  end
  if self.timing then
    self:write(self:paint(("took %.3f ms"):format(took * 1000), "dim") .. "\n")
  end
end

local function run(self, fn, ...)
  local began = loop.now()
  watch(self)
  finish(self, began, xpcall(fn, raised, ...))
end

local function ended(self, this)
  if self._task == this then
    self._task = nil
    if not self._closed then
      local ok, err = this:result()
      if ok == false then -- cancelled before it began, or output itself failed
        self:write(self:paint(pretty.safe(tostring(err)), "fault") .. "\n")
      end
      self._opts.ready(FIRST)
    end
  end
end

local function begin(self, fn, ...)
  local this = task.spawn(run, self, fn, ...)
  self._task = this
  this:on_end(function()
    ended(self, this)
  end)
end

local END = "<eof>['\"]?$"

-- The function of a text; or nil, its message and whether more lines could complete it.
local function compile(text, env)
  local shown = text:match("^%s*=(.*)$")
  local chunk, problem = load("return " .. (shown or text), CHUNK, "t", env)
  if chunk then
    return chunk
  end
  local err
  chunk, err = load(text, CHUNK, "t", env)
  -- "1 +" and "{ 1," go on, though no statement begins so
  return chunk, err, err and (err:find(END) or problem:find(END)) ~= nil
end

local function note_about_locals(self, text)
  local name = not text:find("\n", 1, true) and text:match("^%s*local%s+([%a_][%w_]*)%s*=[^;]*$")
  if name and name ~= "function" then
    self:write(self:paint(("(a local ends with its line; without `local`, %s stays)"):format(name), "dim") .. "\n")
  end
end

local commands_elsewhere = { exit = ".exit or Ctrl-D leaves", quit = ".exit or Ctrl-D leaves", help = ".help lists the commands" }

-- What other prompts would do.
local function note_about_commands(self, text)
  local name = text:match("^%s*(%a+)%s*%(?%s*%)?%s*;?%s*$")
  local note = name and commands_elsewhere[name]
  if note and self.env[name] == nil then
    self:write(self:paint(("(%s)"):format(note), "dim") .. "\n")
  end
end

local function evaluate(self, text)
  local chunk, err, incomplete = compile(text, self.env)
  if chunk then
    self._lines = nil
    note_about_locals(self, text)
    note_about_commands(self, text)
    return begin(self, chunk)
  elseif incomplete then
    self._lines = text
    return self._opts.ready(MORE)
  end
  self._lines = nil
  self.failed = self.failed + 1
  self:write(self:paint("error: " .. pretty.safe(err, true), "fault") .. "\n")
  self._opts.ready(FIRST)
end

--- Asks for the first line.
function Repl:start()
  self._opts.ready(FIRST)
end

--- Takes a line. It must not come before `ready` was called for it.
---@param text string
function Repl:line(text)
  options.argument("prompt:line", "text", text, "string")
  if self._task then
    error("repl:line: the input before is still running", 2)
  elseif self._lines then
    return evaluate(self, self._lines .. "\n" .. text)
  elseif not text:find("%S") then
    return self._opts.ready(FIRST)
  end
  local name, rest = text:match("^%s*%.([%a_]+)%s*(.-)%s*$")
  if not name then
    return evaluate(self, text)
  end
  local commands = require "echostream.repl.commands"
  begin(self, function()
    return commands.run(self, name, rest)
  end)
end

--- Runs a whole function as if it were an input.
---@param fn function
function Repl:run(fn, ...)
  options.argument("prompt:run", "fn", fn, "function")
  begin(self, fn, ...)
end

--- Ctrl-C: cancels what runs (what it waits for returns nil, err `cancelled`), or drops an input that is not complete.
---@return boolean did  false: there was nothing
function Repl:interrupt()
  if self._task then
    self._task:cancel()
    return true
  elseif self._lines then
    self._lines = nil
    self._opts.ready(FIRST)
    return true
  end
  return false
end

--- Whether an input runs.
---@return boolean
function Repl:running()
  return self._task ~= nil
end

--- No more lines: an input that is not complete is an error.
function Repl:finish()
  if self._lines then
    local _, err = compile(self._lines, self.env)
    self._lines = nil
    self.failed = self.failed + 1
    self:write("error: " .. pretty.safe(tostring(err), true) .. "\n")
  end
end

--- Words that may stand at the end of a line.
---@param before string  the line up to the cursor
---@param done fun(from: integer, words: string[])  called once, perhaps later
function Repl:complete(before, done)
  options.argument("prompt:complete", "before", before, "string")
  options.argument("prompt:complete", "done", done, "function")
  require("echostream.repl.complete").words(self, before, done)
end

--- Asks whoever shows the prompt to leave.
function Repl:leave()
  if self._opts.leave then
    self._opts.leave()
  end
end

--- The servers and clients that commands show.
---@return echostream.host[]
function Repl:hosts()
  if self._opts.hosts then
    return self._opts.hosts()
  end
  return require("echostream.metrics").hosts()
end

--- Ends it: what runs is cancelled, nothing is written any more.
function Repl:close()
  self._closed = true
  if self._task then
    self._task:cancel()
  end
  require("echostream.repl.commands").untrace(self)
end

return M
