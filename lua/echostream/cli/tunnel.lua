--- `echostream tunnel`: the commands of the second rock, echostream-tunnel, when it is installed.

local cli = require "echostream.cli"
local options = require "echostream.options"

local M = {}

M.usage = "echostream tunnel COMMAND …"
M.summary = "a reverse tunnel: a public server, and agents beside the backends"
M.help = [[
Visitors reach a server on a public machine over HTTP/1.1, HTTP/2, HTTP/3, gRPC, WebSocket and TCP; each request goes through the
session of an agent to a backend that only the agent can reach. The tunnel is a rock of its own, echostream-tunnel.]]
M.options = {}
M.examples = {
  { "echostream tunnel server server.lua", "on the public machine" },
  { "echostream tunnel agent agent.lua", "beside the backends" },
  { "echostream tunnel explain https://app.example.org/ --config server.lua", "which rule takes that, and why" },
}
M.min, M.max = 0, math.huge
M.rest_after = 1 -- what follows is the command's

local MISSING <const> = [[
the tunnel is not installed: it is a rock of its own. Install it with
  luarocks --lua-version 5.4 install echostream-tunnel
or, from a checkout of echostream, with make install-rock]]

-- The second rock's commands; nil and why, where it is missing.
local function second()
  local there, commands = pcall(require, "echostream.tunnel.cli")
  if there then
    return commands
  elseif tostring(commands):find("module 'echostream.tunnel.cli' not found", 1, true) then
    return nil, MISSING
  end
  return nil, "the tunnel cannot be loaded: " .. tostring(commands)
end

--- The commands below this one.
---@return string[]? names  nil: the rock is not installed
---@return table<string, echostream.cli.command>? commands
function M.subcommands()
  local rock = second()
  if not rock then
    return nil
  end
  local commands = {}
  for _, name in ipairs(rock.names) do
    commands[name] = rock.command(name)
  end
  return rock.names, commands
end

--- The list of the commands, for the help.
---@return string
function M.further_help()
  local names, commands = M.subcommands()
  if not names then
    return "Commands: none yet, " .. MISSING
  end
  local lines = { "Commands:" }
  for _, name in ipairs(names) do
    lines[#lines + 1] = ("  %-10s %s"):format(name, commands[name].summary)
  end
  lines[#lines + 1] = "\nechostream tunnel COMMAND --help says more."
  return table.concat(lines, "\n")
end

function M.run(_, words)
  local rock, problem = second()
  if not rock then
    cli.complain("%s", problem)
    return cli.FAILED
  elseif not words[1] then
    return cli.misused(M, "COMMAND is missing")
  end
  local name = words[1]
  local command = rock.command(name)
  if not command then
    local names = {}
    for _, known in ipairs(rock.names) do
      names[known] = true
    end
    local guess = options.nearest(name, names)
    return cli.misused(M, ("there is no tunnel command %s%s"):format(name, guess and (" (did you mean %s?)"):format(guess) or ""))
  end
  return cli.execute(command, words, 2)
end

return M
