-- Connections of HTTP/3 clients: shared, wound down, lost, resumed; what is sent again on them, and what ends with them.
local echo = require "echostream"
local h3_peer = require "spec.support.h3_peer"
local net = require "spec.support.net"

local answer, body_of, read, target = h3_peer.answer, h3_peer.body, h3_peer.read, h3_peer.target
local counter, pair, tell = h3_peer.counter, h3_peer.pair, h3_peer.tell

net.each(function(env)
  describe("connections", function()
    env.it("are shared, and requests keep their order when the server allows few at a time", function()
      local order = {}
      local peer, client = pair(env, function(x)
        order[#order + 1] = tonumber(target(x).path:sub(2))
        answer(x, 200, {}, "ok")
      end, { transport = { max_streams_bidi = 8 } })
      local tasks = {}
      for i = 1, 300 do
        tasks[i] = echo.spawn(function()
          return assert(assert(client:request(peer.base .. "/" .. i)):body())
        end)
      end
      for _, result in ipairs(assert(echo.all(tasks))) do
        assert.equal("ok", result)
      end
      table.sort(order)
      assert.equal(300, #order)
      for i = 1, 300 do
        assert.equal(i, order[i])
      end
      local there = client:connections()
      assert.equal(1, #there)
      assert.equal(300, there[1].requests)
      assert.equal(0, there[1].waiting)
    end)

    env.it("are of their own for other trust, and others are refused", function()
      local peer, client = pair(env, tell)
      assert(client:request(peer.base))
      assert(client:request(peer.base, { skip_verification = true, pin = nil, transport = { keep_alive = 5 } }))
      assert.equal(2, #client:connections())
      local response, err = client:request(peer.base, { pin = "sha256:" .. ("0"):rep(64) })
      assert.is_nil(response)
      assert.equal("unauthenticated", err.code)
      response, err = echo.http.client():request(peer.base)
      assert.is_nil(response)
      assert.equal("unauthenticated", err.code)
      assert.equal(2, #client:connections())
    end)

    env.it("end at once when the client is closed, and requests with them", function()
      local begun
      local peer, client = pair(env, function(x)
        begun = true
        read(x)
        while target(x).path == "/wait" and x:peer_addr() do
          echo.sleep(0.002)
        end
      end, { transport = { max_streams_bidi = 2 } })
      local asking = echo.spawn(function()
        local response, err = client:request(peer.base, { body = function()
          echo.sleep(1000)
        end })
        return not response and err.code
      end)
      h3_peer.eventually(function()
        return begun
      end, "the request arrives")
      client:close()
      assert.equal("connection_closed", asking:wait(10))
      assert.same({}, client:connections())
      begun = false
      local tasks = {} -- some are under way, some wait for their turn: none is sent again
      for i = 1, 4 do
        tasks[i] = echo.spawn(function()
          local response, err = client:request(peer.base .. "/wait")
          return not response and err.code
        end)
      end
      h3_peer.eventually(function()
        return begun and client:connections()[1].waiting == 2
      end, "some requests arrive")
      client:close()
      for _, code in ipairs(assert(echo.all(tasks, 10))) do
        assert.equal("connection_closed", code)
      end
      assert.same({}, client:connections())
    end)

    env.it("that the server winds down are followed by new ones, for what it did not look at", function()
      local hold = true
      local peer, client = pair(env, function(x)
        if target(x).path == "/1" then
          while hold do
            echo.sleep(0.001)
          end
        end
        answer(x, 200, {}, target(x).path)
      end, { transport = { max_streams_bidi = 1 } })
      local tasks = {}
      for i = 1, 4 do
        tasks[i] = echo.spawn(function()
          return assert(assert(client:request(peer.base .. "/" .. i, { method = "POST" })):body())
        end)
      end
      h3_peer.eventually(function()
        return peer.requests == 1
      end, "the first arrives")
      peer.host:goaway(true)
      h3_peer.eventually(function()
        return peer.requests == 4
      end, "the others arrive on another connection")
      hold = false
      assert.same({ "/1", "/2", "/3", "/4", n = 4 }, echo.all(tasks))
    end)
  end)

  env.it("a server that has enough of each connection after a few requests gets them on many", function()
    local peer, client = pair(env, function(x, peer)
      answer(x, 200, {}, target(x).path)
      if peer.requests % 3 == 0 then
        peer.host:goaway(true)
      end
    end, { transport = { max_streams_bidi = 2 } })
    local tasks = {}
    for i = 1, 40 do
      tasks[i] = echo.spawn(function()
        return assert(assert(client:request(peer.base .. "/" .. i, { method = "POST", body = "x" })):body())
      end)
    end
    local paths = assert(echo.all(tasks))
    for i = 1, 40 do
      assert.equal("/" .. i, paths[i])
    end
    assert.equal(40, peer.requests)
  end)

  describe("requests that a server did nothing with", function()
    env.it("are sent again, whatever they are", function()
      local peer, client = pair(env, function(x, peer)
        if peer.requests <= 2 then
          return x:reset(0x10b) -- H3_REQUEST_REJECTED
        end
        answer(x, 200, {}, assert(body_of(x)))
      end)
      assert.equal("data", assert(client:request(peer.base, { body = "data" })):body())
      assert.equal(3, peer.requests)
    end)

    env.it("are not for ever, nor when they were begun and cannot be repeated", function()
      local peer, client = pair(env, function(x)
        x:reset(0x10b)
      end)
      local response, err = client:request(peer.base, { body = "data" })
      assert.is_nil(response)
      assert.equal("unavailable", err.code)
      assert.equal("no", err.processed)
      assert.equal(4, peer.requests)
      response, err = client:request(peer.base, { body = counter(3, "x") })
      assert.is_nil(response)
      assert.equal("unavailable", err.code)
      assert.equal(5, peer.requests)
    end)

    env.it("are told from those that it gave up", function()
      local peer, client = pair(env, function(x)
        x:reset(0x102) -- H3_INTERNAL_ERROR
      end)
      local response, err = client:request(peer.base)
      assert.is_nil(response)
      assert.equal("internal", err.code)
      assert.equal("maybe", err.processed)
      assert.equal(1, peer.requests)
    end)
  end)

  describe("answers", function()
    env.it("that are cut off are not whole", function()
      local peer, client = pair(env, function(x)
        assert(x:respond(200, {}, false))
        assert(x:write "half")
        read(x) -- the end of the request: all of it is there
        x:reset(0x102)
      end)
      local response, err = client:request(peer.base)
      local body
      if response then
        body, err = response:body()
      end
      assert.is_nil(body)
      assert.equal("internal", err.code)
    end)

    env.it("over the limits are refused", function()
      local peer, client = pair(env, function(x)
        if target(x).path == "/head" then
          return answer(x, 200, { "x-big", ("x"):rep(70000) })
        elseif target(x).path == "/few" then
          return answer(x, 200, { "a", "1", "b", "2", "c", "3", "d", "4", "e", "5", "f", "6", "g", "7", "h", "8" })
        end
        answer(x, 200, {}, ("x"):rep(1000))
      end, nil, { max_body = 999 })
      local response, err = client:request(peer.base .. "/head")
      assert.is_nil(response)
      assert.equal("resource_exhausted", err.code)
      response = assert(client:request(peer.base))
      local body
      body, err = response:body()
      assert.is_nil(body)
      assert.equal("resource_exhausted", err.code)
      response, err = client:request(peer.base .. "/few", { max_header_fields = 8 })
      assert.is_nil(response)
      assert.equal("resource_exhausted", err.code)
      assert.equal(200, assert(client:request(peer.base .. "/few")).status)
      assert.equal(200, assert(client:request(peer.base .. "/head", { max_header_bytes = 100000 })).status)
      assert.equal(1000, #assert(client:request(peer.base):body(1000)))
      assert.equal(1000, #assert(client:request(peer.base, { max_body = 1000 }):body()))
    end)

    env.it("that nobody reads, and requests that are cancelled, end on the server too", function()
      local given_up = 0
      local peer, client = pair(env, function(x)
        if target(x).path == "/slow" then
          repeat
            local _, err = read(x)
          until err or not echo.sleep(0.001) or select(2, x:status()) ~= "again" and not x:peer_addr()
          given_up = given_up + 1
          return
        end
        assert(x:respond(200, {}, false))
        repeat
          local ok = h3_peer.send(x, ("x"):rep(65536))
        until not ok
        given_up = given_up + 1
      end)
      local response = assert(client:request(peer.base))
      response:close()
      assert.is_nil(response:read())
      h3_peer.eventually(function()
        return given_up == 1
      end, "a closed answer is given up")
      assert(client:request(peer.base))
      response = nil -- luacheck: ignore
      h3_peer.eventually(function()
        collectgarbage()
        return given_up == 2
      end, "a dropped answer is given up")
      local asking = echo.spawn(function()
        return client:request(peer.base .. "/slow", { body = function()
          echo.sleep(1000)
        end })
      end)
      h3_peer.eventually(function()
        return peer.requests == 3
      end, "the request arrives")
      asking:cancel()
      h3_peer.eventually(function()
        return given_up == 3
      end, "a cancelled request is given up")
    end)
  end)

  describe("early data", function()
    local function resume(env_, fn, client_options)
      local opts = { session_cache = echo.session_cache.memory(), transport = { enable_0rtt = true } }
      for key, value in pairs(client_options or {}) do
        opts[key] = value
      end
      local peer, client = pair(env_, fn, { transport = { enable_0rtt = true } }, opts)
      assert(client:request(peer.base .. "/first")):body()
      h3_peer.eventually(function() -- the ticket follows the handshake
        local store = client._options.session_cache
        return next(store._entries)
      end, "a ticket")
      client:close()
      return peer, client
    end

    env.it("carries what is safe, and nothing else", function()
      local peer, client = resume(env, function(x)
        answer(x, 200, { "x-early", tostring(x:early()) }, "ok")
      end)
      local post = echo.spawn(function()
        return assert(client:request(peer.base, { body = "x" }))
      end)
      local get = echo.spawn(function()
        return assert(client:request(peer.base))
      end)
      local answers = assert(echo.all { post, get })
      assert.is_false(answers[1].early)
      assert.equal("false", answers[1].headers:get "x-early")
      assert.equal("ok", answers[1]:body())
      assert.equal("ok", answers[2]:body())
      local there = client:connections()
      assert.is_true(there[1].resumed)
      client:close()
      local response = assert(client:request(peer.base))
      assert.is_true(response.early)
      assert.equal("true", response.headers:get "x-early")
      assert.equal("accepted", client:connections()[1].early_data)
    end)

    env.it("is not used when the option says so", function()
      local peer, client = resume(env, function(x)
        answer(x, 200, { "x-early", tostring(x:early()) }, "ok")
      end, { early = false })
      local response = assert(client:request(peer.base))
      assert.is_false(response.early)
      assert.equal("false", response.headers:get "x-early")
    end)

    env.it("is sent again after the handshake when the server says 425 (Too Early)", function()
      local peer, client = resume(env, function(x)
        answer(x, x:early() and 425 or 200, {}, "ok")
      end)
      local response = assert(client:request(peer.base))
      assert.equal(200, response.status)
      assert.is_false(response.early)
      assert.equal(3, peer.requests)
    end)

    env.it("that the server does not take any more arrives all the same", function()
      local bind = env.kind == "sim" and "10.0.0.9:5000" or nil
      local opts = { pin = nil, session_cache = echo.session_cache.memory(), transport = { enable_0rtt = true } }
      local function fn(x)
        answer(x, 200, { "x-early", tostring(x:early()) }, assert(body_of(x)))
      end
      local peer = h3_peer.serve(env, fn, { bind = bind, transport = { enable_0rtt = true } })
      opts.pin = peer.pin
      local client <close> = echo.http.client(opts)
      assert(client:request(peer.base)):body()
      h3_peer.eventually(function()
        return next(opts.session_cache._entries)
      end, "a ticket")
      client:close()
      peer.close()
      local again = h3_peer.serve(env, fn, { bind = peer.address, transport = { enable_0rtt = true } })
      local tasks = {}
      for i = 1, 10 do
        tasks[i] = echo.spawn(function()
          return assert(assert(client:request(again.base, { method = i % 2 == 0 and "GET" or "POST", body = i % 2 == 1 and "x" or nil })):body())
        end)
      end
      assert.same({ "x", "", "x", "", "x", "", "x", "", "x", "", n = 10 }, echo.all(tasks))
      assert.is_not.equal("accepted", client:connections()[1].early_data)
    end)

    env.it("that the server does not take is sent on a new connection when a request was given up meanwhile", function()
      local bind = env.kind == "sim" and "10.0.0.9:5000" or nil
      local store = echo.session_cache.memory()
      local function fn(x)
        answer(x, 200, {}, target(x).path)
      end
      local peer = h3_peer.serve(env, fn, { bind = bind, transport = { enable_0rtt = true } })
      local client <close> = echo.http.client { pin = peer.pin, session_cache = store, transport = { enable_0rtt = true } }
      assert(client:request(peer.base)):body()
      h3_peer.eventually(function()
        return next(store._entries)
      end, "a ticket")
      client:close()
      peer.close()
      local again = h3_peer.serve(env, fn, { bind = peer.address, transport = { enable_0rtt = true } })
      local tasks = {}
      for i = 1, 6 do
        tasks[i] = echo.spawn(function()
          local slow = i == 2 and function()
            echo.sleep(1000)
          end
          return assert(assert(client:request(again.base .. "/" .. i, { method = "GET", body = slow or nil })):body())
        end)
      end
      h3_peer.eventually(function()
        return client:connections()[1] and client:connections()[1].requests == 6
      end, "all of them are on their way")
      tasks[2]:cancel()
      table.remove(tasks, 2)
      assert.same({ "/1", "/3", "/4", "/5", "/6", n = 5 }, echo.all(tasks))
    end)
  end)
end)

net.only("sim", function(env)
  env.it("connections that nobody uses end", function()
    local peer, client = pair(env, tell, nil, { keep = 5 })
    assert(client:request(peer.base)):body()
    echo.sleep(4)
    assert(client:request(peer.base)):body()
    echo.sleep(4)
    assert.equal(2, client:connections()[1].requests)
    echo.sleep(2)
    assert.same({}, client:connections())
    assert(client:request(peer.base)):body()
    assert.equal(1, client:connections()[1].requests)
  end)

  env.it("a server that came back is found, by what may be repeated", function()
    local peer, client = pair(env, tell, { bind = "10.0.0.5:5000" }, { keep = 3600 })
    assert(client:request(peer.base)):body()
    peer.close()
    local again = h3_peer.serve(env, tell, { bind = "10.0.0.5:5000" })
    assert.equal("GET", assert(client:request(again.base)).headers:get "x-method")
  end)
end)
