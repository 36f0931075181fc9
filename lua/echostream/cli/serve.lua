--- `echostream serve`: runs a file that sets up a server.

local cli = require "echostream.cli"

local M = {}

M.usage = "echostream serve [options] FILE [ARGUMENT]…"
M.summary = "run a server that a Lua file sets up"
M.help = [[
FILE is a Lua file. It is called with a server that was made for it, and with the ARGUMENTs:

  local server, greeting = ...
  server:add_rpc("hello", function(session, name) return (greeting or "hello") .. " " .. name end)

The server is then started, and runs until Ctrl-C or SIGTERM; both let the calls under way end. A file that wants options
of its own makes its own server and returns it; --bind and the other options must not be given then.]]
M.options = {
  bind = { value = "ADDR", help = "where to listen (default 127.0.0.1:5000; port 0 takes any)" },
  cert = { value = "FILE", help = "PEM certificate (chain); without it one is made and its pin printed" },
  key = { value = "FILE", help = "PEM private key of --cert" },
}
M.min, M.max = 1, math.huge
M.rest_after = 1 -- what follows FILE is the file's

local function traceback(raised)
  return type(raised) == "string" and debug.traceback(raised, 2) or raised
end

local function load_file(path)
  if path == "-" then
    return load(io.read("a"), "=stdin", "t")
  end
  return loadfile(path, "t")
end

function M.run(options, words)
  local path = words[1]
  if (options.cert == nil) ~= (options.key == nil) then
    cli.complain("--cert and --key go together\nUsage: %s", M.usage)
    return cli.USAGE
  end
  local chunk, problem = load_file(path)
  if not chunk then
    cli.complain("%s", problem)
    return cli.USAGE
  end
  local echo = require "echostream"
  local made, server = pcall(echo.server, {
    bind = options.bind or "127.0.0.1:5000",
    cert = options.cert,
    key = options.key,
    quiet = true, -- the lines below say it
  })
  if not made then
    cli.complain("%s", (tostring(server):gsub("^[^:]*:%d+: ", "")))
    return cli.USAGE
  end
  local ok, own = xpcall(chunk, traceback, server, table.unpack(words, 2))
  if not ok then
    cli.complain("%s: %s", path, tostring(own))
    return cli.FAILED
  end
  if own ~= nil and own ~= server then
    if type(own) ~= "table" or type(own.run) ~= "function" then
      cli.complain("%s: returns a %s; it may return a server, or nothing", path, type(own))
      return cli.FAILED
    elseif next(options) then
      cli.complain("%s: makes its own server, so --%s says nothing to it", path, (next(options)))
      return cli.USAGE
    end
    server = own
  end
  if server.state == "stopped" then -- the file ran it itself
    return cli.OK
  elseif server.state == "new" then
    local started, err = server:start()
    if not started then
      cli.complain("%s", tostring(err))
      return cli.FAILED
    end
  end
  -- Said by the running loop: who reads it may send a signal at once, and from here on that stops the server gracefully.
  echo.spawn(function()
    io.stdout:write(("listening on %s\npin %s\n"):format(server.address, server.pin))
    io.stdout:flush()
  end)
  local finished, err = server:run()
  if not finished and err then
    cli.complain("%s", tostring(err))
    return cli.FAILED
  end
  return cli.OK
end

return M
