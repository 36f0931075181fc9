-- The plugin cache: answers that are kept by clients.

local echo = require "echostream"
local lru = require "echostream.plugins.lru"
local net = require "spec.support.net"
local values = require "echostream.plugins.values"

local cache = echo.plugins.cache

describe("values", function()
  it("have the same text when they are the same", function()
    local text = values.canonical
    assert.equal(text { a = 1, b = { 2, 3 } }, text { b = { 2, 3 }, a = 1 })
    local seen = {}
    for _, value in ipairs { 1, 1.0, "1", true, { 1 }, { "1" }, { a = 1 }, echo.array {}, echo.map {}, "", "true", { { 1 } } } do
      local word = text(value)
      assert.is_nil(seen[word], word)
      seen[word] = true
    end
    assert.equal(text(nil), text(echo.null))
    assert.is_false(text(print))
    assert.is_false(text(setmetatable({}, {})))
    local round = {}
    round[1] = round
    assert.is_false(text(round))
    assert.is_nil(values.text_of("m", 1, { print }))
    assert.equal(values.text_of("m", 2, { 1 }), values.text_of("m", 2, { 1, nil }))
    assert.not_equal(values.text_of("m", 2, { 1 }), values.text_of("m", 1, { 1 }))
  end)
end)

describe("a table of limited size", function()
  it("lets go what was asked for longest ago", function()
    local t = lru.new(3, 2000)
    for _, key in ipairs { "a", "b", "c" } do t:put(key, key .. "!", 1) end
    assert.equal("a!", t:get "a")
    t:put("d", "d!", 1)
    assert.is_nil(t:get "b")
    assert.same({ "a!", "c!", "d!" }, { t:get "a", t:get "c", t:get "d" })
    t:put("e", "large", 1500) -- bytes count too
    assert.same({ 1, "large" }, { t.entries, t:get "e" })
    t:put("e", "small", 1)
    t:put("f", "too large for all", 5000)
    assert.same({ 1, "small" }, { t.entries, t:get "e" })
    t:put("e", "too large for all", 5000)
    assert.same({ 0, 0 }, { t.entries, t.bytes })
    t:put("g", 1, 1)
    t:put("h", 2, 1)
    assert.equal(1, t:remove(function(value) return value == 1 end))
    assert.equal(2, t:get "h")
  end)
end)

describe("plugins.cache", function()
  it("says what it wants", function()
    assert.has_error(function() cache { methods = { "a b" } } end)
    assert.has_error(function() cache { methods = { a = "long" } } end, 'plugins.cache: option "methods" wants a number for "a", got "long"')
    assert.has_error(function() cache { after = { [1] = {} } } end)
    assert.has_error(function() echo.server { quiet = true }:plugin(cache()) end,
      'plugin "cache" could not be installed: it is for clients')
  end)
end)

net.only("sim", function(env)
  describe("the plugin cache", function()
    local asked

    local function up(opts)
      asked = {}
      local function count(name) asked[name] = (asked[name] or 0) + 1 end
      local server = env.server({}, function(server)
        server:add_rpc("get", function(_, what)
          count "get"
          return { what = what, n = asked.get }, nil, "end"
        end, { idempotent = true })
        server:add_rpc("slow", function(_, seconds)
          count "slow"
          local mine = asked.slow
          echo.sleep(seconds or 1)
          return mine
        end)
        server:add_rpc("fail", function() count "fail" return nil, echo.error("not_found", "none", { 7 }) end)
        server:add_rpc("set", function(session, what)
          session:emit("changed", what)
          return true
        end)
      end)
      local plugin = cache(opts)
      local client = env.client(server)
      client:plugin(plugin)
      return assert(client:connect(server.address)), plugin, server
    end

    env.it("asks once while the answer holds", function()
      local client, plugin = up { ttl = 10, methods = { "get", "fail" } }
      local first, hole, last = client:request("get", { a = 1, b = 2 })
      assert.same({ 1, "end" }, { first.n, last })
      assert.is_nil(hole)
      first.n = "changed by who got it"
      local again = table.pack(client:request("get", { b = 2, a = 1 }))
      assert.same({ 3, 1, "end" }, { again.n, again[1].n, again[3] })
      assert.equal(2, (client:request("get", { a = 1 })).n)
      echo.sleep(11)
      assert.equal(3, (client:request("get", { a = 1, b = 2 })).n)
      client:request "fail"
      assert.same({ 7 }, select(2, client:request "fail").details)
      assert.equal(2, asked.fail) -- failures are not kept
      assert.same({ 1, 5 }, { plugin.hits, plugin.misses })
      client:remove_plugin "cache"
      assert.equal(4, (client:request("get", { a = 1, b = 2 })).n)
    end)

    env.it("takes the calls that are marked idempotent where no methods are named", function()
      local client = up { ttl = 10 }
      local safe = client:with { idempotent = true }
      assert.same({ 1, 1, 2, 3 }, { safe:request("get").n, safe:request("get").n, client:request("get").n, client:request("get").n })
    end)

    env.it("has times for each method, and metadata that make a difference", function()
      local client = up { methods = { ["g*"] = 5 }, vary = { "lang" } }
      local de, en = client:with { metadata = { lang = "de" } }, client:with { metadata = { lang = "en", other = "1" } }
      assert.same({ 1, 2, 1, 2 }, { de:request("get").n, en:request("get").n, de:request("get").n, en:request("get").n })
      echo.sleep(6)
      assert.equal(3, de:request("get").n)
    end)

    env.it("asks once at a time", function()
      local client, plugin = up { methods = { "slow", "fail" } }
      local tasks = {}
      for i = 1, 5 do tasks[i] = echo.spawn(client.request, client, "slow") end
      for i = 1, 5 do assert.equal(1, (tasks[i]:wait())) end
      assert.equal(4, plugin.joined)
      for i = 1, 3 do tasks[i] = echo.spawn(client.request, client, "fail") end
      for i = 1, 3 do
        local _, err = tasks[i]:wait()
        assert.same({ "not_found", "none", 7 }, { err.code, err.message, err.details[1] })
      end
      assert.equal(1, asked.fail)
    end)

    env.it("lets nobody wait for somebody who gave up, nor longer than he wants to", function()
      local client = up { methods = { "slow" } }
      local first = echo.spawn(function() return client:with { timeout = 0.2 }:request("slow", 1) end)
      local second = echo.spawn(client.request, client, "slow", 1)
      local third = echo.spawn(function() return client:with { timeout = 0.1 }:request("slow", 1) end)
      assert.equal("timeout", select(2, third:wait()).code)
      assert.equal("timeout", select(2, first:wait()).code)
      assert.equal(2, (second:wait()))
      first = echo.spawn(client.request, client, "slow", 2)
      second = echo.spawn(client.request, client, "slow", 2)
      echo.sleep(0.5)
      first:cancel()
      assert.equal(4, (second:wait()))
    end)

    env.it("forgets when it is told to, by a call or by an event", function()
      local by_function = {}
      local client, plugin = up { methods = { "get", "slow" }, after = { ["set"] = { "slow*" } },
        on_event = { changed = function(answers, what) by_function[#by_function + 1] = answers:invalidate("get", what) end } }
      client:request("get", 1)
      client:request("get", 2)
      client:request("slow")
      client:request("set", 1)
      env.eventually(function() return #by_function == 1 end)
      assert.same({ 1 }, by_function)
      assert.equal(3, client:request("get", 1).n)
      assert.equal(2, client:request("get", 2).n)
      assert.equal(2, (client:request "slow"))
      assert.equal(3, plugin:invalidate())
      assert.equal(0, plugin:invalidate "get")
    end)

    env.it("hears events whose handler comes later", function()
      local client, plugin = up { methods = { "get" }, on_event = { changed = { "get" } } }
      local heard
      client:add_event("changed", function(_, what) heard = what end)
      assert.equal(1, client:request("get", 1).n)
      client:request("set", 1)
      env.eventually(function() return heard end)
      assert.equal(1, heard)
      assert.equal(2, client:request("get", 1).n)
      client:remove_plugin "cache"
      heard = nil
      client:request("set", 2)
      env.eventually(function() return heard end)
      assert.equal(1, plugin:invalidate())
    end)

    env.it("does not keep an answer that was invalidated on its way", function()
      local client, plugin = up { methods = { "slow" } }
      local first = echo.spawn(client.request, client, "slow")
      echo.sleep(0.5)
      plugin:invalidate "slow"
      local second = echo.spawn(client.request, client, "slow")
      assert.equal(1, (first:wait()))
      assert.equal(2, (second:wait()))
      assert.equal(2, (client:request "slow"))
    end)

    env.it("keeps so many answers and no more", function()
      local client, plugin = up { methods = { "get" }, max_entries = 3, max_bytes = 2000 }
      for i = 1, 10 do client:request("get", i) end
      assert.equal(10, client:request("get", 10).n)
      assert.equal(11, client:request("get", 1).n)
      client:request("get", ("x"):rep(3000))
      assert.equal(12, plugin.misses)
      assert.equal(10, client:request("get", 10).n) -- what is too large is not kept
    end)
  end)
end)
