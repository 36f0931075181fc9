--- What the commands that talk to a server have in common: their options, how they connect, and how they say what failed.

local cli = require "echostream.cli"
local core = require "echostream.core"
local errors = require "echostream.errors"
local pretty = require "echostream.pretty"

local M = {}

---@type table<string, echostream.cli.option>
M.fields = {
  pin = { value = "PIN", help = "sha256:… of the server's public key; several times for several", many = true },
  ca = { value = "FILE", help = "PEM file of the CAs to trust, or the word system" },
  cert = { value = "FILE", help = "PEM certificate (chain) that this side shows, for servers that ask for one" },
  key = { value = "FILE", help = "PEM private key of --cert" },
  ["server-name"] = { value = "NAME", help = "the name to ask for and to expect in the certificate, instead of ADDR's" },
  insecure = { help = "verify nothing: anybody may be the server" },
  timeout = { value = "SECONDS", help = "for the connection, and then for each call (default 30)", number = true },
  metadata = { value = "KEY=VALUE", help = "sent with each call; several times for several", many = true },
  credential = { value = "KEY=VALUE", help = "sent when connecting, for the server's on_connect", many = true },
  over = { value = "CARRIER", help = "quic (the default); tcp; auto: quic, and tcp where it does not get through" },
  json = { help = "write what comes out as JSON, and errors as {\"error\":{…}}" },
}

--- What every help says about them.
M.help = [[
How the server is trusted must be said: by its pin, by a file of CA certificates (the name or the number in ADDR must be
in the server's), by the CAs of this system (--ca system), or not at all.]]

--- A command's own options with those of connections.
---@param own? table<string, echostream.cli.option>
---@return table<string, echostream.cli.option>
function M.options(own)
  local all = {}
  for name, option in pairs(M.fields) do
    all[name] = option
  end
  for name, option in pairs(own or {}) do
    all[name] = option
  end
  return all
end

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

-- Values of JSON one after another, as standard input has them.
local function decode_all(text, values)
  local from = 1
  while text:find("%S", from) do
    local value, after = core.codec.json.unpack(text, from)
    if value == nil and errors.is_error(after) then
      return nil, ("standard input is not JSON: %s"):format(after.message)
    end
    values.n = values.n + 1
    values[values.n] = value
    from = after
  end
  return true
end

--- The arguments of a call: each word is one JSON value, and `-` stands for all that standard input has.
---@param words string[]
---@param first integer
---@return table? values  with `n`
---@return string? problem
function M.decode(words, first)
  local values, read = { n = 0 }, false
  for i = first, #words do
    local word = words[i]
    if word == "-" then
      if read then
        return nil, "- stands twice for standard input"
      end
      read = true
      local ok, problem = decode_all(io.read "a" or "", values)
      if not ok then
        return nil, problem
      end
    else
      local value, after = core.codec.json.unpack(word)
      if value == nil and errors.is_error(after) then
        return nil, ("argument %d is not JSON: %s (%s)%s"):format(i - first + 1, word, after.message,
          word:find("^[%w_ ]*$") and (" – a string is written '\"" .. word .. "\"'") or "")
      elseif word:find("%S", after) then
        return nil, ("argument %d is more than one JSON value: %s"):format(i - first + 1, word)
      end
      values.n = values.n + 1
      values[values.n] = value
    end
  end
  return values
end

--- Runs a function of ours that raises when the words on the command line make no sense (an address, a pin, a name).
---@param cmd echostream.cli.command
---@param fn function
---@return boolean made
---@return any ...  its results; false: the exit code
function M.try(cmd, fn, ...)
  local results = table.pack(pcall(fn, ...))
  if results[1] then
    return table.unpack(results, 1, results.n)
  elseif cli.is_interrupt(results[2]) then
    error(results[2], 0)
  end
  return false, cli.misused(cmd, (tostring(results[2]):gsub("^[^:%s]*:%d+: ", "")))
end

local carriers = { quic = true, tcp = true, auto = true }

--- Options of `echo.connect` from those of the command line; or nil and what is wrong with them.
---@param given table
---@return table? settings, string? problem
function M.settings(given)
  local n = (given.pin and 1 or 0) + (given.ca and 1 or 0) + (given.insecure and 1 or 0)
  if n ~= 1 then
    return nil, n == 0 and "say how the server is trusted: --pin, --ca or --insecure"
      or "--pin, --ca and --insecure exclude each other"
  elseif (given.cert == nil) ~= (given.key == nil) then
    return nil, "--cert and --key go together"
  elseif given.over and not carriers[given.over] then
    return nil, ("--over wants quic, tcp or auto, got %s"):format(given.over)
  end
  for _, option in ipairs { "ca", "cert", "key" } do
    if given[option] and not (option == "ca" and given.ca == "system") then
      local file, problem = io.open(given[option], "r")
      if not file then
        return nil, ("--%s: %s"):format(option, problem)
      end
      file:close()
    end
  end
  local credentials, problem = pairs_of(given.credential, "credential")
  if problem then
    return nil, problem
  end
  local pins = given.pin
  return {
    pin = pins and (#pins == 1 and pins[1] or pins),
    ca = given.ca,
    cert = given.cert,
    key = given.key,
    server_name = given["server-name"],
    skip_verification = given.insecure,
    timeout = given.timeout,
    metadata = credentials,
    transport = given.over,
  }
end

local function as_escape(character)
  return ("\\u%04x"):format(utf8.codepoint(character))
end

-- What JSON leaves as it is and a terminal obeys: the controls U+0080 to U+009F, and what turns the direction of writing. It means
-- the same when it is escaped.
local function escape(line)
  if line:find "[\xc2\xd8\xe2]" then
    line = line:gsub("\xc2[\x80-\x9f]", as_escape):gsub("\xd8\x9c", as_escape):gsub("\xe2\x80[\x8e\x8f\xa8-\xae]", as_escape)
      :gsub("\xe2\x81[\xa6-\xa9]", as_escape)
  end
  return line
end

--- Writes one value as a line of JSON.
---@param value any
---@return boolean written
function M.print_json(value)
  local line, err = core.codec.json.pack(value)
  if not line then
    cli.complain("the result cannot be written as JSON: %s", tostring(err))
    return false
  end
  io.stdout:write(escape(line), "\n")
  return true
end

-- An error object as JSON has it.
local function plain(err)
  local out = { code = err.code, message = err.message, processed = err.processed, retry_after = err.retry_after }
  if err.details ~= nil and core.codec.json.pack(err.details) then
    out.details = err.details
  end
  return out
end

--- Says that something failed: on standard error as `code: message`, or with --json on standard output.
---@param given table  the options of the command line
---@param err echostream.error
---@return integer exit code 1
function M.report(given, err)
  if given.json then
    M.print_json { error = plain(err) }
    return cli.FAILED
  end
  io.stderr:write(pretty.safe(tostring(err), true), "\n")
  local details = err.details ~= nil and core.codec.json.pack(err.details)
  if details then
    io.stderr:write("details: ", pretty.safe(details), "\n")
  end
  return cli.FAILED
end

--- Says that there is no such method, and which was meant where the server tells what it has.
---@param given table
---@param calls echostream.calls
---@param name string
---@param err echostream.error
---@return integer exit code 1
function M.no_method(given, calls, name, err)
  return M.report(given, require("echostream.handlers.services").with_hint(calls, name, err))
end

--- Says what stood in the way of a connection.
---@param given table
---@param err echostream.error
---@param address? string  of the server: where nothing came back, `echostream doctor` knows more
---@return integer exit code 3
function M.failed(given, err, address)
  if given.json then
    M.print_json { error = plain(err) }
  else
    cli.complain("%s%s", pretty.safe(tostring(err), true), address and err.code == "timeout"
      and ("; `echostream doctor %s` finds out why"):format(address) or "")
  end
  return cli.NO_CONNECTION
end

--- Connects as `M.run` does, for commands that want more than one connection; the caller closes it.
---@param given table
---@param address string
---@return echostream.client|nil client, integer? code  what to exit with
function M.another(given, address)
  local client, err = require "echostream".connect(address, M.settings(given))
  if not client then
    return nil, M.failed(given, err, address)
  end
  return client
end

--- Connects, runs `body(client, calls)` and closes. `calls` has the time-out and the metadata of the command line, and what
--- `own` adds. What `body` returns is the exit code.
---@param cmd echostream.cli.command
---@param given table      the options of the command line
---@param address string
---@param own? table       options of calls
---@param body fun(client: echostream.client, calls: echostream.calls, call_options: table): integer
---@return integer exit code
function M.run(cmd, given, address, own, body)
  local settings, problem = M.settings(given)
  local call_options = { timeout = given.timeout }
  if settings then
    call_options.metadata, problem = pairs_of(given.metadata, "metadata")
  end
  if problem then
    return cli.misused(cmd, problem)
  end
  for name, value in pairs(own or {}) do
    call_options[name] = value
  end
  local echo = require "echostream"
  local made, client, err = M.try(cmd, echo.connect, address, settings)
  if not made then
    return client
  elseif not client then
    return M.failed(given, err, address)
  end
  local ok, code = xpcall(body, cli.traceback, client, client:with(call_options), call_options)
  client:close()
  if not ok then
    error(code, 0)
  end
  return code
end

return M
