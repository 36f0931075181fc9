-- RELIABILITY L5 and R4: very many calls of which 30 % do not end well: a tenth times out, a tenth is cancelled, at any
-- moment of its life, a tenth loses its connection. Each ends once, with the outcome it was meant to have; whatever was begun is closed, on both
-- sides; and the memory of Lua comes back to where it was.
--
--   CALLS=1000000 lua5.4 spec/campaigns/calls.lua      (make campaign-calls)
--
-- Everything runs in the simulator, with TLS, QUIC, loss and a virtual clock.

local core = require "echostream.core"
local echo = require "echostream"

local M = {}

local ROUND = 1000 -- calls of one connection

local function fail(...)
  error(string.format(...), 0)
end

local function new_tally()
  return { ended = 0, begun_here = 0, closed_here = 0, begun_there = 0, closed_there = 0, told = 0, outcomes = {} }
end

local function make_server(tally, closes)
  local server = echo.server { bind = "10.0.0.1:5000", quiet = true, max_calls = 100000, transport = { idle_timeout = 5 } }
  server:add_rpc("work", function(_, how)
    tally.begun_there = tally.begun_there + 1
    local _ <close> = closes.there
    echo.call():on_cancel(function() tally.told = tally.told + 1 end)
    echo.sleep(how == "slow" and 3600 or 0.002)
    return how
  end)
  return server:start()
end

-- What is allowed to come of a call of each kind.
local allowed = {
  fast = { fast = true },
  timeout = { timeout = true },
  cancelled = { cancelled = true },
  -- cancelled while the answer may be on its way
  late = { cancelled = true, fast = true },
  lost = { connection_closed = true, unavailable = true },
}

local kinds = { [0] = "timeout", "cancelled", "lost", "late", "fast", "fast", "fast", "fast", "fast", "fast" }

local function round(tally, closes, pin, number, with_middleware)
  -- One machine for all clients: the simulator keeps what it knows of a path between two machines.
  local client = echo.client { pin = pin, bind = "10.0.0.2:" .. 10000 + number % 50000, transport = { idle_timeout = 5 } }
  if with_middleware then
    client:middleware(function(call, next) return next(call) end)
  end
  assert(client:connect("10.0.0.1:5000"))
  local ends, tasks, outcome_of = {}, {}, {}
  for i = 1, ROUND do
    local kind = kinds[i % 10]
    local function over(value, err)
      ends[i] = (ends[i] or 0) + 1
      tally.ended = tally.ended + 1
      outcome_of[i] = value or err.code
    end
    local calls, how = client, "slow"
    if kind == "timeout" then
      calls = client:with { timeout = 0.001 * (1 + (i // 10) % 50) }
    elseif kind == "fast" or kind == "late" then
      how = "fast"
    end
    tally.begun_here = tally.begun_here + 1
    if i % 3 == 0 then -- the callback form
      tasks[i] = calls:request("work", how, function(...)
        local _ <close> = closes.here
        over(...)
      end)
    else
      tasks[i] = echo.spawn(function()
        local _ <close> = closes.here
        over(calls:request("work", how))
      end)
    end
  end
  -- From before anything was sent until long after the handlers began; "late" ones around the time when their answers come.
  for _, stage in ipairs { { "cancelled", 0.0006 }, { "late", 0.002 } } do
    for step = 0, 24 do
      for i = 1, ROUND do
        if kinds[i % 10] == stage[1] and i // 10 % 25 == step then
          tasks[i]:cancel()
        end
      end
      echo.sleep(stage[2])
    end
  end
  echo.sleep(0.06)
  for i = 1, ROUND do
    if kinds[i % 10] == "fast" then
      tasks[i]:wait(60)
    end
  end
  client:close()
  for i = 1, ROUND do
    local kind = kinds[i % 10]
    tasks[i]:wait(60)
    if tasks[i]:result() == nil then
      fail("call %d of round %d (%s) has no end", i, number, kind)
    end
    if ends[i] == nil and (kind == "cancelled" or kind == "late") then
      outcome_of[i] = "cancelled" -- before its task ran, or as a callback: nobody is told after the cancellation
    elseif ends[i] ~= 1 then
      fail("call %d of round %d (%s) ended %d times", i, number, kind, ends[i] or 0)
    end
    if not allowed[kind][outcome_of[i]] then
      fail("call %d of round %d was to end as %s: %s", i, number, kind, outcome_of[i])
    end
    tally.outcomes[outcome_of[i]] = (tally.outcomes[outcome_of[i]] or 0) + 1
  end
end

local function settled(tally)
  for _ = 1, 200 do -- the closing datagram may be lost: then the server waits for the idle time-out
    if tally.begun_there == tally.closed_there then
      break
    end
    echo.sleep(0.1)
  end
  if tally.begun_there ~= tally.closed_there then
    fail("%d handlers began, %d ended", tally.begun_there, tally.closed_there)
  end
  echo.sleep(6)
  for _ = 1, 3 do
    collectgarbage()
  end
  return collectgarbage "count" * 1024, core.memory().in_use
end

-- Of the first and of the last ten (half of them, when there are fewer).
local function means(list)
  local n, first, last = math.max(math.min(10, #list // 2), 1), 0, 0
  for i = 1, n do
    first, last = first + list[i] / n, last + list[#list + 1 - i] / n
  end
  return first, last
end

--- Runs the campaign. Raises when something does not hold.
---@param options { calls: integer, seed?: integer, loss?: number, say?: fun(text: string) }
---@return table tally  with lua_before, lua_after, core_before, core_after in bytes
function M.run(options)
  local say = options.say or function() end
  local tally = new_tally()
  return echo.sim.run({ seed = options.seed or 1, loss = options.loss or 0.01 }, function()
    local closes = {
      here = setmetatable({}, { __close = function() tally.closed_here = tally.closed_here + 1 end }),
      there = setmetatable({}, { __close = function() tally.closed_there = tally.closed_there + 1 end }),
    }
    local server = assert(make_server(tally, closes))
    local rounds = math.max(options.calls // ROUND, 4)
    -- Pools and tables grow to their size first; that is no leak. After that it is looked at about 20 times, always after a round
    -- with middleware, whose stacks are deeper: one look is off by a percent, the means of the first and of the last ten are not.
    local warm = math.max(2, math.min(rounds // 8, 75) * 2)
    local every = math.max((rounds - warm) // 40, 1) * 2
    local lua, native = {}, {}
    for number = 1, rounds do
      round(tally, closes, server.pin, number, number % 2 == 0)
      if number >= warm and (number - warm) % every == 0 then
        lua[#lua + 1], native[#native + 1] = settled(tally)
      end
      if number % 50 == 0 then
        say(("%d calls, Lua %.0f KiB after the last collection"):format(number * ROUND, lua[#lua] and lua[#lua] / 1024 or 0))
      end
    end
    settled(tally)
    tally.lua_before, tally.lua_after = means(lua)
    tally.core_before, tally.core_after = means(native)
    tally.calls, tally.sessions = rounds * ROUND, #server:sessions()
    tally.running = server:stats().calls_in_running
    if tally.sessions ~= 0 or tally.running ~= 0 then
      fail("%d sessions and %d calls are left", tally.sessions, tally.running)
    end
    server:stop { grace = 0 }
    return tally
  end)
end

if arg and arg[0] and arg[0]:find "campaigns/calls%.lua$" then
  echo.set_log(function(record)
    if record.level == "error" then
      io.stderr:write(record.message, "\n")
    end
  end)
  local began = os.clock()
  local tally = M.run { calls = tonumber(os.getenv "CALLS") or 1000000, seed = tonumber(os.getenv "SEED") or 1, say = print }
  local words = {}
  for outcome, n in pairs(tally.outcomes) do
    words[#words + 1] = ("%s %d"):format(outcome, n)
  end
  table.sort(words)
  print(("%d calls in %.0f s of CPU: %s"):format(tally.calls, os.clock() - began, table.concat(words, ", ")))
  print(("handlers: %d began, %d closed, %d were told; callers: %d closed"):format(tally.begun_there, tally.closed_there,
    tally.told, tally.closed_here))
  print(("Lua %.1f -> %.1f KiB (%+.2f %%), core %.1f -> %.1f KiB"):format(tally.lua_before / 1024, tally.lua_after / 1024,
    (tally.lua_after / tally.lua_before - 1) * 100, tally.core_before / 1024, tally.core_after / 1024))
  local good = tally.lua_after <= tally.lua_before * 1.01 and tally.core_after <= tally.core_before * 1.01 + 65536
  print(good and "everything holds" or "MEMORY DID NOT COME BACK")
  os.exit(good)
end

return M
