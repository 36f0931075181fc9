-- Every file in examples/ is executed here.

local process = require "spec.support.process"
local uv = require "luv"

local function example(name, arguments)
  return ".ci/env lua5.4 examples/" .. name .. " " .. (arguments or "")
end

local function served(name, arguments)
  local server = process.start(example(name, arguments or "127.0.0.1:0"), { seconds = 60 })
  return server, server:expect "^listening on (%S+)", server:expect "^pin (%S+)"
end

local seen = {}

local function describe_example(names, fn)
  for _, name in ipairs(names) do
    seen[name] = true
  end
  describe("examples/" .. table.concat(names, ", "), fn)
end

describe_example({ "demo_server.lua", "demo_client.lua" }, function()
  it("show calls both ways, events both ways and a stream", function()
    local server, address, pin = served "demo_server.lua"
    local client = process.run(example("demo_client.lua", address .. " " .. pin), { seconds = 30 })
    assert.equal(0, client.code, client.err .. client.out)
    assert.matches("math.add%(10, 20%) = 30", client.out)
    assert.matches("event news: the server says hello to demo", client.out)
    assert.matches("both ways %-> BOTH WAYS", client.out)
    assert.matches("method_not_found", client.out)
    server:expect "event log: hello from the client"
    local code = server:stop()
    assert.equal(0, code)
  end)
end)

describe_example({ "http.lua" }, function()
  it("answers over HTTP/3", function()
    local server, address, pin = served("http.lua", "serve 127.0.0.1:0 examples")
    local client = process.run(example("http.lua", ("ask %s %s"):format(address, pin)), { seconds = 60 })
    assert.equal(0, client.code, client.err .. client.out)
    for _, line in ipairs { "GET /hello?name=you: 200 hello you", 'PUT /users/bob: 201 {"', '"name":"Bob"', '"visits":0', "GET /users/nobody: 404 ",
      "POST /upper: 200 A BODY", 'event: tick data: {"n":3}', "HEAD /files/http.lua: 200", "of the file: 4 digits" } do
      assert.is_truthy(client.out:find(line, 1, true), line .. " in " .. client.out)
    end
    server:expect "^GET /users/nobody not_found in"
    assert.equal(0, (server:stop()))
  end)
end)

describe_example({ "chat.lua" }, function()
  -- Somebody who joins and says what we tell them to.
  local function person(dir, name, address, pin)
    local path = dir .. "/" .. name
    assert(os.execute("mkfifo " .. process.quote(path)))
    local keyboard = assert(uv.fs_open(path, "r+", 384)) -- opened both ways it waits for nobody
    local they = process.start(("sh -c 'exec %s <%s'"):format(example("chat.lua", ("join %s %s %s"):format(address, pin, name)), path),
      { seconds = 60 })
    return they, function(line)
      if line then assert(uv.fs_write(keyboard, line .. "\n")) else uv.fs_close(keyboard) end
    end
  end

  it("lets two people talk", function()
    local dir = process.directory()
    finally(function() process.remove(dir) end)
    local server, address, pin = served("chat.lua", "serve 127.0.0.1:0")
    local ann, ann_types = person(dir, "ann", address, pin)
    ann:expect "in the room: ann$"
    local bob, bob_types = person(dir, "bob", address, pin)
    bob:expect "in the room: ann, bob$"
    ann:expect "bob is here"
    bob_types "hello from bob"
    ann:expect "^bob: hello from bob$"
    bob:expect "^bob: hello from bob$"
    ann_types "hello from ann"
    bob:expect "^ann: hello from ann$"
    bob_types "" -- leaves
    assert.equal(0, (bob:wait()))
    ann:expect "bob has left"
    ann_types(nil) -- Ctrl-D leaves too
    assert.equal(0, (ann:wait()))
    bob_types(nil)
    assert.equal(0, (server:stop()))
  end)

  it("lets nobody in without a name", function()
    local server, address, pin = served("chat.lua", "serve 127.0.0.1:0")
    local nobody = process.run(example("chat.lua", ("join %s %s ''"):format(address, pin)), { seconds = 30 })
    assert.not_equal(124, nobody.code)
    assert.matches("say who you are", nobody.out .. nobody.err)
    assert.equal(0, (server:stop()))
  end)
end)

describe_example({ "quic_echo.lua" }, function()
  it("sends streams and datagrams back", function()
    local server, address, pin = served("quic_echo.lua", "serve 127.0.0.1:0")
    local client = process.run(example("quic_echo.lua", ("say %s %s one two"):format(address, pin)), { seconds = 30 })
    assert.equal(0, client.code, client.err .. client.out)
    assert.matches("stream: one\nstream: two\ndatagram: a datagram", client.out)
    server:expect "it is gone"
    assert.equal(0, (server:stop()))
  end)
end)

describe_example({ "plugin_access_log.lua" }, function()
  it("logs every call until it is taken away", function()
    local result = process.run(example "plugin_access_log.lua", { seconds = 30 })
    assert.equal(0, result.code, result.err)
    assert.matches("^connected from 127%.0%.0%.1:%d+\nann rpc divide ok [%d.]+ ms\nann rpc divide invalid_argument [%d.]+ ms\n"
      .. "ann rpc access_log.counts ok [%d.]+ ms\n2 well, 1 not\n$", result.out)
  end)
end)

describe_example({ "tunnel_server.lua", "tunnel_agent.lua" }, function()
  it("pass requests to a backend by rules that are functions, and close for maintenance", function()
    if process.run("command -v curl && command -v python3").code ~= 0 then pending "curl and python3 are wanted" end
    local dir, env = process.directory(), { TUNNEL_TOKEN = "a secret of the spec" }
    finally(function() process.remove(dir) end)
    process.write(dir .. "/page", "from inside\n")
    local backend = process.start(([[python3 -u -c 'import http.server as h, functools as f
s = h.ThreadingHTTPServer(("127.0.0.1", 0), f.partial(h.SimpleHTTPRequestHandler, directory="%s")); print("at", s.server_port, flush=True)
s.serve_forever()']]):format(dir), { seconds = 60, env = { LD_PRELOAD = "" } })
    local port = backend:expect "^at (%d+)"
    local server = process.start(example("tunnel_server.lua", "127.0.0.1:0 127.0.0.1:0"), { seconds = 60, env = env })
    local address, pin, web = server:expect "^listening on (%S+)", server:expect "^pin (%S+)", server:expect "^visitors on (%S+)"
    local agent = process.start(example("tunnel_agent.lua", ("%s %s http://127.0.0.1:%s"):format(address, pin, port)), { seconds = 60, env = env })
    agent:expect "^registered, serving"
    local function get(path, more)
      return process.run(("curl -s --max-time 30 %s http://%s/%s"):format(more or "", web, path), { env = { LD_PRELOAD = "" } }).out
    end
    assert.equal("from inside\n", get "page")
    server:expect "GET .*/page %-> 200 by example%-web in [%d.]+ ms"
    assert.equal("503", get("page", "-o /dev/null -w '%{http_code}' -H 'x-canary: 1'")) -- that group has no agent
    local switch = ("%s %s "):format(address, pin)
    assert.equal("visitors find it closed\n", process.run(example("tunnel_agent.lua", switch .. "close")).out)
    assert.equal("back in a minute\n", get "page")
    assert.equal("visitors find it open\n", process.run(example("tunnel_agent.lua", switch .. "open")).out)
    assert.equal("from inside\n", get "page")
    local code, rest = agent:stop()
    assert.equal(0, code)
    assert.matches("2 requests were served", rest)
    assert.equal(0, (server:stop()))
    backend:stop()
  end)
end)

describe_example({ "sim_loss.lua" }, function()
  it("shows that loss costs time and nothing else", function()
    local result = process.run(example "sim_loss.lua", { seconds = 60 })
    assert.equal(0, result.code, result.err)
    assert.matches("  0 %%     500 ", result.out)
    assert.matches(" 20 %%     500 ", result.out)
  end)
end)

describe_example({ "test_handlers.lua" }, function()
  it("tests a bank on ten bad networks", function()
    local result = process.run(example("test_handlers.lua", "10"), { seconds = 120 })
    assert.equal(0, result.code, result.out .. result.err)
    assert.matches("money_is_neither_made_nor_lost +10 networks, %d+ of %d+ datagrams lost", result.out)
    assert.is_nil(result.out:find "FAILED")
  end)
end)

describe_example({ "reload.lua" }, function()
  it("changes the code under load and loses no call", function()
    local result = process.run(example("reload.lua", "10"), { seconds = 60 })
    assert.equal(0, result.code, result.out .. result.err)
    assert.matches("while the first is replaced: v2: %d+ in flight", result.out)
    assert.matches("\n%d+ calls, answered by %d+ versions of the code; 0 failed\n", result.out)
  end)
end)

describe_example({ "chaos.lua" }, function()
  it("loses and duplicates nothing while servers are killed and paused", function()
    local result = process.run(example("chaos.lua", "5"), { seconds = 150 })
    assert.equal(0, result.code, result.out .. result.err)
    assert.matches("5 s, seed %d+: %d+ times kill %-9, %d+ pauses, %d+ datagrams lost\n%d+ payments: 0 lost, 0 duplicated", result.out)
  end)
end)

describe_example({ "discovery.lua" }, function()
  it("finds a server by what it is, and sees it go", function()
    local watch = process.start(example("discovery.lua", "watch lo"), { seconds = 60 })
    local name = "example " .. watch.pid
    local server = process.start(example("discovery.lua", "serve '" .. name .. "' lo"), { seconds = 60 })
    server:expect("^serving as " .. name .. " via mdns")
    watch:expect("^add\t" .. name .. "\t127%.0%.0%.1:%d+")
    local found = process.run(example("discovery.lua", "find '" .. name .. "' lo"), { seconds = 60 })
    assert.equal(0, found.code, found.err)
    assert.matches("^found " .. name .. " at 127%.0%.0%.1:%d+\n" .. name .. " greets you\n$", found.out)
    assert.equal(0, (server:stop()))
    watch:expect("^remove\t" .. name)
    watch:stop()
  end)
end)

describe_example({ "http_calls.lua" }, function()
  it("asks the same handlers through both doors", function()
    local result = process.run(example "http_calls.lua", { seconds = 60 })
    assert.equal(0, result.code, result.err)
    assert.equal("native\t30\nhttp\t200\t30\nhttp\t200\t30\nhttp\t404", result.out:match "^(.-404)")
    assert.matches("\nnative\t3\nnative\t2\nnative\t1\nnative\tliftoff for native\n", result.out, 1, true)
    assert.matches('\nhttp\t200\t{"message":3}\n{"message":2}\n{"message":1}\n{"results":["liftoff for h3"]}\n', result.out, 1, true)
  end)

  it("serves, for those who have curl", function()
    local server, address = served("http_calls.lua", "serve 127.0.0.1:0")
    server:expect("^curl .* https://" .. address:gsub("%p", "%%%0") .. "/rpc/math.add")
    assert.equal(0, (server:stop()))
  end)
end)

describe("examples/", function()
  it("has no file that is not executed here", function()
    local list = process.run "ls examples"
    for name in list.out:gmatch "[%w_]+%.lua" do
      assert.is_true(seen[name], name .. " is not in this spec")
    end
  end)
end)
