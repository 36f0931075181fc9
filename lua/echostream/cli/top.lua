--- `echostream top`: what a server is doing, as a live table.

local cli = require "echostream.cli"
local connection = require "echostream.cli.connection"
local errors = require "echostream.errors"
local output = require "echostream.cli.output"
local task = require "echostream.task"
local terminal = require "echostream.loop.terminal"
local top_figures = require "echostream.introspect.figures"

local M = {}

M.usage = "echostream top (ADDR (--pin PIN | --ca FILE | --insecure) | --attach [NAME|PID|SOCKET]) [options]"
M.summary = "watch what a server does: methods, rates, errors, percentiles"
M.help = [[
Asks the server each second what it has counted, and shows what happened since: how often each method was called, how often that
failed, how many are running, and how long they took. On a terminal the table is drawn anew; q or Ctrl-C leaves. Elsewhere one
table follows another. --once shows one and ends; --json writes each as a line of JSON, with times in seconds.

The server answers that unless it has it turned off (introspection = false). Nothing is measured for it that was not before. With
--attach it is a server of this user on this machine, as `echostream attach` finds it: by its name, its process id or its socket,
or without a word the only one that runs.

]] .. connection.help
M.options = connection.options {
  attach = { help = "a server on this machine, instead of one at ADDR" },
  once = { help = "one table, over one interval" },
  interval = { value = "SECONDS", help = "between two looks (default 1)", number = true },
}
M.examples = {
  { "echostream top 127.0.0.1:5000 --pin sha256:…", "a live table, until q or Ctrl-C" },
  { "echostream top --attach desk", "of a server on this machine, by its name" },
  { "echostream top 127.0.0.1:5000 --insecure --once --interval 0.5 --json", "what happened within half a second, as JSON" },
}
M.min, M.max = 0, 1

local function size_of(bytes)
  local units = { "B", "kB", "MB", "GB" }
  local i = 1
  while bytes >= 1000 and i < #units do
    bytes, i = bytes / 1000, i + 1
  end
  return (i == 1 and "%.0f %s" or "%.1f %s"):format(bytes, units[i])
end

local function time_or_nothing(seconds)
  return seconds and output.duration(seconds) or ""
end

-- A line that would go round the edge of a terminal would break what is drawn below it.
local function cut(line, columns)
  local from = columns and utf8.offset(line, columns)
  return from and line:sub(1, from - 1) or line
end

---@package
--- The lines of a view, at most so many and so wide; nil: any.
---@param view echostream.top.view
---@param paint fun(colour: string, text: string): string
---@param rows? integer
---@param columns? integer
---@return string[]
function M.lines(view, paint, rows, columns)
  local lines = {
    ("%d %s (%s since the start), up %s, %s of memory"):format(view.sessions, view.sessions == 1 and "session" or "sessions",
      output.number(view.sessions_total),
      output.duration(view.uptime), size_of(view.memory)),
    ("%s calls/s, %s failed, %s refused, %d running; %s events/s; in %s/s, out %s/s, %s packets lost"):format(output.number(view.calls),
      output.number(view.errors), output.number(view.refused), view.running, output.number(view.events), size_of(view.bytes_in),
      size_of(view.bytes_out), output.number(view.packets_lost)),
    "",
  }
  for i, line in ipairs(lines) do
    lines[i] = cut(line, columns)
  end
  local cells = { { "KIND", "CALLS/S", "FAILED/S", "RUNNING", "P50", "P95", "P99", "TOTAL", "METHOD" } }
  for _, row in ipairs(view.methods) do
    if rows and #cells >= rows - 4 then
      break
    end
    cells[#cells + 1] = { row.kind, output.number(row.rate), row.errors and output.number(row.errors) or "",
      row.running and tostring(row.running) or "", time_or_nothing(row.p50), time_or_nothing(row.p95), time_or_nothing(row.p99),
      output.number(row.total), output.line(row.name) }
  end
  local right = { [2] = true, [3] = true, [4] = true, [5] = true, [6] = true, [7] = true, [8] = true }
  for i, line in ipairs(output.columns(cells, right)) do
    line = cut(line, columns)
    local row = view.methods[i - 1]
    lines[#lines + 1] = i == 1 and paint("bold", line) or row.errors and row.errors > 0 and paint("red", line) or line
  end
  return lines
end

-- Keeps a terminal for tables that replace each other; `leave` is called for q and Ctrl-C.
local function screen(leave)
  local tty = terminal.open()
  if not tty.interactive then
    tty:close()
    return nil
  end
  tty:raw(true)
  io.stdout:write "\27[?1049h\27[?25l"
  tty:read(function(keys)
    if keys == nil or keys:find "[qQ\3\4]" then
      leave()
    end
  end)
  local paint = output.painter(1)
  return {
    show = function(view)
      local lines = M.lines(view, paint, tty:rows(), tty:columns())
      io.stdout:write("\27[H", table.concat(lines, "\27[K\r\n"), "\27[K\27[J")
      io.stdout:flush()
    end,
    close = function()
      io.stdout:write "\27[?25h\27[?1049l"
      io.stdout:flush()
      tty:close()
    end,
  }
end

local function show_plain(given, view)
  if given.json then
    connection.print_json(view)
  else
    io.stdout:write(table.concat(M.lines(view, output.painter(1)), "\n"), "\n")
    if not given.once then
      io.stdout:write "\n"
    end
  end
  io.stdout:flush()
end

-- Until it is over: nil, or the error that ended it.
local function watch(given, look, show)
  local function ask()
    local answer, err = look()
    if answer == nil and errors.is_error(err) then
      return nil, err
    end
    return top_figures.check(answer)
  end
  local before, err = ask()
  while before do
    if not task.sleep(given.interval or 1) then
      return nil
    end
    local after
    after, err = ask()
    if not after then
      break
    end
    show(top_figures.between(before, after))
    if given.once then
      return nil
    end
    before = after
  end
  return err
end

local function run(given, ask)
  local watching
  local left = false
  local drawn = not given.json and not given.once and screen(function()
    left = true
    if watching then
      watching:cancel()
    end
  end) or nil
  local ok, err = pcall(task.block, function()
    if left then
      return
    end
    watching = task.spawn(watch, given, ask, drawn and drawn.show or function(view)
      show_plain(given, view)
    end)
    return watching:wait()
  end)
  if drawn then
    drawn.close()
  end
  if not ok and not cli.is_interrupt(err) then
    error(err, 0)
  elseif not ok or left or not err then
    return cli.OK
  end
  if err.code == "method_not_found" and not given.json then
    cli.complain("this server does not tell what it does (introspection = false)")
  end
  return connection.report(given, err)
end

-- What says something about a connection.
local idle = { "pin", "ca", "insecure", "cert", "key", "server-name", "metadata", "credential" }

local function attached_to(given, word)
  if word and word:find(":", 1, true) and not word:find("/", 1, true) then
    return cli.misused(M, ("--attach takes a server on this machine, by its name, process id or socket; %s is an address"):format(word))
  end
  for _, name in ipairs(idle) do
    if given[name] then
      return cli.misused(M, ("--%s goes with ADDR, and not with --attach"):format(name))
    end
  end
  local server, err = task.block(require("echostream.cli.attached").open, word, given.timeout or 10)
  if not server then
    return connection.failed(given, err)
  end
  local code = run(given, function()
    return server:ask()
  end)
  server:close()
  return code
end

function M.run(given, words)
  if given.interval and (given.interval < 0.1 or given.interval > 3600) then
    return cli.misused(M, "--interval wants 0.1 to 3600 seconds")
  end
  if given.attach then
    return attached_to(given, words[1])
  elseif not words[1] then
    return cli.misused(M, "which server? ADDR, or --attach")
  end
  return connection.run(M, given, words[1], nil, function(_, calls)
    return run(given, function()
      return calls:request("rpc.stats")
    end)
  end)
end

return M
