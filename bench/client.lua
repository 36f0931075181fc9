--- The client side of the benches; one mode per process.
--- usage: lua5.4 bench/client.lua MODE ADDRESS PIN SERVER_PID [N] [IN_FLIGHT]     prints key=value words
local echo = require "echostream"
local uv = require "luv"
local proc = require "proc"

local mode, address, pin, server_pid = arg[1], arg[2], arg[3], arg[4]
local count, in_flight = tonumber(arg[5]), tonumber(arg[6])

local function connect()
  return assert(echo.connect(address, { pin = pin }))
end

local fill = ("."):rep(24)

--- A new string of 32 bytes for every call.
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

--- `width` tasks share n calls of one session.
local function call_many(client, n, width)
  local issued = 0
  local function work()
    while issued < n do
      issued = issued + 1
      local sent = payload(issued)
      local got, err = client:request("bench.echo", sent)
      if got ~= sent then error(("call %d: %s"):format(issued, tostring(err or got))) end
    end
  end
  local tasks = {}
  for i = 1, width do tasks[i] = echo.spawn(work) end
  for i = 1, width do
    local ok, err = tasks[i]:wait()
    if ok == nil and err then error(tostring(err)) end
  end
  return n
end

local modes = {}

--- P1
function modes.small()
  local client = connect()
  call_many(client, math.min(count, 20000), in_flight)
  print_fields(measured(function() return call_many(client, count, in_flight) end))
  client:close()
end

--- P3: one call after the other for `count` seconds
function modes.sequential()
  local client = connect()
  call_many(client, 1000, 1)
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

--- P6: connect, one call, close; the time until the answer is kept
function modes.connect()
  connect():close()
  local samples = {}
  local fields = measured(function()
    for i = 1, count do
      local t0 = uv.hrtime()
      local client = connect()
      assert(client:request("bench.echo", payload(i)) == payload(i))
      samples[i] = uv.hrtime() - t0
      client:close()
    end
    return count
  end)
  print_fields(add_percentiles(fields, samples))
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
local run = assert(modes[mode], "modes: small sequential up down connect idle")
local ok, err = echo.spawn(function()
  run()
  return true
end):wait()
if not ok then error(tostring(err)) end
