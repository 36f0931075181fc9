--- `echostream tunnel check`: whether configuration files are right, without running anything of them.

local cli = require "echostream.cli"

local M = {}

M.usage = "echostream tunnel check FILE…"
M.summary = "whether configuration files of servers and agents are right"
M.help = [[
Reads each FILE as `echostream tunnel server` or `echostream tunnel agent` would, and says what is wrong with it and in which line. A
file that says `servers` is an agent's, one that is a list has rules, any other is a server's.]]
M.options = {}
M.examples = {
  { "echostream tunnel check server.lua agent.lua", "prints a line for each, exit status 1 when one is wrong" },
}
M.exits = "0 all are right, 1 one is not, 2 wrong usage"
M.min, M.max = 1, math.huge

function M.run(_, words)
  local config = require "echostream.tunnel.config"
  local code = cli.OK
  for _, path in ipairs(words) do
    local file, err = config.read(path)
    if file then
      local kind = file.values.servers ~= nil and "an agent" or file.values[1] ~= nil and "rules" or "a server"
      if kind == "rules" then
        file, err = require("echostream.tunnel.rules").new({}):load(path)
      else
        file, err = require("echostream.tunnel.operate." .. kind:match "%a+$").check(path)
      end
      if file then
        print(("%s: ok, of %s"):format(path, kind))
      end
    end
    if not file then
      cli.complain("%s", err.message)
      code = cli.FAILED
    end
  end
  return code
end

return M
