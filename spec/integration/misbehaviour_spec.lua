-- RELIABILITY L1, L2, R5: whatever a handler does, that call fails, the process lives, and the log has the traceback.

local echo = require "echostream"
local net = require "spec.support.net"

local bad_tostring = setmetatable({}, { __tostring = function() error("worse") end })
local odd_tostring = setmetatable({}, { __tostring = function() return {} end })

local failures = {
  string = function() error("SECRET text") end,
  none = function() error() end,
  table = function() error({ "SECRET" }) end,
  number = function() error(7) end,
  bad = function() error(bad_tostring) end,
  odd = function() error(odd_tostring) end,
  index = function() return (nil).x end,
  overflow = function() local function deep() return 1 + deep() end return deep() end,
  yield = function() coroutine.yield("SECRET") end,
  gsub = function() return (("x"):gsub("x", function() echo.sleep(0) end)) end,
  sort = function() table.sort({ 3, 2, 1 }, function(a, b) echo.sleep(0) return a < b end) end,
  unsendable = function() return print end,
  cycle = function() local t = {} t.t = t return t end,
  memory = function() return ("x"):rep(1 << 40) end,
}

net.each(function(env)
  describe("a handler that fails", function()
    for name, fn in pairs(failures) do
      env.it("by " .. name .. " fails its call and nothing else", function()
        local _, client = env.pair(function(server)
          server:add_rpc("bad", fn)
          server:add_rpc("good", function() return "good" end)
        end)
        local value, err = client:request("bad")
        assert.is_nil(value)
        assert.is_true(echo.is_error(err))
        assert.is_string(err.code)
        assert.not_matches("traceback", err.message)
        assert.not_matches("misbehaviour_spec", err.message)
        assert.is_true(#env.logs >= 1)
        assert.equal("good", client:request("good"))
      end)
    end

    env.it("by raising an error object sends exactly that", function()
      local _, client = env.pair(function(server)
        server:add_rpc("raise", function() error(echo.error("not_found", "no such user", { id = 7 })) end)
        server:add_rpc("return", function() return nil, echo.error("out_of_cheese", "none left") end)
        server:add_rpc("result", function() return nil, "just text" end)
      end)
      local _, err = client:request("raise")
      assert.equal("not_found", err.code)
      assert.equal("no such user", err.message)
      assert.equal(7, err.details.id)
      assert.equal("yes", err.processed)
      _, err = client:request("return")
      assert.equal("out_of_cheese", err.code)
      assert.equal(2, err.status)
      assert.same({ n = 2, nil, "just text" }, table.pack(client:request("result")))
    end)

    env.it("leaves its traceback in the log, with the method's name", function()
      local _, client = env.pair(function(server)
        server:add_rpc("bad", function() error("boom 17") end)
      end)
      client:request("bad")
      local record = env.logged("boom 17")
      assert.equal("bad", record.method)
      assert.matches("misbehaviour_spec", record.traceback)
    end)

    env.it("in an event or a hook is logged too", function()
      local server, client = env.pair(function(server)
        server:add_event("bad", function() error("event 18") end)
        server:on_disconnect(function() error("hook 19") end)
      end)
      client:emit("bad")
      env.eventually(function() return env.logged("event 18") end)
      env.eventually(function() return #server:sessions() == 1 end)
      client:close()
      env.eventually(function() return env.logged("hook 19") end)
    end)

    env.it("in a callback or a task is logged too", function()
      local _, client = env.pair()
      client:request("x", function() error("callback 20") end)
      echo.spawn(function() error("task 21") end)
      env.eventually(function() return env.logged("callback 20") and env.logged("task 21") end)
    end)

    env.it("by answering more than the peer takes says so", function()
      local _, client = env.pair(function(server)
        server:add_rpc("huge", function() return ("x"):rep(200000) end)
        server:add_rpc("small", function() return "x" end)
      end, nil, { max_message = 100000 })
      client:request("small")
      local value, err = client:request("huge")
      assert.is_nil(value)
      assert.equal("resource_exhausted", err.code)
      assert.equal("x", client:request("small"))
    end)
  end)

  describe("inside a handler", function()
    local actions = {
      ["its session may be closed"] = function(session) session:close() return 1 end,
      ["its session may be closed twice"] = function(session) session:close() session:close() return 1 end,
      ["the server may be stopped at once"] = function(_, server) server:stop { grace = 0 } return 1 end,
      ["everything may be collected"] = function() collectgarbage() collectgarbage() return 1 end,
      ["the loop cannot be run again"] = function() return select(2, pcall(echo.run)) end,
      ["a megabyte may be returned"] = function() return ("x"):rep(1 << 20) end,
    }
    for name, action in pairs(actions) do
      env.it(name, function()
        local server, client = env.pair(function(server)
          server:add_rpc("act", function(session) return action(session, server) end)
        end)
        local ok, err = client:request("act")
        assert.is_true(ok ~= nil or echo.is_error(err))
        if server.state == "running" then
          assert.equal("method_not_found", select(2, env.connect(server):request("x")).code)
        end
      end)
    end

    env.it("the very same method may be called again", function()
      local server, client = env.pair()
      local function depth(session, n)
        if n == 0 then
          return 0
        end
        return 1 + assert(session:request("depth", n - 1))
      end
      server:add_rpc("depth", depth)
      client:add_rpc("depth", depth)
      assert.equal(10, client:request("depth", 10))
    end)
  end)

  describe("at its limit", function()
    env.it("a server runs max_calls handlers of a session; more wait or are refused, none is lost", function()
      local running, most = 0, 0
      local _, client = env.pair(function(server)
        server:add_rpc("work", function()
          running = running + 1
          most = math.max(most, running)
          echo.sleep(0.02)
          running = running - 1
          return true
        end)
      end, { max_calls = 5 })
      local tasks, ok, refused = {}, 0, 0
      for i = 1, 40 do
        tasks[i] = echo.spawn(function() return client:request("work") end)
      end
      for _, task in ipairs(tasks) do
        local value, err = task:wait(10)
        if value then
          ok = ok + 1
        else
          assert.equal("resource_exhausted", err.code)
          assert.equal("no", err.processed)
          refused = refused + 1
        end
      end
      assert.equal(40, ok + refused)
      assert.is_true(ok >= 5)
      assert.is_true(most <= 5, tostring(most))
    end)

    env.it("a message passes, one byte more is refused", function()
      local _, client = env.pair(function(server)
        server:add_rpc("len", function(_, s) return #s end)
      end, { max_message = 100000 })
      client:request("len", "x") -- the peer's HELLO is here now
      local most = 100000 - 6 -- an array of one string: 1 byte, and 5 in front of the string
      local value, err = client:request("len", ("x"):rep(most))
      assert.equal(most, value, tostring(err))
      value, err = client:request("len", ("x"):rep(most + 1))
      assert.is_nil(value)
      assert.equal("resource_exhausted", err.code)
      assert.equal("no", err.processed)
      assert.equal(1, client:request("len", "x"))
    end)

    env.it("metadata passes, one byte more is refused before it is sent", function()
      local heard = 0
      local server, client = env.pair(function(server)
        server:add_rpc("len", function() return #(echo.call().metadata.k or "") end)
        server:add_event("log", function() heard = heard + 1 end)
        server:add_stream("s", function(_, stream) stream:finish() end)
      end, { max_metadata = 100 })
      client:request "len" -- the peer's HELLO is here now
      -- A pair is its bytes and their lengths: 1 + 1 + 2 + 96.
      local fits = client:with { metadata = { k = ("x"):rep(96) } }
      local over = client:with { metadata = { k = ("x"):rep(97) } }
      assert.equal(96, fits:request "len")
      assert.is_true(fits:emit "log")
      local stream = assert(fits:create_stream "s")
      assert.is_nil((stream:recv(5)))
      for _, outcome in ipairs { table.pack(over:request "len"), table.pack(over:emit "log"), table.pack(over:create_stream "s") } do
        assert.is_nil(outcome[1])
        assert.equal("resource_exhausted", outcome[2].code)
        assert.equal("no", outcome[2].processed)
        assert.matches("max_metadata", outcome[2].message)
      end
      env.eventually(function() return heard == 1 end)
      assert.equal(1, server:stats().events_in)
      assert.equal(1, server:stats().streams_in)
    end)

    env.it("the metadata of an answer passes, one byte more fails the call", function()
      local _, client = env.pair(function(server)
        server:add_rpc("stretch", function(_, n)
          echo.call():set_trailers { k = ("t"):rep(n) }
          return "fine"
        end)
      end, nil, { max_metadata = 100 })
      assert.equal("fine", client:request("stretch", 96))
      local value, err = client:request("stretch", 97)
      assert.is_nil(value)
      assert.equal("internal", err.code)
      assert.is_truthy((env.logged "max_metadata"))
      assert.equal("fine", client:request("stretch", 1))
    end)

    env.it("named streams out of credit say resource_exhausted instead of hanging", function()
      local _, client = env.pair(function(server)
        server:add_stream("hold", function(_, stream) stream:recv() end)
        server:add_rpc("ready", function() return true end)
      end, { max_named_streams = 3 })
      client:request("ready")
      local streams = {}
      for i = 1, 3 do
        streams[i] = assert(client:create_stream("hold"))
      end
      local stream, err = client:create_stream("hold")
      if stream then
        local _, problem = stream:recv(5)
        err = problem
      end
      assert.equal("resource_exhausted", err.code)
      streams[1]:close()
      env.eventually(function()
        local again = client:create_stream("hold")
        if again then
          local frame, problem = again:recv(0.05)
          again:close()
          return frame == nil and (problem == nil or problem.code == "timeout")
        end
      end, "its place is free again")
    end)
  end)
end)
