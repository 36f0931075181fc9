local echo = require "echostream"
local net = require "spec.support.net"

net.each(function(env)
  local function server(auth, options)
    return env.server(nil, function(s)
      s:add_rpc("who", function(session) return session.identity end)
      s:add_rpc("add", function(_, a, b) return a + b end)
      s:add_stream("echo", function(_, stream) stream:send "x" end)
      s:auth(auth, options)
    end)
  end

  -- The first error that a client sees which is not let in.
  local function refusal(s, metadata)
    local client, err = env.client(s, { metadata = metadata }):connect(s.address)
    if not client then return err end
    local _, problem = client:request("add", 1, 2)
    return problem, client
  end

  describe("server:auth", function()
    env.it("sees the credentials, may wait, and names the session", function()
      local s = server(function(session, credentials)
        assert(session.peer_addr ~= "")
        echo.sleep(0.02)
        return { user = credentials.user }
      end)
      local client = env.connect(s, { metadata = { user = "ann" } })
      assert.same({ user = "ann" }, client:request "who")
      assert.equal("ann", s:sessions()[1].identity.user)
    end)

    env.it("refuses, and the client learns the code and the sentence", function()
      local s = server(function(_, credentials)
        if credentials.token == "old" then
          return nil, echo.error("permission_denied", "your token has expired: get a new one")
        elseif credentials.token == "text" then
          return nil, "only a sentence"
        elseif credentials.token == "raise" then
          error(echo.error("not_invited", "a code of our own"))
        elseif credentials.token == "right" then
          return true
        end
      end)
      local expected = {
        old = { "permission_denied", "your token has expired: get a new one" },
        text = { "unauthenticated", "only a sentence" },
        raise = { "not_invited", "a code of our own" },
        wrong = { "unauthenticated", "your credentials were not accepted" },
      }
      for token, want in pairs(expected) do
        local err, client = refusal(s, { token = token })
        assert.same(want, { err.code, err.message })
        assert.equal("no", err.processed)
        -- and again, whatever is tried
        env.eventually(function() return not client:is_open() end)
        for _, again in ipairs { select(2, client:request("add", 1, 2)), select(2, client:emit("x")),
          select(2, client:create_stream("echo")) } do
          assert.same(want, { again.code, again.message })
        end
      end
      assert.equal(3, env.connect(s, { metadata = { token = "right" } }):request("add", 1, 2))
      assert.equal(1, #s:sessions())
    end)

    env.it("tells streams, too", function()
      local s = server(function() echo.sleep(0.05) return nil, "not you" end)
      local client = env.connect(s)
      local stream = client:create_stream "echo"
      local frame, err = stream:recv()
      assert.is_nil(frame)
      assert.same({ "unauthenticated", "not you" }, { err.code, err.message })
    end)

    env.it("holds calls back until it has decided", function()
      local decided, ran = false, false
      local s = server(function() echo.sleep(0.05) decided = true return "ok" end)
      s:add_rpc("early", function() ran = decided return true end)
      env.connect(s):request "early"
      assert.is_true(ran)
    end)

    env.it("has a time limit", function()
      local s = server(function() echo.sleep(30) return true end, { timeout = 0.05 })
      local err = refusal(s)
      assert.equal("unauthenticated", err.code)
      assert.matches("could not be found out within", err.message)
    end)

    env.it("that fails lets nobody in and tells nothing of it", function()
      local s = server(function() error "the database's password is x" end)
      local err = refusal(s)
      assert.equal("internal", err.code)
      assert.not_matches("password", err.message)
      assert.truthy(env.logged "password")
    end)

    env.it("comes before on_connect, which may refuse as well", function()
      local s = server(function() return "ann" end)
      local seen
      s:on_connect(function(session)
        seen = session.identity
        return nil, echo.error("resource_exhausted", "the room is full")
      end)
      local err = refusal(s)
      assert.same({ "resource_exhausted", "the room is full", "ann" }, { err.code, err.message, seen })
    end)

    env.it("is one per server, and can be taken away", function()
      local s = server(function() return nil, "never" end)
      assert.equal("unauthenticated", refusal(s).code)
      assert.equal(s, s:auth(nil))
      assert.equal(3, env.connect(s):request("add", 1, 2))
      assert.has_error(function() s:auth(1) end)
      assert.has_error(function() s:auth(print, { timeout = "x" }) end)
    end)
  end)
end)
