--- How commands such as `echostream tunnel status` reach a tunnel that runs on this machine: by the socket of `echostream attach`, which only
--- its user can open. What they may ask is what the process has put up here.

local attached = require "echostream.cli.attached"
local attach = require "echostream.attach"
local cli = require "echostream.cli"
local connection = require "echostream.cli.connection"
local core = require "echostream.core"
local errors = require "echostream.errors"
local task = require "echostream.task"

local M = {}

local operations -- of this process: name → fn(argument) → a value, or nil and an error

--- Puts up what this process can be asked. Called by what runs a tunnel.
---@param names table<string, fun(argument: any): any, any>
---@param server? echostream.server
---@param name string  of the socket: "tunnel-server"
---@return echostream.attach.point? point, echostream.error? err
function M.open(names, name, server)
  operations = names
  return attach.open { name = name, server = server }
end

local MARK <const> = "echostream.tunnel "

--- Answers one question, in the process that is asked.
---@param name string
---@param argument string  JSON
---@return string line  with JSON
---@package
function M.answer(name, argument)
  local out
  local fn = operations and operations[name]
  if not fn then
    out = { error = "no tunnel that can do that runs in this process" }
  else
    local ok, value, err = pcall(fn, (core.codec.json.unpack(argument)))
    if not ok then
      out = { error = errors.from(value).message }
    elseif value == nil then
      out = { error = errors.is_error(err) and err.message or tostring(err) }
    else
      out = { value = value }
    end
  end
  return MARK .. core.codec.json.pack(out)
end

local function ask(word, name, argument, timeout)
  local point, err = attached.open(word, timeout)
  if not point then
    return nil, err
  end
  local text
  local json_in = core.codec.json.pack(argument or core.map {})
  text, err = point:run(("print(require('echostream.tunnel.cli.point').answer(%q, %q))"):format(name, json_in))
  point:close()
  if not text then
    return nil, err
  end
  local json = text:match("\n?" .. MARK .. "([^\n]*)")
  local said = json and core.codec.json.unpack(json)
  if type(said) ~= "table" then
    return nil, errors.new("failed_precondition", "that process is no tunnel: " .. text:match "^[^\n]*")
  elseif said.error then
    return nil, errors.new("failed_precondition", tostring(said.error))
  end
  return said.value
end

-- The only tunnel of this user, when several other things can be attached to.
local function only_tunnel(word)
  if word then
    return word
  end
  local found, n
  for _, entry in ipairs((attach.list())) do
    if entry.name:find "^tunnel%-" then
      found, n = entry.path, (n or 0) + 1
    end
  end
  return n == 1 and found or nil
end

--- Asks a tunnel that runs. Waits.
---@param word? string  its name, process id or socket; nil: the only one
---@param name string
---@param argument? any
---@param timeout? number  seconds, 10
---@return any|nil value, echostream.error? err
function M.ask(word, name, argument, timeout)
  local running = task.spawn(ask, only_tunnel(word), name, argument, timeout or 10)
  return running:wait()
end

--- The same for a command: says what is wrong and gives the exit code.
---@param options { json?: boolean }
---@return any|nil value, integer code
function M.command(options, word, name, argument, timeout)
  local value, err = M.ask(word, name, argument, timeout)
  if value == nil then
    if options.json then
      connection.print_json { error = { code = err.code, message = err.message } }
    else
      cli.complain("%s", err.message)
    end
    local nobody = err.code == "not_found" or err.code == "unavailable"
    return nil, nobody and cli.NO_CONNECTION or cli.FAILED
  end
  return value, cli.OK
end

return M
