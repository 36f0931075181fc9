-- The plugin rate_limit: token buckets.

local echo = require "echostream"
local net = require "spec.support.net"

local rate_limit = echo.plugins.rate_limit

describe("plugins.rate_limit", function()
  it("says what it wants", function()
    assert.has_error(function() rate_limit {} end, 'plugins.rate_limit: option "rate" is missing; it wants a number')
    assert.has_error(function() rate_limit { rate = 1, per = "planet" } end)
    assert.has_error(function() rate_limit { rate = 1, kinds = { "call" } } end,
      'plugins.rate_limit: option "kinds" wants rpc, event and stream, got "call"')
    assert.has_error(function() rate_limit { rate = 1, only = { "a b" } } end)
  end)
end)

net.only("sim", function(env)
  describe("the plugin rate_limit", function()
    local function up(opts, prepare)
      local plugin = rate_limit(opts)
      return env.server({}, function(server)
        if prepare then prepare(server) end
        server:plugin(plugin)
        server:add_rpc("a", function() return true end)
        server:add_rpc("b", function() return true end)
      end), plugin
    end

    -- How many of n calls were answered, and the last error.
    local function well(client, n, name)
      local answered, last = 0, nil
      for _ = 1, n do
        local ok, err = client:request(name or "a")
        if ok then answered = answered + 1 else last = err end
      end
      return answered, last
    end

    env.it("refuses what is over the rate, and says when there is more", function()
      local server, plugin = up { rate = 2, burst = 3 }
      local client = env.connect(server)
      local answered, err = well(client, 5)
      assert.equal(3, answered)
      assert.equal("resource_exhausted", err.code)
      assert.is_true(err.retry_after > 0.2 and err.retry_after <= 0.5, err.retry_after)
      echo.sleep(err.retry_after)
      assert.equal(1, (well(client, 1)))
      echo.sleep(100)
      assert.equal(3, (well(client, 4))) -- no more than the burst
      assert.same({ 7, 3 }, { plugin.passed, plugin.refused })
      assert.is_true(server:remove_plugin "rate_limit")
      assert.equal(5, (well(client, 5)))
    end)

    env.it("has a bucket for each session, address, identity or method, or several of these", function()
      local function auth(server)
        server:auth(function(_, credentials) return credentials.user or "?" end)
      end
      local function spread(per)
        local server, plugin = up({ rate = 0.001, burst = 2, per = per }, auth)
        local ann, again = env.connect(server, { metadata = { user = "ann" } }), env.connect(server, { metadata = { user = "ann" } })
        local bob = env.connect(server, { metadata = { user = "bob" } })
        well(ann, 3)
        well(ann, 3, "b")
        well(again, 3)
        well(bob, 3)
        return plugin.passed
      end
      assert.equal(6, spread "session")
      assert.equal(4, spread "identity")
      assert.equal(4, spread "method")
      assert.equal(6, spread { "identity", "method" })
      assert.equal(2, spread "all")
      assert.equal(6, spread "address") -- each client of the simulation has one of its own
      assert.equal(2, spread(function(call) -- what has no key is not counted
        return call.session.identity == "ann" and call.name == "a" or nil
      end))
    end)

    env.it("has a bucket for each address of anonymous peers, and none for whole messages", function()
      local server, plugin = up({ rate = 0.001, burst = 1, per = "identity" }, function(server)
        server:plugin(echo.plugins.auth { tokens = { secret = "ann" }, anonymous = true })
      end)
      local function as(token) return env.connect(server, { metadata = token and { authorization = "Bearer " .. token } }) end
      well(as(), 2)
      well(as(), 2) -- each has an address of its own
      well(as "secret", 2)
      well(as "secret", 2)
      assert.equal(3, plugin.passed)

      local other, long = up { rate = 0.001, burst = 1, per = function(call) return call.args[1] end }
      local client = env.connect(other)
      for i = 1, 3 do client:request("a", ("x"):rep(100000) .. i) end -- a bucket
      assert.equal(1, long.passed)
      for key in pairs(long._young) do assert.is_true(#key < 600) end
      local _, err = client:request("a", { "a table" })
      assert.same({ "unknown", "no" }, { err.code, err.processed })
      env.logs = {}
    end)

    env.it("limits some names and kinds only, and drops events", function()
      local server = up { rate = 0.001, burst = 1, only = { "a", "note*" } }
      local heard = {}
      server:add_event("notes", function(_, n) heard[#heard + 1] = n end)
      server:add_event("end", function(_, n) heard[#heard + 1] = n end)
      local client = env.connect(server)
      assert.equal(1, (well(client, 3)))
      assert.equal(3, (well(client, 3, "b")))
      client:emit("notes", 1) -- the call took the token
      client:emit("end", 2)
      env.eventually(function() return #heard > 0 end)
      assert.same({ 2 }, heard)

      local other = up { rate = 0.001, burst = 1, kinds = { "event" } }
      assert.equal(3, (well(env.connect(other), 3)))
    end)

    env.it("limits streams, and our own calls", function()
      local server, plugin = up { rate = 0.001, burst = 1 }
      server:add_stream("s", function(_, stream) stream:send "x" end)
      local client = env.connect(server)
      assert.equal("x", client:create_stream("s"):recv().data)
      assert.equal("resource_exhausted", select(2, client:create_stream("s"):recv()).code)
      server:remove_plugin "rate_limit"
      client:plugin(rate_limit { rate = 0.001, burst = 2, direction = "out", per = "method" })
      assert.equal(2, (well(client, 3)))
      assert.equal(2, (well(client, 3, "b")))
      assert.equal(1, plugin.passed)
    end)

    env.it("remembers so many buckets and no more", function()
      local server, plugin = up { rate = 0.001, burst = 1, max_buckets = 4, per = function(call) return call.args[1] end }
      local client = env.connect(server)
      for i = 1, 100 do assert.is_true((client:request("a", i))) end
      local n = 0
      for _ in pairs(plugin._young) do n = n + 1 end
      for _ in pairs(plugin._old) do n = n + 1 end
      assert.is_true(n <= 4, n)
      assert.is_nil((client:request("a", 100))) -- it is among them
      assert.is_true((client:request("a", 1)))  -- this one is not
    end)
  end)
end)
