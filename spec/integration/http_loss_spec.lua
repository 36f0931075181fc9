-- HTTP/3 over a network that loses, doubles, delays and damages: every byte as it was, every handler once.
local echo = require "echostream"
local h3 = require "spec.support.http"
local net = require "spec.support.net"

-- Bytes that are wrong anywhere else than where they belong.
local function pattern(n, seed)
  local parts = {}
  for i = 1, n // 8 do
    parts[i] = ("%08x"):format((i * 2654435761 + seed) & 0xffffffff)
  end
  return table.concat(parts)
end

net.only("sim", function(env)
  describe("HTTP/3 over a bad network", function()
    for seed = 1, 5 do
      env.it("keeps every byte, whatever is lost: " .. seed, function()
        local ran = {}
        local server = env.server({}, function(server)
          server:route("POST", "/echo/:n", function(request, response)
            local n = request.params.n
            ran[n] = (ran[n] or 0) + 1
            response.headers:set("x-n", n)
            for piece in request:chunks() do
              assert(response:write(piece))
            end
            response:finish { ["x-end"] = n }
          end)
          server:route("GET", "/get/:n", function(request)
            local n = request.params.n
            ran[n] = (ran[n] or 0) + 1
            return pattern(20000, tonumber(n))
          end)
        end)
        local conn = h3.dial(server)
        table.insert(env.opened, conn)
        local tasks = {}
        for n = 1, 20 do
          tasks[n] = echo.spawn(function()
            if n % 2 == 0 then
              local answer = assert(conn:fetch("GET", "/get/" .. n))
              assert.equal(pattern(20000, n), answer.body)
              return
            end
            local x = assert(conn:begin("POST", "/echo/" .. n, {}, true))
            local body = pattern(100000, n)
            local writer = echo.spawn(function()
              for at = 1, #body, 10000 do
                assert(x:write(body:sub(at, at + 9999)))
              end
              assert(x:finish())
            end)
            local answer = assert(x:answer())
            assert(writer:wait())
            assert.equal(body, answer.body)
            assert.same({ tostring(n), { "x-end", tostring(n) } }, { answer.headers["x-n"], answer.trailers })
          end)
        end
        for n = 1, 20 do
          assert(tasks[n]:wait())
        end
        for n = 1, 20 do
          assert.equal(1, ran[tostring(n)])
        end
        assert(server:stop { grace = 30 })
      end, { seed = seed, loss = 0.08, duplicate = 0.02, reorder = 0.1, corrupt = 0.01, delay = 0.02, jitter = 0.02, rate = 2e7 })
    end
  end)
end)
