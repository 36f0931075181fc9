-- Publish and subscribe.

local echo = require "echostream"
local net = require "spec.support.net"

net.each_door(function(env)
  describe("a topic", function()
    local function subscribed(topic, n)
      env.eventually(function() return topic:subscribers() == n end, n .. " subscribers")
    end

    env.it("reaches everybody who has subscribed, in order, nils included", function()
      local server, one = env.pair()
      local two = env.connect(server)
      local ticks = server:topic("ticks", { doc = "prices" })
      assert.same({ 0, 0 }, { ticks:publish("nobody") })
      local heard = {}
      local first = assert(one:subscribe("ticks", function(...) heard[#heard + 1] = table.pack(...) end))
      local second = assert(two:subscribe("ticks"))
      subscribed(ticks, 2)
      assert.same({ 2, 0 }, { ticks:publish("EURUSD", 1.5) })
      ticks:publish()
      ticks:publish(nil, 3, nil)
      ticks:publish { a = 1 }
      env.eventually(function() return #heard == 4 end, "four messages")
      assert.same({ { n = 2, "EURUSD", 1.5 }, { n = 0 }, { n = 3, nil, 3, nil }, { n = 1, { a = 1 } } }, heard)
      assert.same({ "EURUSD", 1.5 }, { second:next() })
      assert.equal(0, select("#", second:next()))
      assert.equal(3, select(2, second:next(1)))
      assert.same({ 3, 3, 0 }, { second.received, second.seq, second.missing })
      assert.same({ a = 1 }, second:next())
      local waited, err = second:next(0.01)
      assert.is_nil(waited)
      assert.equal("timeout", err.code)
      first:close()
      subscribed(ticks, 1)
      assert.same({ 1, 0 }, { ticks:publish("last") })
      assert.equal("last", second:next())
      assert.equal(4, first.received)
    end)

    env.it("is read by a loop, until the topic is closed", function()
      local server, client = env.pair()
      local topic = server:topic "count"
      local got, over = {}, nil
      local sub = assert(client:subscribe("count", { on_end = function(err) over = { err } end }))
      local task = echo.spawn(function()
        for n in sub:each() do got[#got + 1] = n end
      end)
      subscribed(topic, 1)
      for i = 1, 3 do topic:publish(i) end
      topic:publish(nil)
      topic:close()
      topic:close()
      task:wait()
      assert.same({ 1, 2, 3, echo.null }, got)
      assert.is_nil(sub.error)
      env.eventually(function() return over end, "on_end")
      assert.same({}, over)
      assert.is_nil((sub:next()))
      assert.is_true(sub:close())
      local _, err = client:subscribe("count"):next()
      assert.equal("method_not_found", err.code)
      assert.equal("no topic count", err.message)
    end)

    env.it("gives a new subscriber the last messages first", function()
      local server, client = env.pair()
      local topic = server:topic("replay", { replay = 2 })
      for i = 1, 5 do topic:publish(i) end
      local sub = assert(client:subscribe "replay")
      assert.same({ 4, 5 }, { (sub:next()), (sub:next()) })
      assert.equal(0, sub.missing)
      topic:publish(6)
      assert.equal(6, sub:next())
    end)

    env.it("is not for everybody when admit says so", function()
      local server, client = env.pair()
      server:topic("secret", { admit = function() return false end })
      server:topic("named", { admit = function() return nil, echo.error("unauthenticated", "who are you?") end })
      assert.equal("permission_denied", select(2, client:subscribe("secret"):next()).code)
      local failed
      client:subscribe("named", function() end, { on_end = function(err) failed = err end })
      env.eventually(function() return failed end, "on_end")
      assert.equal("unauthenticated", failed.code)
    end)

    env.it("that does not exist is named in the log when nobody else would hear of it", function()
      local server, client = env.pair()
      client:subscribe("nope", function() end)
      env.eventually(function() return env.logged "the subscription to nope ended: method_not_found: no topic nope" end, "the record")
      local twice = server:topic "twice"
      local ok, problem = pcall(server.topic, server, "twice")
      assert.is_false(ok)
      assert.truthy(problem:find('topic: "twice": there is a topic of that name already', 1, true), problem)
      ok, problem = pcall(function() server:topic "a name" end)
      assert.is_false(ok)
      assert.truthy(problem:find('topic: ', 1, true) and problem:find('1 to 256 characters', 1, true), problem)
      assert.equal("echostream.topic twice (0 subscribers)", tostring(twice))
      local sub = client:subscribe "twice"
      subscribed(twice, 1)
      assert.equal("echostream.topic twice (1 subscriber)", tostring(twice))
      twice:publish(1)
      assert.equal(1, sub:next())
      assert.equal("echostream.subscription twice (1 received)", tostring(sub))
    end)

    env.it("works the other way round, and tells a callback", function()
      local server, client = env.pair()
      local news = client:topic "news"
      env.eventually(function() return server:sessions()[1] end, "the session")
      local sub, got = assert(server:sessions()[1]:subscribe "news"), nil
      sub:next(function(...) got = { ... } end)
      subscribed(news, 1)
      news:publish("hi", 2)
      env.eventually(function() return got end, "the callback")
      assert.same({ "hi", 2 }, got)
    end)

    env.it("ends with the session, and logs what a subscriber raises", function()
      local server, client = env.pair()
      local topic = server:topic "short"
      local ended, n = nil, 0
      client:subscribe("short", function() n = n + 1 error "no luck" end, { on_end = function(err) ended = err end })
      subscribed(topic, 1)
      topic:publish(1)
      topic:publish(2)
      env.eventually(function() return n == 2 end, "both messages")
      assert.truthy(env.logged "no luck")
      client:close()
      env.eventually(function() return ended end, "on_end")
      assert.equal("connection_closed", ended.code)
      subscribed(topic, 0)
      assert.equal("unavailable", select(2, env.client(server):subscribe "short").code)
      assert.has_error(function() client:subscribe("short", 5) end)
      assert.has_error(function() server:topic("x", { policy = "pray" }) end)
      assert.has_error(function() topic:publish(function() end) end)
    end)
  end)

  describe("a slow subscriber", function()
    -- A topic with a subscriber that reads nothing while 200 messages of 4 KiB are published.
    local function slow(opts)
      local server, client = env.pair()
      opts.queue, opts.outbox = 16384, 5
      local topic = server:topic("fast", opts)
      local sub, other = assert(client:subscribe "fast"), assert(env.connect(server):subscribe "fast")
      env.eventually(function() return topic:subscribers() == 2 end, "both")
      local filler = (" "):rep(4096)
      local reading = echo.spawn(function()
        local n
        repeat n = other:next() until n == 200 or n == nil
      end)
      local left_out = 0
      for i = 1, 200 do
        left_out = left_out + select(2, topic:publish(i, filler))
        echo.sleep(0.001)
      end
      return topic, sub, left_out, other, reading
    end

    local function rest(sub, last)
      local n, err
      repeat n, err = sub:next() until n == last or n == nil
      return n, err
    end

    env.it("gets the newest, and counts what is missing", function()
      local topic, sub, left_out, other, reading = slow {}
      assert.equal(0, left_out)
      assert.equal(200, rest(sub, 200))
      reading:wait()
      assert.is_true(sub.missing > 0)
      assert.equal(200, sub.received + sub.missing)
      assert.equal(topic.dropped, sub.missing + other.missing)
    end)

    env.it("misses the newest when the topic says so", function()
      local topic, sub, left_out = slow { policy = "drop_newest" }
      assert.is_true(left_out > 0)
      local ended = echo.spawn(rest, sub, -1)
      env.eventually(function() return (topic:publish(-1)) == 2 end, "there is room again")
      assert.equal(-1, ended:wait())
      assert.is_true(sub.received < 201)
    end)

    env.it("loses its subscription when the topic says so", function()
      local topic, sub = slow { policy = "close" }
      assert.equal("resource_exhausted", select(2, rest(sub, 200)).code)
      assert.equal("resource_exhausted", sub.error.code)
      env.eventually(function() return topic:subscribers() <= 1 end, "it is gone")
    end)
  end)
end)

net.only("sim", function(env)
  describe("a publisher that waits", function()
    env.it("goes on when the slow subscriber has room, or when the time is over", function()
      local server, client = env.pair()
      local topic = server:topic("patient", { policy = "wait", queue = 16384, outbox = 4, timeout = 60 })
      local sub = assert(client:subscribe "patient")
      env.eventually(function() return topic:subscribers() == 1 end, "it is there")
      local filler, published = (" "):rep(16384), 0
      local task = echo.spawn(function()
        for i = 1, 100 do
          topic:publish(i, filler)
          published = i
        end
      end)
      echo.sleep(5)
      assert.is_true(published < 40, tostring(published))
      for i = 1, 100 do assert.equal(i, sub:next()) end
      task:wait()
      assert.equal(0, topic.dropped)
      local hurried = server:topic("hurried", { policy = "wait", queue = 16384, outbox = 4, timeout = 0.5 })
      sub = assert(client:subscribe "hurried")
      env.eventually(function() return hurried:subscribers() == 1 end, "it is there")
      for i = 1, 60 do hurried:publish(i, filler) end
      assert.is_true(hurried.dropped > 0)
      sub:close()
    end)
  end)
end)
