--- `echostream tunnel reload`: a tunnel that runs reads its configuration again.

local cli = require "echostream.cli"
local point = require "echostream.tunnel.cli.point"

local M = {}

M.usage = "echostream tunnel reload [NAME|PID|SOCKET] [options]"
M.summary = "a tunnel that runs here reads its configuration again"
M.help = [[
What can change while it runs does so at once, whole or not at all; a file that is wrong changes nothing, and the line is said. The
same as SIGHUP, with an answer. Without a word the only tunnel of this user that runs here.]]
M.options = { json = { help = "the answer as JSON" } }
M.examples = { { "echostream tunnel reload", "of the only tunnel that runs here" } }
M.exits = "0 reloaded, 1 everything stays as it was, 2 wrong usage, 3 nobody answers"
M.min, M.max = 0, 1

function M.run(options, words)
  local value, code = point.command(options, words[1], "reload", nil, 60)
  if value == nil then
    return code
  elseif options.json then
    require("echostream.cli.connection").print_json(value)
  elseif #value.restart > 0 then
    print("reloaded; these want a restart: " .. table.concat(value.restart, ", "))
  else
    print "reloaded"
  end
  return cli.OK
end

return M
