-- What rules, groups and limits cost a request: microseconds of one core.
--   lua5.4 tunnel/bench/rules.lua       (with the checkout's paths: .ci/env lua5.4 tunnel/bench/rules.lua)
local addresses = require "echostream.tunnel.limits.addresses"
local core = require "echostream.tunnel.core"
local groups = require "echostream.tunnel.groups"
local limits = require "echostream.tunnel.limits"
local rules = require "echostream.tunnel.rules"

local function request(host, path, ...)
  local head = assert(core.head("request", { method = "GET", scheme = "https", authority = host, path = path, ... }))
  return assert(rules.request.new(head, { peer_ip = "10.0.0.1", port = 443, protocol = "h2" }))
end

local function measure(what, n, fn)
  for i = 1, n // 10 do fn(i) end
  collectgarbage()
  local from = os.clock()
  for i = 1, n do fn(i) end
  print(("%-44s %7.2f us"):format(what, (os.clock() - from) / n * 1e6))
end

local list = {}
for i = 1, 1000 do list[i] = { host = ("h%d.example.org"):format(i), path = "/api/*", group = "g" .. i } end
list[1001], list[1002], list[1003] = { host = "*.wild.org", group = "wild" }, { path = "/x", group = "x" }, { group = "rest" }
local set, requests = assert(rules.new(list)), {}
for i = 1, 1000 do requests[i] = request(("h%d.example.org"):format(i), "/api/v1/users/" .. i) end
measure("match, 1,000 hosts", 1000000, function(i) set:match(requests[i % 1000 + 1]) end)
local wild = request("a.b.wild.org", "/zzz")
measure("match, a wildcard", 1000000, function() set:match(wild) end)
for i = 1, 1000 do list[i] = { path = ("/p%d/*"):format(i), group = "g" } end
local by_path, deep = assert(rules.new(list)), request("any.org", "/p777/x")
measure("match, 1,000 prefixes of paths", 1000000, function() by_path:match(deep) end)
measure("a request made of a head", 200000, function(i)
  rules.request.new(requests[i % 1000 + 1].head, { peer_ip = "10.0.0.1", port = 443, protocol = "h2" })
end)

for _, balance in ipairs { "round_robin", "least_in_flight", "two_choices", "random", "hash" } do
  local all = assert(groups.new { default = { balance = balance } })
  for i = 1, 200 do all:add { group = "web", id = "agent-" .. i, weight = i % 3 + 1 } end
  measure(("pick one of 200, begin, finish: %s"):format(balance), 500000, function(i)
    local member = all:pick("web", requests[i % 1000 + 1])
    all:begin(member)
    all:finish(member, true)
  end)
end

local decision = set:match(requests[1])
local open = assert(limits.new())
measure("admit and release, no limits", 500000, function() open:admit(requests[1], decision):release() end)
local gate = assert(limits.new { global = { requests = 100 }, visitor = { requests = 10 }, group = { requests = 10 }, rate = { rate = 1e9 } })
measure("admit and release, four limits", 500000, function() gate:admit(requests[1], decision):release() end)
local networks = assert(addresses.set())
for i = 1, 100000 do networks:add(("%d.%d.%d.0/%d"):format(i % 223 + 1, i // 256 % 256, i % 256, 16 + i % 17)) end
measure("an address among 100,000 networks", 1000000, function() networks:find "10.1.2.3" end)
