--- What `echostream tunnel server` and `echostream tunnel agent` have in common: a role from a file, signals, and the socket for commands.

local cli = require "echostream.cli"
local errors = require "echostream.errors"
local log = require "echostream.log"
local loop = require "echostream.loop"
local point = require "echostream.tunnel.cli.point"
local signal = require "echostream.loop.signal"
local task = require "echostream.task"

local M = {}

local function say_reload(done, err)
  if not done then
    log.write("error", "the configuration stays as it was: " .. err.message)
  elseif #done.restart > 0 then
    log.write("warn", ("reloaded; these want a restart: %s"):format(table.concat(done.restart, ", ")))
  else
    log.write("info", "reloaded")
  end
end

local function operations(role, stop)
  return {
    status = function()
      return role:status()
    end,
    reload = function()
      local done, err = role:reload()
      say_reload(done, err)
      return done, err
    end,
    explain = role.explain and function(asked)
      return role:explain(asked)
    end,
    drain = function(asked)
      if type(asked) == "table" and asked.agent then
        if not role.drain_agent then
          return nil, errors.new("failed_precondition", "only a server drains agents; this is an agent")
        end
        return role:drain_agent(asked.agent)
      end
      stop(type(asked) == "table" and tonumber(asked.grace) or nil)
      return { draining = true }
    end,
  }
end

--- Runs a role until it is told to end: by SIGINT or SIGTERM (a second one ends the process at once), or by `echostream tunnel drain`.
---@param role table  of operate/
---@param name string  of the socket
---@param options { ["no-attach"]?: boolean, grace?: number }
---@return integer exit code
function M.run(role, name, options)
  local state = { over = false, stopping = false }
  local function stop(grace)
    if state.stopping then
      return
    end
    state.stopping = true
    task.spawn(function()
      local ok, err = role:stop(grace or options.grace)
      if not ok and err then
        cli.complain("%s", err.message)
      end
      state.over = true
    end)
  end
  local opened, problem
  if not options["no-attach"] then
    opened, problem = point.open(operations(role, stop), name, role.server)
    if not opened then
      cli.complain("nobody can ask this tunnel anything: %s", problem.message)
    end
  end
  signal.on("sighup", function()
    task.spawn(function()
      say_reload(role:reload())
    end)
  end)
  local code = cli.OK
  -- Said by the running loop: who reads it may send a signal at once.
  task.spawn(function()
    for _, line in ipairs(role:lines()) do
      io.stdout:write(line, "\n")
    end
    io.stdout:flush()
    local ok, err = role:wait()
    if state.stopping then
      return
    elseif not ok and err then
      cli.complain("%s", err.message)
      code = cli.FAILED
    end
    state.over = true
  end)
  loop.pump(function()
    return state.over
  end, function()
    stop()
  end)
  if opened then
    opened.close()
  end
  return code
end

--- Runs what a file says, or only looks at the file.
---@param kind "server"|"agent"
---@param options { check?: boolean, ["no-attach"]?: boolean, grace?: number }
---@param path string  of the file
---@return integer exit code
function M.file(kind, options, path)
  local operate = require("echostream.tunnel.operate." .. kind)
  local role, err
  if options.check then
    role, err = operate.check(path)
  else
    role, err = operate.start(path)
  end
  if not role then
    cli.complain("%s", err.message)
    return (err.code == "invalid_argument" or err.reading) and cli.USAGE or cli.FAILED
  elseif options.check then
    print(path .. ": ok")
    return cli.OK
  end
  return M.run(role, "tunnel-" .. kind, options)
end

return M
