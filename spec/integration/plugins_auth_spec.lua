-- The plugin auth: who a peer is, and what it may call.

local echo = require "echostream"
local certs = require "spec.support.certs"
local net = require "spec.support.net"
local parts = require "echostream.plugins.parts"

local plugins = echo.plugins

local function till(fn)
  while not fn() do echo.sleep(0.005) end
end
assert(plugins == require "echostream.plugins")

describe("the plugins", function()
  it("have names, and a guess at the others", function()
    assert.equal("function", type(plugins.auth))
    assert.has_error(function() return plugins.aut end, 'echo.plugins: there is no plugin "aut" (did you mean "auth"?)')
  end)
end)

describe("parts of plugins", function()
  it("find patterns: the whole name, then the longest beginning", function()
    local find = parts.matcher { ["a.b"] = 1, ["a.*"] = 2, ["a.b.*"] = 3, ["*"] = 4 }
    assert.same({ 1, 2, 3, 4 }, { find "a.b", find "a.c", find "a.b.c", find "b" })
    assert.is_nil(parts.one_of { "x*" } "y")
    assert.is_true(parts.one_of(nil) "y")
  end)

  it("compare texts", function()
    assert.is_true(parts.same("abc", "abc"))
    for _, given in ipairs { "", "ab", "abd", "abcabc", "abca", "xbc" } do
      assert.is_false(parts.same(given, "abc"), given)
    end
  end)

  it("name addresses: of IPv6 the /64", function()
    local function of(peer) return parts.address { peer_addr = peer } end
    assert.equal("192.0.2.7", of "192.0.2.7:4000")
    assert.equal("192.0.2.7", of "[::ffff:192.0.2.7]:4000")
    assert.equal("2001:db8:1:2::/64", of "[2001:db8:1:2:3:4:5:6]:4000")
    assert.equal("2001:db8:0:0::/64", of "[2001:db8::9]:4000")
    assert.equal("0:0:0:0::/64", of "[::1]:4000")
    assert.equal("fe80:0:0:0::/64", of "[fe80::1%eth0]:4000")
    assert.equal("", parts.address(nil))
  end)
end)

describe("plugins.auth", function()
  it("says what it wants", function()
    assert.has_error(function() plugins.auth {} end, 'plugins.auth: wants "tokens", "certificates" or both')
    assert.has_error(function() plugins.auth { tokens = { secret = 7 } } end,
      'plugins.auth: option "tokens" wants names, or { name =, roles = }, by text; one is 7')
    assert.has_error(function() plugins.auth { tokens = {}, allow = { ["a*b"] = {} } } end)
    assert.has_error(function() plugins.auth { tokens = {}, allow = { a = 3 } } end,
      'plugins.auth: option "allow" wants lists of roles, or a boolean, got 3 for "a"')
  end)
end)

net.each(function(env)
  describe("the plugin auth", function()
    local heard

    local function up(opts, server_opts)
      heard = {}
      return env.server(server_opts, function(server)
        server:plugin(plugins.auth(opts))
        server:add_rpc("who", function(session) return session.identity, session:get "auth.roles" end)
        server:add_rpc("admin.stop", function() return "stopped" end)
        server:add_rpc("admin.ping", function() return "pong" end)
        server:add_rpc("never", function() return "never" end)
        server:add_event("admin.note", function(_, text) heard[#heard + 1] = text end)
        server:add_event("note", function(_, text) heard[#heard + 1] = text end)
        server:add_stream("admin.feed", function(_, stream) stream:send "news" end)
      end)
    end

    local function as(server, token)
      return env.connect(server, { metadata = token and { authorization = "Bearer " .. token } })
    end

    -- The code of the refusal: connecting is over before the server has looked.
    local function refused(server, metadata)
      local client = env.connect(server, { metadata = metadata })
      local ok, err = client:request "who"
      assert.is_nil(ok)
      return err.code, err.message
    end

    env.it("lets in who has a token, and refuses the others", function()
      local server = up { tokens = { ["s3cret"] = { name = "ann", roles = { "admin", "staff" } }, other = "bob" } }
      local name, roles = as(server, "s3cret"):request "who"
      assert.same({ "ann", { "admin", "staff" } }, { name, roles })
      assert.equal("bob", (as(server, "other"):request "who"))
      assert.equal("unauthenticated", (refused(server, { authorization = "Bearer s3cres" })))
      assert.equal("unauthenticated", (refused(server, { authorization = "s3cret" })))
      assert.equal("unauthenticated", (refused(server)))
    end)

    env.it("says what roles may do, of calls, events and streams", function()
      local server = up { tokens = { a = { name = "ann", roles = { "admin" } }, b = "bob" },
        allow = { ["admin.*"] = { "admin" }, ["admin.ping"] = true, never = {} } }
      local ann, bob = as(server, "a"), as(server, "b")
      assert.equal("stopped", (ann:request "admin.stop"))
      local _, err = bob:request "admin.stop"
      assert.equal("permission_denied", err.code)
      assert.equal("admin.stop is not for you", err.message)
      assert.equal("pong", (bob:request "admin.ping"))
      assert.equal("bob", (bob:request "who"))
      _, err = ann:request "never"
      assert.equal("permission_denied", err.code)
      assert.equal("news", ann:create_stream("admin.feed"):recv().data)
      _, err = bob:create_stream("admin.feed"):recv()
      assert.equal("permission_denied", err.code)
      bob:emit("admin.note", "from bob")
      bob:emit("note", "end of bob") -- the lane's order says that the first was dropped
      till(function() return #heard == 1 end)
      ann:emit("admin.note", "from ann")
      till(function() return #heard == 2 end)
      assert.same({ "end of bob", "from ann" }, heard)
    end)

    env.it("asks a function, which may wait", function()
      local server = up { tokens = function(token, session)
        echo.sleep(0.01)
        if token == "odd" then return 7 end
        if token == "late" then return nil, echo.error("permission_denied", "not today") end
        return token == "good" and { name = "eve of " .. session.peer_addr:match "^%d+" } or nil
      end, anonymous = true }
      assert.truthy((as(server, "good"):request "who"):find "^eve of %d+$")
      assert.equal("unauthenticated", (refused(server, { authorization = "Bearer bad" })))
      assert.same({ "permission_denied", "not today" }, { refused(server, { authorization = "Bearer late" }) })
      assert.equal("internal", (refused(server, { authorization = "Bearer odd" })))
      assert.equal("anonymous", (as(server):request "who"))
    end)

    env.it("leaves nothing behind", function()
      local server = up { tokens = { a = "ann" }, allow = { who = { "nobody" } } }
      local _, err = as(server, "a"):request "who"
      assert.equal("permission_denied", err.code)
      assert.is_true(server:remove_plugin "auth")
      assert.equal("stopped", (as(server):request "admin.stop"))
      assert.has_error(function() env.client(server):plugin(plugins.auth { tokens = {} }) end)
    end)
  end)
end)

net.only("quic", function(env)
  describe("the plugin auth with certificates", function()
    local function connect(server, issued)
      return env.connect(server, { pin = server.pin, cert = issued.cert, key = issued.key })
    end

    env.it("knows pins, and names where an authority is trusted", function()
      local authority = certs.authority "the house"
      local ann = certs.issue(authority, { names = { "ann.example" } })
      local bob = certs.issue(authority, { names = { "bob.example" } })
      local eve = certs.issue(authority, { names = { "eve.example" } })
      local server = env.server({ ca = authority.file }, function(server)
        server:plugin(plugins.auth { certificates = { [ann.pin] = { name = "ann", roles = { "admin" } }, ["bob.example"] = "bob" },
          allow = { secret = { "admin" } } })
        server:add_rpc("who", function(session) return session.identity end)
        server:add_rpc("secret", function() return 42 end)
      end)
      local first, second = connect(server, ann), connect(server, bob)
      assert.equal(42, (first:request "secret"))
      assert.equal("bob", (second:request "who"))
      assert.equal("permission_denied", select(2, second:request "secret").code)
      assert.equal("unauthenticated", select(2, connect(server, eve):request "who").code)
    end)

    env.it("does not believe names that nobody checked", function()
      local forged = certs.issue(certs.authority "of my own", { names = { "bob.example" } })
      local server = env.server({ require_client_cert = true }, function(server)
        server:plugin(plugins.auth { certificates = { ["bob.example"] = "bob" } })
        server:add_rpc("who", function(session) return session.identity end)
      end)
      assert.equal("unauthenticated", select(2, connect(server, forged):request "who").code)
    end)
  end)
end)
