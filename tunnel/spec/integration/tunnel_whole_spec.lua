-- Whole tunnels before real backends, with curl and other visitors: what streams, what is cut, what dies.

local backends = require "tunnel.spec.support.backends"
local child = require "spec.support.child"
local echo = require "echostream"
local loop = require "echostream.loop"
local net = require "spec.support.net"
local world = require "tunnel.spec.support.world"
local codec = require "echostream.codec"
local exchanges = require "echostream.tunnel.exchange"

net.only("quic", function(env)
  if not backends.has_node or not backends.has_nginx then
    pending "nodejs with ws, and nginx are wanted"
    return
  end

  -- curl with arguments: what it wrote, in lines.
  local function curl(...)
    local visitor = child.start("env", { "LD_PRELOAD=", "curl", "-sS", "--max-time", "60", ... })
    return visitor:rest()
  end

  local function before(kind, fn)
    return function()
      local server = backends[kind]()
      local w = world.new(env, { agent = { services = { web = "http://127.0.0.1:" .. server.port } } })
      fn(w, server, "http://" .. w.address)
      server.kill()
    end
  end

  local function stats(w)
    return assert(codec.json.unpack(w:get("/stats").body))
  end

  describe("a tunnel before a real backend", function()
    env.it("serves curl: files, chunked uploads, 100-continue, hints, trailers", before("node", function(_, _, url)
      assert.equal("hello", curl(url .. "/hello"))
      assert.equal("100000 200", curl("-w", " %{http_code}", "-d", ("x"):rep(100000), url .. "/count"))
      assert.equal("3000", curl("-H", "Transfer-Encoding: chunked", "-d", ("y"):rep(3000), url .. "/count"))
      assert.equal("5", curl("-H", "Expect: 100-continue", "-d", "12345", url .. "/count"))
      assert.matches("417$", curl("-w", "%{http_code}", "-H", "Expect: 100-continue", "-H", "X-Refuse: 1", "-d", "12345", url .. "/count"))
      assert.matches("103 Early Hints.*rel=preload.*200 OK.*after hints", curl("-i", url .. "/hints"))
      assert.matches("body.*x%-sum: 42", curl("-i", "--raw", "-H", "TE: trailers", url .. "/trailers"))
      assert.matches("413$", curl("-w", "%{http_code}", "-d", ("x"):rep(100000), url .. "/early"))
      assert.equal("hello", curl("--http2-prior-knowledge", url .. "/hello"))
      assert.equal("3000", curl("--http2-prior-knowledge", "-d", ("y"):rep(3000), url .. "/count"))
    end))

    env.it("serves what nginx has", before("nginx", function(w, _, url)
      assert.equal("hello from nginx\n", curl(url .. "/"))
      assert.matches("200 OK.*content%-length: 17", curl("-I", url .. "/"):lower():gsub(" ok", " OK"))
      assert.matches("404", curl("-o", "/dev/null", "-w", "%{http_code}", url .. "/none"))
      assert.equal("nginx", w:get("/").head:get("server"):match "^%a+")
    end))

    env.it("lets go of the backend when the visitor goes: before the head, in a download, in an upload", before("node", function(w, _, url)
      for i, arguments in ipairs { { url .. "/hang" }, { url .. "/events" }, { "-T", "/dev/zero", url .. "/count" } } do
        local visitor = child.start("env", { "LD_PRELOAD=", "curl", "-sS", table.unpack(arguments) })
        w:wait(function() return #stats(w).seen >= i end)
        visitor:kill()
        w:wait(function() return stats(w).aborted >= i end)
      end
      w:wait(function() return w.agents[1].stats.in_flight == 0 end)
    end))

    env.it("says what became of a backend that is killed", before("node", function(w, server, url)
      local held = child.start("env", { "LD_PRELOAD=", "curl", "-s", "-w", " %{http_code}", url .. "/hang" })
      local begun = child.start("env", { "LD_PRELOAD=", "curl", "-s", "-w", " %{http_code} %{exitcode}", url .. "/events" })
      w:wait(function() return #stats(w).seen >= 2 end)
      server.child:signal "SIGKILL"
      assert.matches("502$", held:rest())
      local text = begun:rest()
      assert.matches("200 %d+$", text)
      assert.not_matches("200 0$", text) -- curl's words for a body that was cut are 18 and 56
      assert.matches("502$", curl("-w", "%{http_code}", url .. "/hello"))
    end))

    env.it("passes events on at once", before("node", function(w, _, url)
      local connection = assert(world.dial(env, w.address))
      local x = assert(exchanges.request(connection, world.head("GET", "/events"), true))
      assert.equal(200, x:head().status)
      local text = ""
      while not text:find "data: 0\n\n" do text = text .. assert(x:read()) end
      text = ""
      assert.equal("1", curl(url .. "/next"))
      while not text:find "data: %d+\n\n" do text = text .. assert(x:read()) end
      connection:close()
    end))

    env.it("has 504 for a backend that does not begin to answer", function()
      local server = backends.node()
      local w = world.new(env, { agent = { services = { web = { backends = "http://127.0.0.1:" .. server.port, headers_timeout = 0.3 } } } })
      local began = loop.now()
      local response = w:get "/hang"
      assert.equal(504, response.status)
      assert.matches("no response", response.body)
      assert.is_true(loop.now() - began >= 0.3)
      server.kill()
    end)

    env.it("goes on with the other agent when one is killed", function()
      local server = backends.node()
      local w = world.new(env, { agents = 2, agent = { services = { web = "http://127.0.0.1:" .. server.port } } })
      w.clients[1].session._ud:close(1, "killed") -- as sudden as the end of its process
      for _ = 1, 20 do assert.equal("hello", w:get("/hello").body) end
      assert.equal(1, #w.plugin.registry:members())
      server.kill()
    end)

    env.it("keeps serving while its agent moves and drains", function()
      local server = backends.node()
      local w = world.new(env, { agents = 2, agent = { services = { web = "http://127.0.0.1:" .. server.port } } })
      local over, n, bad, tasks = false, 0, {}, {}
      for i = 1, 4 do
        tasks[i] = echo.spawn(function()
          while not over do
            local response, err = w:get "/hello"
            if response and response.body == "hello" then n = n + 1 else table.insert(bad, response and response.body or tostring(err)) end
          end
        end)
      end
      local function more()
        local before_now = n
        w:wait(function() return n >= before_now + 20 end)
      end
      more()
      assert(w.clients[1]:migrate { bind = "127.0.0.2:0" })
      more()
      assert(w.agents[1]:drain { grace = 20 })
      w.clients[1]:close()
      more()
      over = true
      for i = 1, 4 do tasks[i]:wait() end
      assert.same({}, bad)
      server.kill()
    end)
  end)
end)
