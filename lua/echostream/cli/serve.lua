--- `echostream serve`: runs a file that sets up a server.

local cli = require "echostream.cli"

local M = {}

M.usage = "echostream serve [options] FILE [ARGUMENT]…"
M.summary = "run a server that a Lua file sets up"
M.help = [[
FILE is a Lua file. It is called with a server that was made for it, and with the ARGUMENTs:

  local server, greeting = ...
  server:add_rpc("hello", function(session, name) return (greeting or "hello") .. " " .. name end)

Options go before FILE: what follows it is the file's. The server is then started, and runs until Ctrl-C or SIGTERM; both let
the calls under way end. A file that wants options of its own makes its own server and returns it; --bind and the other options
must not be given then.

With --watch the file is run again whenever it, or a module of its directory that it requires, has changed; on SIGHUP in any
case (but one that comes because the terminal was closed stops the server). New calls get the new code, calls under way end
with theirs; a file that fails changes nothing, and the log says why. So it does when a file is gone, and when it is back.]]
M.options = {
  bind = { value = "ADDR", help = "where to listen (default 127.0.0.1:5000; port 0 takes any)" },
  tcp = { help = "sessions are accepted over TCP too, at the same address: for clients whose network blocks UDP" },
  cert = { value = "FILE", help = "PEM certificate (chain); without it one is made and its pin printed" },
  watch = { help = "load the file again when it, or a module beside it, changes" },
  key = { value = "FILE", help = "PEM private key of --cert" },
  http = { help = "methods and events can be called over HTTP/3 too: POST /rpc/NAME, POST /event/NAME" },
  dashboard = { value = "ADDR", help = "where browsers on this machine find a page with what it is doing, such as 127.0.0.1:9465" },
  webtransport = { value = "ORIGINS", help = "pages of these origins may open sessions: http://localhost:8080,…; * for all" },
  ["no-attach"] = { help = "no socket for `echostream attach`, which only this user can use" },
}
M.examples = {
  { "echostream serve --bind 127.0.0.1:5000 desk.lua", "a server for this machine, with a certificate of its own" },
  { "echostream serve --bind 127.0.0.1:5000 --watch desk.lua 9 to 5", "loads the file again when it changes; it gets 9, to and 5" },
  { "echostream serve --bind 127.0.0.1:5000 --http desk.lua", "curl --http3-only -k -d '[1]' https://127.0.0.1:5000/rpc/NAME calls its methods" },
  { "echostream serve --bind 127.0.0.1:5000 --cert keys/cert.pem --key keys/key.pem desk.lua", "with the files of `echostream cert`" },
}
M.exits = "0 it was told to end and did, 1 it failed, 2 wrong usage, or FILE is no Lua"
M.min, M.max = 1, math.huge
M.rest_after = 1 -- what follows FILE is the file's

-- The server's option for --webtransport.
local function sessions_of_pages(text)
  if not text then
    return nil
  end
  local origins = {}
  for origin in text:gmatch "[^,%s]+" do
    origins[#origins + 1] = origin
  end
  return { origins = origins }
end

local function read_file(path)
  if path == "-" then
    local text = io.read("a")
    return text, select(2, load(text, "=stdin", "t"))
  end
  return nil, select(2, loadfile(path, "t"))
end

local function has_terminal()
  local terminal = io.open("/dev/tty")
  return terminal ~= nil and terminal:close()
end

-- Loads the file again when it, or a module of its directory, changed (--watch), and on SIGHUP. What came of it is in the log.
local function reload_by_itself(server, watching)
  local echo = require "echostream"
  local unit = server._unit
  local watcher
  local wanted, running = false, false
  local function reload()
    wanted = true
    if running then
      return
    end
    running = true
    local task = echo.spawn(function()
      while wanted do
        wanted = false
        server:reload()
        if watcher then
          watcher:update(unit:files())
        end
      end
    end)
    task:on_end(function() -- however it ends: a file may do anything to the task that runs it
      running = false
      if wanted then
        reload()
      end
    end)
  end
  if watching then
    watcher = require("echostream.loop.watch").files(unit:files(), reload, function(path, back)
      require("echostream.log").write(back and "info" or "warn", (back and "%s is back" or "%s is gone; what was loaded from it stays"):format(
        path:match "[^/]+$" or path))
    end)
  end
  local before = has_terminal()
  require("echostream.loop.signal").on("sighup", function()
    if before and not has_terminal() then -- its window was closed
      echo.spawn(server.stop, server)
    else
      reload()
    end
  end)
end

-- "serve app.lua --watch" means something else than who wrote it thinks; it may also be meant.
local function note_about_options(words)
  for i = 2, #words do
    local name = words[i]:match "^%-%-([%w-]+)"
    if name and M.options[name] then
      cli.complain("note: --%s stands after the file, so it is an argument of the file; options of serve go before it", name)
    end
  end
end

-- A prompt inside the server, for this user only: `echostream attach`.
local function attach_point(path, server)
  local name = path:match("([^/]*)$"):gsub("%.lua$", "")
  local point, problem = require("echostream.attach").open { name = name == "-" and "stdin" or name, server = server }
  if not point then
    cli.complain("nobody can attach: %s", problem.message)
  end
  return point
end

-- What the options ask of a server that the file did not do itself. The dashboard's address, when it has one.
local function open_doors(options, server)
  if options.http and not server._door then
    server:rpc_over_http()
  end
  if options.dashboard then
    local ok, dashboard, err = pcall(server.dashboard, server, { bind = options.dashboard })
    if not ok then
      return nil, (tostring(dashboard):gsub("^[^:]*:%d+: ", ""))
    end
    if not dashboard then
      return nil, err
    end
    return dashboard.url
  end
end

function M.run(options, words)
  local path = words[1]
  if (options.cert == nil) ~= (options.key == nil) then
    cli.complain("--cert and --key go together\nUsage: %s", M.usage)
    return cli.USAGE
  end
  local text, problem = read_file(path)
  if problem then
    cli.complain("%s", problem)
    return cli.USAGE
  elseif text and options.watch then
    cli.complain("--watch wants a file, and standard input is none")
    return cli.USAGE
  end
  note_about_options(words)
  local echo = require "echostream"
  local made, server = pcall(echo.server, {
    bind = options.bind or "127.0.0.1:5000",
    tcp = options.tcp,
    cert = options.cert,
    key = options.key,
    webtransport = sessions_of_pages(options.webtransport),
    quiet = true, -- the lines below say it
  })
  if not made then
    cli.complain("%s", (tostring(server):gsub("^[^:]*:%d+: ", "")))
    return cli.USAGE
  end
  local watching, attachable = options.watch, not options["no-attach"]
  options.watch, options["no-attach"] = nil, nil -- what is left is the server's
  local point
  local set_up, failure = require("echostream.reload").open(path, { server = server, arguments = table.pack(table.unpack(words, 2)), text = text,
    loaded = function(loaded)
      point = attachable and attach_point(path, loaded)
      if not text then
        reload_by_itself(loaded, watching)
      end
    end })
  if not set_up then
    cli.complain("%s%s", failure.message, failure.traceback and "\n" .. failure.traceback or "")
    return cli.FAILED
  elseif set_up ~= server and next(options) then
    cli.complain("%s: makes its own server, so --%s says nothing to it", path, (next(options)))
    return cli.USAGE
  end
  server = set_up
  local url
  if server.state == "stopped" then -- the file ran it itself
    return cli.OK
  elseif server.state == "new" then
    local err
    url, err = open_doors(options, server)
    if err then
      cli.complain("%s", tostring(err))
      return cli.FAILED
    end
    local started
    started, err = server:start()
    if not started then
      cli.complain("%s", tostring(err))
      return cli.FAILED
    end
  end
  -- Said by the running loop: who reads it may send a signal at once, and from here on that stops the server gracefully.
  echo.spawn(function()
    io.stdout:write(("listening on %s\npin %s\n%s"):format(server.address, server.pin, url and ("dashboard %s\n"):format(url) or ""))
    io.stdout:flush()
  end)
  local finished, err = server:run()
  if point then
    point.close()
  end
  if not finished and err then
    cli.complain("%s", tostring(err))
    return cli.FAILED
  end
  return cli.OK
end

return M
