-- Certificates that a server makes for itself, and makes again in time.
local echo = require "echostream"
local net = require "spec.support.net"

net.only("sim", function(env)
  local function hashes(server)
    local list = {}
    for i, each in ipairs(server:cert_hashes()) do
      assert.same({ "sha-256", 44 }, { each.algorithm, #each.value })
      list[i] = each.hash
    end
    return list
  end

  describe("a made certificate", function()
    env.it("is renewed while the server runs, with the same key", function()
      local server = env.server({ renew_after = 3600 }, function(server)
        server:add_rpc("x", function() return 1 end)
      end)
      local hash, pin = server.cert_hash, server.pin
      assert.same({ hash }, hashes(server))
      echo.sleep(1700)
      assert.same({ hash }, hashes(server))
      echo.sleep(200) -- half of the time is over: the next one is known
      local both = hashes(server)
      assert.same({ 2, hash, hash }, { #both, both[1], server.cert_hash })
      echo.sleep(1800)
      assert.equal(both[2], server.cert_hash)
      assert.equal(pin, server.pin)
      assert.equal(both[2], hashes(server)[1])
      local client = env.connect(server)
      assert.equal(1, client:request("x"))
      assert.equal(server.cert_hash, client.session.peer_cert.hash)
    end, { seed = 1, limit = 10000 })

    env.it("is renewed again and again, each time in time", function()
      local server = env.server { renew_after = 12 * 86400 }
      local seen, n = {}, 0
      for day = 0, 60 do
        if not seen[server.cert_hash] then
          seen[server.cert_hash], n = day, n + 1
        end
        assert.is_true(day - seen[server.cert_hash] <= 12)
        echo.sleep(86400)
      end
      assert.equal(1 + 60 // 11, n) -- each was known for a day before it was shown
    end, { seed = 1, limit = 70 * 86400 })
  end)
end)
