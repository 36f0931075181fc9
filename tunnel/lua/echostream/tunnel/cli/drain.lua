--- `echostream tunnel drain`: a tunnel that runs ends when what is under way has ended, or one of its agents gets nothing new.

local cli = require "echostream.cli"
local point = require "echostream.tunnel.cli.point"

local M = {}

M.usage = "echostream tunnel drain [NAME|PID|SOCKET] [options]"
M.summary = "a tunnel that runs here takes nothing new and ends; or one of its agents"
M.help = [[
The server or agent takes nothing new, finishes what is under way within its grace, and ends. With --agent a server goes on, and that
agent of its gets no new requests. Without a word the only tunnel of this user that runs here.]]
M.options = {
  agent = { value = "CLIENT_ID", help = "only this agent, and the server goes on" },
  grace = { value = "SECONDS", number = true, help = "for what is under way (default: what the configuration says)" },
  json = { help = "the answer as JSON" },
}
M.examples = {
  { "echostream tunnel drain", "ends the only tunnel that runs here, gently" },
  { "echostream tunnel drain tunnel-server --agent agent-7", "before the machine of agent-7 is restarted" },
}
M.exits = "0 it began, 1 it could not, 2 wrong usage, 3 nobody answers"
M.min, M.max = 0, 1

function M.run(options, words)
  local value, code = point.command(options, words[1], "drain", { agent = options.agent, grace = options.grace }, 60)
  if value == nil then
    return code
  elseif options.json then
    require("echostream.cli.connection").print_json(value)
  else
    print(options.agent and ("agent %s gets nothing new"):format(options.agent) or "it takes nothing new, and ends when what is under way has")
  end
  return cli.OK
end

return M
