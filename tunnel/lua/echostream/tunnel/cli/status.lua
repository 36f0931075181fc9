--- `echostream tunnel status`: what a server or agent that runs here is doing.

local cli = require "echostream.cli"
local output = require "echostream.cli.output"
local point = require "echostream.tunnel.cli.point"

local M = {}

M.usage = "echostream tunnel status [NAME|PID|SOCKET] [options]"
M.summary = "what a tunnel that runs here does: agents, backends, figures"
M.help = [[
Of a server: where it listens and which agents are registered. Of an agent: its servers and backends. Without a word the only tunnel of
this user that runs here; `echostream attach --list` shows all.]]
M.options = { json = { help = "everything as JSON" } }
M.examples = {
  { "echostream tunnel status", "of the only tunnel that runs here" },
  { "echostream tunnel status tunnel-server --json", "for scripts" },
}
M.exits = "0 it answered, 1 it could not, 2 wrong usage, 3 nobody answers"
M.min, M.max = 0, 1

local function word(value)
  return value == nil and "-" or output.line(tostring(value))
end

local function seconds(value)
  return type(value) == "number" and ("%.0f s"):format(value) or "-"
end

local function print_table(title, heads, rows, right)
  if #rows > 0 then
    print(title)
    table.insert(rows, 1, heads)
    for _, line in ipairs(output.columns(rows, right or {})) do
      print("  " .. line)
    end
  end
end

local function sorted(map)
  local names = {}
  for name in pairs(map or {}) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

local function print_figures(title, figures)
  local words = {}
  for _, name in ipairs(sorted(figures)) do
    if type(figures[name]) == "number" then
      words[#words + 1] = ("%s %s"):format(name:gsub("_", " "), figures[name])
    end
  end
  if words[1] then
    print(("%s: %s"):format(title, table.concat(words, ", ")))
  end
end

local function print_agent(status)
  print(("agent %s of group %s"):format(word(status.client_id), word(status.group)))
  local rows = {}
  for i, link in ipairs(status.links or {}) do
    rows[i] = { word(link.server), word(link.server_id), link.draining and "draining" or "registered" }
  end
  for _, absent in ipairs(status.absent or {}) do
    rows[#rows + 1] = { word(absent.address), "-", word(absent.state) .. (absent.why and ": " .. word(absent.why) or "") }
  end
  print_table("servers:", { "ADDRESS", "ID", "STATE" }, rows)
  rows = {}
  for _, name in ipairs(sorted(status.backends)) do
    local each = status.backends[name]
    rows[#rows + 1] = { word(name), each.healthy == false and "unhealthy" or "healthy", word(each.in_flight) }
  end
  print_table("backends:", { "NAME", "STATE", "IN FLIGHT" }, rows, { [3] = true })
  print_figures("figures", status.stats)
  if status.config_error then
    print("the last configuration was refused: " .. word(status.config_error))
  end
end

local function print_server(status)
  for _, line in ipairs(status.lines or {}) do
    print(word(line))
  end
  local rows = {}
  for i, agent in ipairs(status.agents or {}) do
    rows[i] = { word(agent.id), word(agent.group), word(agent.state), word(agent.peer), seconds(agent.registered), word(agent.in_flight),
      word(agent.served), word(agent.errors) }
  end
  if #rows == 0 then
    print "no agent is registered"
  end
  print_table("agents:", { "ID", "GROUP", "STATE", "FROM", "SINCE", "IN FLIGHT", "SERVED", "ERRORS" }, rows,
    { [5] = true, [6] = true, [7] = true, [8] = true })
  print_figures("figures", status.figures)
  for _, name in ipairs(sorted(status.shadows)) do
    print_figures("shadow " .. word(name), status.shadows[name])
  end
end

function M.run(options, words)
  local status, code = point.command(options, words[1], "status")
  if status == nil then
    return code
  elseif options.json then
    require("echostream.cli.connection").print_json(status)
  elseif status.role == "agent" then
    print_agent(status)
  else
    print_server(status)
  end
  return cli.OK
end

return M
