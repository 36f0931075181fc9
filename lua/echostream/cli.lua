--- The command `echostream`: which subcommand, its options, help and exit codes. What each does is in cli/.

local M = {}

--- What the process ends with.
M.OK, M.FAILED, M.USAGE, M.NO_CONNECTION = 0, 1, 2, 3

---@class echostream.cli.option
---@field value? string     name of its value, for the help; nil: a flag
---@field help string
---@field many? boolean     may be given several times: collected in a list
---@field number? boolean   its value is a number >= 0

---@class echostream.cli.command
---@field usage string
---@field summary string
---@field help string
---@field options table<string, echostream.cli.option>
---@field min integer       positional arguments
---@field max integer
---@field run fun(options: table, arguments: string[]): integer  the exit code

local order = { "serve", "call", "cert" }

local function command(name)
  for _, known in ipairs(order) do
    if known == name then
      return require("echostream.cli." .. name)
    end
  end
end

--- Writes one line about something that went wrong.
---@param format string
function M.complain(format, ...)
  io.stderr:write("echostream: ", format:format(...), "\n")
end

local function overall_help()
  local lines = { "Usage: echostream COMMAND …", "", "Commands:" }
  for _, name in ipairs(order) do
    lines[#lines + 1] = ("  %-7s %s"):format(name, command(name).summary)
  end
  lines[#lines + 1] = ""
  lines[#lines + 1] = "echostream COMMAND --help says more; echostream --version which version this is."
  return table.concat(lines, "\n") .. "\n"
end

local function command_help(cmd)
  local names, width = {}, 0
  local function left(name)
    local value = cmd.options[name].value
    return "--" .. name .. (value and " " .. value or "")
  end
  for name in pairs(cmd.options) do
    names[#names + 1] = name
    width = math.max(width, #left(name))
  end
  table.sort(names)
  local lines = { "Usage: " .. cmd.usage, "", cmd.help, "", "Options:" }
  for _, name in ipairs(names) do
    lines[#lines + 1] = ("  %-" .. width .. "s  %s"):format(left(name), cmd.options[name].help)
  end
  return table.concat(lines, "\n") .. "\n"
end

local function store(options, name, spec, value)
  if spec.number then
    local number = tonumber(value)
    if not number or number < 0 or number ~= number then
      return ("--%s wants a number, got %q"):format(name, value)
    end
    value = number
  end
  if spec.many then
    options[name] = options[name] or {}
    table.insert(options[name], value)
  elseif options[name] ~= nil then
    return ("--%s is given twice"):format(name)
  else
    options[name] = value
  end
end

--- Takes the arguments of a command apart: `--name value`, `--name=value`, flags and positional ones in any order; after
--- `--` everything is positional, and so is what looks like a negative number.
---@param cmd echostream.cli.command
---@param argv string[]
---@param first? integer
---@return table? options, string[]|string positional or what is wrong
function M.parse(cmd, argv, first)
  local options, positional, only_positional = {}, {}, false
  local i = first or 1
  while i <= #argv do
    local word = argv[i]
    if only_positional or word == "-" or not word:find("^%-") or word:find("^%-[%d.]") then
      positional[#positional + 1] = word
      if cmd.rest_after and #positional >= cmd.rest_after then
        only_positional = true
      end
    elseif word == "--" then
      only_positional = true
    elseif word == "--help" or word == "-h" then
      options.help = true
    else
      local name, value = word:match("^%-%-([%w-]+)=(.*)$")
      name = name or word:match("^%-%-([%w-]+)$")
      local spec = name and cmd.options[name]
      if not spec then
        return nil, ("there is no option %s"):format(word)
      elseif not spec.value then
        if value then
          return nil, ("--%s takes no value"):format(name)
        end
        options[name] = true
      else
        if not value then
          i = i + 1
          value = argv[i]
        end
        if not value then
          return nil, ("--%s wants a value: %s"):format(name, spec.value)
        end
        local problem = store(options, name, spec, value)
        if problem then
          return nil, problem
        end
      end
    end
    i = i + 1
  end
  if not options.help and #positional < cmd.min then
    return nil, "too few arguments"
  elseif not options.help and #positional > cmd.max then
    return nil, ("too many arguments: %s"):format(positional[cmd.max + 1])
  end
  return options, positional
end

--- Runs the command line.
---@param argv string[]
---@return integer exit code: 0 done, 1 it failed, 2 wrong usage, 3 (call) no connection
function M.main(argv)
  local name = argv[1]
  if name == nil then
    io.stderr:write(overall_help())
    return M.USAGE
  elseif name == "--help" or name == "-h" or name == "help" then
    io.stdout:write(overall_help())
    return M.OK
  elseif name == "--version" or name == "-V" then
    local core = require "echostream.core"
    local libraries = core.libraries
    io.stdout:write(("echostream %s (ngtcp2 %s, GnuTLS %s, %s)\n")
      :format(core.version, libraries.ngtcp2, libraries.gnutls, _VERSION))
    return M.OK
  end
  local cmd = command(name)
  if not cmd then
    M.complain("there is no command %s; echostream --help lists them", name)
    return M.USAGE
  end
  local options, positional = M.parse(cmd, argv, 2)
  if not options then
    M.complain("%s\nUsage: %s", positional, cmd.usage)
    return M.USAGE
  elseif options.help then
    io.stdout:write(command_help(cmd))
    return M.OK
  end
  return cmd.run(options, positional)
end

return M
