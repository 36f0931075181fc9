-- RELIABILITY L1: an error of every kind, in every kind of callback. That callback's business fails, with an error object where
-- somebody waits for it; nothing else notices, the process lives, and the log says what happened.

local echo = require "echostream"
local net = require "spec.support.net"

local bad_tostring = setmetatable({}, { __tostring = function() error "worse" end })
local odd_tostring = setmetatable({}, { __tostring = function() return {} end })
local named_badly = setmetatable({}, { __name = 7, __tostring = false })
local endless = setmetatable({}, {})
getmetatable(endless).__index = function(t, k) return t[k .. "x"] end

local failures = {
  { "a string", function() error "SECRET text" end },
  { "nil", function() error() end },
  { "a table", function() error { "SECRET" } end },
  { "a number", function() error(7) end },
  { "an object whose __tostring fails", function() error(bad_tostring) end },
  { "an object whose __tostring gives no string", function() error(odd_tostring) end },
  { "an object with a strange metatable", function() error(named_badly) end },
  { "an index of nil", function() return (nil).x end },
  { "a stack overflow", function()
    local wide = table.pack(("x"):rep(200):byte(1, -1)) -- wide frames: fewer of them are as good
    local function deep(...) return 1 + deep(...) end
    return deep(table.unpack(wide))
  end },
  { "a stack overflow in a metamethod", function() return endless.x end },
  { "a C stack overflow", function() local function deep(s) return (s:gsub(".", deep)) end return deep "x" end },
  { "a yield", function() coroutine.yield "SECRET" end },
  { "a yield across C", function() return (("x"):gsub("x", function() echo.sleep(0) end)) end },
  { "too little memory", function() return ("x"):rep(1 << 40) end },
  { "an error object", function() error(echo.error("out_of_cheese", "none left")) end },
  { "a <close> that fails", function() local _ <close> = setmetatable({}, { __close = function() error "closing" end }) end },
  { "a <close> that fails after a failure", function()
    local _ <close> = setmetatable({}, { __close = function() error(bad_tostring) end })
    error "first"
  end },
}

-- Each kind: what arms it with a failing function and sets it off, with a server and a client that work. What it returns is
-- judged: nil and an error object, or nothing to judge. `silent`: nobody promises a log record (an error object is an answer).
local kinds = {}
local undo -- takes away what a case has left installed; it may have been ended in the middle

function kinds.rpc(_, server, client, fail)
  server:add_rpc("k", fail)
  return client:request "k"
end

function kinds.event(_, server, client, fail)
  server:add_event("k", fail)
  assert(client:emit "k")
end

function kinds.once(_, server, client, fail)
  server:once("k", fail)
  assert(client:emit "k")
end

function kinds.stream(_, server, client, fail)
  server:add_stream("k", fail)
  local stream = assert(client:create_stream "k")
  stream:send "x"
  local frame, err = stream:recv(5)
  stream:close()
  return frame, err
end

function kinds.streaming_rpc(_, server, client, fail)
  server:add_rpc("k", function(_, stream)
    stream:send(1)
    return fail()
  end, { stream = "both" })
  local stream = assert(client:stream "k")
  return stream:result(5)
end

function kinds.request_callback(env, _, client, fail)
  local done
  client:request("honest", function() done = true return fail() end)
  env.eventually(function() return done end)
end

function kinds.emit_callback(env, _, client, fail)
  local done
  client:emit("nobody", function() done = true return fail() end)
  env.eventually(function() return done end)
end

function kinds.connect_callback(env, server, _, fail)
  local done
  env.client(server):connect(server.address, function() done = true return fail() end)
  env.eventually(function() return done end)
end

function kinds.recv_callback(env, server, client, fail)
  local done
  server:add_stream("k", function(_, stream) stream:send "x" end)
  local stream = assert(client:create_stream "k")
  stream:recv(function() done = true return fail() end)
  env.eventually(function() return done end)
  stream:close()
end

function kinds.task(_, _, _, fail)
  return echo.spawn(fail):wait(5)
end

function kinds.wrapped_generator(_, server, client, fail)
  server:add_rpc("k", function() return echo.wrap(fail)() end)
  return client:request "k"
end

function kinds.await_start(_, _, _, fail)
  return echo.spawn(function() return echo.await(fail, 1) end):wait(5)
end

function kinds.on_connect(env, server, _, fail)
  server:on_connect(function(session) if session.metadata.kind == "victim" then return fail() end end)
  local victim = env.client(server, { metadata = { kind = "victim" } })
  local ok, err = victim:connect(server.address)
  if ok then return victim:request "honest" end
  return ok, err
end

function kinds.auth(env, server, _, fail)
  server:auth(function(session) return session.metadata.kind ~= "victim" and "somebody" or fail() end)
  local victim = env.client(server, { metadata = { kind = "victim" } })
  local ok, err = victim:connect(server.address)
  if ok then ok, err = victim:request "honest" end
  server:auth(nil)
  return ok, err
end

local current = {} -- hooks stay, and the first that fails is the last to run: each server gets one, which asks here

function kinds.on_disconnect(env, server, _, fail)
  local ran
  if not current[server] then server:on_disconnect(function() return current[server]() end) end
  current[server] = function() ran = true return fail() end
  local victim = env.connect(server)
  victim:request "honest"
  victim:close()
  env.eventually(function() return ran end)
end

function kinds.client_on_connect(env, server, _, fail)
  local victim = env.client(server)
  victim:on_connect(fail)
  return victim:connect(server.address)
end

function kinds.client_on_start(env, server, _, fail)
  local victim = env.client(server)
  victim:on_start(fail)
  return victim:connect(server.address)
end

function kinds.server_on_start(env, server, _, fail)
  local other = echo.server { bind = env.kind == "quic" and "127.0.0.1:0" or "10.0.0.77:7", quiet = true,
    state_dir = env.kind == "quic" and net.state_dir() or nil }
  other:on_start(fail)
  function undo() other:stop { grace = 0 } end
  local ok, err = other:start()
  assert.equal("running", server.state)
  return ok, err
end

function kinds.server_on_stop(env, _, _, fail)
  local other = env.server { bind = env.kind == "quic" and "127.0.0.1:0" or "10.0.0.77:7" }
  other:on_stop(fail)
  other:stop { grace = 0 }
  assert.equal("stopped", other.state)
end

function kinds.on_cancel(env, server, client, fail)
  local begun, ran
  server:add_rpc("k", function()
    echo.call():on_cancel(function() ran = true return fail() end)
    begun = true
    echo.sleep(100)
  end)
  local task = echo.spawn(client.request, client, "k")
  env.eventually(function() return begun end)
  task:cancel()
  env.eventually(function() return ran end)
end

local function with_middleware(host, given, options, fn)
  host:middleware(given, options)
  function undo() host:remove_middleware(given) end
  return fn()
end

function kinds.middleware_in(_, server, client, fail)
  return with_middleware(server, function() return fail() end, { direction = "in" }, function() return client:request "honest" end)
end

function kinds.middleware_in_afterwards(_, server, client, fail)
  return with_middleware(server, function(call, next) next(call) return fail() end, { direction = "in" },
    function() return client:request "honest" end)
end

function kinds.middleware_out(_, _, client, fail)
  return with_middleware(client, function() return fail() end, { direction = "out" }, function() return client:request "honest" end)
end

function kinds.middleware_of_events(env, server, client, fail)
  local ran
  server:add_event("k", function() end)
  with_middleware(server, function() ran = true return fail() end, { direction = "in" }, function()
    client:emit "k"
    env.eventually(function() return ran end)
  end)
end

function kinds.middleware_of_streams(_, server, client, fail)
  server:add_stream("k", function(_, stream) stream:recv() end)
  return with_middleware(server, function() return fail() end, { direction = "in" }, function()
    local stream, err = client:create_stream "k"
    if not stream then return nil, err end
    stream:send "x"
    local frame
    frame, err = stream:recv(5)
    stream:close()
    return frame, err
  end)
end

function kinds.middleware_process_request(_, server, client, fail)
  return with_middleware(server, { process_request = function() return fail() end }, { direction = "in" },
    function() return client:request "honest" end)
end

function kinds.middleware_process_response(_, server, client, fail)
  return with_middleware(server, { process_response = function() return fail() end }, { direction = "in" },
    function() return client:request "honest" end)
end

function kinds.client_streaming_rpc(_, server, client, fail)
  server:add_rpc("k", function(_, stream)
    stream:recv()
    return fail()
  end, { stream = "in" })
  local stream = assert(client:stream "k")
  stream:send(1)
  return stream:result(5)
end

function kinds.server_streaming_rpc(_, server, client, fail)
  server:add_rpc("k", function(_, stream)
    stream:send(1)
    return fail()
  end, { stream = "out" })
  return assert(client:stream "k"):result(5)
end

function kinds.context_change(env, server, _, fail)
  local ran
  undo = server.context:on_change("k", function() ran = true return fail() end)
  server.context:set("k", {})
  env.eventually(function() return ran end)
end

function kinds.sleep_callback(env, _, _, fail)
  local ran
  echo.sleep(0, function() ran = true return fail() end)
  env.eventually(function() return ran end)
end

function kinds.send_callback(env, server, client, fail)
  local ran
  server:add_stream("k", function(_, stream) stream:recv() end)
  local stream = assert(client:create_stream "k")
  stream:send("x", function() ran = true return fail() end)
  env.eventually(function() return ran end)
  stream:close()
end

function kinds.close_callback(env, server, _, fail)
  local ran
  env.connect(server):close(function() ran = true return fail() end)
  env.eventually(function() return ran end)
end

function kinds.stop_callback(env, _, _, fail)
  local ran
  local other = env.server { bind = env.kind == "quic" and "127.0.0.1:0" or "10.0.0.77:7" }
  other:stop({ grace = 0 }, function() ran = true return fail() end)
  env.eventually(function() return ran end)
end

function kinds.on_migrate(env, server, _, fail)
  local ran
  if not current[server] then server:on_migrate(function() return current[server]() end) end
  current[server] = function() ran = true return fail() end
  local mover = env.connect(server)
  mover:request "honest"
  assert(mover:migrate())
  mover:request "honest"
  env.eventually(function() return ran end)
  assert.equal("honest", mover:request "honest")
  mover:close()
end

-- Raw QUIC: what waits there takes callbacks too.
local function with_quic(env, fn)
  local listener = assert(echo.quic.listen(env.kind == "quic" and "127.0.0.1:0" or "10.0.0.78:8", { alpn = { "k" } }))
  local conn = assert(echo.quic.connect(listener.address, { alpn = { "k" }, pin = listener.pin }))
  function undo() conn:close() listener:close() end
  return fn(listener, conn)
end

function kinds.quic_callbacks(env, _, _, fail)
  local ran = 0
  local function count() ran = ran + 1 return fail() end
  with_quic(env, function(listener, conn)
    listener:accept(nil, count)
    conn:open_bi_stream(nil, count)
    local stream = assert(conn:open_bi_stream())
    stream:write("x", nil, count)
    stream:read(nil, 0.01, count)
    env.eventually(function() return ran == 4 end)
    assert.is_true(stream:write "y")
  end)
end

function kinds.plugin_timer(env, server, _, fail)
  local ran
  function undo() server:remove_plugin "k" end
  server:plugin { name = "k", install = function(_, host)
    host:after(0, function() ran = true return fail() end)
  end }
  env.eventually(function() return ran end)
end

function kinds.plugin_every(env, server, _, fail)
  local ran = 0
  function undo() server:remove_plugin "k" end
  server:plugin { name = "k", install = function(_, host)
    host:every(0.001, function() ran = ran + 1 return fail() end)
  end }
  env.eventually(function() return ran >= 3 end)
end

function kinds.plugin_install(_, server, _, fail)
  function undo() server:remove_plugin "k" end
  assert.is_false(pcall(server.plugin, server, { name = "k", install = fail }))
  assert.is_false(server:remove_plugin "k")
end
-- raised to whoever installs it; nothing to log
local not_logged = { plugin_install = true, task = true, await_start = true, broadcast_to = true, codec_encode = true,
  codec_decode = true, extension_pack = true, extension_unpack = true, client_sees_its_own = true }

local here = { task = true, await_start = true } -- nobody else learns of it, so it may name places in our files

function kinds.plugin_uninstall(_, server, _, fail)
  function undo() server:remove_plugin "k" end
  server:plugin { name = "k", install = function() end, uninstall = fail }
  pcall(server.remove_plugin, server, "k")
  assert.is_false(server:remove_plugin "k")
end

function kinds.broadcast_to(_, server, _, fail)
  pcall(server.broadcast, server, { to = fail }, "k")
end

local failing_codec, codec_fails = {}, nil
echo.codec.register("callbacks-spec", {
  encode = function(...) return codec_fails == "encode" and failing_codec.fail() or echo.codec.msgpack.encode(...) end,
  decode = function(bytes)
    if codec_fails == "decode" then failing_codec.fail() end
    return echo.codec.msgpack.decode(bytes)
  end,
})

local function with_codec(which, client, fail)
  failing_codec.fail, codec_fails = fail, which
  local outcome = table.pack(pcall(function()
    return client:with { codec = "callbacks-spec", timeout = 5 }:request("honest", 1)
  end))
  codec_fails = nil
  if outcome[1] then return table.unpack(outcome, 2, outcome.n) end
  assert.equal("encode", which) -- a value that cannot be sent is the caller's mistake
end

function kinds.codec_encode(_, _, client, fail) return with_codec("encode", client, fail) end
function kinds.codec_decode(_, _, client, fail) return with_codec("decode", client, fail) end

local Extended = {}
echo.codec.extend(99, { name = "callbacks-spec", metatable = Extended,
  pack = function() return codec_fails == "pack" and failing_codec.fail() or "x" end,
  unpack = function() return codec_fails == "unpack" and failing_codec.fail() or 1 end,
})

local function with_extension(which, client, fail)
  failing_codec.fail, codec_fails = fail, which
  local outcome = table.pack(pcall(client.request, client, "honest", setmetatable({}, Extended)))
  codec_fails = nil
  if outcome[1] then return table.unpack(outcome, 2, outcome.n) end
  assert.equal("pack", which)
end

function kinds.extension_pack(_, _, client, fail) return with_extension("pack", client, fail) end
function kinds.extension_unpack(_, _, client, fail) return with_extension("unpack", client, fail) end

function kinds.the_log_itself(env, server, client, fail)
  local ran
  server:add_rpc("k", function() error "logged" end)
  echo.set_log(function() ran = true return fail() end)
  local value, err = client:request "k"
  echo.set_log(function(record) table.insert(env.logs, record) end)
  assert.is_true(ran)
  return value, err
end
not_logged.the_log_itself = true

function kinds.garbage(env, server, client, fail)
  server:add_rpc("k", function()
    setmetatable({}, { __gc = fail })
    collectgarbage()
    collectgarbage()
    return "fine"
  end)
  assert.equal("fine", client:request "k")
  env.eventually(function() collectgarbage() return true end)
end
not_logged.garbage = true -- Lua warns, if anybody asked it to

net.each(function(env)
  describe("an error in", function()
    local names = {}
    for name in pairs(kinds) do names[#names + 1] = name end
    table.sort(names)

    for _, name in ipairs(names) do
      env.it(name:gsub("_", " ") .. " stays there, whatever it is", function()
        local server, client = env.pair(function(server)
          server:add_rpc("honest", function(_, x) return x or "honest" end)
        end)
        for _, failure in ipairs(failures) do
          undo = nil
          local what, fail = failure[1], failure[2]
          local function complain(text) error(("%s: %s"):format(what, text), 0) end
          env.logs = {}
          -- In a task of its own: what runs in the caller's task may end it by a yield.
          local outcome
          local runner = echo.spawn(function() outcome = table.pack(pcall(kinds[name], env, server, client, fail)) end)
          local _, why = runner:wait(8)
          if why and why.code == "timeout" then complain "it hangs" end
          outcome = outcome or table.pack(true, nil, why)
          if undo then undo() end
          undo = nil
          if not outcome[1] then complain(tostring(outcome[2])) end
          local value, err = outcome[2], outcome[3]
          local yields = what == "a yield across C" or what == "a yield" and name == "wrapped_generator"
          if outcome.n > 1 and not yields and not (value == nil and echo.is_error(err)) then
            complain(("no error object: %s, %s"):format(tostring(value), tostring(err)))
          end
          if err ~= nil then
            if type(err.code) ~= "string" or type(err.message) ~= "string" then complain "an error without code or message" end
            if not here[name] and (err.message:find "traceback" or err.message:find "callbacks_spec") then
              complain("it tells too much: " .. err.message)
            end
          end
          if not yields and not not_logged[name] and what ~= "an error object" then
            if not pcall(env.eventually, function() return #env.logs > 0 end) then complain "the log says nothing" end
          end
          for _, kind in ipairs { "rpc", "event", "stream" } do server["remove_" .. kind](server, "k") end
          local honest, problem = echo.spawn(client.request, client, "honest"):wait(5)
          if honest ~= "honest" then complain("afterwards: " .. tostring(problem)) end
        end
      end)
    end
  end)
end)
