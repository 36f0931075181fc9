local echo = require "echostream"
local net = require "spec.support.net"

net.each(function(env)
  -- A server and n clients, each with its number in session:get "n"; heard[n] is what client n got. Client `stuck` stops in
  -- its first event until `go` is called.
  local function room(n, stuck)
    local server, clients, heard, open = env.server(), {}, {}, false
    server:add_event("number", function(session, number) session:set("n", number) end)
    for i = 1, n do
      heard[i] = {}
      local client = env.client(server)
      client:add_event("news", function(_, ...)
        if i == stuck and not open then
          while not open do echo.sleep(0.005) end
        end
        table.insert(heard[i], (...))
      end)
      clients[i] = assert(client:connect(server.address))
      client:emit("number", i)
    end
    env.eventually(function()
      for _, session in ipairs(server:sessions()) do
        if not session:get "n" then return false end
      end
      return #server:sessions() == n
    end)
    return server, heard, function() open = true end, clients
  end

  local function first_words(list)
    local words = {}
    for i, text in ipairs(list) do words[i] = text:match "^%d+" end
    return table.concat(words, " ")
  end

  local big = (" "):rep(100000)

  describe("a broadcast", function()
    env.it("reaches every session, small and large", function()
      local server, heard = room(3)
      assert.same({ 3, 0 }, { server:broadcast("news", "small") })
      assert.same({ 3, 0 }, { server.context:broadcast("news", big) })
      assert.same({ 3, 0 }, { server:broadcast({ lane = 2 }, "news", "lane") })
      env.eventually(function() return #heard[1] == 3 and #heard[2] == 3 and #heard[3] == 3 end)
      for i = 1, 3 do
        table.sort(heard[i], function(a, b) return #a < #b end)
        assert.same({ "lane", "small", big }, heard[i])
      end
    end)

    env.it("reaches those who are chosen", function()
      local server, heard = room(3)
      assert.same({ 2, 0 }, { server:broadcast({ to = function(s) return s:get "n" ~= 2 end }, "news", "odd") })
      assert.same({ 1, 0 }, { server:broadcast({ to = { server:sessions()[2] } }, "news", "one") })
      assert.same({ 0, 0 }, { server:broadcast({ to = {} }, "news", "none") })
      env.eventually(function() return #heard[1] == 1 and #heard[2] == 1 and #heard[3] == 1 end)
      assert.equal("odd", heard[1][1])
      assert.equal("odd", heard[3][1])
    end)

    env.it("travels as a datagram, with metadata, in another codec", function()
      local server, heard = room(2)
      assert.same({ 2, 0 }, { server:broadcast({ unreliable = true }, "news", "d") })
      assert.same({ 0, 2 }, { server:broadcast({ unreliable = true }, "news", big) })
      assert.same({ 2, 0 }, { server:broadcast({ codec = "json", metadata = { k = "v" } }, "news", "j") })
      env.eventually(function() return #heard[1] >= 1 and #heard[2] >= 1 end)
    end)

    -- 1 MiB of queue and what the windows hold: after so many of these the queue of the one that is stuck is full.
    local ENOUGH = 20

    env.it("skips a slow session unless told otherwise", function()
      local server, heard, go = room(2, 1)
      local left = 0
      for i = 1, ENOUGH do
        left = left + select(2, server:broadcast("news", i .. big))
        env.eventually(function() return #heard[2] == i end)
      end
      assert.is_true(left > 0 and left < ENOUGH)
      go()
      env.eventually(function() return #heard[1] == ENOUGH - left end)
    end)

    env.it("waits for a slow session, and not for ever", function()
      local server, heard, go = room(2, 1)
      local sent, full, taken = 0, 0, 0
      repeat
        sent = sent + 1
        local reached = server:broadcast({ policy = "wait", timeout = 0.1 }, "news", sent .. big)
        full = reached == 1 and full + 1 or 0
        taken = taken + (reached == 2 and 1 or 0)
      until full == 3 or sent > 40
      assert.equal(3, full)
      local task = echo.spawn(function()
        return server:broadcast({ policy = "wait", timeout = 5 }, "news", "0" .. big)
      end)
      echo.sleep(0.05)
      assert.equal("suspended", task:status())
      go()
      assert.equal(2, task:wait(5))
      env.eventually(function() return #heard[1] == taken + 1 and #heard[2] == sent + 1 end)
    end)

    env.it("drops the oldest for a slow session, and keeps the order", function()
      local server, heard, go = room(2, 1)
      local dropped = 0
      for i = 1, 40 do
        local reached, left = server:broadcast({ policy = "drop_oldest", outbox = 3 }, "news", i .. big)
        assert.equal(2, reached)
        dropped = dropped + left
        env.eventually(function() return #heard[2] == i end)
      end
      assert.is_true(dropped > 10)
      go()
      env.eventually(function() return #heard[1] == 40 - dropped end)
      local numbers = {}
      for i, text in ipairs(heard[1]) do numbers[i] = tonumber(text:match "^%d+") end
      for i = 2, #numbers do assert.is_true(numbers[i] > numbers[i - 1]) end
      assert.matches(" 38 39 40$", first_words(heard[1]))
      server:broadcast({ policy = "drop_oldest" }, "news", "41")
      env.eventually(function() return heard[1][#heard[1]] == "41" end)
    end)

    env.it("keeps nothing for a session that is gone", function()
      local server, heard, go, clients = room(2, 1)
      for i = 1, 30 do
        server:broadcast({ policy = "drop_oldest", outbox = 3 }, "news", i .. big)
        env.eventually(function() return #heard[2] == i end)
      end
      local slow = server:sessions()[1]
      assert.is_table(slow._outbox)
      clients[1].session._ud:close()
      env.eventually(function() return #server:sessions() == 1 and slow._outbox == nil end)
      go()
    end)

    env.it("disconnects a slow session when told so", function()
      local server, heard, go = room(2, 1)
      local why
      server:on_disconnect(function(_, err) why = err end)
      for i = 1, ENOUGH do
        server:broadcast({ policy = "disconnect" }, "news", i .. big)
        env.eventually(function() return #heard[2] == i end)
      end
      env.eventually(function() return #server:sessions() == 1 end)
      assert.matches("too slow", why.message)
      go()
    end)

    env.it("passes through middleware, for every receiver", function()
      local server, heard = room(3)
      server:middleware(function(call, next)
        local n = call.session:get "n"
        if n == 1 then return call:reject("permission_denied", "not him") end
        if n == 2 then call.args[1] = "for two" end
        return next(call)
      end, { direction = "out" })
      assert.same({ 2, 1 }, { server:broadcast("news", "all") })
      env.eventually(function() return #heard[2] == 1 and #heard[3] == 1 end)
      assert.same({ "for two", "all", 0 }, { heard[2][1], heard[3][1], #heard[1] })
    end)

    env.it("with something wrong in it raises before anything is sent", function()
      local server, heard = room(1)
      for _, arguments in ipairs { {}, { 1 }, { {} }, { { policy = "hope" }, "news" }, { { lanes = 1 }, "news" },
        { "news", print }, { "bad name" } } do
        assert.has_error(function() server:broadcast(table.unpack(arguments)) end)
      end
      assert.equal(0, #heard[1])
    end)
  end)
end)
