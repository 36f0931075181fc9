--- The far end of a prompt: what somebody who attached to this process types is run here, and its output sent back (attach/wire.lua).

local held = require "echostream.held"
local repl = require "echostream.repl"
local wire = require "echostream.attach.wire"

local M = {}

-- Bytes of output that wait for whoever attached.
local QUEUED = 1 << 20

-- The sessions of this process, by number ---------------------------------------------------------------------

local function hosts()
  return require("echostream.metrics").hosts()
end

local function session_by_id(_, id)
  for _, host in ipairs(hosts()) do
    for _, session in ipairs(host:sessions()) do
      if session.id == id then
        return session
      end
    end
  end
end

local function all_sessions()
  local all = {}
  for _, host in ipairs(hosts()) do
    for _, session in ipairs(host:sessions()) do
      all[#all + 1] = session
    end
  end
  return all
end

local sessions = setmetatable({}, {
  __index = session_by_id,
  __lookup = session_by_id, -- for the prompt's completion
  __len = function()
    return #all_sessions()
  end,
  __pairs = function()
    local list, i = all_sessions(), 0
    return function()
      i = i + 1
      if list[i] then
        return list[i].id, list[i]
      end
    end
  end,
  __tostring = function()
    local lines = {}
    for i, session in ipairs(all_sessions()) do
      lines[i] = tostring(session)
    end
    return #lines > 0 and table.concat(lines, "\n") or "no sessions"
  end,
})

local function environment(server)
  local mt = { __index = _G, __methods = _G }
  return setmetatable({ server = server, sessions = sessions, echo = require "echostream" }, mt)
end

-- One who attached --------------------------------------------------------------------------------------------

-- Takes output, and leaves out what is too much.
local function output_of(connection)
  local left_out = 0
  return function(text)
    if left_out > 0 and connection:queued() < QUEUED // 2 then
      text, left_out = ("(%d bytes of output were left out)\n"):format(left_out) .. text, 0
    end
    if left_out > 0 or connection:queued() > QUEUED then
      left_out = left_out + #text
      return
    end
    for from = 1, #text, wire.BODY do
      connection:send(wire.encode("out", text:sub(from, from + wire.BODY - 1)))
    end
  end
end

--- Serves a prompt to somebody who attached.
---@param connection { send: fun(self, data: string), queued: fun(self): integer, close: fun(self) }
---@param about { server: echostream.server?, name: string, held: number? }
---@return fun(data: string?) take  bytes of theirs; nil: they are gone
function M.serve(connection, about)
  local width, wanted, closed = 80, false, false
  local engine

  local function close()
    if not closed then
      closed = true
      if engine then
        engine:close()
      end
      connection:close()
    end
  end

  local takes = {}

  function takes.hello(body)
    local columns, colour = body:match("^(%d+) ([01])$")
    width = math.max(math.min(math.tointeger(columns) or 80, 10000), 20)
    if engine then
      return
    end
    local env = environment(about.server)
    engine = repl.new {
      env = env,
      write = output_of(connection),
      ready = function(prompt)
        wanted = true
        connection:send(wire.encode("ready", ("%d %s"):format(engine.failed, prompt)))
      end,
      leave = function()
        connection:send(wire.encode("leave"))
      end,
      colour = colour == "1",
      width = function()
        return width
      end,
      busy = held.watch(about.held or 5),
    }
    env.print = function(...)
      engine:print(...)
    end
    connection:send(wire.encode("hello", about.name))
    engine:start()
  end

  function takes.line(body)
    if engine and wanted and not body:find("\n", 1, true) then
      wanted = false
      engine:line(body)
    else
      close()
    end
  end

  function takes.interrupt()
    if engine then
      engine:interrupt()
    end
  end

  function takes.complete(body)
    local number, before = body:match("^(%d+)\n(.*)$")
    if engine and number then
      engine:complete(before, function(from, words)
        if not closed then
          local shown = table.move(words, 1, math.min(#words, 1000), 2, { ("%s %d"):format(number, from) })
          connection:send(wire.encode("words", table.concat(shown, "\n")))
        end
      end)
    end
  end

  local feed = wire.decoder(function(kind, body)
    if takes[kind] and not closed then
      takes[kind](body)
    end
  end)
  return function(data)
    if closed then
      return
    elseif not data or not feed(data) then
      close()
    end
  end
end

return M
