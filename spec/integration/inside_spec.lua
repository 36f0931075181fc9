-- RELIABILITY L2: inside every kind of handler, middleware and hook, the objects it stands on may be closed, written to, called
-- again, collected and forgotten. The result is a defined one, and a fresh client is served afterwards.

local echo = require "echostream"
local net = require "spec.support.net"
local process = require "spec.support.process"

-- What user code may do where it stands: fn(it) with it.session, it.server, it.client, it.stream (where there is one).
local actions = {
  ["closes its session"] = function(it) it.session:close() end,
  ["closes its session twice, with a reason"] = function(it)
    it.session:close("enough")
    it.session:close("enough")
  end,
  ["closes its session at once"] = function(it) it.session._ud:close() end,
  ["closes its stream"] = function(it) if it.stream then it.stream:close() it.stream:close() end end,
  ["resets its stream"] = function(it) if it.stream then it.stream:reset(7) end end,
  ["closes the client"] = function(it) it.client:close() end,
  ["stops the server at once"] = function(it) it.server:stop { grace = 0 } end,
  ["stops the server gracefully"] = function(it) it.server:stop { grace = 0.05 } end,
  ["writes a megabyte"] = function(it)
    local megabyte = ("x"):rep(1 << 20)
    it.session:try_emit("sink", megabyte)
    if it.stream then it.stream:send(megabyte) end
    local stream = it.session:create_stream "sink"
    if stream then
      stream:send(megabyte)
      stream:finish()
    end
  end,
  ["collects everything"] = function(it)
    it.session = nil
    collectgarbage()
    collectgarbage()
  end,
  ["drops every reference"] = function(it)
    for key in pairs(it) do it[key] = nil end
    collectgarbage()
    echo.sleep(0.01)
    collectgarbage()
  end,
  ["waits, closes, and waits again"] = function(it)
    echo.sleep(0.005)
    it.session._ud:close()
    echo.sleep(0.005)
    it.session:emit("late", 1)
    it.session:request "late"
  end,
  ["runs the loop again"] = function()
    assert(not pcall(echo.run))
  end,
  ["calls itself"] = function(it)
    it.client:with { timeout = 0.2 }:request("act")
    it.client:emit("act")
    it.session:with { timeout = 0.2 }:request("act")
  end,
  ["takes every handler away"] = function(it)
    for _, kind in ipairs { "rpc", "event", "stream" } do
      for _, name in ipairs { "act", "sink" } do it.server["remove_" .. kind](it.server, name) end
    end
    collectgarbage()
  end,
  ["raises"] = function() error "inside 55" end,
  ["raises an error object"] = function() error(echo.error("aborted", "inside 56")) end,
  ["cancels itself"] = function() require "echostream.task".current():cancel() end,
}

-- Where: fn(env, act) makes a server and a client, gets act(it) called there, and gives server and client back.
local places = {}

-- A server that pings; `prepare(server, it)` before the start, `it` filled as far as known.
local function stage(env, prepare, client_prepare)
  local it = {}
  it.server = env.server(nil, function(server)
    server:add_rpc("ping", function() return "pong" end)
    server:add_event("sink", function() end)
    server:add_stream("sink", function(_, stream) for _ in stream:frames() do end end)
    it.server = server
    if prepare then prepare(server, it) end
  end)
  it.client = env.client(it.server)
  it.client:add_event("sink", function() end)
  it.client:add_stream("sink", function(_, stream) for _ in stream:frames() do end end)
  if client_prepare then client_prepare(it.client, it) end
  local server, client = it.server, it.client
  client:connect(server.address)
  return server, client, it
end

function places.rpc(env, act)
  local server, client = stage(env, function(server, it)
    server:add_rpc("act", function(session) it.session = session return act(it) end)
  end)
  return server, client, client:with { timeout = 5 }:request "act"
end

places["rpc of the client"] = function(env, act)
  local server, client = stage(env, function(server)
    server:on_connect(function(session)
      echo.spawn(function() session:with { timeout = 5 }:request "act" end)
    end)
  end, function(client, it)
    client:add_rpc("act", function(session) it.session = session return act(it) end)
  end)
  return server, client
end

function places.event(env, act)
  local server, client = stage(env, function(server, it)
    server:add_event("act", function(session) it.session = session return act(it) end)
  end)
  client:emit "act"
  client:emit "act"
  return server, client
end

function places.stream(env, act)
  local server, client = stage(env, function(server, it)
    server:add_stream("act", function(session, stream)
      it.session, it.stream = session, stream
      stream:recv()
      return act(it)
    end)
  end)
  local stream = client:create_stream "act"
  if stream then
    stream:send "begin"
    while stream:recv(5) do end
    stream:close()
  end
  return server, client
end

places["streaming method"] = function(env, act)
  local server, client = stage(env, function(server, it)
    server:add_rpc("act", function(session, stream)
      it.session, it.stream = session, stream
      return act(it)
    end, { stream = "both" })
  end)
  local stream = client:stream "act"
  if stream then
    stream:recv(5)
    stream:close()
  end
  return server, client
end

places["incoming middleware"] = function(env, act)
  local server, client = stage(env, function(server, it)
    server:add_rpc("act", function() return 1 end)
    server:middleware(function(call, next)
      if call.name == "ping" then return next(call) end
      it.session = call.session
      act(it)
      return next(call)
    end)
  end)
  return server, client, client:with { timeout = 5 }:request "act"
end

places["outgoing middleware"] = function(env, act)
  local server, client, it = stage(env, function(server)
    server:add_rpc("act", function() return 1 end)
  end)
  client:middleware(function(call, next)
    it.session = call.session
    act(it)
    return next(call)
  end, { direction = "out" })
  return server, client, client:with { timeout = 5 }:request "act"
end

for _, hook in ipairs { "on_connect", "on_disconnect" } do
  places[hook] = function(env, act)
    local server, client = stage(env, function(server, it)
      server[hook](server, function(session) it.session = session return act(it) end)
    end)
    client:with { timeout = 1 }:request "ping"
    if hook == "on_disconnect" then client:close() end
    return server, client
  end
end

places["on_connect of the client"] = function(env, act)
  return stage(env, nil, function(client, it)
    client:on_connect(function(session) it.session = session return act(it) end)
  end)
end

function places.auth(env, act)
  local server, client = stage(env, function(server, it)
    server:auth(function(session)
      it.session = session
      act(it)
      return true
    end)
  end)
  client:with { timeout = 1 }:request "ping"
  return server, client
end

function places.callback(env, act)
  local server, client, it = stage(env)
  it.session = client.session
  client:request("ping", function() return act(it) end):wait(5)
  return server, client
end

places["on_cancel"] = function(env, act)
  local server, client = stage(env, function(server, it)
    server:add_rpc("act", function(session)
      it.session = session
      echo.call():on_cancel(function() act(it) end)
      echo.sleep(5)
    end)
  end)
  client:with { timeout = 0.05 }:request "act"
  return server, client
end

places["on_change"] = function(env, act)
  local server, client, it = stage(env)
  it.session = client.session
  server.context:on_change("key", function() act(it) end)
  server.context:set("key", 1)
  echo.sleep(0.01)
  return server, client
end

places["an event's handler, while somebody waits for the event"] = function(env, act)
  local server, client = stage(env, function(server, it)
    server:add_event("act", function(session) it.session = session return act(it) end)
  end)
  env.eventually(function() return #server:sessions() == 1 end)
  local session = server:sessions()[1]
  local waiting = echo.spawn(session.wait_event, session, "act", 5)
  echo.sleep(0.005)
  client:emit "act"
  waiting:wait(5)
  return server, client
end

places["plugin's install"] = function(env, act)
  local server, client, it = stage(env)
  it.session = client.session
  pcall(server.plugin, server, { name = "p", install = function() act(it) end })
  return server, client
end

net.each(function(env)
  for where, place in pairs(places) do
    describe("inside " .. where .. ", user code that", function()
      for what, action in pairs(actions) do
        -- Virtual time is cheap: there everything is tried; over sockets what closes something.
        local declare = (env.kind == "sim" or what:find "^closes" or what:find "^stops") and env.it or function() end
        declare(what .. " does no harm", function()
          local ran, ended = 0, 0
          local function act(it)
            if ran > 1 then return end
            ran = ran + 1
            local _ <close> = setmetatable({}, { __close = function() ended = ended + 1 end })
            return action(it)
          end
          -- In a task of its own: some of these places are in the task that calls.
          local _, _, value, err = echo.spawn(place, env, act):wait(10)
          assert.is_true(value == nil or err == nil or echo.is_error(err))
          local server = env.opened[1]
          env.eventually(function() return ran > 0 and ended == ran end, "the end of what was run")
          echo.sleep(0.02)
          collectgarbage()
          if server.state == "running" then
            server:auth(nil)
            server._hooks.connect = {}
            assert.equal("pong", (env.connect(server):request "ping"))
          end
        end)
      end
    end)
  end
end)

describe("os.exit inside", function()
  local script = [[
    local echo = require "echostream"
    local where = %q
    local server = echo.server { quiet = true, state_dir = %q }
    local function leave() os.exit(7, %s) end
    server:add_rpc("act", function() if where == "rpc" then leave() end return 1 end)
    server:add_event("act", function() if where == "event" then leave() end end)
    server:add_stream("act", function() if where == "stream" then leave() end end)
    if where == "middleware" then server:middleware(leave) end
    if where == "hook" then server:on_connect(leave) end
    if where == "auth" then server:auth(leave) end
    if where == "log" then echo.set_log(leave) end
    assert(server:start())
    local client = assert(echo.connect(server.address, { pin = server.pin }))
    client:emit "act"
    if where == "log" then client:emit "nobody" end
    client:create_stream "act"
    client:request("act", function() if where == "callback" then leave() end end)
    client:request "act"
    echo.sleep(5)
  ]]
  for _, where in ipairs { "rpc", "event", "stream", "middleware", "hook", "auth", "callback", "log" } do
    for _, close in ipairs { "false", "true" } do
      it(("a %s ends the process with its code (state closed: %s)"):format(where, close), function()
        local dir = process.directory()
        process.write(dir .. "/exit.lua", script:format(where, net.state_dir(), close))
        local result = process.run(".ci/env lua5.4 " .. dir .. "/exit.lua", { seconds = 30 })
        process.remove(dir)
        assert.equal(7, result.code, result.err)
        assert.not_matches("Sanitizer", result.err)
      end)
    end
  end
end)
