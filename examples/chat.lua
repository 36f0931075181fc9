-- A chat room: what one says, all hear.
--   lua5.4 examples/chat.lua serve [ADDR]           prints its address and pin
--   lua5.4 examples/chat.lua join ADDR PIN NAME     then type lines; an empty one or Ctrl-D leaves
local echo = require "echostream"
local uv = require "luv"

io.stdout:setvbuf "line"

local function serve(address)
  local server = echo.server { bind = address or "127.0.0.1:5000", quiet = true }

  -- Credentials travel with the connection; whoever brings no name is not let in.
  server:on_connect(function(session)
    local name = session.metadata.name
    if not name or name == "" then
      return nil, echo.error("unauthenticated", "say who you are")
    end
    session:set("name", name)
    server:broadcast("news", name .. " is here")
  end)

  server:on_disconnect(function(session)
    server:broadcast("news", session:get "name" .. " has left")
  end)

  server:add_event("say", function(session, text)
    server:broadcast("said", session:get "name", text)
  end)

  server:add_rpc("who", function()
    local names = {}
    for i, session in ipairs(server:sessions()) do
      names[i] = session:get "name"
    end
    return names
  end)

  assert(server:start())
  print("listening on " .. server.address)
  print("pin " .. server.pin)
  server:run()
end

-- Calls fn(line) for every line of standard input, in a task: luv callbacks themselves cannot wait.
local function on_line(fn)
  local input = uv.guess_handle(0) == "tty" and uv.new_tty(0, true) or uv.new_pipe(false)
  if uv.guess_handle(0) ~= "tty" then
    input:open(0)
  end
  local rest = ""
  input:read_start(function(err, data)
    local text = rest .. (data or "")
    if err or not data then
      text = text .. "\n\n" -- the end: an empty line
    end
    rest = text:match "[^\n]*$"
    for line in text:sub(1, #text - #rest):gmatch "([^\n]*)\n" do
      echo.spawn(fn, line)
    end
    if not data then
      input:read_stop()
    end
  end)
end

local function join(address, pin, name)
  local client = echo.client { pin = pin, metadata = { name = name } }
  client:add_event("said", function(_, who, text)
    print(who .. ": " .. text)
  end)
  client:add_event("news", function(_, text)
    print("* " .. text)
  end)
  client:on_disconnect(function(_, err)
    print("* " .. err.message)
    echo.stop()
  end)
  assert(client:connect(address))
  print("* in the room: " .. table.concat(assert(client:request "who"), ", "))
  on_line(function(line)
    if line == "" then
      client:close()
    else
      client:emit("say", line)
    end
  end)
  echo.run()
end

if arg[1] == "serve" then
  serve(arg[2])
elseif arg[1] == "join" and arg[4] then
  join(arg[2], arg[3], arg[4])
else
  io.stderr:write "usage: chat.lua serve [ADDR] | chat.lua join ADDR PIN NAME\n"
  os.exit(2)
end
