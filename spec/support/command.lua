-- The command `echostream` in specs: a server in a process of its own, and commands that are run against it.

local process = require "spec.support.process"

local M = {}

--- Runs `echostream ARGUMENTS` to its end.
---@param arguments string
---@param opts? table  as process.run
---@return process.result
function M.run(arguments, opts)
  return process.run(process.echostream .. " " .. arguments, opts)
end

---@class command.server
---@field process process.running
---@field address string
---@field pin string
---@field dir string  removed by `stop`

local Server = {}
Server.__index = Server

--- Starts `echostream serve` with this code of a server file.
---@param code string
---@param options? string  of `serve`; default: any port of 127.0.0.1
---@return command.server
function M.server(code, options)
  local dir = process.directory()
  process.write(dir .. "/server.lua", code)
  local server = process.start(("%s serve %s %s/server.lua"):format(process.echostream, options or "--bind 127.0.0.1:0", dir),
    { env = { XDG_STATE_HOME = dir }, seconds = 120 })
  local address = server:expect "^listening on (%S+)$"
  local pin = server:expect "^pin (sha256:%x+)$"
  return setmetatable({ process = server, address = address, pin = pin, dir = dir }, Server)
end

--- Runs `echostream COMMAND ADDR ARGUMENTS --pin PIN`.
---@param command string
---@param arguments? string
---@param opts? table
---@return process.result
function Server:run(command, arguments, opts)
  return M.run(("%s %s --pin %s %s"):format(command, self.address, self.pin, arguments or ""), opts)
end

function Server:stop()
  self.process:stop()
  process.remove(self.dir)
end

return M
