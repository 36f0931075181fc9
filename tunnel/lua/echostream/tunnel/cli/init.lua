--- The commands of `echostream tunnel`, for lua/echostream/cli/tunnel.lua. Each is an `echostream.cli.command` in a file of its own.

local M = {}

--- Their names, as they stand in the help.
M.names = { "server", "agent", "explain", "check", "status", "drain", "reload" }

--- A command.
---@param name string
---@return echostream.cli.command?
function M.command(name)
  for _, known in ipairs(M.names) do
    if known == name then
      return require("echostream.tunnel.cli." .. name)
    end
  end
end

return M
