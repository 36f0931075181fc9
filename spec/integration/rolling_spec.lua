-- RELIABILITY R6 in small: `make campaign-rolling` restarts processes a hundred times.

local busted = require "busted"
local campaign = require "spec.campaigns.rolling"
local echo = require "echostream"
local describe, it = busted.describe, busted.it

describe("a server that is restarted under load", function()
  busted.before_each(function() echo.set_log(function() end) end) -- whoever dials without a pin is told so each time
  busted.after_each(function() echo.set_log() end)

  it("loses no call of its clients, between processes", function()
    local tally
    echo.spawn(function() tally = campaign.run { restarts = 3, calls = 1500, clients = 2, workers = 8, grace = 60 } end):wait()
    assert.equal(0, tally.failed, tally.example)
    assert.is_true(tally.calls >= 1500)
    assert.equal(3, tally.restarts)
  end)

  it("stops within its grace, and each call is answered once, in virtual time", function()
    echo.sim.run({ seed = 6, limit = 3000, delay = 0.01, loss = 0.02 }, function()
      local ran, stops = {}, {}
      local function up()
        local server = echo.server { bind = "10.0.0.1:5000", quiet = true, max_calls = 10000 }
        server:add_rpc("soon", function(_, n)
          ran[n] = (ran[n] or 0) + 1
          echo.sleep(0.05 * (n % 7))
          return n + 1
        end)
        return assert(server:start())
      end
      local server = up()
      local client = assert(echo.connect("10.0.0.1:5000", { skip_verification = true, reconnect = { first = 0.02, cap = 0.2 },
        timeout = 60, retry = { attempts = 20, budget = false } }))
      local n, over, wrong, tasks = 0, false, 0, {}
      for i = 1, 8 do
        tasks[i] = echo.spawn(function()
          while not over do
            n = n + 1
            local mine = n
            if client:request("soon", mine) ~= mine + 1 then wrong = wrong + 1 end
          end
        end)
      end
      for i = 1, 10 do
        echo.sleep(1)
        local since = echo.now()
        assert.is_true(server:stop { grace = 5 })
        stops[i] = echo.now() - since
        server = up()
      end
      echo.sleep(1)
      over = true
      for _, task in ipairs(tasks) do task:wait() end
      assert.equal(0, wrong)
      assert.is_true(n > 300)
      for id = 1, n do
        assert.equal(1, ran[id], "call " .. id)
      end
      table.sort(stops)
      assert.is_true(stops[#stops] <= 5 + 2, stops[#stops])
      client:close()
      server:stop { grace = 0 }
    end)
  end)

  it("cuts what does not end within its grace, and says so to the caller", function()
    echo.sim.run({ seed = 7, limit = 300 }, function()
      local server = assert(echo.server({ bind = "10.0.0.1:5000", quiet = true }):start())
      server:add_rpc("forever", function() echo.sleep(1000) end)
      local client = assert(echo.connect(server.address, { skip_verification = true, timeout = 200 }))
      local task = echo.spawn(function() return client:request "forever" end)
      echo.sleep(1)
      local since = echo.now()
      server:stop { grace = 2 }
      local took = echo.now() - since
      assert.is_true(took >= 2 and took < 2.1, took)
      local _, err = task:wait()
      assert.is_true(echo.is_error(err))
      assert.equal("maybe", err.processed)
    end)
  end)
end)
