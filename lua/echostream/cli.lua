--- The command `echostream`: which subcommand, its options, help and exit codes. What each does is in cli/.
---
--- A new command is a file in cli/ that gives an `echostream.cli.command`, and its name in `order` below. One that talks to a server
--- takes its options from cli/connection.lua.

local options = require "echostream.options"

local M = {}

--- What the process ends with; INTERRUPTED is what a shell says of a program that Ctrl-C ended.
M.OK, M.FAILED, M.USAGE, M.NO_CONNECTION, M.INTERRUPTED = 0, 1, 2, 3, 130

--- The same for people.
M.EXITS = "0 it worked, 1 it failed, 2 wrong usage, 3 no connection, 130 interrupted"

---@class echostream.cli.option
---@field value? string     name of its value, for the help; nil: a flag
---@field help string
---@field many? boolean     may be given several times: collected in a list
---@field number? boolean   its value is a number >= 0

---@class echostream.cli.command
---@field usage string
---@field summary string
---@field help string
---@field exits? string     what its exit status says, where that is not `M.EXITS`
---@field examples { [1]: string, [2]: string }[]  a line for the shell, and what it does
---@field options table<string, echostream.cli.option>
---@field min integer       positional arguments
---@field max integer
---@field rest_after? integer  after so many positional arguments nothing is an option any more
---@field subcommands? fun(): string[]?, table<string, echostream.cli.command>?  their names in order, and they; nil: they are not installed
---@field further_help? fun(): string  stands before the examples
---@field run fun(options: table, arguments: string[]): integer  the exit code

-- As they stand in the help.
local order = {
  "serve",
  "repl",
  "attach",
  "call",
  "emit",
  "stream",
  "describe",
  "top",
  "bench",
  "discover",
  "cert",
  "doctor",
  "tunnel",
  "completion",
}

--- The names of the commands, as they stand in the help.
---@return string[]
function M.commands()
  return table.move(order, 1, #order, 1, {})
end

--- A command.
---@param name string
---@return echostream.cli.command?
function M.command(name)
  for _, known in ipairs(order) do
    if known == name then
      return require("echostream.cli." .. name)
    end
  end
end

local command = M.command

local function unknown(name)
  local names = {}
  for _, known in ipairs(order) do
    names[known] = true
  end
  local guess = options.nearest(name, names)
  M.complain("there is no command %s%s; echostream --help lists them", name, guess and (" (did you mean %s?)"):format(guess) or "")
  return M.USAGE
end

--- Writes one line about something that went wrong.
---@param format string
function M.complain(format, ...)
  io.stderr:write("echostream: ", format:format(...), "\n")
end

local function overall_help()
  local lines = { "Usage: echostream COMMAND …", "", "Commands:" }
  for _, name in ipairs(order) do
    lines[#lines + 1] = ("  %-10s %s"):format(name, command(name).summary)
  end
  lines[#lines + 1] = ""
  lines[#lines + 1] = ("Exit status: %s."):format(M.EXITS)
  lines[#lines + 1] = "echostream help COMMAND says more; echostream --version which version this is."
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
  local lines = { "Usage: " .. cmd.usage, "", (cmd.help:gsub("%s+$", "")) }
  if names[1] then
    lines[#lines + 1] = "\nOptions:"
  end
  for _, name in ipairs(names) do
    lines[#lines + 1] = ("  %-" .. width .. "s  %s"):format(left(name), cmd.options[name].help)
  end
  if cmd.further_help then
    lines[#lines + 1] = "\n" .. cmd.further_help()
  end
  lines[#lines + 1] = "\nExamples:"
  for _, example in ipairs(cmd.examples or {}) do
    lines[#lines + 1] = ("  %s\n      %s"):format(example[1], example[2])
  end
  lines[#lines + 1] = ("\nExit status: %s."):format(cmd.exits or M.EXITS)
  return table.concat(lines, "\n") .. "\n"
end

local function store(given, name, spec, value)
  if spec.number then
    local number = tonumber(value)
    if not number or number < 0 or number ~= number then
      return ("--%s wants a number, got %q"):format(name, value)
    end
    value = number
  end
  if spec.many then
    given[name] = given[name] or {}
    table.insert(given[name], value)
  elseif given[name] ~= nil then
    return ("--%s is given twice"):format(name)
  else
    given[name] = value
  end
end

-- "there is no option --insecur", with what was meant.
local function no_option(cmd, word)
  local names = { help = true }
  for name in pairs(cmd.options) do
    names[name] = true
  end
  local guess = options.nearest(word:match "^%-+([^=]*)", names)
  return ("there is no option %s%s"):format(word, guess and (" (did you mean --%s?)"):format(guess) or "")
end

-- The words that a command wants, as its usage has them: "call ADDR METHOD [JSON]…" wants ADDR and METHOD.
-- `swallowed`: what the last word went to, when an option took it: "serve --dashboard app.lua" lacks an ADDR rather than the FILE.
local function missing(cmd, given, swallowed)
  local wanted = {}
  for word in cmd.usage:gsub("%b[]", ""):gmatch "%f[%S](%u+)%f[%s%z]" do
    wanted[#wanted + 1] = word
  end
  return ("%s %s missing"):format(table.concat(wanted, " and ", given + 1, cmd.min), cmd.min - given == 1 and "is" or "are") .. (swallowed or "")
end

--- Takes the arguments of a command apart: `--name value`, `--name=value`, flags and positional ones in any order; after
--- `--` everything is positional, and so is what looks like a negative number.
---@param cmd echostream.cli.command
---@param argv string[]
---@param first? integer
---@return table? options, string[]|string positional or what is wrong
function M.parse(cmd, argv, first)
  local given, positional, only_positional, swallowed = {}, {}, false, nil
  local i = first or 1
  while i <= #argv do
    local word = argv[i]
    swallowed = nil
    if only_positional or word == "-" or not word:find("^%-") or word:find("^%-[%d.]") then
      positional[#positional + 1] = word
      if cmd.rest_after and #positional >= cmd.rest_after then
        only_positional = true
      end
    elseif word == "--" then
      only_positional = true
    elseif word == "--help" or word == "-h" then
      given.help = true
    else
      local name, value = word:match("^%-%-([%w-]+)=(.*)$")
      name = name or word:match("^%-%-([%w-]+)$")
      local spec = name and cmd.options[name]
      if not spec then
        return nil, no_option(cmd, word)
      elseif not spec.value then
        if value then
          return nil, ("--%s takes no value"):format(name)
        end
        given[name] = true
      else
        if not value then
          i = i + 1
          value = argv[i]
          swallowed = value and (" (%s was taken as the %s of --%s)"):format(value, spec.value, name)
        end
        if not value then
          return nil, ("--%s wants a value: %s"):format(name, spec.value)
        end
        local problem = store(given, name, spec, value)
        if problem then
          return nil, problem
        end
      end
    end
    i = i + 1
  end
  if not given.help and #positional < cmd.min then
    return nil, missing(cmd, #positional, swallowed)
  elseif not given.help and #positional > cmd.max then
    return nil, ("too many arguments: %s"):format(positional[cmd.max + 1])
  end
  return given, positional
end

--- Says that something is wrong with the words on the command line.
---@param cmd echostream.cli.command
---@param problem string
---@return integer exit code
function M.misused(cmd, problem)
  M.complain("%s\nUsage: %s\n%s --help says more", problem, cmd.usage, cmd.usage:match "^echostream [%l ]*%l")
  return M.USAGE
end

--- Whether Ctrl-C raised this, while the loop ran.
---@param raised any
---@return boolean
function M.is_interrupt(raised)
  return type(raised) == "string" and raised:find "interrupted!$" ~= nil
end

--- For xpcall: adds where it was raised, unless nobody wants to know.
---@param raised any
---@return any
function M.traceback(raised)
  return type(raised) == "string" and not M.is_interrupt(raised) and debug.traceback(raised, 2) or raised
end

--- Runs a command with its words: options are taken apart, --help is answered, what it raises becomes a line and an exit code.
---@param cmd echostream.cli.command
---@param argv string[]
---@param first? integer  of the words that are its own, 1
---@return integer exit code
function M.execute(cmd, argv, first)
  local given, positional = M.parse(cmd, argv, first)
  if not given then
    return M.misused(cmd, positional)
  elseif given.help then
    io.stdout:write(command_help(cmd))
    return M.OK
  end
  local ok, code = xpcall(cmd.run, M.traceback, given, positional)
  if ok then
    return code
  elseif M.is_interrupt(code) then
    return M.INTERRUPTED
  end
  M.complain("%s", tostring(code))
  return M.FAILED
end

local function run(name, argv, first)
  local cmd = command(name)
  if not cmd then
    return unknown(name)
  end
  return M.execute(cmd, argv, first)
end

--- Runs the command line.
---@param argv string[]
---@return integer exit code: 0 done, 1 it failed, 2 wrong usage, 3 no connection, 130 interrupted
function M.main(argv)
  local name = argv[1]
  if name == nil then
    io.stderr:write(overall_help())
    return M.USAGE
  elseif name == "help" and argv[2] then
    return run(argv[2], { argv[3] or "--help", argv[3] and "--help" }, 1)
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
  return run(name, argv, 2)
end

return M
