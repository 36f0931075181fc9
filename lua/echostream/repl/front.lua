--- The front of a prompt: a terminal with a line editor and a history, or plain lines. Behind it is an engine (repl.lua) or the
--- connection to one (attach.lua); both have `start line interrupt running finish complete close`.

local editor = require "echostream.repl.editor"
local files = require "echostream.loop.files"
local identity = require "echostream.tls.identity"
local loop = require "echostream.loop"
local pretty = require "echostream.pretty"
local terminal = require "echostream.loop.terminal"

local M = {}

---@class echostream.repl.front
---@field interactive boolean
---@field colour boolean  output may be coloured
---@field code integer?   what to end with, once `over`
local Front = {}
Front.__index = Front

local HISTORY = 1000

-- History -----------------------------------------------------------------------------------------------------

local function history_path()
  local dir = identity.state_dir()
  return dir and dir .. "/history", dir
end

local function read_history()
  local path = history_path()
  local file = path and io.open(path, "r")
  local lines = {}
  if file then
    for line in file:lines() do
      lines[#lines + 1] = line
    end
    file:close()
  end
  return table.move(lines, math.max(#lines - HISTORY + 1, 1), #lines, 1, {})
end

-- What was typed here goes behind what others wrote meanwhile. The file is this user's alone: people type secrets.
local function write_history(new)
  local path, dir = history_path()
  if not path or #new == 0 or not files.make_directories(dir) then
    return
  end
  local all = read_history()
  table.move(new, 1, #new, #all + 1, all)
  files.replace_secret(path, table.concat(all, "\n", math.max(#all - HISTORY + 1, 1)) .. "\n")
end

-- Input -------------------------------------------------------------------------------------------------------

local function finish(self, code)
  if not self.over then
    self.over, self.code = true, code or 0
    loop.stop()
  end
end

local function out(text)
  io.stdout:write(text)
  io.stdout:flush()
end

--- Output of the engine, or of anybody else in this process.
---@param text string
function Front:write(text)
  if self._editor then
    self._editor:above(text)
  else
    out(text)
  end
end

-- Lines of a pipe, a file or a terminal without an editor: one after another, each when the one before is done.
local function next_line(self)
  while self._wanted and not self.over do
    local at = self._buffer:find("\n", 1, true)
    local line
    if at then
      line, self._buffer = self._buffer:sub(1, at - 1):gsub("\r$", ""), self._buffer:sub(at + 1)
    elseif self._ended and self._buffer ~= "" then
      line, self._buffer = self._buffer, ""
    elseif self._ended then
      self._back:finish()
      return finish(self, self._back.failed and self._back.failed > 0 and 1 or 0)
    else
      return
    end
    self._wanted = false
    self._back:line(line)
  end
end

--- The engine wants a line.
---@param prompt string
function Front:ready(prompt)
  if self.over then
    return
  elseif self._editor then
    return self._editor:prompt(prompt)
  elseif self._tty then
    out(prompt)
  end
  self._wanted = true
  if not self._taking then -- a long script must not grow the stack
    self._taking = true
    next_line(self)
    self._taking = false
  end
end

--- The engine was asked to leave; `code` is what the process ends with.
---@param code? integer
function Front:leave(code)
  finish(self, code)
end

local function interrupted(self, typing)
  if self._back:interrupt() then
    return
  elseif not typing then
    self:write(pretty.paint("(Ctrl-D or .exit leaves)", "dim", self.colour) .. "\n")
  end
  self:ready("> ")
end

local function make_editor(self)
  local loaded = read_history()
  self._loaded = #loaded
  self._new = {}
  return editor.new {
    write = out,
    columns = function()
      return self._terminal:columns()
    end,
    history = loaded,
    line = function(text)
      if text:find("%S") and self._new[#self._new] ~= text then
        self._new[#self._new + 1] = text
      end
      self._back:line(text)
    end,
    interrupt = function(typing)
      interrupted(self, typing)
    end,
    finish = function()
      finish(self, 0)
    end,
    suspend = function()
      self._terminal:suspend()
    end,
    complete = function(before, done)
      self._back:complete(before, done)
    end,
  }
end

---@package
--- Whether Ctrl-C was pressed while code computes; what else was typed is kept.
---@return boolean
function Front:interrupt_typed()
  local bytes = self._terminal:typed()
  if bytes == "" then
    return false
  end
  local at = bytes:find("\3", 1, true)
  self._editor:feed(at and bytes:sub(at + 1) or bytes)
  return at ~= nil
end

-- What others print in this process appears above the prompt too.
local function take_over(self)
  local print_before, write_before, exit_before = print, io.write, os.exit
  local function joined(separator, ...)
    local words = table.pack(...)
    for i = 1, words.n do
      words[i] = tostring(words[i])
    end
    return table.concat(words, separator)
  end
  _G.print = function(...) -- luacheck: ignore 122
    self:write(joined("\t", ...) .. "\n")
  end
  io.write = function(...) -- luacheck: ignore 122
    self:write(joined("", ...))
    return io.stdout
  end
  os.exit = function(...) -- luacheck: ignore 122
    self._terminal:close()
    exit_before(...)
  end
  return function()
    _G.print, io.write, os.exit = print_before, write_before, exit_before -- luacheck: ignore 122
  end
end

--- Shows the prompt and serves until somebody leaves. For the main thread.
---@param back table  an engine, or a connection to one
---@return integer code
function Front:run(back)
  self._back = back
  local undo = take_over(self)
  if self.interactive then
    self._editor = make_editor(self)
    self._terminal:raw(true)
  end
  self._terminal:on_end(function()
    finish(self, 143)
  end)
  back:start()
  self._terminal:read(function(bytes)
    if self._editor then
      if not bytes then
        return finish(self, 0)
      end
      return self._editor:feed(bytes)
    end
    self._buffer = self._buffer .. (bytes or "")
    self._ended = bytes == nil
    next_line(self)
  end)
  while not self.over do
    local ok, err = pcall(loop.pump, function()
      return self.over
    end)
    if not ok and tostring(err):find("interrupted!", 1, true) then
      if self.interactive or self._tty then
        interrupted(self, false)
      else
        finish(self, 130)
      end
    elseif not ok then
      undo()
      self._terminal:close()
      error(err, 0)
    elseif not self.over then -- nothing can happen any more: the input is at its end and waits for what never comes
      self:write("error: waiting for something that can never happen\n")
      finish(self, 1)
    end
  end
  if self._editor then
    self._editor:hide()
    write_history(self._new)
  end
  self._terminal:close()
  undo()
  return self.code
end

--- Standard input and output.
---@param plain? boolean  no line editor
---@return echostream.repl.front
function M.new(plain)
  local input = terminal.open(plain)
  return setmetatable({
    interactive = input.interactive,
    colour = input.interactive and os.getenv("NO_COLOR") == nil,
    over = false,
    code = nil,
    _terminal = input,
    _tty = input:is_terminal(),
    _buffer = "",
    _ended = false,
    _wanted = false,
    _taking = false,
    _editor = nil,
    _back = nil,
  }, Front)
end

--- Columns that output should fit in.
---@return integer
function Front:columns()
  return self._terminal:columns()
end

return M
