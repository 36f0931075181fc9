local fake = require "tunnel.spec.support.fake_head"
fake.install()
local groups = require "echostream.tunnel.groups"
local log = require "echostream.log"
local loop = require "echostream.loop"
local rules = require "echostream.tunnel.rules"

local function request(fields, ip)
  return assert(rules.request.new(fake.request(fields), { peer_ip = ip or "192.0.2.7" }))
end

-- Groups with members named a, b, c…, each of the weight that is given (1 for true).
local function made(options, weights, group)
  local all, list = assert(groups.new(options)), {}
  for i, weight in ipairs(weights) do
    list[i] = { group = group or "web", id = string.char(96 + i), weight = weight ~= true and weight or nil }
    all:add(list[i])
  end
  return all, list
end

-- The ids of n picks in a row.
local function picks(all, n, with)
  local ids = {}
  for i = 1, n do
    local member, err = all:pick("web", with or request {})
    ids[i] = member and member.id or err.http_status
  end
  return table.concat(ids)
end

local function count(text)
  local n = {}
  for c in text:gmatch "." do n[c] = (n[c] or 0) + 1 end
  return n
end

local function quietly(fn)
  local lines = {}
  log.set(function(record) lines[#lines + 1] = record.message end, { repeats = false })
  local ok, err = pcall(fn)
  log.set(nil)
  assert(ok, err)
  return table.concat(lines, "\n")
end

describe("a group picks", function()
  it("in turn", function()
    local all = made({}, { true, true, true })
    local text = picks(all, 6)
    assert.same({ a = 2, b = 2, c = 2 }, count(text))
    assert.equal(text:sub(1, 3), text:sub(4, 6))
  end)

  it("in turn by weight, evenly spread", function()
    local all = made({}, { 5, 1, 1 })
    local text = picks(all, 14)
    assert.same({ a = 10, b = 2, c = 2 }, count(text))
    assert.is_nil(text:find "aaaaa" and text:find "aaaaaaa")
    assert.is_nil(text:find "bb")
    local half = made({}, { 0.5, 1 })
    assert.same({ a = 10, b = 20 }, count(picks(half, 30)))
  end)

  it("the least busy, by weight", function()
    local all, list = made({ default = { balance = "least_in_flight" } }, { true, true, 2 })
    local text = {}
    for i = 1, 8 do
      local member = all:pick("web", request {})
      all:begin(member)
      text[i] = member.id
    end
    assert.same({ a = 2, b = 2, c = 4 }, count(table.concat(text)))
    all:finish(list[2], true)
    assert.equal("b", all:pick("web", request {}).id)
    assert.equal(1, all:in_flight(list[2]))
    all:finish(list[1], true)
    all:finish(list[1], true)
    assert.equal("a", all:pick("web", request {}).id)
  end)

  it("by chance, as often as the weight says", function()
    for _, balance in ipairs { "random", "two_choices" } do
      local all = made({ default = { balance = balance } }, { 1, 1, 2 })
      local n = count(picks(all, 4000))
      for id, about in pairs { a = 1000, b = 1000, c = 2000 } do
        -- Beyond this is one in more than 10^12.
        assert.is_true(n[id] > about * (balance == "random" and 0.75 or 0.5) and n[id] < about * 1.6, balance .. " " .. id .. " " .. n[id])
      end
    end
    local all, list = made({ default = { balance = "two_choices" } }, { true, true })
    for _ = 1, 50 do all:begin(list[1]) end
    assert.is_true((count(picks(all, 200)).b or 0) > 100)
  end)

  it("by hash: the same for the same visitor, and few move when members do", function()
    local all, list = made({ default = { balance = "hash" } }, { true, true, true, true })
    local before, moved, came = {}, 0, 0
    for i = 1, 2000 do
      local ip = ("10.0.%d.%d"):format(i // 256, i % 256)
      before[i] = all:pick("web", request({}, ip)).id
      assert.equal(before[i], all:pick("web", request({}, ip)).id)
    end
    for _, n in pairs(count(table.concat(before))) do assert.is_true(n > 300 and n < 700) end
    all:remove(list[2])
    for i = 1, 2000 do
      local id = all:pick("web", request({}, ("10.0.%d.%d"):format(i // 256, i % 256))).id
      if before[i] ~= "b" then assert.equal(before[i], id) else moved = moved + 1 end
    end
    assert.is_true(moved > 300)
    all:add(list[2])
    all:add { group = "web", id = "new", weight = 4 }
    for i = 1, 2000 do
      local id = all:pick("web", request({}, ("10.0.%d.%d"):format(i // 256, i % 256))).id
      if id == "new" then came = came + 1 else assert.equal(before[i], id) end
    end
    assert.is_true(came > 700 and came < 1300) -- half the weight is its
  end)

  it("by hash of a field, a cookie, a host or a function", function()
    local function same(by, one, other)
      local all = made({ default = { balance = "hash", by = by } }, { true, true, true, true, true, true, true, true })
      return all:pick("web", one).id == all:pick("web", other).id
    end
    local function differ(by, name, prefix)
      for i = 1, 50 do
        if not same(by, request { { name, prefix .. "x" } }, request { { name, prefix .. i } }) then return true end
      end
    end
    assert.is_true(same("header:x-user", request({ { "x-user", "ann" } }, "10.0.0.1"), request({ { "x-user", "ann" } }, "10.0.0.2")))
    assert.is_true(differ("header:x-user", "x-user", ""))
    assert.is_true(same("cookie:sid", request({ { "cookie", "a=b; sid=1" } }, "10.0.0.1"), request({ { "cookie", "sid=1" } }, "10.0.0.2")))
    assert.is_true(differ("cookie:sid", "cookie", "sid="))
    assert.is_true(same("host", request({}, "10.0.0.1"), request({}, "10.0.0.2")))
    assert.is_true(same(function() return "k" end, request({}, "10.0.0.1"), request({}, "10.0.0.2")))
  end)

  it("nobody of those that were tried, and nobody without the service", function()
    for _, balance in ipairs { "round_robin", "least_in_flight", "two_choices", "random", "hash" } do
      local all, list = made({ default = { balance = balance } }, { 1, 2, 1 })
      local tried = {}
      for _ = 1, 3 do
        local member = assert(all:pick("web", request {}, tried))
        assert.is_nil(tried[member])
        tried[member] = true
      end
      local member, err = all:pick("web", request {}, tried)
      assert.is_nil(member)
      assert.same({ 503, 1 }, { err.http_status, err.retry_after })
      assert.truthy(all:pick("web", request {}))
      assert.equal(3, #list)
      local other = { group = "web", id = "s", services = { { name = "api", kind = "http" } } }
      local last = { group = "web", id = "t", services = { "admin" } }
      for _, one in ipairs(list) do all:remove(one) end
      all:add(other)
      all:add(last)
      for _ = 1, 5 do assert.equal("s", all:pick("web", request {}, nil, "api").id) end
      assert.is_nil((all:pick("web", request {}, nil, "none")))
    end
  end)

  it("nobody when there is nobody", function()
    local all = assert(groups.new())
    local member, err = all:pick("none", request {})
    assert.is_nil(member)
    assert.equal("the group none has no agent for this now", err.message)
    assert.same({}, all:list())
  end)

  it("right after any order of events", function()
    local seed = 17
    local function any(n)
      seed = (seed * 1103515245 + 12345) & 0x7fffffff
      return (seed >> 8) % n + 1
    end
    for _, balance in ipairs { "round_robin", "least_in_flight", "two_choices", "random", "hash" } do
      local all, list = made({ default = { balance = balance, failures = false } }, { 1, 2, 3, 1, 0.5, 1 })
      local state = {}
      for _, member in ipairs(list) do state[member] = { there = true, busy = 0, weight = member.weight } end
      quietly(function()
        for _ = 1, 1500 do
          local what, member = any(10), list[any(#list)]
          local s = state[member]
          if what == 1 then all:remove(member) s.there = false
          elseif what == 2 and not s.there then all:add(member) s.there, s.drain, s.sick, s.weight = true, false, false, member.weight
          elseif what == 3 and s.there then s.drain = any(2) == 1 all:drain(member, s.drain)
          elseif what == 4 and s.there then s.sick = any(2) == 1 all:health(member, not s.sick, "x")
          elseif what == 5 and s.there then s.weight = any(3) - 1 all:set_weight(member, s.weight)
          elseif what <= 8 then
            local tried = any(3) == 1 and { [list[any(#list)]] = true } or nil
            local chosen, info = all:pick("web", request({}, "10.0.0." .. any(200)), tried)
            local fit, there = 0, 0
            for one, its in pairs(state) do
              if its.there and not its.drain and its.weight > 0 and not (tried and tried[one]) then
                there = there + 1
                if not its.sick then fit = fit + 1 end
              end
            end
            if there == 0 then
              assert.is_nil(chosen)
            else
              local its = state[chosen]
              assert.is_true(its.there and not its.drain and its.weight > 0 and not (tried and tried[chosen]))
              assert.equal(fit == 0, info.panic == true)
              assert.equal(fit > 0, not its.sick)
              if balance == "least_in_flight" and not tried and fit > 0 and not chosen.services then
                for one, other in pairs(state) do
                  if other.there and not other.drain and not other.sick and other.weight > 0 then
                    assert.is_true(all:in_flight(chosen) / its.weight <= all:in_flight(one) / other.weight)
                  end
                end
              end
              all:begin(chosen)
            end
          elseif all:in_flight(member) > 0 then all:finish(member, true) end
        end
      end)
    end
  end)
end)

describe("health", function()
  it("leaves members out who say that they are unwell, drain, or have no weight", function()
    local all, list = made({}, { true, true, true })
    all:health(list[1], false, "disk full")
    assert.same({ b = 2, c = 2 }, count(picks(all, 4)))
    all:drain(list[2])
    assert.equal("cc", picks(all, 2))
    assert.same({ false, "it is unhealthy: disk full" }, { all:state(list[1]).healthy, all:state(list[1]).fault })
    assert.same({ true, true, "it drains" }, { all:state(list[2]).healthy, all:state(list[2]).draining, all:state(list[2]).fault })
    all:health(list[1], true)
    all:drain(list[2], false)
    all:set_weight(list[3], 0)
    assert.same({ a = 2, b = 2 }, count(picks(all, 4)))
  end)

  it("leaves members out for a while when attempts fail one after the other, twice as long each time", function()
    local now, real = 1000, loop.now
    loop.now = function() return now end
    local text = quietly(function()
      local all, list = made({ default = { failures = 3, eject = 10 } }, { true, true })
      local function fail(n)
        for _ = 1, n do
          all:begin(list[1])
          all:finish(list[1], false)
        end
      end
      fail(2)
      all:begin(list[1])
      all:finish(list[1], true) -- one that succeeds: counting begins anew
      fail(2)
      all:begin(list[1])
      all:finish(list[1]) -- nobody can tell
      assert.same({ a = 2, b = 2 }, count(picks(all, 4)))
      fail(1)
      assert.equal("bbbb", picks(all, 4))
      now = now + 9.9
      assert.equal("bbbb", picks(all, 4))
      now = now + 0.2
      assert.same({ a = 2, b = 2 }, count(picks(all, 4)))
      fail(3)
      now = now + 19
      assert.equal("bbbb", picks(all, 4))
      now = now + 2
      assert.same({ a = 2, b = 2 }, count(picks(all, 4)))
      assert.equal(0, all:in_flight(list[1]))
    end)
    loop.now = real
    assert.truthy(text:find("the group web leaves out a for 20 s: 3 failures, one after the other", 1, true), text)
  end)

  it("asks the groups of the failover order, and then, in a panic, everybody", function()
    local all, list = made({ groups = { web = { failover = { "empty", "spare" } } } }, { true })
    local spare = { group = "spare", id = "s" }
    all:add(spare)
    assert.same({ "a", nil }, { all:pick("web", request {}).id, select(2, all:pick("web", request {})).group })
    all:health(list[1], false)
    local member, info = all:pick("web", request {})
    assert.same({ "s", "spare", nil }, { member.id, info.group, info.panic })
    all:health(spare, false)
    local text = quietly(function()
      for _ = 1, 3 do
        member, info = all:pick("web", request {})
        assert.same({ "a", true }, { member.id, info.panic })
      end
      all:health(list[1], true)
      assert.is_nil(select(2, all:pick("web", request {})).panic)
    end)
    assert.equal("no agent of the group web is healthy: requests go to all of them\nthe group web has a healthy agent again", text)
    local calm, one = made({ default = { panic = false } }, { true })
    calm:health(one[1], false)
    assert.is_nil((calm:pick("web", request {})))
  end)

  it("is no reason to go to a member that drains, not even in a panic", function()
    local all, list = made({}, { true, true })
    all:drain(list[1])
    all:health(list[2], false)
    quietly(function() assert.equal("bb", picks(all, 2)) end)
    all:drain(list[2])
    assert.equal("503", picks(all, 1))
  end)
end)

describe("members", function()
  it("have no more in flight than they may", function()
    local all, list = made({ default = { max_in_flight = 2 } }, { true, true })
    for _ = 1, 4 do all:begin((assert(all:pick("web", request {})))) end
    local member, err = all:pick("web", request {})
    assert.is_nil(member)
    assert.same({ 503, "agent requests" }, { err.http_status, err.limit })
    all:finish(list[1], true)
    assert.equal("a", all:pick("web", request {}).id)
  end)

  it("may go with requests in flight, and are forgotten then", function()
    local all, list = made({}, { true })
    all:begin(list[1])
    all:remove(list[1])
    all:remove(list[1]) -- harmless
    assert.is_nil(all:state(list[1]))
    assert.same({}, all:list())
    all:finish(list[1], true)
    all:finish({ group = "x" }, true) -- unknown
    local weak = setmetatable({ list[1] }, { __mode = "v" })
    list = nil -- luacheck: ignore 311
    collectgarbage()
    collectgarbage()
    assert.is_nil(weak[1])
    assert.is_nil(next(all._nodes))
  end)

  it("are listed", function()
    local all, list = made({}, { true, true })
    all:add { group = "api", id = "x" }
    assert.same({ "api", "web" }, all:list())
    assert.same(list, all:list "web")
    assert.same({ weight = 1, in_flight = 0, healthy = true, draining = false }, all:state(list[1]))
  end)

  it("stay when the options change", function()
    local all, list = made({}, { true, true })
    all:begin(list[1])
    assert.is_true(all:replace { groups = { web = { balance = "least_in_flight" } } })
    assert.equal("bb", picks(all, 2))
    local ok, err = all:replace { groups = { web = { balance = "best" } } }
    assert.is_nil(ok)
    assert.truthy(err.message:find("groups.groups.web.balance: wants one of", 1, true), err.message)
    assert.equal("bb", picks(all, 2))
  end)
end)

describe("sticky visitors", function()
  local secret = ("s"):rep(32)

  it("stay with their agent by a cookie that says nothing and that other servers know", function()
    local all = made({ default = { sticky = true }, secret = secret }, { true, true, true })
    local other = made({ default = { sticky = true }, secret = secret }, { true, true, true })
    local member, info = all:pick("web", request {})
    local name, value, rest = info.cookie:match "^([^=]+)=([^;]+)(.*)$"
    assert.same({ "echostream_tunnel", "; Path=/; Secure; HttpOnly; SameSite=Lax" }, { name, rest })
    assert.equal(22, #value)
    for _ = 1, 5 do
      local again, none = all:pick("web", request { { "cookie", "x=y; " .. name .. "=" .. value } })
      assert.same({ member.id, nil }, { again.id, none.cookie })
      assert.equal(member.id, other:pick("web", request { { "cookie", name .. "=" .. value } }).id)
    end
    local stranger = made({ default = { sticky = true } }, { true, true, true })
    assert.truthy(select(2, stranger:pick("web", request { { "cookie", name .. "=" .. value } })).cookie)
    assert.truthy(select(2, all:pick("web", request { { "cookie", name .. "=a" } })).cookie)
  end)

  it("get another agent, and another cookie, when theirs cannot be had", function()
    local all, list = made({ default = { sticky = { cookie = "s", max_age = 60, same_site = "strict", path = "/x" } } }, { true, true })
    local member, info = all:pick("web", request { scheme = "http" })
    assert.truthy(info.cookie:find("; Path=/x; Max-Age=60; HttpOnly; SameSite=Strict", 1, true), info.cookie)
    local with = request { { "cookie", info.cookie:match "^[^;]+" } }
    all:drain(member)
    local next_one, other = all:pick("web", with)
    assert.are_not.equal(member, next_one)
    assert.truthy(other.cookie)
    all:drain(member, false)
    assert.equal(member, (all:pick("web", with)))
    assert.are_not.equal(member, (all:pick("web", with, { [member] = true })))
    assert.equal(2, #list)
    assert.truthy(select(2, groups.new { default = { sticky = { cookie = "a b" } } }).message:find("groups.default.sticky", 1, true))
    assert.truthy(select(2, groups.new { default = { sticky = { secure = false, same_site = "none" } } }))
  end)
end)

describe("groups explain", function()
  it("who would be picked and why not the others", function()
    local all, list = made({ groups = { web = { balance = "least_in_flight" } } }, { true, true, 2 })
    all:begin(list[1])
    all:health(list[3], false, "no backend")
    local report = all:explain("web", request {})
    assert.same({ "web", "least_in_flight", "b would be picked" }, { report.name, report.balance, report.says })
    assert.same({ id = "a", weight = 1, in_flight = 1, picked = false, says = "well, weight 1, 1 in flight" }, report.members[1])
    assert.same({ "it is unhealthy: no backend, weight 2, 0 in flight", true }, { report.members[3].says, report.members[2].picked })
    assert.equal("3 members", all:explain("web").says)
    assert.equal("the group none has no agent for this now", all:explain("none", request {}).says)
    local turn = made({}, { true, true })
    local first = turn:explain("web", request {}).says
    assert.equal(first, turn:explain("web", request {}).says) -- nothing moves on
    local text = rules.explain(assert(rules.new { { group = "web" } }), request {}, { groups = all }):text()
    assert.truthy(text:find("group web, least_in_flight: b would be picked\n  - a: well, weight 1, 1 in flight\n  + b: well", 1, true), text)
  end)
end)
