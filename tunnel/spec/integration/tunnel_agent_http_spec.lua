-- An agent before real backends: nginx, and node's server with every habit (tunnel/spec/support/backend.mjs). The server's side of the
-- session is the spec's.

local world = require "tunnel.spec.support.agent_world"
local backends = require "tunnel.spec.support.backends"
local codec = require "echostream.codec"
local core = require "echostream.tunnel.core"
local echo = require "echostream"
local net = require "spec.support.net"
local scratch = require "spec.support.scratch"

local END = world.END

-- Everything of a response: words without the bodies, the bodies, and the parts.
local function response(stream)
  local list, err = world.collect(stream)
  local body, words = {}, {}
  for _, part in ipairs(list) do
    if part[1] == "body" then
      table.insert(body, part[2])
      if words[#words] ~= "body" then table.insert(words, "body") end
    else
      table.insert(words, world.words { part })
    end
  end
  return table.concat(words, " "), table.concat(body), list, err
end

local function head_of(list)
  for _, part in ipairs(list) do
    if part[1] == "head" then return part[2] end
  end
end

net.only("quic", function(env)
  if not backends.has_node or not backends.has_nginx then
    pending "nodejs with ws, and nginx are wanted"
    return
  end

  local node
  local function to_node(fn)
    return function()
      node = backends.node()
      local ok, err = pcall(fn, world.new(env, { real = true, agent = { backend = "http://127.0.0.1:" .. node.port } }))
      node.kill()
      if not ok then error(err, 0) end
    end
  end

  local function stats(w)
    local _, body = response(world.request(w, world.head { path = "/stats" }))
    return assert(codec.json.unpack(body))
  end

  describe("an agent before nginx", function()
    env.it("fetches files, over a connection that is kept", function()
      local nginx = backends.nginx { files = { ["a.txt"] = ("abc"):rep(50000) } }
      local w = world.new(env, { real = true, agent = { backend = "http://127.0.0.1:" .. nginx.port } })
      for i = 1, 3 do
        local words, body, list = response(world.request(w, world.head { path = "/a.txt" }))
        assert.equal("note head:200 body end", words)
        assert.equal(150000, #body)
        assert.equal("150000", head_of(list):get "content-length")
        assert.equal(i > 1, world.note(list).reused)
      end
      local words = response(world.request(w, world.head { path = "/a.txt", method = "HEAD" }))
      assert.equal("note head:200 end", words)
      local list = select(3, response(world.request(w, world.head { path = "/a.txt" })))
      words = response(world.request(w, world.head { path = "/a.txt", { "if-none-match", head_of(list):get "etag" } }))
      assert.equal("note head:304 end", words)
      words = response(world.request(w, world.head { path = "/none" }))
      assert.equal("note head:404 body end", words)
      nginx.kill()
      words = response(world.request(w, world.head { path = "/a.txt", method = "POST" }))
      assert.matches("^head:502 body end$", words)
    end)
  end)

  describe("an agent before a backend of HTTP/1.1", function()
    env.it("streams requests and responses, with hints and trailers", to_node(function(w)
      local stream = world.request(w, world.head { method = "POST", path = "/echo", { "content-type", "text/x" } }, core.part("body", "one,"))
      assert(stream:send(core.part("body", "two,")))
      assert(stream:send(core.part("body", "three") .. END))
      stream:finish()
      local words, body, list = response(stream)
      assert.equal("note head:200 body end", words)
      assert.equal("one,two,three", body)
      assert.equal("text/x", head_of(list):get "content-type")
      words, body, list = response(world.request(w, world.head { path = "/trailers", { "te", "trailers" } }))
      assert.equal("note head:200 body trailers", words)
      assert.equal("body", body)
      assert.equal("42", list[#list][2]:get "x-sum")
      words, body, list = response(world.request(w, world.head { path = "/hints" }))
      assert.equal("after hints", body)
      assert.equal("informational:103 note head:200 body end", words)
      assert.matches("rel=preload", list[1][2]:get "link")
      for _, code in ipairs { 204, 304 } do
        assert.equal(("note head:%d end"):format(code), (response(world.request(w, world.head { path = "/status?code=" .. code }))))
      end
    end))

    env.it("passes 100-continue, and answers that come before the body", to_node(function(w)
      local stream = world.request(w, world.head { method = "PUT", path = "/count", { "expect", "100-continue" }, { "content-length", "5" } }, "")
      local frame = stream:recv()
      assert.equal("informational:100", world.words { { core.parts(frame.data)() } })
      assert(stream:send(core.part("body", "hello") .. END))
      local words, body = response(stream)
      assert.equal("note head:200 body end", words)
      assert.equal("5", body)
      stream = world.request(w, world.head { method = "PUT", path = "/count", { "expect", "100-continue" }, { "content-length", "5" },
        { "x-refuse", "1" } }, "")
      assert.matches("^note head:417", (response(stream)))
      stream = world.request(w, world.head { method = "POST", path = "/early" }, core.part("body", "a beginning"))
      words, body = response(stream)
      assert.equal("note head:413 body end", words)
      assert.equal("too large", body)
    end))

    env.it("gives up there what is given up here, before the head and in the body", to_node(function(w)
      local stream = world.request(w, world.head { path = "/hang" })
      while #stats(w).seen < 1 do echo.sleep(0.01) end
      stream:reset(1)
      while stats(w).aborted < 1 do echo.sleep(0.01) end
      stream = world.request(w, world.head { path = "/big?bytes=1000000000" })
      stream:recv()
      stream:reset(1)
      while stats(w).aborted < 2 do echo.sleep(0.01) end
      stream = world.request(w, world.head { path = "/echo", method = "POST" }, core.part("body", "x"))
      stream:recv()
      stream:reset(1)
      while stats(w).aborted < 3 do echo.sleep(0.01) end
      assert.equal(0, stats(w).open)
      while w.agent.stats.in_flight > 0 do echo.sleep(0.01) end
    end))

    env.it("says what became of a backend that dies", to_node(function(w)
      local words, body, list = response(world.request(w, world.head { path = "/die", method = "POST" }))
      assert.equal("head:502 body end", words)
      assert.matches("^default 127.0.0.1:%d+: ", body)
      assert.equal("agent", head_of(list):get "x-echostream-tunnel")
      words, body = response(world.request(w, world.head { path = "/cut" }))
      assert.equal("note head:200 body reset:truncated", words)
      assert.equal("half", body)
      local held = world.request(w, world.head { path = "/hang" })
      while #stats(w).seen < 3 do echo.sleep(0.01) end
      local begun = world.request(w, world.head { path = "/events" })
      begun:recv()
      node.child:signal "SIGKILL"
      assert.equal("head:502 body end", (response(held)))
      assert.matches("reset:truncated$", (response(begun)))
      assert.equal("head:502 body end", (response(world.request(w, world.head { path = "/hello" }))))
    end))

    env.it("passes each piece on at once", to_node(function(w)
      local stream = world.request(w, world.head { path = "/events" })
      local text = ""
      local function more()
        local frame = assert(stream:recv())
        for kind, value in core.parts(frame.data) do
          if kind == "body" then text = text .. value end
        end
      end
      while not text:find "data: 0\n\n" do more() end
      text = ""
      assert.equal("1", select(2, response(world.request(w, world.head { path = "/next" }))))
      while not text:find "data: %d+\n\n" do more() end
      stream:reset(1)
    end))

    env.it("holds little of a large response while nobody reads it", to_node(function(w)
      local stream = world.request(w, world.head { path = "/big?bytes=40000000" })
      local n, piece = 0, 0
      for frame in stream:frames() do
        for kind, value in core.parts(frame.data) do
          if kind == "body" then n = n + #value end
        end
        piece = piece + 1
        if piece == 20 then
          collectgarbage()
          echo.sleep(0.2) -- a pause of the reader; whatever is in between by now is all there will be
          assert.is_true(w.agent.stats.bytes_out < 1)
          collectgarbage()
          assert.is_true(collectgarbage "count" < 64 * 1024)
        end
      end
      assert.equal(40000000, n)
    end))
  end)

  describe("an agent before a unix socket", function()
    env.it("finds it", function()
      local path = scratch.path ".sock"
      local server = backends.node(path)
      local w = world.new(env, { real = true, agent = { backend = "unix:" .. path } })
      local words, body = response(world.request(w, world.head { path = "/hello" }))
      assert.equal("note head:200 body end", words)
      assert.equal("hello", body)
      server.kill()
    end)
  end)
end)
