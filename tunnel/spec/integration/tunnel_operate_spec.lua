-- A server and an agent from their files, as processes: what can be asked, changed while it runs, and seen from outside.

local core = require "echostream.core"
local process = require "spec.support.process"

local tunnel = process.echostream .. " tunnel "

describe("a tunnel from its files", function()
  local dir, env, running

  before_each(function()
    dir, running = process.directory(), {}
    os.execute(("mkdir -m 700 %s/run"):format(dir))
    env = { XDG_RUNTIME_DIR = dir .. "/run", XDG_STATE_HOME = dir .. "/state" }
    process.write(dir .. "/token", "a secret of the spec\n")
  end)

  after_each(function()
    for i = #running, 1, -1 do running[i]:stop() end
    process.remove(dir)
  end)

  local function start(words, ready)
    local one = process.start(tunnel .. words, { cwd = dir, env = env, seconds = 120 })
    running[#running + 1] = one
    return one, one:expect(ready)
  end

  local function run(words) return process.run(tunnel .. words, { cwd = dir, env = env }) end
  -- A sanitizer that is preloaded for our own code is none of curl's.
  local function curl(words) return process.run("curl -s --max-time 30 " .. words, { cwd = dir, env = { LD_PRELOAD = "" } }) end

  local RULES = [[{ { name = "hello", path = "/hello", respond = { status = 200, body = "%s\n" } },
    { name = "later", path = "/", respond = { status = 410 }, shadow = true }, { name = "app", group = "web" } }]]

  local function server_file(rules, more)
    process.write(dir .. "/server.lua", ([[return {
  server = { bind = "127.0.0.1:0" },
  agents = { { token = file "token" } },
  listen = { { bind = "127.0.0.1:0", name = "web" } },
  rules = %s,
  access_log = { path = "access.log" },
  metrics = { bind = "127.0.0.1:0" },
  inspector = { bind = "127.0.0.1:0", bodies = 1024 },
  %s
}]]):format(rules, more or ""))
  end

  -- A server, and where it is: agents, pin, web, metrics, inspector.
  local function serve(rules)
    server_file(rules or RULES:format "hello")
    local one, address = start("server server.lua", "^agents (%S+)")
    local at = { agents = address }
    at.pin = one:expect "^pin (%S+)"
    at.web = one:expect "^visitors (%S+) %(web%)$"
    at.metrics = one:expect "^metrics (%S+)"
    at.inspector = one:expect "^inspector (%S+)"
    return at, one
  end

  -- An agent whose backend is a second server's own answers: a visitor's port of it.
  local function join(at, backend)
    process.write(dir .. "/agent.lua", ([[return { servers = { "%s" }, client = { pin = "%s" }, token = file "token", group = "web",
  client_id = "agent-7", backend = "http://%s", metrics = { bind = "127.0.0.1:0" } }]]):format(at.agents, at.pin, backend))
    return start("agent agent.lua", "^agent agent%-7 of group web$")
  end

  local function until_output(command, pattern)
    local said
    repeat said = process.run(command, { cwd = dir, env = env }) until (said.out .. said.err):find(pattern) or os.execute "sleep 0.05" ~= true
    return said
  end

  it("answers by its rules, logs, counts, and is looked at", function()
    local at = serve()
    assert.equal("hello\n", curl("-H 'x-request-id: no' http://" .. at.web .. "/hello").out)
    assert.equal("503", curl("-o /dev/null -w '%{http_code}' http://" .. at.web .. "/").out)
    assert.equal("400", curl("-o /dev/null -w '%{http_code}' -H 'Host: a b' http://" .. at.web .. "/").out)

    until_output("cat access.log", '"cause":"malformed"')
    local lines = {}
    for line in process.read(dir .. "/access.log"):gmatch "[^\n]+" do lines[#lines + 1] = core.codec.json.unpack(line) end
    assert.same({ "hello", 200, "/hello", "web" }, { lines[1].rule, lines[1].status, lines[1].path, lines[1].listener })
    assert.equal(32, #lines[1].trace_id)
    assert.not_equal("no", lines[1].id)
    assert.same({ "app", 503, "no_agent" }, { lines[2].rule, lines[2].status, lines[2].cause })

    local figures = curl(at.metrics).out
    assert.truthy(figures:find('echostream_tunnel_requests_total{rule="hello",group="",status="2xx"} 1', 1, true))
    assert.truthy(figures:find('echostream_tunnel_failures_total{rule="app",group="web",cause="no_agent"} 1', 1, true))

    assert.is_true(tonumber(figures:match "\nechostream_tunnel_buffered_bytes (%d+)\n") > 0)

    local seen = core.codec.json.unpack(curl(at.inspector .. "api/exchanges").out)
    assert.equal("hello", seen.exchanges[#seen.exchanges].rule)
    local ask = "-X POST -d '{}' -H 'content-type: application/json' -H 'x-echostream-inspector: 1' %sapi/exchanges/1/replay"
    local again = core.codec.json.unpack(curl(ask:format(at.inspector)).out)
    assert.same({ 200, "hello\n" }, { again.status, again.response_body.text })

    local status = core.codec.json.unpack(run("status tunnel-server --json").out)
    assert.equal("server", status.role)
    assert.equal(0, #status.agents)
    assert.same({ matched = 1, differed = 1, failed = 0 }, status.shadows.later)
    assert.matches("\nshadow later: differed 1, failed 0, matched 1\n", run("status tunnel-server").out)
    local why = run "explain http://x.org/hello --running tunnel-server"
    assert.equal(0, why.code, why.err)
    assert.matches("decision: .* by hello", why.out)
    assert.matches("by hello", run("explain http://x.org/hello --config server.lua").out)
    assert.equal(2, run("explain http://x.org/ --config server.lua --header 'a b'").code)
    assert.equal("app", core.codec.json.unpack(run("explain grpcs://x.org/a.B/c --config server.lua --json").out).rule)
  end)

  it("passes requests through an agent, which drains and comes to its end", function()
    local inner = serve()
    local at = serve()
    local agent = join(at, inner.web)
    until_output("LD_PRELOAD= curl -s -o /dev/null -w '%{http_code}' http://" .. at.web .. "/hello2", "50[34]")
    -- The inner server has no agent, so what comes through says 503 by its rule, or greets.
    local web = '{ { name = "all", group = "web" } }'
    server_file(web)
    assert.equal(0, process.run(("kill -HUP %s"):format(running[2].pid)).code)
    assert.equal("hello\n", until_output("LD_PRELOAD= curl -s http://" .. at.web .. "/hello -H 'Host: inside'", "^hello").out)
    local name = process.run(("cat /proc/%s/task/%s/children"):format(running[2].pid, running[2].pid)).out:match "%d+" -- of timeout(1)
    local status = run("status " .. name)
    assert.matches("agent%-7 +web +up", status.out)
    assert.matches("agent agent%-7 of group web\nservers:\n", run("status tunnel-agent").out)

    assert.matches("nothing new", run("drain " .. name .. " --agent agent-7").out)
    assert.matches("draining", run("status " .. name).out)
    assert.equal(1, run("drain " .. name .. " --agent nobody").code) -- operate.server's :drain_agent

    assert.equal(0, run("drain tunnel-agent").code)
    assert.equal(0, (agent:wait()))
  end)

  if os.getenv "ES_SANITIZED" then return end -- each command is a process, and there they take their time: two tests are enough

  it("takes new rules while it runs, and keeps the old ones when the new are wrong", function()
    local at, server = serve()
    server_file(RULES:format "changed")
    assert.equal("reloaded\n", run("reload").out)
    assert.equal("changed\n", curl("http://" .. at.web .. "/hello").out)

    server_file '{ { path = 7 } }'
    local said = run "reload"
    assert.equal(1, said.code)
    assert.matches("server.lua:5: .*path", said.err)
    assert.equal("changed\n", curl("http://" .. at.web .. "/hello").out)
    process.write(dir .. "/server.lua", "return {")
    assert.matches("server.lua:1: ", run("reload").err)

    -- Limits and groups are new at once.
    server_file(RULES:format "limited", "limits = { addresses = { deny = { '127.0.0.1' } } }, groups = { default = { balance = 'hash' } },")
    assert.equal("reloaded\n", run("reload").out)
    assert.equal("403", curl("-o /dev/null -w '%{http_code}' http://" .. at.web .. "/hello").out)
    assert.matches("group web, hash:", run("explain http://x.org/ --running tunnel-server").out)

    server_file(RULES:format "third", "retries = 2,")
    assert.matches("these want a restart: retries", run("reload").out)
    assert.equal("third\n", curl("http://" .. at.web .. "/hello").out)

    -- Whoever rotates logs moves the file away and says so.
    os.rename(dir .. "/access.log", dir .. "/access.log.1")
    os.execute("kill -HUP " .. server.pid)
    until_output("ls", "access.log\n")
    curl("http://" .. at.web .. "/hello")
    assert.matches('"rule":"hello"', until_output("cat access.log", "hello").out)
  end)

  it("changes an agent's services while it runs", function()
    local first, at = serve(RULES:format "first"), serve '{ { group = "web" } }'
    local second = serve(RULES:format "second")
    join(at, first.web)
    assert.equal("first\n", until_output("LD_PRELOAD= curl -s http://" .. at.web .. "/hello", "^first").out)
    local text = process.read(dir .. "/agent.lua")
    process.write(dir .. "/agent.lua", (text:gsub(first.web, second.web)))
    assert.equal("reloaded\n", run("reload tunnel-agent").out)
    assert.equal("second\n", until_output("LD_PRELOAD= curl -s http://" .. at.web .. "/hello", "^second").out)
    process.write(dir .. "/agent.lua", (text:gsub("http://[%d.:]*", "ftp://x")))
    assert.matches("agent.lua:2: .*ftp", run("reload tunnel-agent").err)
    assert.equal("second\n", curl("http://" .. at.web .. "/hello").out)
  end)

  it("ends in good order when it is told to, and says what it cannot begin with", function()
    local at, server = serve()
    assert.equal(0, (server:stop "TERM"))
    assert.not_equal(0, curl("http://" .. at.web .. "/hello").code)
    process.write(dir .. "/bad.lua", 'return {\n  agents = { { token = "short" } } }')
    local said = run "server bad.lua"
    assert.equal(2, said.code)
    assert.matches("bad.lua:2: .*16 bytes", said.err)
    process.write(dir .. "/bad.lua", 'return {\n  agents = { { anyone = true } },\n  inspector = { bnd = "x" } }')
    assert.matches("bad.lua:3: .*bnd", run("check bad.lua").err)
    process.write(dir .. "/taken.lua", ('return { server = { bind = "127.0.0.1:0" }, agents = { { anyone = true } },\n  metrics = { bind = "%s" } }')
      :format(select(2, serve()) and running[#running].text:match "metrics http://([%d.:]+)"))
    said = run "server taken.lua"
    assert.equal(1, said.code)
    assert.matches("cannot listen on", said.err)
  end)
end)
