--- The client side of the benches; one mode per process.
--- usage: lua5.4 bench/client.lua MODE ADDRESS PIN SERVER_PID [N] [IN_FLIGHT] [KEY=VALUE …]     prints key=value words
--- environment: BENCH_EXTRA=… (any of bench/extras.lua)
--- keys: middleware=yes (one that only passes on), connections=1, bytes=32, active=…, rate=… (mode paced)
local echo = require "echostream"
local uv = require "luv"
local proc = require "proc"

local mode, address, pin, server_pid = arg[1], arg[2], arg[3], arg[4]
local count, in_flight = tonumber(arg[5]), tonumber(arg[6])
local extra = proc.parse(table.concat(arg, " ", math.min(7, #arg + 1)))

local function connect()
  local client = echo.client { pin = pin }
  if extra.middleware then require("extras").middleware(client) end
  if os.getenv "BENCH_EXTRA" then require("extras")[os.getenv "BENCH_EXTRA"](client) end
  assert(client:connect(address))
  return client
end

local fill = ("."):rep((extra.bytes or 32) - 8)

--- A new string for every call, of 32 bytes unless told otherwise.
local function payload(i)
  return string.pack("<i8", i) .. fill
end

local function own_usage()
  local u = uv.getrusage()
  return {
    cpu_ns = (u.utime.sec + u.stime.sec) * 1000000000 + (u.utime.usec + u.stime.usec) * 1000,
    voluntary = u.nvcsw,
    involuntary = u.nivcsw,
  }
end

--- Runs fn and says what it cost both sides; fn returns the number of things done.
local function measured(fn)
  local peer0, own0, t0 = proc.usage(server_pid), own_usage(), uv.hrtime()
  local done = fn()
  local t1, own1, peer1 = uv.hrtime(), own_usage(), proc.usage(server_pid)
  return {
    calls = done,
    wall_ns = t1 - t0,
    cpu_ns = own1.cpu_ns - own0.cpu_ns,
    server_cpu_ns = peer1.cpu_ns - peer0.cpu_ns,
    voluntary = own1.voluntary - own0.voluntary,
    server_voluntary = peer1.voluntary - peer0.voluntary,
  }
end

local function print_fields(fields)
  local words = {}
  for key, value in pairs(fields) do words[#words + 1] = key .. "=" .. tostring(value) end
  table.sort(words)
  print(table.concat(words, " "))
end

local function add_percentiles(fields, samples)
  table.sort(samples)
  fields.p50_ns = samples[(#samples + 1) // 2]
  fields.p99_ns = samples[math.max(1, #samples * 99 // 100)]
  return fields
end

--- `width` tasks share n runs of fn(i).
local function share(n, width, fn)
  local begun = 0
  local function work()
    while begun < n do
      begun = begun + 1
      fn(begun)
    end
  end
  local tasks = {}
  for i = 1, width do tasks[i] = echo.spawn(work) end
  assert(echo.all(tasks))
  return n
end

--- n calls, `width` at a time, shared by some clients. Its own loop: the bench's part of a call is measured too.
local function call_many(clients, n, width)
  local issued = 0
  local function work(client)
    while issued < n do
      local i = issued + 1
      issued = i
      local sent = payload(i)
      local got, err = client:request("bench.echo", sent)
      if got ~= sent then error(("call %d: %s"):format(i, tostring(err or got))) end
    end
  end
  local tasks = {}
  for i = 1, width do tasks[i] = echo.spawn(work, clients[i % #clients + 1]) end
  assert(echo.all(tasks))
  return n
end

local function connect_many(n)
  local clients = {}
  share(n, 32, function(i) clients[i] = connect() end)
  return clients
end

local function close_many(clients)
  share(#clients, 64, function(i) clients[i]:close() end)
end

local modes = {}

--- P1, P2; with connections=64 P11, with bytes=1048576 P5
function modes.small()
  local clients = connect_many(extra.connections or 1)
  call_many(clients, math.min(count, 20000), in_flight)
  print_fields(measured(function() return call_many(clients, count, in_flight) end))
  close_many(clients)
end

--- P8: `connections` of which `active` make calls, at `rate` a second all together and at random times, `count` in all. The time
--- of each call is kept.
function modes.paced()
  local clients = connect_many(extra.connections)
  local active, rate = extra.active, extra.rate
  local step = #clients // active
  local samples, begun = {}, 0
  local function work(client)
    while begun < count do
      begun = begun + 1
      local i = begun
      echo.sleep(active / rate * (0.5 + math.random()))
      local sent, t0 = payload(i), uv.hrtime()
      local got, err = client:request("bench.echo", sent)
      samples[#samples + 1] = uv.hrtime() - t0
      if got ~= sent then error(("call %d: %s"):format(i, tostring(err or got))) end
    end
  end
  local function run()
    samples, begun = {}, 0
    local tasks = {}
    for i = 1, active do tasks[i] = echo.spawn(work, clients[i * step]) end
    assert(echo.all(tasks))
    return #samples
  end
  local wanted = count
  count = math.min(wanted, 2 * active) -- warms up
  run()
  count = wanted
  print_fields(add_percentiles(measured(run), samples))
  os.exit(0, false) -- closing thousands of connections one by one is not what is measured
end

--- P3: one call after the other for `count` seconds
function modes.sequential()
  local client = connect()
  call_many({ client }, 1000, 1)
  local samples, n = {}, 0
  local function work()
    local stop = uv.hrtime() + count * 1000000000
    local last = uv.hrtime()
    while last < stop do
      n = n + 1
      local sent = payload(n)
      local got, err = client:request("bench.echo", sent)
      if got ~= sent then error(("call %d: %s"):format(n, tostring(err or got))) end
      local now = uv.hrtime()
      samples[n] = now - last
      last = now
    end
  end
  local fields = measured(function()
    work()
    return n
  end)
  print_fields(add_percentiles(fields, samples))
  client:close()
end

--- P4, client to server: `count` blocks on one stream
function modes.up()
  local blocks = require "blocks"
  local client = connect()
  print_fields(measured(function()
    local stream = assert(client:create_stream("bench.up"))
    for i = 0, count - 1 do assert(stream:send(blocks.make(i))) end
    assert(stream:finish())
    local answer = assert(stream:recv()).data
    assert(tonumber(answer) == count, "the server took " .. answer .. " blocks")
    return count * blocks.size
  end))
  client:close()
end

--- P4, server to client
function modes.down()
  local blocks = require "blocks"
  local client = connect()
  print_fields(measured(function()
    local stream = assert(client:create_stream("bench.down"))
    assert(stream:send(tostring(count)))
    local n = 0
    for frame in stream:frames() do
      assert(blocks.check(n, frame.data), "a wrong block")
      n = n + 1
    end
    assert(n == count, "blocks are missing")
    return n * blocks.size
  end))
  client:close()
end

--- P6: connect, one call, close, `in_flight` at a time; the time until the answer is kept
function modes.connect()
  connect():close()
  local samples = {}
  local fields = measured(function()
    return share(count, in_flight, function(i)
      local t0 = uv.hrtime()
      local client = connect()
      assert(client:request("bench.echo", payload(i)) == payload(i))
      samples[i] = uv.hrtime() - t0
      client:close()
    end)
  end)
  print_fields(add_percentiles(fields, samples))
end

--- P6's peer: `count` HTTP/3 connections with one GET each to a server of somebody else, `in_flight` at a time. A client in
--- one process, as for our own row: gtlsclient would start a process for each.
function modes.h3()
  local function field(index, value) return string.char(0x50 | index, #value) .. value end -- QPACK, static name, literal
  local fields = "\0\0\xd1\xd7" .. field(0, "localhost") .. field(1, "/small") -- GET https
  local request = "\1" .. string.char(#fields) .. fields
  print_fields(measured(function()
    return share(count, in_flight, function()
      local conn = assert(echo.quic.connect(address, { alpn = { "h3" }, skip_verification = true }))
      assert(assert(conn:open_uni_stream()):write "\0\4\0") -- the control stream with empty SETTINGS
      local stream = assert(conn:open_bi_stream())
      assert(stream:write(request))
      assert(stream:finish())
      local answer = assert(stream:read_to_end(4096))
      assert(answer:find(("0123456789"):rep(3), 1, true), "the file is not in the answer")
      conn:close()
    end)
  end))
end

--- P7: what `count` idle sessions add to the server
function modes.idle()
  local control = connect()
  local held = {}
  local function open(n)
    for _ = 1, n do held[#held + 1] = connect() end
    echo.sleep(1.5)
    return control:request("bench.memory")
  end
  open(20)
  local heap0, resident0, lua0 = open(0)
  local heap1, resident1, lua1 = open(count)
  print_fields {
    in_use_bytes = (heap1 - heap0) // count,
    resident_bytes = (resident1 - resident0) // count,
    lua_bytes = (lua1 - lua0) // count,
  }
  for _, client in ipairs(held) do client:close() end
  control:close()
end

-- In a task, as handlers are: on the main thread every call that waits makes one of its own.
local run = assert(modes[mode], "modes: small paced sequential up down connect h3 idle")
local ok, err = echo.spawn(function()
  run()
  return true
end):wait()
if not ok then error(tostring(err)) end
