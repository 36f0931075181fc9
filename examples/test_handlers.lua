-- Testing your own handlers on a bad network: what a test of them looks like, here for a small bank.
--   lua5.4 examples/test_handlers.lua [SEEDS]      default: 50 networks; the exit status is 1 when something is wrong
local echo = require "echostream"

-- What is tested. In a project of yours this is a module of its own, and the server's main script uses it too.
local function offer_bank(server, accounts)
  server:add_rpc("bank.move", function(_, from, to, amount)
    if (accounts[from] or 0) < amount then
      return nil, echo.error("failed_precondition", from .. " has not so much")
    end
    accounts[from], accounts[to] = accounts[from] - amount, (accounts[to] or 0) + amount
    return accounts[from]
  end)
  server:add_rpc("bank.slow_audit", function()
    local waited = echo.sleep(60) -- ends early when nobody wants the answer any more
    return waited
  end)
end

local function start(net, accounts)
  local server = echo.server { bind = "10.0.0.1:5000", quiet = true }
  offer_bank(server, accounts)
  assert(server:start())
  return server, assert(echo.connect("10.0.0.1:5000", { pin = server.pin, bind = "10.0.0.2:0" })), net
end

local tests = {}

-- 200 calls at once: each moves 1. Whatever the network does, a call that succeeded ran exactly once.
function tests.money_is_neither_made_nor_lost(net)
  local accounts = { ann = 1000, bob = 0 }
  local _, client = start(net, accounts)
  local moved, calls = 0, {}
  for i = 1, 200 do
    calls[i] = echo.spawn(function()
      if client:request("bank.move", "ann", "bob", 1) then
        moved = moved + 1
      end
    end)
  end
  echo.all(calls)
  assert(moved == 200, ("only %d calls succeeded"):format(moved))
  assert(accounts.ann == 800 and accounts.bob == 200, ("ann %d, bob %d"):format(accounts.ann, accounts.bob))
end

-- The client's address changes in the middle, as behind a NAT.
function tests.a_new_address_is_the_same_customer(net)
  net:path {} -- no loss here: one trouble at a time
  local accounts = { ann = 10 }
  local _, client = start(net, accounts)
  for i = 1, 10 do
    if i == 5 then
      net:rebind(client, "10.7.7.7:7777")
    end
    local left, err = client:request("bank.move", "ann", "bob", 1)
    assert(left == 10 - i, tostring(err))
  end
end

-- The network is gone for a minute: the caller is told after its two seconds, and not later.
function tests.nobody_waits_longer_than_asked(net)
  local _, client = start(net, {})
  net:blackout(0.1, 60)
  local began = net:now()
  local _, err = client:with { timeout = 2 }:request "bank.slow_audit"
  assert(err.code == "timeout", tostring(err))
  assert(net:now() - began < 2.05, "it took " .. net:now() - began)
end

local seeds = math.tointeger(arg and arg[1] or 50)
local names = {}
for name in pairs(tests) do
  names[#names + 1] = name
end
table.sort(names)
local failed = 0
for _, name in ipairs(names) do
  local began, datagrams, lost = os.clock(), 0, 0
  for seed = 1, seeds do
    local opts = { seed = seed, loss = 0.05, duplicate = 0.02, reorder = 0.02, delay = 0.02, jitter = 0.005, limit = 300 }
    local ok, err = pcall(echo.sim.run, opts, function(net)
      tests[name](net)
      local stats = net:stats()
      datagrams, lost = datagrams + stats.sent, lost + stats.lost
    end)
    if not ok then
      failed = failed + 1
      -- The same seed is the same network: again, this time with a record of every datagram.
      opts.trace = ("/tmp/%s.%d.trace"):format(name, seed)
      pcall(echo.sim.run, opts, tests[name])
      print(("FAILED %s with seed %d: %s\n  its datagrams: %s"):format(name, seed, tostring(err), opts.trace))
    end
  end
  print(("%-34s %d networks, %d of %d datagrams lost, %.2f s"):format(name, seeds, lost, datagrams, os.clock() - began))
end
os.exit(failed == 0 and 0 or 1)
