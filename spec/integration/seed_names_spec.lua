-- Every row of the table "Names of the seed API" in docs/API.md does what it says: one spec a row, over sockets and simulated.

local echo = require "echostream"
local net = require "spec.support.net"
local process = require "spec.support.process"

-- The first column of the table, in order.
local function rows_of_the_table()
  local rows = {}
  local text = process.read("docs/API.md"):match "\n## Names of the seed API\n(.*)"
  for line in text:gmatch "[^\n]+" do
    local name = line:match "^| *(`.-`) *|"
    if name then rows[#rows + 1] = name end
  end
  return rows
end

local rows = {}

rows["`Server::builder().bind(…).build()`"] = function(env)
  local server = env.server { bind = "127.0.0.1:0" }
  assert.matches("^127%.0%.0%.1:%d+$", server.address)
  assert.equal("running", server.state)
end

rows["`.transport(…)`"] = function(env)
  local _, client = env.pair(nil, { transport = { idle_timeout = 7 } }, { transport = { idle_timeout = 9 } })
  assert.is_true(math.abs(client:stats().idle_timeout - 7) < 0.01)
end

rows["`.add_rpc .add_event .add_stream`"] = function(env)
  local got
  local server = env.server()
  assert.equal(server, server:add_rpc("a", function(_, x) return x end):add_event("b", function(_, x) got = x end)
    :add_stream("c", function(_, stream) stream:send(stream:recv().data) end))
  local client = env.client(server)
  assert.equal(client, client:add_rpc("mine", function() return "the client's" end))
  assert(client:connect(server.address))
  assert.equal(1, client:request("a", 1))
  client:emit("b", 2)
  local stream = assert(client:create_stream("c"))
  stream:send("3")
  assert.equal("3", stream:recv(2).data)
  stream:close()
  env.eventually(function() return got == 2 end)
  assert.equal("the client's", server:sessions()[1]:request("mine"))
end

rows["`.on_start .on_stop .on_connect .on_disconnect`"] = function(env)
  local told = {}
  local function note(what, class)
    return function(thing)
      told[what] = getmetatable(thing).__name == class
    end
  end
  local server, client = env.pair(function(server)
    server:on_start(note("start", "echostream.context")):on_stop(note("stop", "echostream.context"))
    server:on_connect(note("connect", "echostream.session")):on_disconnect(note("disconnect", "echostream.session"))
  end)
  env.eventually(function() return told.connect end)
  client:close()
  env.eventually(function() return told.disconnect end)
  server:stop()
  assert.same({ start = true, connect = true, disconnect = true, stop = true }, told)
end

rows["`server.run()`"] = function(env)
  local server = echo.server { quiet = true, bind = "127.0.0.1:0", state_dir = env.kind == "quic" and net.state_dir() or nil }
  local task = echo.spawn(server.run, server)
  env.eventually(function() return server.state == "running" end)
  assert.equal("suspended", task:status())
  server:stop { grace = 0 }
  assert.is_true(task:wait(2))
end

rows["`server.context()`"] = function(env)
  local server = env.server()
  assert.equal(server.context, server.context:set("k", 1))
  assert.equal(1, server.context:get("k"))
end

rows["`Client::connect`"] = function(env)
  local server = env.server()
  local client = assert(echo.connect(server.address, { pin = server.pin }))
  table.insert(env.opened, client)
  assert.equal("connected", client.state)
  local second = env.client(server)
  assert.equal(second, assert(second:connect(server.address)))
end

rows["`client.request .emit .create_stream .close`"] = function(env)
  local got
  local _, client = env.pair(function(server)
    server:add_rpc("double", function(_, n) return 2 * n end)
    server:add_event("note", function(_, x) got = x end)
    server:add_stream("echo", function(_, stream) stream:send(stream:recv().data) end)
  end)
  assert.equal(14, client:request("double", 7))
  assert.is_true(client:emit("note", "x"))
  local stream = assert(client:create_stream("echo"))
  stream:send("bytes")
  assert.equal("bytes", stream:recv(2).data)
  assert.is_true(client:close())
  assert.equal("x", got)
  assert.is_false(client:is_open())
end

rows["`client.context()`"] = function(env)
  local _, client = env.pair()
  client.context:set("k", "v")
  assert.equal("v", client.context:get("k"))
  assert.same({ client.session }, client.context:sessions())
end

rows["`session.id .peer_addr .created_at .server_ctx`"] = function(env)
  local server = env.pair()
  env.eventually(function() return #server:sessions() == 1 end)
  local session = server:sessions()[1]
  assert.equal("integer", math.type(session.id))
  assert.matches("^[%d.]+:%d+$", session.peer_addr)
  assert.is_true(session.created_at > 0)
  assert.equal(server.context, session.server_ctx)
end

rows["`session.set .get .remove`"] = function(env)
  local server, client = env.pair(function(server)
    server:add_rpc("login", function(session, name) session:set("name", name) end)
    server:add_rpc("whoami", function(session) return session:get("name") end)
  end)
  client:request("login", "ada")
  assert.equal("ada", client:request("whoami"))
  local session = server:sessions()[1]
  assert.equal("ada", session:remove("name"))
  assert.is_nil(session:get("name"))
end

rows["`session.emit .request .create_stream .close`"] = function(env)
  local got
  local server = env.server()
  local client = env.client(server)
  client:add_rpc("double", function(_, n) return 2 * n end)
  client:add_event("note", function(_, x) got = x end)
  client:add_stream("echo", function(_, stream) stream:send(stream:recv().data) end)
  assert(client:connect(server.address))
  env.eventually(function() return #server:sessions() == 1 end)
  local session = server:sessions()[1]
  assert.equal(14, session:request("double", 7))
  assert.is_true(session:emit("note", "x"))
  local stream = assert(session:create_stream("echo"))
  stream:send("bytes")
  assert.equal("bytes", stream:recv(2).data)
  stream:close()
  env.eventually(function() return got == "x" end)
  assert.is_true(session:close("enough"))
  env.eventually(function() return not client:is_open() end)
end

rows["`ctx.set .get .remove .broadcast .sessions`"] = function(env)
  local server = env.server()
  local ctx, got = server.context, {}
  for i = 1, 2 do
    local client = env.client(server)
    client:add_event("news", function(_, x) got[i] = x end)
    assert(client:connect(server.address))
  end
  env.eventually(function() return #ctx:sessions() == 2 end)
  ctx:set("k", 1)
  assert.equal(1, ctx:get("k"))
  assert.equal(1, ctx:remove("k"))
  assert.equal(2, (ctx:broadcast("news", "x")))
  env.eventually(function() return got[1] == "x" and got[2] == "x" end)
end

rows["`stream.recv .close .send .send_timestamped .finish`"] = function(env)
  local _, client = env.pair(function(server)
    server:add_stream("echo", function(_, stream)
      for frame in stream:frames() do
        stream:send_timestamped { data = frame.data, seq = frame.seq, wall_time = frame.wall_time }
      end
    end)
  end)
  local stream = assert(client:create_stream("echo"))
  assert.is_true(stream:send("plain"))
  assert.is_true(stream:send_timestamped { data = "dated", seq = 7, wall_time = 1234.5 })
  assert.is_true(stream:finish())
  assert.equal("plain", stream:recv(2).data)
  local frame = stream:recv(2)
  assert.same({ "dated", 7, 1234.5 }, { frame.data, frame.seq, frame.wall_time })
  assert.equal(6, frame.gap) -- the handler's own numbers began with 0
  assert.is_nil((stream:recv(2)))
  assert.is_true(stream:close())
end

rows["`self_signed_cert cert_chain skip_verification`"] = function(env)
  local server = env.server { transport = { self_signed_cert = true } }
  local client = echo.client { transport = { skip_verification = true } }
  table.insert(env.opened, client)
  assert(client:connect(server.address))
  local dir = process.directory()
  local made = process.run(process.echostream .. " cert --out " .. dir)
  assert.equal(0, made.code, made.err)
  local chain = { cert = dir .. "/cert.pem", key = dir .. "/key.pem" }
  local second = env.server { bind = env.kind == "sim" and "10.0.0.2:5000" or nil, transport = { cert_chain = chain } }
  env.connect(second)
  process.remove(dir)
end

rows["`congestion_control max_concurrent_streams`"] = function(env)
  local _, client = env.pair(function(server)
    server:add_rpc("x", function() return "x" end)
  end, { transport = { congestion_control = "bbr", max_concurrent_streams = 2 } }, { transport = { congestion_control = "newreno" } })
  local tasks = {}
  for i = 1, 10 do tasks[i] = echo.spawn(client.request, client, "x") end
  assert.equal(10, #assert(echo.all(tasks, 5)))
  assert.has_error(function() echo.server { transport = { congestion_control = "vegas" } } end)
end

rows["`.middleware(…)`"] = function(env)
  local seen = {}
  local server, client = env.pair(function(server)
    server:middleware(function(call, next)
      seen[#seen + 1] = call.direction .. " " .. call.name
      return next(call)
    end)
    server:middleware {
      process_request = function(_, call)
        if call.name == "secret" then return nil end
        return call
      end,
    }
    server:add_rpc("open", function() return "yes" end)
    server:add_rpc("secret", function() return "no" end)
  end)
  assert.equal("yes", client:request("open"))
  assert.equal("permission_denied", select(2, client:request("secret")).code)
  assert.same({ "in open", "in secret" }, seen)
  assert.is_function(server.middleware)
  client:middleware(function(call) return call:reply("the client's own answer") end)
  assert.equal("the client's own answer", client:request("open"))
end

rows["`.plugin(…)`"] = function(env)
  local server, client = env.pair(function(server)
    server:plugin { name = "greeter", install = function(_, host)
      host:add_rpc("greet", function() return "hello" end)
    end }
  end)
  assert.equal("hello", client:request("greet"))
  server:remove_plugin("greeter")
  assert.equal("method_not_found", select(2, client:request("greet")).code)
end

rows["`enable_0rtt`"] = function(env)
  local early = { enable_0rtt = true }
  local server = env.server({ transport = early }, function(server)
    server:add_rpc("ping", function() return "pong" end, { idempotent = true })
  end)
  local tickets = 0
  local cache = echo.session_cache.memory()
  local put = cache.put
  function cache:put(key, value)
    tickets = tickets + (value and 1 or 0)
    put(self, key, value)
  end
  local client = env.connect(server, { transport = early, session_cache = cache })
  env.eventually(function() return tickets == 1 end)
  client:close()
  client = env.connect(server, { transport = early, session_cache = cache })
  assert.equal("pong", client:with { idempotent = true }:request("ping"))
  assert.equal("accepted", client:stats().early_data)
end

rows["`reconnect`"] = function(env)
  local function pong(s) s:add_rpc("ping", function() return "pong" end) end
  local server = env.server({ bind = "127.0.0.1:" .. process.free_port(), state_dir = net.state_dir() }, pong)
  local client = env.connect(server, { reconnect = true })
  server:stop { grace = 0 }
  env.eventually(function() return client.state == "reconnecting" end)
  env.server({ bind = server.address, state_dir = net.state_dir() }, pong)
  assert.equal("pong", client:request "ping")
end

net.each(function(env)
  describe("the seed's", function()
    for _, name in ipairs(rows_of_the_table()) do
      env.it(name, function(network)
        assert.truthy(rows[name], "this row of docs/API.md has no spec")
        rows[name](env, network)
      end)
    end
  end)
end)

describe("the table of the seed's names", function()
  it("has a row for every spec here", function()
    local there = {}
    for _, name in ipairs(rows_of_the_table()) do there[name] = true end
    for name in pairs(rows) do assert.truthy(there[name], name) end
  end)
end)
