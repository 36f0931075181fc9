--- The commands of a prompt: lines that begin with a dot.

local errors = require "echostream.errors"
local loop = require "echostream.loop"
local pretty = require "echostream.pretty"

local M = {}

---@class echostream.repl.command
---@field usage string
---@field help string
---@field run fun(repl: echostream.repl, rest: string): any ...  its results are shown; what it raises is the failure

--- The commands by name.
---@type table<string, echostream.repl.command>
M.list = {}

local order = { "help", "sessions", "methods", "trace", "tap", "untap", "kick", "time", "load", "exit" }

local function misuse(name)
  error(("usage: .%s"):format(M.list[name].usage), 0)
end

-- Tables ------------------------------------------------------------------------------------------------------

local function pad(text, width, right)
  local space = (" "):rep(width - (utf8.len(text) or #text))
  return right and space .. text or text .. space
end

-- Rows of words under their heads; what are figures stands to the right.
local function columns(heads, rows)
  local widths = {}
  for i, head in ipairs(heads) do
    widths[i] = #head.name
    for _, row in ipairs(rows) do
      widths[i] = math.max(widths[i], utf8.len(row[i]) or #row[i])
    end
  end
  local lines = {}
  local function line(cell)
    local parts = {}
    for i, head in ipairs(heads) do
      parts[i] = pad(cell(i), widths[i], head.figure)
    end
    lines[#lines + 1] = (table.concat(parts, "  "):gsub("%s+$", ""))
  end
  line(function(i)
    return heads[i].name
  end)
  for _, row in ipairs(rows) do
    line(function(i)
      return row[i]
    end)
  end
  return table.concat(lines, "\n") .. "\n"
end

local function bytes(n)
  for _, unit in ipairs { "B", "KiB", "MiB" } do
    if n < 1024 then
      return (unit == "B" and "%d %s" or "%.1f %s"):format(n, unit)
    end
    n = n / 1024
  end
  return ("%.1f GiB"):format(n)
end

local function seconds(s)
  return s < 1 and ("%.2f ms"):format(s * 1000) or s < 120 and ("%.1f s"):format(s) or ("%.0f min"):format(s / 60)
end

-- Sessions ----------------------------------------------------------------------------------------------------

local session_heads = {
  { name = "ID", figure = true }, { name = "PEER" }, { name = "OF" }, { name = "OPEN", figure = true }, { name = "RTT", figure = true },
  { name = "CWND", figure = true }, { name = "LOST", figure = true }, { name = "CALLS", figure = true }, { name = "STREAMS LEFT", figure = true },
  { name = "QUEUED", figure = true }, { name = "HELD", figure = true },
}

local function session_row(host, session)
  local stats = session:stats() or {}
  local sent = stats.packets_sent or 0
  local lost = sent > 0 and 100 * (stats.packets_lost or 0) / sent or 0
  return {
    ("%d"):format(session.id), pretty.safe(session.peer_addr), host.connect and "client" or "server",
    seconds(math.max(loop.current().core:wall() - session.created_at, 0)), seconds(stats.rtt_smoothed or 0), bytes(stats.cwnd or 0),
    ("%.1f %%"):format(lost), ("%d"):format(session._ud:in_flight()), ("%d"):format(stats.streams_bidi_left or 0),
    bytes(stats.queued or 0), bytes(stats.held or 0),
  }
end

local function each_session(repl, fn)
  for _, host in ipairs(repl:hosts()) do
    for _, session in ipairs(host:sessions()) do
      fn(host, session)
    end
  end
end

local function session_of(repl, id)
  local found
  each_session(repl, function(_, session)
    found = session.id == id and session or found
  end)
  if not found then
    error(("there is no session %d; .sessions lists them"):format(id), 0)
  end
  return found
end

M.list.sessions = {
  usage = "sessions",
  help = "the sessions of all servers and clients here",
  run = function(repl)
    local rows = {}
    each_session(repl, function(host, session)
      rows[#rows + 1] = session_row(host, session)
    end)
    repl:write(#rows > 0 and columns(session_heads, rows) or "no sessions\n")
  end,
}

M.list.kick = {
  usage = "kick ID [REASON]",
  help = "close a session",
  run = function(repl, rest)
    local id, reason = rest:match("^(%d+)%s*(.*)$")
    if not id then
      misuse "kick"
    end
    local session = session_of(repl, math.tointeger(id))
    session:close(reason ~= "" and reason:sub(1, 256) or "kicked")
    repl:write(("session %s is closed\n"):format(id))
  end,
}

-- Methods -----------------------------------------------------------------------------------------------------

local method_heads = { { name = "NAME" }, { name = "KIND" }, { name = "WHAT IT DOES" } }

local function method_table(entries)
  local rows = {}
  for _, entry in ipairs(entries) do
    if type(entry) == "table" then
      rows[#rows + 1] = { pretty.safe(tostring(entry.name)), pretty.safe(tostring(entry.kind)),
        pretty.safe((tostring(entry.doc or ""):match("^[^\n]*")):sub(1, 200)) }
    end
  end
  return #rows > 0 and columns(method_heads, rows) or "nothing\n"
end

local function own_methods(host)
  local entries = {}
  for kind, names in pairs(host._catalog) do
    for name, entry in pairs(names) do
      entries[#entries + 1] = { name = name, kind = kind, doc = entry.doc }
    end
  end
  table.sort(entries, function(a, b)
    return a.name == b.name and a.kind < b.kind or a.name < b.name
  end)
  return entries
end

local function peer_methods(peer)
  local entries, err = peer:with({ timeout = 10 }):request("rpc.list")
  if type(entries) ~= "table" then
    error(errors.is_error(err) and err.code ~= "method_not_found" and err
      or "the other side does not say what it offers (its option introspection is off)", 0)
  end
  return entries
end

local function value_of(repl, text)
  local chunk, err = load("return " .. text, "=input", "t", repl.env)
  if not chunk then
    error(err, 0)
  end
  return chunk()
end

M.list.methods = {
  usage = "methods [CLIENT|SESSION]",
  help = "what the other sides of clients offer, and what servers here do",
  run = function(repl, rest)
    if rest ~= "" then
      local peer = value_of(repl, rest)
      if type(peer) ~= "table" or type(peer.request) ~= "function" then
        misuse "methods"
      end
      return repl:write(method_table(peer_methods(peer)))
    end
    local hosts = repl:hosts()
    if #hosts == 0 then
      repl:write("no server and no client runs here\n")
    end
    for _, host in ipairs(hosts) do
      if #hosts > 1 then
        repl:write(repl:paint(pretty.safe(tostring(host)), "dim") .. "\n")
      end
      repl:write(method_table(host.connect and peer_methods(host) or own_methods(host)))
    end
  end,
}

-- Traces ------------------------------------------------------------------------------------------------------

local SHOWN = 100 -- bytes of arguments and results

local function values(list, n)
  local parts = {}
  for i = 1, n do
    parts[i] = pretty.line(list[i], SHOWN)
  end
  return table.concat(parts, ", ")
end

local function traced_line(repl, call, response, took)
  local peer = call.session and ("session %d"):format(call.session.id) or "nobody"
  local line = ("%s %s %s(%s) %s %s"):format(call.direction == "in" and "<-" or "->", call.kind, call.name,
    values(call.args, call.args.n or #call.args), call.direction == "in" and "from" or "to", peer)
  if call.kind == "rpc" then
    local outcome = "?"
    if response then
      outcome = response.ok and values(response, response.n) or pretty.line(response.err, SHOWN)
    end
    line = ("%s = %s (%s)"):format(line, outcome, seconds(took))
  end
  return repl:paint(pretty.safe(line), "dim") .. "\n"
end

local function wanted(repl, call)
  local trace = repl._trace
  return trace.all or call.session and trace.ids[call.session.id]
end

local function plugin_of(repl)
  return {
    name = ("prompt %p"):format(repl),
    install = function(_, host)
      host:middleware(function(call, next)
        if not wanted(repl, call) then
          return next(call)
        end
        local began = loop.now()
        local response = next(call)
        repl:write(traced_line(repl, call, response, loop.now() - began))
        return response
      end)
    end,
  }
end

-- Servers and clients that run now, and later ones at the next `.trace on`.
local function trace(repl)
  repl._trace = repl._trace or { all = false, ids = {} }
  for _, host in ipairs(repl:hosts()) do
    if not repl._traced[host] then
      host:plugin(plugin_of(repl))
      repl._traced[host] = true
    end
  end
  return repl._trace
end

--- Takes out everything that shows calls.
---@param repl echostream.repl
function M.untrace(repl)
  for host in pairs(repl._traced) do
    host:remove_plugin(("prompt %p"):format(repl))
  end
  repl._traced, repl._trace = {}, nil
end

M.list.trace = {
  usage = "trace on|off",
  help = "show every call, event and stream, in and out",
  run = function(repl, rest)
    if rest == "on" then
      trace(repl).all = true
    elseif rest == "off" then
      M.untrace(repl)
    else
      misuse "trace"
    end
  end,
}

M.list.tap = {
  usage = "tap ID",
  help = "show the calls, events and streams of one session",
  run = function(repl, rest)
    local id = math.tointeger(tonumber(rest)) or misuse "tap"
    session_of(repl, id)
    trace(repl).ids[id] = true
  end,
}

M.list.untap = {
  usage = "untap ID",
  help = "show them no more",
  run = function(repl, rest)
    local id = math.tointeger(tonumber(rest)) or misuse "untap"
    local now = repl._trace
    if now then
      now.ids[id] = nil
      if not now.all and next(now.ids) == nil then
        M.untrace(repl)
      end
    end
  end,
}

-- The rest ----------------------------------------------------------------------------------------------------

M.list.time = {
  usage = "time CODE|on|off",
  help = "how long something takes, or each input",
  run = function(repl, rest)
    if rest == "on" or rest == "off" then
      repl.timing = rest == "on"
      return
    elseif rest == "" then
      misuse "time"
    end
    local chunk, err = load("return " .. rest, "=input", "t", repl.env)
    if not chunk then
      chunk, err = load(rest, "=input", "t", repl.env)
    end
    if not chunk then
      error(err, 0)
    end
    local began = loop.now()
    local results = table.pack(chunk())
    local took = loop.now() - began
    repl:show(table.unpack(results, 1, results.n))
    repl:write(repl:paint("took " .. seconds(took), "dim") .. "\n")
  end,
}

M.list.load = {
  usage = "load FILE",
  help = "run a Lua file",
  run = function(repl, rest)
    if rest == "" then
      misuse "load"
    end
    local chunk, err = loadfile(rest, "t", repl.env)
    if not chunk then
      error(err, 0)
    end
    return chunk()
  end,
}

M.list.exit = {
  usage = "exit",
  help = "leave (as Ctrl-D does)",
  run = function(repl)
    repl:leave()
  end,
}

M.list.help = {
  usage = "help",
  help = "this",
  run = function(repl)
    local lines = {}
    for _, name in ipairs(order) do
      local command = M.list[name]
      lines[#lines + 1] = ("  .%-26s %s\n"):format(command.usage, command.help)
    end
    repl:write(table.concat(lines) .. [[
Everything else is Lua: expressions are printed, `_` is the last one, and what waits (client:request, echo.sleep) lets
everything else go on. Tab completes, also the names of the other side's methods; Ctrl-C cancels, Ctrl-D leaves.
]])
  end,
}

--- Runs a command. Raises when there is none of that name.
---@param repl echostream.repl
---@param name string
---@param rest string
---@return any ...
function M.run(repl, name, rest)
  local command = M.list[name]
  if not command then
    local guess = require("echostream.options").nearest(name, M.list)
    error(("there is no command .%s%s"):format(pretty.safe(name), guess and (" (did you mean .%s?)"):format(guess)
      or "; .help lists them"), 0)
  end
  return command.run(repl, rest)
end

return M
