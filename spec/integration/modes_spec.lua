-- Every way to make a request carries the same things: metadata, the deadline, and the news that nobody waits any more.

local echo = require "echostream"
local net = require "spec.support.net"

-- How each calls a method that takes its time; `wait` gives the results, `stop` gives up.
local modes = {
  ["blocking"] = function(calls, name)
    local task = echo.spawn(function() return calls:request(name) end)
    return { wait = function() return task:wait() end, stop = function() task:cancel() end }
  end,
  ["with a callback"] = function(calls, name)
    local task = calls:request(name, function() end)
    return { wait = function() return task:wait() end, stop = function() task:cancel() end }
  end,
  ["in a batch"] = function(calls, name)
    local task = echo.spawn(function()
      local results, err = calls:batch { { name } }
      if not results then
        return nil, err
      end
      return results[1][1], results[1].err
    end)
    return { wait = function() return task:wait() end, stop = function() task:cancel() end }
  end,
}
for _, sort in ipairs { "in", "out", "both" } do
  modes["streaming, " .. sort] = function(calls, name)
    local stream = assert(calls:stream(name .. "." .. sort))
    return { wait = function() return stream:result() end, stop = function() stream:close() end }
  end
end

net.each(function(env)
  local function offer(seen, handler)
    return function(server)
      local function noting(...)
        local call = echo.call()
        seen.metadata, seen.deadline, seen.name = call.metadata, call.deadline, call.name
        return handler(...)
      end
      server:add_rpc("work", noting)
      for _, sort in ipairs { "in", "out", "both" } do
        server:add_rpc("work." .. sort, noting, { stream = sort })
      end
    end
  end

  for name, start in pairs(modes) do
    describe("a request " .. name, function()
      env.it("carries metadata and its deadline", function()
        local seen = {}
        local _, client = env.pair(offer(seen, function() return "done" end))
        local request = start(client:with { metadata = { who = "me" }, timeout = 15 }, "work")
        assert.equal("done", (request.wait()))
        assert.same({ who = "me" }, seen.metadata)
        assert.is_true(seen.deadline > 0 and seen.deadline <= 15)
      end)

      env.it("ends at its deadline, here and there", function()
        local seen = {}
        local _, client = env.pair(offer(seen, function()
          local _, err = echo.sleep(1000)
          seen.ended = err.code
        end))
        local _, err = start(client:with { timeout = 0.1 }, "work").wait()
        assert.equal("timeout", err.code)
        if seen.name then -- on a very slow machine it may not have come in time
          env.eventually(function() return seen.ended == "cancelled" end)
        end
      end)

      env.it("is cancelled there when it is given up here", function()
        local seen = {}
        local _, client = env.pair(offer(seen, function()
          local _, err = echo.sleep(1000)
          seen.ended = err.code
        end))
        local request = start(client:with { timeout = 1000 }, "work")
        env.eventually(function() return seen.name end)
        request.stop()
        env.eventually(function() return seen.ended == "cancelled" end)
      end)
    end)
  end
end)
