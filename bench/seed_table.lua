--- The table that the stream engine's design set out with, measured in one run: two processes on the loopback interface, one per CPU.
--- usage: bench/run.sh --seed-table [--seconds N] [--markdown]         (make bench-seed)
--- Each row has a latency and a rate, measured apart: the latency one at a time or lightly loaded, the rate with many at once.
--- What fails counts against `success`.
local echo = require "echostream"
local proc = require "proc"
local uv = require "luv"

local function now() return uv.hrtime() / 1e9 end -- CLOCK_MONOTONIC: the same for both processes

-- The other process ----------------------------------------------------------------------------------------------

if arg[1] == "server" then
  local server = echo.server { bind = "127.0.0.1:0", max_calls = 100000, max_named_streams = 100000,
    transport = { max_concurrent_streams = 10000 } }
  server:add_rpc("echo", function(_, x) return x end)
  server:add_rpc("chat", function(_, stream)
    for frame in stream:frames() do stream:send(frame.data) end
    return true
  end, { stream = "both" })
  local seen = {} -- ids that were refused once
  server:add_rpc("flaky", function(_, id)
    if not seen[id] then
      seen[id] = true
      return nil, echo.error("unavailable", "not yet")
    end
    seen[id] = nil
    return id
  end, { idempotent = true })
  server:add_stream("hold", function(_, stream) stream:recv() end)
  -- Sessions that are over, with the time: who asks gets what there is.
  local over = {}
  server:on_connect(function(session) session:set("id", session.metadata.id) end)
  server:on_disconnect(function(session)
    local id = session:get "id"
    if id then over[id] = now() end
  end)
  server:add_rpc("over", function()
    local list = over
    over = {}
    return echo.map(list)
  end)
  assert(server:start())
  io.stdout:write(("ready %s %s\n"):format(server.address, server.pin))
  io.stdout:flush()
  return echo.run()
end

-- Measuring --------------------------------------------------------------------------------------------------------

local options = { seconds = 3, markdown = false }
for i, word in ipairs(arg) do
  if word == "--seconds" then options.seconds = assert(tonumber(arg[i + 1]), "--seconds wants a number") end
  if word == "--markdown" then options.markdown = true end
end

local address, pin

local function connect(id, extra)
  local opts = { pin = pin, metadata = id and { id = id } or nil }
  for key, value in pairs(extra or {}) do opts[key] = value end
  return echo.connect(address, opts)
end

local function percentile(list, share)
  table.sort(list)
  return list[math.max(1, math.ceil(#list * share))] or 0
end

local Row = {}
Row.__index = Row

local function row(name, latency_bar, rate_bar, unit)
  return setmetatable({ name = name, latency_bar = latency_bar, rate_bar = rate_bar, unit = unit, samples = {}, ok = 0, failed = 0 }, Row)
end

function Row:count(good)
  if good then self.ok = self.ok + 1 else self.failed = self.failed + 1 end
  return good
end

-- Runs `fn(i)` (truthy: it worked) one after the other and keeps how long each took.
function Row:latencies(n, fn)
  for i = 1, n do
    local since = now()
    local took = self:count(fn(i)) and now() - since
    self.samples[#self.samples + 1] = took or nil
  end
end

-- The same from `workers` tasks for so many seconds; the rate of those that worked.
function Row:rated(workers, fn)
  local ends, since, before, tasks, i = now() + options.seconds, now(), self.ok, {}, 0
  for w = 1, workers do
    tasks[w] = echo.spawn(function()
      while now() < ends do
        i = i + 1
        self:count(fn(i))
      end
    end)
  end
  for _, task in ipairs(tasks) do task:wait() end
  self.rate = (self.ok - before) / (now() - since)
end

local rows = {}

function rows.connecting()
  local self = row("connection set-up, with a first call", 0.1, 1000, "connections")
  local function once()
    local client = connect()
    local good = client and client:request("echo", 1) == 1
    return good and client or (client and client:close() and false)
  end
  self:latencies(200, function()
    local client = once()
    if client then echo.spawn(client.close, client) end
    return client
  end)
  self:rated(32, function()
    local client = once()
    if client then client.session:close() end
    return client
  end)
  return self
end

function rows.streaming(client)
  local self = row("streaming calls: opened, a message each way, results", 0.05, 2000, "requests")
  local function once(i)
    local stream = client:stream "chat"
    if not stream or not stream:send(i) then return false end
    local frame = stream:recv()
    stream:finish()
    return frame and frame.data == i and stream:recv() == nil and stream:result() == true
  end
  self:latencies(1000, once)
  self:rated(32, once)
  return self
end

function rows.codec()
  local self = row("codec: a record of 20 fields (1 KiB), encoded and decoded", 0.001, 10000, "round trips")
  local record = { id = 1, name = ("n"):rep(200), tags = { "a", "b", "c" }, body = ("b"):rep(600), nested = { { x = 1.5 }, { y = true } } }
  for i = 1, 15 do record["field" .. i] = i * 1001 end
  local function once(i)
    record.id = i
    local bytes = echo.codec.msgpack.encode(record)
    local back = echo.codec.msgpack.decode(bytes)
    return back.id == i and back.nested[2].y == true and #back.body == 600
  end
  self:latencies(10000, once)
  local since, n = now(), 0
  while now() - since < options.seconds do
    for _ = 1, 5000 do
      n = n + 1
      self:count(once(n))
    end
    echo.sleep(0) -- nobody should hold the loop for long
  end
  self.rate = n / (now() - since)
  return self
end

-- Both ends in this process, so that one clock sees the reader take something and the sender go on. A sender stands at its high
-- mark, because the reader does not read; a signal is that it learns that it may go on.
function rows.backpressure()
  local self = row("backpressure: the reader takes, the sender goes on", 0.005, 5000, "signals")
  local block, inbox = ("x"):rep(16384), nil
  local transport, marks = { stream_window = 65536 }, { high = 65536, low = 49152 }
  local server = assert(echo.server({ quiet = true, transport = transport }):start())
  server:add_stream("slow", function(_, stream)
    inbox = stream
    while not stream.ended and echo.sleep(0.01) do end -- luacheck: ignore 542
  end)
  local client = assert(echo.connect(server.address, { pin = server.pin, transport = transport, stream_queue = marks }))
  local stream = assert(client:create_stream "slow")
  local sent, taken, waiting, woken_at, over = 0, 0, false, nil, false
  local sender = echo.spawn(function()
    while not over do
      waiting = true
      if not stream:send(block) then return end
      waiting = false
      sent, woken_at = sent + 1, now()
    end
  end)
  while not inbox do echo.sleep(0.001) end
  -- Stands still: what it sent last is long ago.
  local function stand()
    local before
    repeat
      before = sent
      echo.sleep(0.01)
    until sent == before and waiting
    return before
  end
  for _ = 1, 200 do
    local before, since = stand(), now()
    while sent == before and now() - since < 1 do
      if inbox:recv(0.001) then taken = taken + 1 end
    end
    if self:count(sent > before) then self.samples[#self.samples + 1] = woken_at - since end
  end
  over = true
  while inbox and sent > taken do
    if not inbox:recv(1) then break end
    taken = taken + 1
  end
  sender:wait(5)
  self:count(taken == sent)
  stream:reset(0)
  inbox.ended = true
  -- The rate: as fast as a reader takes messages that fill the queue, each send that had to wait is one signal.
  local signals = 0
  local function pair()
    inbox = nil
    local other = assert(client:create_stream "slow")
    while not inbox do echo.sleep(0.001) end
    return other, inbox
  end
  local tasks = {}
  local since = now()
  local ends = since + options.seconds
  for w = 1, 4 do
    local writer, reader = pair()
    tasks[w] = echo.spawn(function()
      while now() < ends do
        local ok, err = writer._channel:send(block)
        if err == "again" then
          self:count(writer:send(block))
          signals = signals + 1
        elseif not ok then
          self:count(false)
          break
        end
      end
      writer:reset(0)
    end)
    echo.spawn(function()
      for _ in reader:frames() do end -- luacheck: ignore 542
      reader.ended = true
    end)
  end
  for _, task in ipairs(tasks) do task:wait() end
  self.rate = signals / (now() - since)
  client:close()
  server:stop { grace = 0 }
  return self
end

function rows.retrying()
  local self = row("retry: refused once, answered at the second attempt", 0.2, 500, "retries")
  local client = assert(connect(nil, { retry = { attempts = 3, budget = false } }))
  local calls = client:with { idempotent = true }
  local function once(i) return calls:request("flaky", i) == i end
  self:latencies(100, once)
  local at = 1 << 20
  self:rated(64, function()
    at = at + 1
    return once(at)
  end)
  client:close()
  return self
end

function rows.cleaning(control)
  local self = row("clean-up: a session with a stream and a call, closed until the server has forgotten it", 0.02, 2000, "sessions")
  local function one(id)
    local client = assert(connect(id))
    assert(client:request("echo", 1) == 1)
    assert(client:create_stream "hold")
    return client
  end
  local function forgotten(ids)
    local left, over = 0, {}
    for id in pairs(ids) do left, over[id] = left + 1, false end
    local ends = now() + 20
    while left > 0 and now() < ends do
      for id, at in pairs(control:request "over") do
        if over[id] == false then left, over[id] = left - 1, at end
      end
      if left > 0 then echo.sleep(0.002) end
    end
    return over, left
  end
  control:request "over"
  for i = 1, 100 do
    local id = "one" .. i
    local client = one(id)
    local since = now()
    client.session._ud:close(nil, "")
    local over = forgotten { [id] = true }
    if self:count(over[id]) then self.samples[#self.samples + 1] = over[id] - since end
  end
  local clients, ids = {}, {}
  for i = 1, 500 do
    local id = "many" .. i
    clients[i], ids[id] = one(id), true
  end
  local since, last = now(), 0
  for _, client in ipairs(clients) do client.session._ud:close(nil, "") end
  local over, left = forgotten(ids)
  for _, at in pairs(over) do
    self:count(at)
    last = math.max(last, at or 0)
  end
  self.rate = (500 - left) / math.max(last - since, 1e-9)
  return self
end

local order = { "connecting", "streaming", "codec", "backpressure", "retrying", "cleaning" }

local function show(list)
  if options.markdown then
    print("| what | p50 | p99 | bar | a second | bar | success |")
    print("|---|---|---|---|---|---|---|")
  end
  local good = true
  for _, each in ipairs(list) do
    local p50, p99 = percentile(each.samples, 0.5), percentile(each.samples, 0.99)
    local success = 100 * each.ok / math.max(each.ok + each.failed, 1)
    local holds = p99 < each.latency_bar and each.rate > each.rate_bar and each.failed == 0
    good = good and holds
    local text = options.markdown and "| %s | %.3f ms | %.3f ms | < %g ms | %d | > %d %s | %.4g %% |"
      or "%-80s p50 %9.3f  p99 %9.3f ms (< %g)  %9d/s (> %d %s)  success %.4g %%%s"
    print(text:format(each.name, p50 * 1e3, p99 * 1e3, each.latency_bar * 1e3, math.floor(each.rate), each.rate_bar, each.unit, success,
      not options.markdown and (holds and "" or "  MISSED") or nil))
  end
  return good
end

os.execute("mkdir -p " .. proc.quote(proc.dir))
local server = proc.start("seed", { os.getenv "LUA" or "lua5.4", "bench/seed_table.lua", "server" })
local good = false
local ok, problem = pcall(function()
  address, pin = proc.wait_log(server, "ready (%S+) (%S+)")
  local task = echo.spawn(function()
    local client, list = assert(connect()), {}
    for i, name in ipairs(order) do list[i] = rows[name](client) end
    client:close()
    good = show(list)
    return true
  end)
  local done, err = task:wait()
  if not done then error(tostring(err), 0) end
end)
proc.stop(server)
if not ok then error(problem, 0) end
os.exit(good, false)
