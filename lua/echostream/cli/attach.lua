--- `echostream attach`: a prompt inside a server that runs.

local cli = require "echostream.cli"
local connection = require "echostream.cli.connection"

local M = {}

M.usage = "echostream attach [NAME|PID|SOCKET|ADDR] [options]"
M.summary = "a Lua prompt inside a server that runs"
M.help = [[
Joins a server of this user on this machine, by its name, its process id or the path of its socket; without a word the only one
that runs. `server` is the server, `sessions[3]` the session 3: sessions[3]:request("method") calls into that client; .sessions lists
them, .tap 3 shows its calls, .kick 3 closes it. Everything else is Lua, run in the server: what waits there lets it go on, and what
computes for more than some seconds is interrupted. What print says there comes here; io.write goes where the server's output goes.

With ADDR (it has a colon) the server is reached over the network, if it has the plugin `attach` and knows the certificate that
--cert and --key show.

  --list prints the servers that can be attached to; with --json as {"servers":[{"name":…,"pid":…,"path":…}]}.

]] .. connection.help
M.options = connection.options {
  json = { help = "with --list: as JSON" },
  list = { help = "name, process id and socket of every server that can be attached to" },
  plain = { help = "no line editor and no colours, also on a terminal" },
}
M.options.metadata = nil
M.examples = {
  { "echostream attach", "a prompt in the only server that runs" },
  { "echostream attach --list", "which servers run" },
  { "echo 'server:stats().sessions' | echostream attach desk", "runs lines of Lua in the server desk.lua" },
  { "echostream attach 127.0.0.1:5000 --pin sha256:… --cert keys/cert.pem --key keys/key.pem", "over the network, for those whom it knows" },
}
M.exits = "0 left, 1 a line failed, 2 wrong usage, 3 no connection, 130 interrupted"
M.min, M.max = 0, 1

-- Waits for what a callback gives, on the main thread.
local function await(start)
  local loop = require "echostream.loop"
  local result
  start(function(...)
    result = table.pack(...)
  end)
  loop.pump(function()
    return result ~= nil
  end)
  return table.unpack(result, 1, result.n)
end

local function talk(front, connected)
  local remote = require("echostream.repl.remote").new(function(bytes)
    connected:send(bytes)
  end, front)
  connected.take = remote.take
  local code = front:run(remote)
  connected:close()
  return code
end

local function attach_here(word, options)
  local attach = require "echostream.attach"
  local path, problem = attach.find(word)
  if not path then
    return connection.failed(options, problem)
  end
  local socket = require "echostream.loop.socket"
  local connected, err = await(function(done)
    socket.connect({ path = path }, function(made, err)
      done(made, err)
      return made and function(bytes)
        if made.take then -- nothing comes before we said hello
          made.take(bytes)
        end
      end
    end)
  end)
  if not connected then
    cli.complain("%s: %s", path, tostring(err))
    return cli.NO_CONNECTION
  end
  return talk(require("echostream.repl.front").new(options.plain), connected)
end

local function attach_there(address, options)
  local settings, problem = connection.settings(options)
  if not settings then
    return cli.misused(M, problem)
  elseif not options.cert then
    return cli.misused(M, "a server lets in by certificate only: --cert and --key")
  end
  local echo = require "echostream"
  local made, client, err = connection.try(M, echo.connect, address, settings)
  if not made then
    return client
  elseif not client then
    return connection.failed(options, err, address)
  end
  local plugin = require "echostream.plugins.attach"
  local stream
  stream, err = client:create_stream(plugin.STREAM)
  if not stream then
    cli.complain("%s", tostring(err))
    return cli.FAILED
  end
  local front = require("echostream.repl.front").new(options.plain)
  local connected = plugin.connection(stream)
  echo.spawn(function()
    while true do
      local frame, failure = stream:recv()
      if not frame then
        if failure and not front.over then
          cli.complain("%s", tostring(failure))
          front:leave(cli.FAILED)
        end
        return connected.take(nil)
      end
      connected.take(frame.data)
    end
  end)
  local code = talk(front, connected)
  client:close()
  return code
end

local function print_list(options)
  local list, err = require("echostream.attach").list()
  if err then
    return connection.report(options, err)
  elseif options.json then
    local core = require "echostream.core"
    return connection.print_json { servers = core.array(list) } and cli.OK or cli.FAILED
  elseif not list[1] then
    cli.complain("no server of this user that can be attached to runs here")
    return cli.OK
  end
  local output = require "echostream.cli.output"
  local rows = { { "NAME", "PID", "SOCKET" } }
  for i, entry in ipairs(list) do
    rows[i + 1] = { output.line(entry.name), tostring(entry.pid), output.line(entry.path) }
  end
  for _, line in ipairs(output.columns(rows, { [2] = true })) do
    print(line)
  end
  return cli.OK
end

function M.run(options, words)
  if options.list and words[1] then
    return cli.misused(M, "--list lists them all")
  elseif options.list then
    return print_list(options)
  elseif options.json then
    return cli.misused(M, "--json goes with --list")
  elseif words[1] and words[1]:find(":", 1, true) and not words[1]:find("/", 1, true) then
    return attach_there(words[1], options)
  end
  return attach_here(words[1], options)
end

return M
