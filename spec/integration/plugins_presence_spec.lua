-- The plugin presence: who is here.

local echo = require "echostream"
local net = require "spec.support.net"
local process = require "spec.support.process"

local presence = echo.plugins.presence

local function till(fn)
  while not fn() do echo.sleep(0.005) end
end

describe("plugins.presence", function()
  it("says what it wants", function()
    assert.has_error(function() presence { max_rooms = 0 } end, 'plugins.presence: option "max_rooms" wants at least 1, got 0')
    local who = presence()
    echo.client { skip_verification = true }:plugin(who)
    assert.same({}, who:list "lobby")
    assert.equal("unavailable", select(2, who:join "lobby").code)
    assert.equal("unavailable", select(2, who:leave "lobby").code)
  end)
end)

net.each(function(env)
  describe("the plugin presence", function()
    local heard

    local function up(opts, bind)
      local here = presence(opts)
      return env.server({ bind = bind, state_dir = net.state_dir() }, function(server) server:plugin(here) end), here
    end

    local function join(server, name, opts)
      local who, client = presence(), env.client(server, opts)
      client:plugin(who)
      heard[name] = {}
      who:on_change(function(room, change, member)
        table.insert(heard[name], ("%s %s %s"):format(room, change, member.meta and member.meta.name))
      end)
      assert(client:connect(server.address))
      assert(who:join("lobby", { name = name }))
      return who, client
    end

    local function names(who)
      local list = {}
      for i, member in ipairs(who:list "lobby") do list[i] = member.meta.name end
      table.sort(list)
      return table.concat(list, " ")
    end

    before_each(function() heard = {} end)

    env.it("tells everybody in the room who comes, goes and changes", function()
      local server, here = up()
      local seen = {}
      here:on_change(function(_, change, member) seen[#seen + 1] = change .. " " .. member.meta.name end)
      local ann = join(server, "ann")
      local bob, bobs = join(server, "bob")
      assert.equal("ann bob", names(bob))
      till(function() return names(ann) == "ann bob" end)
      assert.equal("ann bob", names(here))
      assert(bob:join("lobby", { name = "rob" }))
      till(function() return names(ann) == "ann rob" end)
      assert(ann:join "kitchen")
      assert.equal("ann rob", names(bob))
      bobs:close() -- without a word
      till(function() return names(ann) == "ann" and #heard.ann == 5 end)
      assert.same({ "lobby join ann", "lobby join bob", "lobby update rob", "kitchen join nil", "lobby leave rob" }, heard.ann)
      assert(ann:leave "kitchen")
      assert(ann:leave "lobby")
      assert.same({}, ann:list "lobby")
      assert.equal("", names(here))
      till(function() return #seen > 4 end)
    end)

    env.it("joins again after a reconnection", function()
      local server = up({}, env.kind == "sim" and "10.0.0.1:5000" or "127.0.0.1:" .. process.free_port())
      local address = server.address
      local ann, client = join(server, "ann", { reconnect = true })
      server:stop { grace = 0 }
      till(function() return client.state == "reconnecting" end)
      local again, here = up({}, address)
      till(function() return names(here) == "ann" end)
      local bob = join(again, "bob")
      till(function() return names(ann) == "ann bob" end)
      assert.equal("ann bob", names(bob))
    end)

    env.it("tells of a member that changes all the time as often as it may, and of the last change in the end", function()
      local server, here = up { update_interval = 0.5 }
      local seen = {}
      here:on_change(function(_, change, member) seen[#seen + 1] = change .. " " .. member.meta.name end)
      local ann, bob = join(server, "ann"), join(server, "bob")
      local began = echo.now()
      for i = 1, 40 do
        assert(bob:join("lobby", { name = "bob" .. i }))
      end
      local took = echo.now() - began
      till(function() return names(ann) == "ann bob40" end)
      assert.equal("ann bob40", names(bob))
      assert.equal("ann bob40", names(here))
      assert.equal("lobby update bob40", heard.ann[#heard.ann])
      assert.is_true(#heard.ann <= 2 + 2 + took // 0.5, #heard.ann) -- two joins, the first and the last of the changes
      assert(bob:join("lobby", { name = "rob" }))
      bob:leave "lobby" -- before the others hear of it
      till(function() return names(ann) == "ann" end)
      assert.equal("leave rob", seen[#seen])
    end)

    env.it("refuses what is too much, or not for everybody", function()
      local server = up { max_rooms = 2, max_members = 2, max_meta = 50,
        admit = function(_, room) return room ~= "secret" or nil, nil end }
      local ann = join(server, "ann")
      local function code(...) return select(2, ann:join(...)).code end
      assert.equal("permission_denied", code "secret")
      assert.equal("invalid_argument", code("hall", ("x"):rep(100)))
      assert.equal("invalid_argument", code "")
      assert.equal("invalid_argument", code("lobby", ("x"):rep(100)))
      assert(ann:join "hall")
      assert.equal("resource_exhausted", code "kitchen")
      join(server, "bob")
      local eve, client = presence(), env.client(server)
      client:plugin(eve)
      client:connect(server.address)
      assert.equal("the room is full", select(2, eve:join "lobby").message)
      assert.equal("permission_denied", select(2, client:request("presence.list", "secret")).code)
      assert.equal("ann bob", names(ann))
    end)

    env.it("bounds what the members of a room say together, and how much each means in memory", function()
      local server = up { max_bytes = 300, max_meta = 200 }
      local ann = join(server, "ann")
      local function code(...) return select(2, ann:join(...)).code end
      local tables = {}
      for i = 1, 100 do tables[i] = {} end -- a byte each on the wire
      assert.equal("invalid_argument", code("lobby", tables))
      assert(ann:join("lobby", { name = ("a"):rep(150) }))
      local bob = join(server, "bob")
      assert.equal("the room is full: its members say too much", select(2, bob:join("lobby", { name = ("b"):rep(150) })).message)
      assert.equal("bob", bob:list("lobby")[2].meta.name) -- as before
      assert(ann:join("lobby", { name = "ann" }))
      assert(bob:join("lobby", { name = ("b"):rep(150) }))
      assert(bob:leave "lobby")
      assert(ann:join("lobby", { name = ("a"):rep(180) }))
    end)

    env.it("bears a server that says something else", function()
      local answer
      local server = env.server({}, function(server)
        server:add_rpc("presence.join", function() return table.unpack(answer) end)
      end)
      local who, client = presence(), env.client(server)
      client:plugin(who)
      assert(client:connect(server.address))
      for _, bad in ipairs { { "7", {} }, { 7, "none" }, { 7.5, {} } } do
        answer = bad
        assert.equal("protocol", select(2, who:join "lobby").code)
      end
      answer = { 7, { 1, { id = "x" }, { id = {} }, { id = 3, meta = "ok" } } }
      assert(who:join "lobby")
      assert.same({ { id = 3, meta = "ok" } }, who:list "lobby")
      till(function() return server:sessions()[1] end)
      for _, bad in ipairs { {}, { "lobby" }, { "lobby", "8", "join", 4 }, { "lobby", 8, "join", {} }, { "lobby", 8, "dance", 4 } } do
        server:broadcast("presence.change", table.unpack(bad))
      end
      server:broadcast("presence.change", "lobby", 8, "join", 4, "fine")
      till(function() return #who:list "lobby" == 2 end)
      assert.equal("fine", who:list("lobby")[2].meta)
    end)

    env.it("leaves nothing behind", function()
      local server = up()
      local ann, client = join(server, "ann")
      assert.is_true(client:remove_plugin "presence")
      assert.is_true(server:remove_plugin "presence")
      assert.equal("method_not_found", select(2, client:request("presence.list", "lobby")).code)
      assert.equal("ann", names(ann)) -- the last that it knew
    end)
  end)
end)

net.only("sim", function(env)
  describe("the plugin presence", function()
    env.it("asks again when a change was lost on its way", function()
      local here = presence()
      local server = env.server({}, function(server) server:plugin(here) end)
      local lose = false
      server:middleware(function(call, next)
        if lose and call.kind == "event" then return call:reply(true) end
        return next(call)
      end, { direction = "out" })
      local all = {}
      for i = 1, 3 do
        all[i] = presence()
        local client = env.client(server)
        client:plugin(all[i])
        client:connect(server.address)
        lose = i == 2 -- the first does not hear of the second
        assert(all[i]:join("lobby", i))
      end
      till(function() return #all[1]:list "lobby" == 3 end)
    end)
  end)
end)
