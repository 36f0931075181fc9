--- `echostream call`: one request from the command line.

local cli = require "echostream.cli"
local core = require "echostream.core"
local errors = require "echostream.errors"

local M = {}

M.usage = "echostream call ADDR METHOD [JSON]… (--pin PIN | --ca FILE | --insecure) [options]"
M.summary = "call a method of a server, print its results as JSON"
M.help = [[
Every argument of the method is one JSON value: 10, '"text"', '{"a":[1,2]}'. Every result is printed on a line of its own,
as JSON. A failure is printed on standard error as `code: message`.

How the server is trusted must be said: by its pin, by a file of CA certificates (with a check of the name), by the CAs of
this system (--ca system), or not at all.

Exit status: 0 the call succeeded, 1 it failed, 2 wrong usage, 3 no connection.]]
M.options = {
  pin = { value = "PIN", help = "sha256:… of the server's public key; several times for several", many = true },
  ca = { value = "FILE", help = "PEM file of the CAs to trust, or the word system" },
  insecure = { help = "verify nothing: anybody may be the server" },
  timeout = { value = "SECONDS", help = "for the connection, and then for the call (default 30)", number = true },
  metadata = { value = "KEY=VALUE", help = "sent with the call; several times for several", many = true },
  credential = { value = "KEY=VALUE", help = "sent when connecting, for the server's on_connect", many = true },
  idempotent = { help = "say that running the call twice does no harm" },
}
M.min, M.max = 2, 2 + 250

local function pairs_of(list, option)
  local map = {}
  for _, word in ipairs(list or {}) do
    local key, value = word:match("^([^=]+)=(.*)$")
    if not key then
      return nil, ("--%s wants KEY=VALUE, got %s"):format(option, word)
    end
    map[key] = value
  end
  return next(map) and map or nil
end

local function decode_arguments(words)
  local values = { n = #words - 2 }
  for i = 3, #words do
    local value, rest = core.codec.json.unpack(words[i])
    if value == nil and errors.is_error(rest) then
      return nil, ("argument %d is not JSON: %s (%s)%s"):format(i - 2, words[i], rest.message,
        words[i]:find("^[%w_ ]*$") and (" – a string is written '\"" .. words[i] .. "\"'") or "")
    end
    if words[i]:find("%S", rest) then
      return nil, ("argument %d is more than one JSON value: %s"):format(i - 2, words[i])
    end
    values[i - 2] = value
  end
  return values
end

local function print_results(results)
  for i = 1, results.n do
    local line, err = core.codec.json.pack(results[i])
    if not line then
      cli.complain("result %d cannot be written as JSON: %s", i, tostring(err))
      return cli.FAILED
    end
    print(line)
  end
  return cli.OK
end

local function trust(options)
  local given = (options.pin and 1 or 0) + (options.ca and 1 or 0) + (options.insecure and 1 or 0)
  if given ~= 1 then
    return nil, given == 0 and "say how the server is trusted: --pin, --ca or --insecure"
      or "--pin, --ca and --insecure exclude each other"
  end
  local pins = options.pin
  return { pin = pins and (#pins == 1 and pins[1] or pins), ca = options.ca, skip_verification = options.insecure }
end

local function usage(problem)
  cli.complain("%s\nUsage: %s", problem, M.usage)
  return cli.USAGE
end

function M.run(options, words)
  local settings, problem = trust(options)
  local metadata, arguments
  if settings then
    settings.metadata, problem = pairs_of(options.credential, "credential")
    if not problem then
      metadata, problem = pairs_of(options.metadata, "metadata")
    end
    if not problem then
      arguments, problem = decode_arguments(words)
    end
  end
  if problem then
    return usage(problem)
  end

  local echo = require "echostream"
  settings.timeout = options.timeout
  -- What raises here is an address, a pin or a name that makes no sense.
  local made, client, err = pcall(echo.connect, words[1], settings)
  if not made then
    return usage((tostring(client):gsub("^[^:]*:%d+: ", "")))
  elseif not client then
    cli.complain("%s", tostring(err))
    return cli.NO_CONNECTION
  end
  local calls = client:with { timeout = options.timeout, metadata = metadata, idempotent = options.idempotent }
  local results = table.pack(pcall(calls.request, calls, words[2], table.unpack(arguments, 1, arguments.n)))
  local code
  if not results[1] then
    code = usage((tostring(results[2]):gsub("^[^:]*:%d+: ", "")))
  elseif results[2] == nil and errors.is_error(results[3]) then
    local failure = results[3]
    io.stderr:write(tostring(failure), "\n")
    local details = failure.details ~= nil and core.codec.json.pack(failure.details)
    if details then
      io.stderr:write("details: ", details, "\n")
    end
    code = cli.FAILED
  else
    code = print_results(table.pack(table.unpack(results, 2, results.n)))
  end
  client:close()
  return code
end

return M
