-- The dashboard's server side: what it tells, to whom, and the page's files.
require "echostream.http.dashboard"
require "echostream.http.plain"
local codec = require "echostream.codec"
local echo = require "echostream"
local http = require "spec.support.http"
local net = require "spec.support.net"
local process = require "spec.support.process"
local socket = require "echostream.loop.socket"

local files

setup(function()
  files = process.directory()
  for _, name in ipairs { "dashboard.html", "dashboard.js", "page.js", "style.css", "secret.txt" } do
    process.write(files .. "/" .. name, "this is " .. name)
  end
end)

teardown(function()
  process.remove(files)
end)

-- GET over HTTP/1.1 -> status, body, head.
local function get(address, path, host)
  local ip, port = address:match "^(.*):(%d+)$"
  local got = {}
  assert(echo.await(function(resume)
    socket.connect({ ip = ip, port = tonumber(port) }, function(connection, err)
      if not connection then
        return resume(nil, err)
      end
      connection:send(("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n"):format(path, host or address))
      return function(data)
        if data then
          got[#got + 1] = data
        else
          connection:close()
          resume(true)
        end
      end
    end)
  end, 30))
  local head, body = table.concat(got):match "^(.-)\r\n\r\n(.*)$"
  return tonumber(head:match "^HTTP/1%.1 (%d+)"), body, head
end

local function with(opts, prepare)
  return function(server)
    server:add_rpc("math.add", function(_, a, b) return a + b end)
    opts.files = files
    assert(server:dashboard(opts))
    if prepare then
      prepare(server)
    end
  end
end

net.each(function(env)
  env.it("tells what happens, again and again, to all who watch", function()
    local breaker = echo.breaker.new { name = "the database" }
    local server, client = env.pair(with({ bind = false, interval = 0.05, token = "s3cret" }, function(server)
      server:alert { kind = "invalid_argument", threshold = 1, window = 5, fn = function() end }
      server:add_rpc("wrong", function() return nil, echo.error("invalid_argument", "wrong") end)
    end), nil, { metadata = { token = "s3cret" } })
    assert.equal(3, client:request("math.add", 1, 2))
    client:request "wrong"
    local stream = assert(client:stream "dashboard.watch")
    local first = assert(stream:recv()).data
    local times, last = first.time, first
    while #last.alerts == 0 do -- after a tenth of the window
      last = assert(stream:recv()).data
    end
    assert.is_true(last.time > times)
    assert.same({ "invalid_argument", "1 of 2 calls in 5 s" }, { last.alerts[1].name, last.alerts[1].message })
    local methods = {}
    for _, method in ipairs(last.methods) do
      methods[method.name] = method
    end
    assert.same({ 1, 0, "call" }, { methods["math.add"].count, methods["math.add"].errors, methods["math.add"].kind })
    assert.same({ 1, 1 }, { methods.wrong.count, methods.wrong.errors })
    assert.same({ 1, 1 }, { last.sessions, last.streams })
    assert.equal("native", last.session_list[1].door)
    assert.is_true(last.session_list[1].rtt > 0)
    assert.equal(server:sessions()[1].peer_addr, last.session_list[1].peer)
    assert.is_true(last.queues[1].length < last.queues[1].limit)
    local state
    for _, each in ipairs(last.breakers) do
      state = each.name == breaker.name and each.state or state
    end
    assert.equal("closed", state)
    stream:close()
    env.eventually(function() return server:metrics().streams.open_in == 0 end, "the handler's end")
  end)
end)

net.only("sim", function(env) -- whose peers are on no loopback
  env.it("tells nobody else without the token", function()
    local function watch(opts, metadata)
      local _, client = env.pair(with(opts), nil, { metadata = metadata })
      local stream = assert(client:stream "dashboard.watch")
      local frame, err = stream:recv()
      return frame and "shown" or err.code
    end
    assert.equal("permission_denied", watch({}, { token = "" }))
    assert.equal("unauthenticated", watch({ token = "s3cret" }))
    assert.equal("unauthenticated", watch({ token = "s3cret" }, { token = "S3cret" }))
    assert.equal("shown", watch({ token = "s3cret" }, { token = "s3cret" }))
    assert.equal("shown", watch({ token = "s3cret" }, { authorization = "Bearer s3cret" }))
  end)

  env.it("serves the page over HTTP/3 to who may see it", function()
    local server = env.server(nil, with { token = "s3cret" })
    local web = http.dial(server, { bind = "10.9.0.2:0" })
    local page = assert(web:fetch("GET", "/dashboard/"))
    assert.same({ 200, "this is dashboard.html" }, { page.status, page.body })
    assert.matches("default%-src 'none'", page.headers["content-security-policy"])
    local moved = assert(web:fetch("GET", "/dashboard"))
    assert.same({ 308, "/dashboard/" }, { moved.status, moved.headers.location })
    local config = codec.json.unpack(assert(web:fetch("GET", "/dashboard/config.json")).body)
    assert.equal("https://127.0.0.1/echostream", config.url)
    assert.equal(404, assert(web:fetch("GET", "/dashboard/secret.txt")).status)
    web:close()
    local closed = http.dial(env.server(nil, with {}), { bind = "10.9.0.1:0" })
    assert.equal(403, assert(closed:fetch("GET", "/dashboard/")).status)
    closed:close()
  end)

  env.it("serves other pages beside it when it is asked to, and nothing hidden", function()
    local web = http.dial(env.server(nil, with { others = true }))
    assert.same({ 200, "this is secret.txt" }, { web:fetch("GET", "/dashboard/secret.txt").status, web:fetch("GET", "/dashboard/secret.txt").body })
    assert.equal("this is dashboard.html", assert(web:fetch("GET", "/dashboard/dashboard.html")).body)
    for _, path in ipairs { "", ".hidden.txt", "..%2fsecret.txt", "nothing.txt" } do -- there is no index.html
      assert.is_true(assert(web:fetch("GET", "/dashboard/" .. path)).status >= 400, path)
    end
    web:close()
  end)
end)

net.only("quic", function(env)
  env.it("serves the page over HTTP/1.1 to this machine, as long as the server runs", function()
    local dashboard
    local server = env.server(nil, function(server)
      dashboard = assert(server:dashboard { bind = "127.0.0.1:0", files = files, path = "/state", timeout = 5, addresses = false })
    end)
    assert.equal("http://" .. dashboard.address .. "/", dashboard.url)
    local status, body, head = get(dashboard.address, "/")
    assert.same({ 200, "this is dashboard.html" }, { status, body })
    assert.matches("\nContent%-Type: text/html", head)
    assert.matches("\nContent%-Security%-Policy: ", head)
    status, body, head = get(dashboard.address, "/page.js")
    assert.same({ 200, "this is page.js" }, { status, body })
    assert.matches("javascript", head)
    for _, path in ipairs { "/secret.txt", "/../dashboard.js", "//page.js", "/dashboard.js%00", "/echostream.js" } do
      assert.equal(404, (get(dashboard.address, path)), path)
    end
    status, body = get(dashboard.address, "/config.json", "localhost:9")
    local config = codec.json.unpack(body)
    assert.same({ 200, "https://" .. server.address .. "/echostream" }, { status, config.url })
    assert.equal(server:cert_hashes()[1].value, config.serverCertificateHashes[1])
    assert.equal(403, (get(dashboard.address, "/config.json", "evil.example")))
    assert.equal(403, (get(dashboard.address, "/", "127.0.0.1.evil.example")))

    -- A page of its origin may connect, another may not.
    local client = env.client(server, { webtransport = { origin = "http://" .. dashboard.address } })
    assert(client:connect(server.address))
    local look = assert(assert(client:stream "dashboard.watch"):recv()).data
    assert.same({ "webtransport", "" }, { look.session_list[1].door, look.session_list[1].peer })
    assert.is_nil(env.client(server, { webtransport = { origin = "http://evil.example" } }):connect(server.address))

    local web = http.dial(server)
    assert.equal("this is style.css", assert(web:fetch("GET", "/state/style.css")).body)
    web:close()
    server:stop { grace = 0 }
    assert.has_error(function() get(dashboard.address, "/") end)
    dashboard:close()
  end)

  env.it("is refused where it would not be safe, or could not work", function()
    local server = echo.server { quiet = true, state_dir = net.state_dir() }
    for _, wrong in ipairs { { bind = "0.0.0.0:0" }, { bind = true }, { bind = "example.org:1" }, { path = "state" }, { path = "/state/" },
      { interval = 0 }, { nothing = 1 } } do
      wrong.files = files
      assert.has_error(function() server:dashboard(wrong) end)
    end
    local none, err = server:dashboard { files = "/nowhere" }
    assert.same({ nil, "io" }, { none, err.code })
    local first = assert(server:dashboard { bind = "127.0.0.1:0", files = files })
    local other = echo.server { quiet = true, state_dir = net.state_dir() }
    none, err = other:dashboard { bind = first.address, files = files }
    assert.same({ nil, "io" }, { none, err.code })
    first:close()
    local running = env.server()
    assert.has_error(function() running:dashboard { files = files } end)
  end)
end)
