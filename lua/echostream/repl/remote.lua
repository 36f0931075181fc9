--- A prompt that is somewhere else: what a front (repl/front.lua) talks to when somebody attached to a server. The protocol is in
--- attach/wire.lua.

local pretty = require "echostream.pretty"
local wire = require "echostream.attach.wire"

local M = {}

---@class echostream.repl.remote
---@field failed integer
local Remote = {}
Remote.__index = Remote

--- Makes one. `send` takes bytes for the server; `take` of what is returned gets its.
---@param send fun(bytes: string)
---@param front echostream.repl.front
---@return echostream.repl.remote
function M.new(send, front)
  local self = setmetatable({
    failed = 0,
    _send = send,
    _front = front,
    _prompt = nil,  -- nil: something runs
    _asked = 0,     -- completions
    _done = nil,
    _end = 1,       -- behind the text that was asked about
    _columns = nil,
  }, Remote)
  local takes = {}
  function takes.hello(body)
    if front.interactive then
      front:write(pretty.paint(("attached to %s; .help says more"):format(pretty.safe(body)), "dim", front.colour) .. "\n")
    end
  end
  -- What is printed there may come from anybody, and this terminal is not theirs.
  function takes.out(body)
    front:write(front.colour and pretty.safe_painted(body) or pretty.safe(body, true))
  end
  function takes.ready(body)
    local failed, prompt = body:match("^(%d+) (.*)$")
    self.failed, self._prompt = math.tointeger(failed) or 0, pretty.safe(prompt or "> ")
    front:ready(self._prompt)
  end
  function takes.words(body)
    local number, from, rest = body:match("^(%d+) (%d+)(.*)$")
    if self._done and math.tointeger(number) == self._asked then
      local done, words = self._done, {}
      for word in rest:gmatch("\n([^\n]*)") do
        words[#words + 1] = pretty.safe(word)
      end
      self._done = nil
      from = math.tointeger(from)
      if from and from >= 1 and from <= self._end then
        done(from, words)
      else -- nowhere in the line
        done(self._end, {})
      end
    end
  end
  function takes.leave()
    front:leave(0)
  end
  local feed = wire.decoder(function(kind, body)
    if takes[kind] then
      takes[kind](body)
    end
  end)
  -- Bytes of the server; nil: it is gone.
  self.take = function(bytes)
    if not bytes then
      if not front.over then
        front:write("the server closed the connection\n")
        front:leave(1)
      end
    elseif not feed(bytes) then
      front:write("that is no echostream server\n")
      front:leave(1)
    end
  end
  return self
end

function Remote:_size()
  local columns = self._front:columns()
  if columns ~= self._columns then
    self._columns = columns
    self._send(wire.encode("hello", ("%d %d"):format(columns, self._front.colour and 1 or 0)))
  end
end

--- Begins.
---@package
function Remote:start()
  self:_size()
end

---@package
function Remote:line(text)
  self:_size()
  self._prompt = nil
  self._send(wire.encode("line", (text:gsub("\n", " "))))
end

---@package
function Remote:interrupt()
  if self._prompt == "> " then
    return false
  end
  self._send(wire.encode("interrupt"))
  return true
end

---@package
function Remote:running()
  return self._prompt == nil
end

---@package
function Remote:finish()
  if self._prompt == ">> " then
    self.failed = self.failed + 1
    self._front:write("error: the input ends in the middle of a statement\n")
  end
end

---@package
function Remote:complete(before, done)
  self._asked = self._asked + 1
  self._done, self._end = done, #before + 1
  self._send(wire.encode("complete", ("%d\n%s"):format(self._asked, before)))
end

return M
