-- Streaming calls on bad networks: for each seed a network (loss, duplication, reordering, corruption, delay), a server, a client, and
-- calls of every kind at once, made by both sides: client-streaming, server-streaming and two-way, that end well, fail, answer
-- early, are given up or run into their deadline. What comes must be what was sent, in order; each handler runs once and ends; the
-- caller learns the one right outcome.
--
--   SEEDS=10000 lua5.4 spec/campaigns/streams.lua [FIRST]      (make campaign-streams)

local echo = require "echostream"

local M = {}

local PATIENCE = 300 -- virtual seconds for one call

local function fail(...)
  error(string.format(...), 0)
end

-- A generator of its own for each seed: what it draws depends on nothing else.
local function random_of(seed)
  local state = seed * 2654435761 + 12345
  return function(n) -- 0 to n - 1
    state = (state * 6364136223846793005 + 1442695040888963407) & 0x7fffffffffffffff
    return (state >> 20) % n
  end
end

-- The message number i of an operation.
local function message(op, i)
  return { op = op.id, i = i, data = ("%d.%d;"):format(op.id, i):rep(i * op.size % 97 + 1), half = i / 2 }
end

local function check(op, value, i)
  local wanted = message(op, i)
  if type(value) ~= "table" or value.op ~= op.id or value.i ~= i or value.data ~= wanted.data or value.half ~= wanted.half then
    fail("operation %d (%s): message %d is not what was sent", op.id, op.kind, i)
  end
end

local kinds = { "out", "in", "both", "out", "in", "both", "fail", "early", "reset", "close", "deadline", "both" }

-- Handlers ------------------------------------------------------------------------------------------------------

local function closing(op)
  op.begun = (op.begun or 0) + 1
  return setmetatable({}, { __close = function() op.ended = (op.ended or 0) + 1 end })
end

local function register(host, ops)
  host:add_rpc("out", function(_, stream, id)
    local op = ops[id]
    local _ <close> = closing(op)
    for i = 1, op.n do
      if not stream:send(message(op, i)) then return "gone" end
      if op.pause and i % 5 == 0 then echo.sleep(op.pause) end
    end
    if op.kind == "fail" then error(echo.error("aborted", "after " .. op.n, { n = op.n })) end
    return op.n, "sent"
  end, { stream = "out" })
  host:add_rpc("in", function(_, stream, id)
    local op = ops[id]
    local _ <close> = closing(op)
    local n = 0
    for value in stream:values() do
      n = n + 1
      check(op, value, n)
      if op.kind == "early" and n > op.n // 3 then return n, "enough" end
      if op.pause and n % 5 == 0 then echo.sleep(op.pause) end
    end
    if stream.error then return nil, stream.error end
    return n, "got"
  end, { stream = "in" })
  host:add_rpc("both", function(_, stream, id)
    local op = ops[id]
    local _ <close> = closing(op)
    local n = 0
    for value in stream:values() do
      n = n + 1
      check(op, value, n)
      if not stream:send(value) then break end
    end
    op.gave_up = echo.call():cancelled()
    return n
  end, { stream = "both" })
  host:add_rpc("endless", function(_, stream, id)
    local op = ops[id]
    local _ <close> = closing(op)
    local i = 0
    repeat
      i = i + 1
    until not stream:send(message(op, i)) or not echo.sleep(0.002)
    op.gave_up = echo.call():cancelled()
  end, { stream = "out" })
end

-- Callers -------------------------------------------------------------------------------------------------------

local function expect(op, what, value, err)
  if not what then
    fail("operation %d (%s): %s, %s", op.id, op.kind, tostring(value), tostring(err))
  end
end

local function result_of(stream)
  return stream:result(PATIENCE)
end

local function read_all(op, stream)
  local n = 0
  for value in stream:values() do
    n = n + 1
    check(op, value, n)
    if op.slow and n % 7 == 0 then echo.sleep(op.slow) end
    if op.hold and n == 2 then
      stream:pause()
      echo.spawn(function() echo.sleep(op.hold) stream:resume() end)
    end
  end
  return n
end

local callers = {}

function callers.out(op, peer)
  local stream <close> = assert(peer:stream("out", op.id))
  local n = read_all(op, stream)
  expect(op, n == op.n and stream.error == nil, n, stream.error)
  local got, word = result_of(stream)
  expect(op, got == op.n and word == "sent", got, word)
end

function callers.fail(op, peer)
  local stream <close> = assert(peer:stream("out", op.id))
  local n = read_all(op, stream)
  expect(op, n == op.n and stream.error and stream.error.code == "aborted", n, stream.error)
  local value, err = result_of(stream)
  expect(op, value == nil and err.code == "aborted" and err.details.n == op.n, value, err)
end

callers["in"] = function(op, peer)
  local stream <close> = assert(peer:stream("in", op.id))
  for i = 1, op.n do
    local ok, err = stream:send(message(op, i))
    expect(op, ok, ok, err)
  end
  stream:finish()
  local got, word = result_of(stream)
  expect(op, got == op.n and word == "got", got, word)
end

function callers.early(op, peer)
  local stream <close> = assert(peer:stream("in", op.id))
  for i = 1, op.n do
    if not stream:send(message(op, i)) then break end -- it wants no more
  end
  stream:finish()
  local got, word = result_of(stream)
  expect(op, got == op.n // 3 + 1 and word == "enough", got, word)
end

function callers.both(op, peer)
  local stream <close> = assert(peer:stream("both", op.id))
  local sender = echo.spawn(function()
    for i = 1, op.n do
      assert(stream:send(message(op, i)))
    end
    return stream:finish()
  end)
  local n = read_all(op, stream)
  expect(op, n == op.n, n, stream.error)
  expect(op, sender:wait(PATIENCE))
  local got, err = result_of(stream)
  expect(op, got == op.n, got, err)
end

local function given_up(op, peer, how)
  local stream = assert(peer:stream("endless", op.id))
  for i = 1, op.n do
    local frame, err = stream:recv(PATIENCE)
    expect(op, frame, frame, err)
    check(op, frame.data, i)
  end
  how(stream)
  local value, err = stream:recv(PATIENCE)
  expect(op, value == nil, value, err)
end

function callers.reset(op, peer)
  given_up(op, peer, function(stream) stream:reset(op.id) end)
end

function callers.close(op, peer)
  given_up(op, peer, function(stream) stream:close() end)
end

function callers.deadline(op, peer)
  local stream <close> = assert(peer:with { timeout = op.timeout }:stream("endless", op.id))
  local began = echo.now()
  local n = 0
  for value in stream:values() do
    n = n + 1
    check(op, value, n)
  end
  expect(op, stream.error and stream.error.code == "timeout", n, stream.error)
  local value, err = stream:result(PATIENCE)
  expect(op, value == nil and err.code == "timeout", value, err)
  local late = echo.now() - began - op.timeout
  expect(op, late < 0.05, "late", late)
end

-- The session of the last connection: one before it may still be there.
local function current(server)
  local sessions = server:sessions()
  return sessions[#sessions]
end

-- One seed ------------------------------------------------------------------------------------------------------

local function draw(random, count)
  local ops = {}
  for id = 1, count do
    local op = { id = id, kind = kinds[random(#kinds) + 1], by_server = random(3) == 0, size = random(200) }
    op.n = op.kind == "reset" and random(10) or op.kind == "close" and random(10) or 1 + random(40)
    op.slow = random(4) == 0 and random(20) / 1000 or nil
    op.pause = random(4) == 0 and random(20) / 1000 or nil
    op.hold = random(6) == 0 and random(200) / 1000 or nil
    op.timeout = 0.02 + random(400) / 1000
    op.start = random(300) / 1000
    ops[id] = op
  end
  return ops
end

local function ends(op)
  return op.begun == op.ended
end

local function one(seed, net)
  local random = random_of(seed)
  local ops = draw(random, 6 + random(20))
  local server = echo.server { bind = "10.0.0.1:5000", quiet = true }
  register(server, ops)
  assert(server:start())
  -- On the worst of these networks the handshake, or the HELLO within its 10 s, may fail: then it is tried again.
  local client, err = nil, nil
  for _ = 1, 5 do
    client = echo.client { pin = server.pin, timeout = 120 }
    register(client, ops)
    local ok
    ok, err = client:connect(server.address)
    if ok then
      ok, err = client:with({ timeout = 120 }):request("rpc.list") -- the session is there on the server
    end
    if ok then break end
    client:close()
    client = nil
  end
  if not client then fail("no connection: %s", tostring(err)) end
  local tasks = {}
  for id, op in ipairs(ops) do
    tasks[id] = echo.spawn(function()
      echo.sleep(op.start)
      callers[op.kind](op, op.by_server and current(server) or client)
      return true
    end)
  end
  for id, task in ipairs(tasks) do
    local ok, why = task:wait(PATIENCE)
    if not ok then
      fail("operation %d (%s, by the %s): %s", id, ops[id].kind, ops[id].by_server and "server" or "client", tostring(why))
    end
  end
  local messages = 0
  for id, op in ipairs(ops) do
    local patience = echo.now() + 60
    while not ends(op) and echo.now() < patience do
      echo.sleep(0.05)
    end
    -- A call whose deadline passed, or that was given up, before its request came, has no handler.
    local optional = op.kind == "deadline" or (op.kind == "reset" or op.kind == "close") and op.n == 0
    if op.begun ~= 1 and not (optional and op.begun == nil) or not ends(op) then
      fail("operation %d (%s): its handler began %d times and ended %d times", id, op.kind, op.begun or 0, op.ended or 0)
    end
    messages = messages + op.n
  end
  local stats = net:stats()
  client:close()
  server:stop { grace = 0 }
  return #ops, messages, stats.lost, echo.now()
end

--- Runs the seeds from `first` on. Raises at the first that does not hold.
---@param first integer
---@param count integer
---@param say? fun(text: string)
---@return { seeds: integer, calls: integer, messages: integer, lost: integer, seconds: number }
function M.run(first, count, say)
  local total = { seeds = 0, calls = 0, messages = 0, lost = 0, seconds = 0 }
  for seed = first, first + count - 1 do
    local random = random_of(seed + 7777777)
    local path = {
      seed = seed, limit = 1e5,
      loss = random(4) == 0 and 0 or random(200) / 1000,
      duplicate = random(100) / 1000, reorder = random(200) / 1000, corrupt = random(3) == 0 and random(50) / 1000 or 0,
      delay = 0.001 + random(100) / 1000, jitter = random(10) / 1000,
    }
    local ok, calls, messages, lost, seconds = pcall(echo.sim.run, path, function(net) return one(seed, net) end)
    if not ok then
      fail("seed %d: %s", seed, tostring(calls))
    end
    total.seeds, total.calls, total.messages = total.seeds + 1, total.calls + calls, total.messages + messages
    total.lost, total.seconds = total.lost + lost, total.seconds + seconds
    if say and total.seeds % 500 == 0 then
      say(("%d seeds, %d streaming calls, %d messages"):format(total.seeds, total.calls, total.messages))
    end
  end
  return total
end

if arg and arg[0] and arg[0]:find "campaigns/streams%.lua$" then
  echo.set_log(function() end)
  local began = os.clock()
  local total = M.run(tonumber(arg[1]) or 1, tonumber(os.getenv "SEEDS") or 10000, print)
  print(("%d seeds: %d streaming calls, %d messages, %d datagrams lost, %.0f virtual seconds in %.0f s of CPU: everything holds")
    :format(total.seeds, total.calls, total.messages, total.lost, total.seconds, os.clock() - began))
end

return M
