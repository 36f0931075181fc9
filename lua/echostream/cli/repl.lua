--- `echostream repl`: a prompt in which the loop runs.

local cli = require "echostream.cli"
local connection = require "echostream.cli.connection"

local M = {}

M.usage = "echostream repl [ADDR|FILE] [options]"
M.summary = "a Lua prompt in which servers answer and events arrive while you type"
M.help = [[
A Lua prompt with echostream loaded as `echo`. Everything lives on while you type: servers answer, and what their handlers print
appears above the line that you are typing. Expressions are printed; Tab completes, also the names of the other side's methods;
Ctrl-C cancels what runs; .help lists the commands; Ctrl-D leaves.

With ADDR, `client` is connected to it (say how it is trusted). With FILE, the file is called as `echostream serve` does it,
and `server` runs (server:reload() takes the file again); --bind, --cert and --key are the server's then.

When standard input is no terminal its lines are run one after another, without a prompt.

]] .. connection.help
M.options = connection.options {
  bind = { value = "ADDR", help = "with FILE: where the server listens (default 127.0.0.1:5000; port 0 takes any)" },
  plain = { help = "no line editor and no colours, also on a terminal" },
}
M.options.json, M.options.metadata = nil, nil
M.exits = "0 left, 1 a line failed, 2 wrong usage, 3 no connection, 130 interrupted"
M.examples = {
  { "echostream repl", "a prompt with echostream as `echo`" },
  { "echostream repl 127.0.0.1:5000 --pin sha256:…", "`client` is connected" },
  { "echostream repl --bind 127.0.0.1:5000 desk.lua", "`server` runs while one types" },
  { "echo 'client:request(\"desk.add\", 1, 2)' | echostream repl 127.0.0.1:5000 --insecure", "runs lines of Lua: prints 3" },
}
M.min, M.max = 0, 1

local function is_file(word)
  local file = io.open(word, "r")
  if file then
    local readable = file:read(0) ~= nil or file:seek("end") == 0
    file:close()
    return readable
  end
  return word:find("%.lua$") ~= nil
end

local function serve(path, options)
  local problem = select(2, loadfile(path, "t"))
  if problem then
    cli.complain("%s", problem)
    return nil, cli.USAGE
  end
  local echo = require "echostream"
  local made, server = pcall(echo.server, { bind = options.bind or "127.0.0.1:5000", cert = options.cert, key = options.key, quiet = true })
  if not made then
    return nil, cli.misused(M, (tostring(server):gsub("^[^:%s]*:%d+: ", "")))
  end
  local failure
  server, failure = require("echostream.reload").open(path, { server = server, arguments = { n = 0 } })
  if not server then
    cli.complain("%s%s", failure.message, failure.traceback and "\n" .. failure.traceback or "")
    return nil, cli.FAILED
  elseif server.state == "new" then
    local started, err = server:start()
    if not started then
      cli.complain("%s", tostring(err))
      return nil, cli.FAILED
    end
  end
  return server
end

local function connect(addr, options)
  local settings, problem = connection.settings(options)
  if not settings then
    return nil, cli.misused(M, problem)
  end
  local echo = require "echostream"
  local made, client, err = connection.try(M, echo.connect, addr, settings)
  if not made then
    return nil, client
  elseif not client then
    return nil, connection.failed(options, err, addr)
  end
  return client
end

-- An option that would say nothing to what was asked for.
local function idle_option(options, word, file)
  if options.bind and not file then
    return "--bind goes with FILE"
  end
  for _, name in ipairs { "pin", "ca", "insecure", "timeout", "credential" } do
    if options[name] and (file or not word) then
      return ("--%s goes with ADDR"):format(name)
    end
  end
  for _, name in ipairs { "cert", "key" } do
    if options[name] and not word then
      return ("--%s goes with ADDR or FILE"):format(name)
    end
  end
end

-- What the first line says.
local function greet(front, engine, server, client)
  if not front.interactive then
    return
  end
  local echo = require "echostream"
  local what = server and (" server on %s, pin %s"):format(server.address, server.pin)
    or client and (" client of %s"):format(client.session.peer_addr) or ""
  engine:write(engine:paint(("echostream %s, %s.%s (.help says more)"):format(echo.version, _VERSION, what), "dim") .. "\n")
end

function M.run(options, words)
  local echo = require "echostream"
  local server, client, code
  local file = words[1] ~= nil and is_file(words[1])
  local idle = idle_option(options, words[1], file)
  if idle then
    return cli.misused(M, idle)
  elseif file then
    server, code = serve(words[1], options)
  elseif words[1] then
    client, code = connect(words[1], options)
  end
  if code then
    return code
  end
  local front = require("echostream.repl.front").new(options.plain)
  local engine = require("echostream.repl").new {
    write = function(text)
      front:write(text)
    end,
    ready = function(prompt)
      front:ready(prompt)
    end,
    leave = function()
      front:leave(0)
    end,
    colour = front.colour,
    width = function()
      return front:columns()
    end,
    busy = front.interactive and function()
      return front:interrupt_typed()
    end or nil,
  }
  _G.echo, _G.server, _G.client = echo, server, client -- luacheck: ignore 111
  echo.set_log(function(record)
    if record.message:find("^the task held the loop") or record.message:find("^the task at %S*echostream/repl%.lua:") then
      return -- what is typed may compute: whoever typed it knows
    end
    local text = (record.level .. ": " .. record.message .. (record.traceback and "\n" .. record.traceback or ""))
    if front.interactive then
      engine:write(engine:paint(require("echostream.pretty").safe(text, true), "dim") .. "\n")
    else
      io.stderr:write("echostream: ", require("echostream.pretty").safe(text, true), "\n")
    end
  end)
  if client and front.interactive then
    client:on_disconnect(function(_, err)
      if not front.over then
        engine:write(engine:paint("disconnected: " .. require("echostream.pretty").safe(err.message), "dim") .. "\n")
      end
    end)
  end
  greet(front, engine, server, client)
  code = front:run(engine)
  engine:close()
  echo.set_log()
  for _, host in ipairs(require("echostream.metrics").hosts()) do
    if host.connect then
      host:close()
    elseif host.state == "running" then
      host:stop { grace = 1 }
    end
  end
  return code
end

return M
