--- `echostream discover`: which servers there are, in the local network or in a domain.

local cli = require "echostream.cli"
local connection = require "echostream.cli.connection"
local core = require "echostream.core"
local dns_sd = require "echostream.discovery.dns_sd"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local message = require "echostream.discovery.message"
local output = require "echostream.cli.output"
local pretty = require "echostream.pretty"
local stdio = require "echostream.loop.stdio"
local task = require "echostream.task"

local M = {}

M.usage = "echostream discover [SERVICE] [options]"
M.summary = "find servers in the local network, or in a domain"
M.help = [[
Asks by multicast DNS who is there, and lists those that answered within --timeout by name, address and properties. SERVICE is the name
of one, for which it waits no longer than it must, or a type: _chat._udp. With --watch it goes on until Ctrl-C or --timeout and says
what comes (add), goes (remove) and changes (change), in a line each. With --domain, name servers are asked for the SRV records of a
domain instead.

Nobody vouches for what is found: a pin that stands in the properties says that the connections of a name go to one and the same server,
and not whose server that is.]]
M.exits = "0 found, 1 nothing found, 2 wrong usage, 3 there is no multicast here or no name server answers, 130 interrupted"
M.examples = {
  { "echostream discover", "who is there" },
  { "echostream discover kitchen --timeout 10 --json", "one server, as soon as it answers" },
  { "echostream discover _chat._udp --watch --timeout 60", "what comes and goes among the servers of a type, for a minute" },
  { "echostream discover --domain example.org", "the servers that a domain names" },
}
M.options = {
  type = { value = "TYPE", help = 'of service: chat is _chat._udp (default: _echostream._udp)' },
  subtype = { value = "NAME", help = "only those that advertise this subtype" },
  interface = { value = "NAME", help = "a network interface to ask on; several times for several (default: all)", many = true },
  domain = { value = "DOMAIN", help = "ask name servers for the SRV records of this domain" },
  ["name-server"] = { value = "ADDR", help = "with --domain: the one to ask (default: those of /etc/resolv.conf)" },
  timeout = { value = "SECONDS", help = "how long to look (default 3; with --watch: for ever)", number = true },
  watch = { help = "go on, and say what comes, goes and changes" },
  json = { help = 'write {"found":[…]}; with --watch a line {"what":…,"found":{…}} for each change' },
}
M.min, M.max = 0, 1

-- How often somebody who waits for a domain looks whether its name servers have answered, in seconds.
local LOOK = 0.05

-- What comes over the network ------------------------------------------------------------------------------------

-- JSON is UTF-8; properties are any bytes.
local function text_of(bytes)
  return utf8.len(bytes) and bytes or pretty.safe(bytes)
end

local function json_of(found)
  local properties = core.map {}
  for name, value in pairs(found.properties) do
    properties[text_of(name)] = value == true or text_of(value)
  end
  return { name = text_of(found.name), address = text_of(found.address), addresses = core.array(table.move(found.addresses, 1,
    #found.addresses, 1, {})), type = found.type and text_of(found.type), host = found.host and text_of(found.host), port = found.port,
    properties = properties }
end

local function cells_of(found)
  local names, words = {}, {}
  for name in pairs(found.properties) do
    names[#names + 1] = name
  end
  table.sort(names)
  for i, name in ipairs(names) do
    local value = found.properties[name]
    words[i] = output.line(value == true and name or name .. "=" .. value)
  end
  return output.line(found.name), output.line(found.address), table.concat(words, " ")
end

-- Looking --------------------------------------------------------------------------------------------------------

-- What there is when the time is over. Name servers say everything at once; in the local network one never knows.
local function gather(browser, timeout, at_once)
  local deadline = loop.now() + timeout
  while true do
    local left = math.max(deadline - loop.now(), 0)
    browser:next(at_once and math.min(left, LOOK) or left)
    local list = browser:list()
    if browser.error or left == 0 or at_once and list[1] then
      return list, browser.error
    end
  end
end

local function nothing(name, timeout)
  return errors.new("not_found", ("%s was found within %g s"):format(name and "no server named " .. errors.show(name) or "no server",
    timeout))
end

-- An error of looking as the exit code has it: nothing found is not the same as unable to look.
local function failed(given, err)
  if err.code == "not_found" then
    return connection.report(given, err)
  end
  return connection.failed(given, err)
end

local function list(given, source, what, name)
  local timeout = given.timeout or 3
  local waiting = not given.json and stdio.is_terminal(2)
  if waiting then
    io.stderr:write(("\rlooking for %g s …"):format(timeout))
  end
  local found, err = task.block(function()
    if name then
      what.name = name
      local one, problem = source:discover(what, timeout)
      return { one }, problem
    end
    local browser, problem = source:browse(what)
    if not browser then
      return nil, problem
    end
    local all
    all, problem = gather(browser, timeout, given.domain ~= nil)
    browser:close()
    return all, problem
  end)
  if waiting then
    io.stderr:write "\r\27[K"
  end
  if err or not found[1] then
    return failed(given, err and (given.domain or err.code ~= "not_found") and err or nothing(name, timeout))
  elseif given.json then
    local all = core.array {}
    for i, one in ipairs(found) do
      all[i] = json_of(one)
    end
    return connection.print_json { found = all } and cli.OK or cli.FAILED
  end
  local rows = {}
  for i, one in ipairs(found) do
    rows[i] = { cells_of(one) }
  end
  for _, line in ipairs(output.columns(rows)) do
    print(line)
  end
  return cli.OK
end

local function say(given, what, found)
  if given.json then
    connection.print_json { what = what, found = json_of(found) }
  else
    print((("%-6s  %s  %s  %s"):format(what, cells_of(found)):gsub(" +$", "")))
  end
  io.stdout:flush()
end

local function watch(given, source, what, name)
  local wanted = name and message.key(name)
  local ok, failure = pcall(task.block, function()
    local browser, problem = source:browse(what)
    if not browser then
      return problem
    end
    local deadline = given.timeout and loop.now() + given.timeout
    local said
    while true do
      local left = deadline and math.max(deadline - loop.now(), 0)
      local change, found = browser:next(left)
      if change then
        if not wanted or message.key(found.name) == wanted then
          said = true
          say(given, change, found)
        end
      elseif found == nil or found.code ~= "timeout" or left == 0 then
        break
      end
    end
    problem = browser.error
    browser:close()
    return not said and (problem or given.timeout and nothing(name, given.timeout)) or nil
  end)
  if not ok and not cli.is_interrupt(failure) then
    error(failure, 0)
  end
  return ok and failure and failed(given, failure) or cli.OK
end

local function source_of(given)
  local discovery = require "echostream.discovery"
  if given.domain then
    return discovery.srv { domain = given.domain, type = given.type, server = given["name-server"] }
  end
  return {
    browse = function(_, what)
      return discovery.browse(what)
    end,
    discover = function(_, what, timeout)
      return discovery.discover(what, timeout)
    end,
  }
end

function M.run(given, words)
  local name, what = words[1], { type = given.type, subtype = given.subtype, interfaces = given.interface }
  if given["name-server"] and not given.domain then
    return cli.misused(M, "--name-server goes with --domain")
  elseif given.domain and (given.subtype or given.interface) then
    return cli.misused(M, "--subtype and --interface are for the local network, not for --domain")
  elseif name and dns_sd.is_type(name) then
    if given.type then
      return cli.misused(M, "a type is given twice")
    end
    given.type, what.type, name = name, name, nil
  end
  local made, source = connection.try(M, source_of, given)
  if not made then
    return source
  end
  -- Raises for what is no type, which is looked at first.
  local ok, problem = connection.try(M, function()
    dns_sd.type_of("discover", what.type)
    return true
  end)
  if not ok then
    return problem
  end
  return (given.watch and watch or list)(given, source, what, name)
end

return M
