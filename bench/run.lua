--- Measures us and our peers in one run, interleaved, and prints ratios of medians. Started by bench/run.sh.
--- usage: run.lua [--reps N] [--rows P1,P3,…] [--peers-only] [--quick]
local proc = require "proc"
local peers = require "peers"
local ours = require "ours"
local report = require "report"

local options = { reps = 3, rows = {}, peers_only = false }
local sizes = { calls = 200000, seconds = 2, bytes = 1 << 30, connects = 300, idle = 500, in_flight = 128 }
local all_rows = { "P1", "P1m", "P3", "P4", "P6", "P7", "codec" }

local function parse_options(argv)
  local wanted = table.concat(all_rows, ",")
  local i = 1
  while argv[i] do
    local word = argv[i]
    if word == "--reps" then
      i = i + 1
      options.reps = assert(math.tointeger(tonumber(argv[i])), "--reps wants a number")
    elseif word == "--rows" then
      i = i + 1
      wanted = assert(argv[i], "--rows wants a list")
    elseif word == "--peers-only" then
      options.peers_only = true
    elseif word == "--quick" then
      options.reps, sizes.calls, sizes.seconds, sizes.connects, sizes.idle = 1, 50000, 0.5, 50, 200
      sizes.bytes = 128 << 20
    else
      error("unknown option " .. word, 0)
    end
    i = i + 1
  end
  for row in wanted:gmatch("[^,]+") do options.rows[row] = true end
end

-- Samples: kept by name, written as JSON lines at once --------------------------------------------------------

local samples = {}
local results

local function keep(rep, name, fn, ...)
  local ok, sample = pcall(fn, ...)
  if not ok then
    io.stderr:write(("%s failed: %s\n"):format(name, sample))
    results:write(report.json { kind = "failure", rep = rep, name = name, message = tostring(sample) }, "\n")
    return
  end
  samples[name] = samples[name] or {}
  table.insert(samples[name], sample)
  results:write(report.json { kind = "sample", rep = rep, name = name, values = sample }, "\n")
  results:flush()
  local note = {}
  for _, field in ipairs { "rate", "mb_s", "server_us", "client_us", "p50_us", "p50_ms", "in_use_kib", "resident_kib", "ns" } do
    if sample[field] then note[#note + 1] = field .. " " .. report.number(sample[field]) end
  end
  io.stderr:write(("%d/%d %-18s %s\n"):format(rep, options.reps, name, table.concat(note, ", ")))
end

local function big_file(bytes)
  local docs = os.getenv("BENCH_DOCS") or proc.dir
  proc.run { "sh", "-c", 'head -c "$1" /dev/urandom > "$2"', "sh", tostring(bytes), docs .. "/big" }
end

--- bench/codec.lua measures the codecs by themselves; the row is the first of its cases, 32 bytes in MessagePack.
local function codec()
  local output, ok = proc.run { "taskset", "-c", proc.client_cpu, os.getenv("LUA") or "lua5.4", "bench/codec.lua", "300000" }
  local encode, decode, both = output:match("msgpack%s+32 bytes%s+(%d+)%s+(%d+)%s+(%d+)")
  if not ok or not both then error("bench/codec.lua: " .. output) end
  return { ns = tonumber(both), encode_ns = tonumber(encode), decode_ns = tonumber(decode) }
end

local function repetition(rep, gtls, us)
  local on = options.rows
  if on.P1 then
    keep(rep, "gtls small", peers.gtls_small, gtls, sizes.calls)
    if us then keep(rep, "our small", ours.small, us, sizes.calls, sizes.in_flight) end
  end
  if on.P1m and us then
    -- Both orders by turns: what comes second finds a warmer machine.
    local without = function() keep(rep, "our small, plain", ours.small, us, sizes.calls, sizes.in_flight) end
    if rep % 2 == 1 then without() end
    for _, where in ipairs { "server", "client", "both" } do
      keep(rep, "our small, middleware " .. where, ours.small, where == "client" and us or us.with_middleware, sizes.calls,
        sizes.in_flight, where ~= "server" and "middleware" or nil)
    end
    if rep % 2 == 0 then without() end
  end
  if on.P3 then
    keep(rep, "udp ping-pong", peers.pingpong, sizes.seconds)
    if us then keep(rep, "our sequential", ours.sequential, us, sizes.seconds) end
  end
  if on.P4 then
    keep(rep, "gtls bulk", peers.gtls_bulk, gtls, sizes.bytes)
    if us then
      keep(rep, "our bulk up", ours.bulk, us, "up", sizes.bytes)
      keep(rep, "our bulk down", ours.bulk, us, "down", sizes.bytes)
    end
  end
  if on.P6 then
    if us then
      keep(rep, "gtls connect", peers.gtls_connect, gtls, sizes.connects, 32)
      keep(rep, "our connect", ours.connect, us, sizes.connects, 32)
      keep(rep, "our connect alone", ours.connect, us, sizes.connects, 1)
    end
  end
  if on.P7 then
    keep(rep, "library floor", peers.floor, sizes.idle)
    if us then
      -- A server of its own: what earlier rows left in the heap's free lists would hide what connections cost.
      local fresh = ours.start()
      keep(rep, "our idle", ours.idle, fresh, sizes.idle)
      proc.stop(fresh.server)
    end
  end
  if on.codec and us and proc.read("bench/codec.lua") ~= "" then keep(rep, "our codec", codec) end
end

-- The table ------------------------------------------------------------------------------------------------------

local function verdict(value, first, goal, smaller)
  if not value then return "–" end
  local function holds(bar)
    if smaller then return value <= bar end
    return value >= bar
  end
  return holds(goal) and "goal" or holds(first) and "ok" or "missed"
end

local function line(rows, what, mine, field, peer, peer_field, first, goal, smaller)
  local a, b = report.median_of(samples[mine], field), report.median_of(samples[peer], peer_field)
  local ratio = a and b and a / b
  local sign = smaller and "≤ " or "≥ "
  local result = verdict(ratio, first, goal, smaller)
  rows[#rows + 1] = {
    what, report.spread(samples[mine], field), ("%s: %s"):format(peer, report.spread(samples[peer], peer_field)),
    ratio and ("%.2f"):format(ratio) or "–", sign .. first, sign .. goal, result,
  }
  results:write(report.json {
    kind = "ratio", what = what, ours = a or "none", peer = b or "none", ratio = ratio or "none", first = first, goal = goal,
    result = result,
  }, "\n")
end

local function absolute(rows, what, mine, field, first, goal)
  local a = report.median_of(samples[mine], field)
  rows[#rows + 1] = {
    what, report.spread(samples[mine], field), "–", "–", "≤ " .. report.number(first), "≤ " .. report.number(goal),
    verdict(a, first, goal, true),
  }
  results:write(report.json {
    kind = "absolute", what = what, ours = a or "none", first = first, goal = goal, result = verdict(a, first, goal, true),
  }, "\n")
end

local function lower_bulk()
  local up, down = report.median_of(samples["our bulk up"], "mb_s"), report.median_of(samples["our bulk down"], "mb_s")
  if up and down and down < up then return "our bulk down" end
  return "our bulk up"
end

local function summary()
  local on = options.rows
  local rows = { { "figure", "ours: median (low–high)", "peer", "ratio", "first", "goal", "" } }
  if on.P1 then line(rows, "P1 small calls/s, 128 in flight", "our small", "rate", "gtls small", "rate", 0.8, 2.0) end
  if on.P1m then
    for _, where in ipairs { "server", "client", "both" } do
      line(rows, "P1 with a middleware, " .. where, "our small, middleware " .. where, "rate", "our small, plain", "rate", 0.8, 0.9)
    end
  end
  if on.P3 then
    line(rows, "P3 sequential calls/s", "our sequential", "rate", "udp ping-pong", "rate", 0.6, 0.85)
    -- A share above the bar means that somebody spins instead of sleeping, unless the ping-pong, which sleeps, has it too.
    for _, side in ipairs { "server", "client" } do
      local limit = math.max(0.6, report.median_of(samples["udp ping-pong"], side .. "_share") or 0)
      absolute(rows, "P3 " .. side .. " CPU share", "our sequential", side .. "_share", limit, limit)
    end
  end
  if on.P4 then
    line(rows, "P4 bulk MB/s, one stream (" .. lower_bulk():match("%a+$") .. ", the lower)", lower_bulk(), "mb_s", "gtls bulk",
      "mb_s", 0.8, 1.8)
  end
  if on.P6 then
    line(rows, "P6 server CPU µs per connect + call, 32 at once", "our connect", "server_us", "gtls connect", "server_us", 1.3, 1.0, true)
    absolute(rows, "P6 connect + call, one at a time, median ms", "our connect alone", "p50_ms", 4, 1.5)
  end
  if on.P7 then
    line(rows, "P7 KiB in use per idle connection", "our idle", "in_use_kib", "library floor", "in_use_kib", 1.25, 0.7, true)
    line(rows, "P7 KiB resident per idle connection", "our idle", "resident_kib", "library floor", "resident_kib", 1.25, 0.7, true)
  end
  if samples["our codec"] then absolute(rows, "codec: encode + decode of a small call, ns", "our codec", "ns", 300, 300) end
  print()
  report.table(rows, io.stdout)
end

local function details()
  local rows = { { "CPU", "server µs", "client µs", "server share", "client share", "switches/call s, c", "p50 µs", "p99 µs" } }
  local names = { "gtls small", "our small", "our small, plain", "our small, middleware server", "our small, middleware client",
    "our small, middleware both", "udp ping-pong", "our sequential", "gtls connect", "our connect", "our connect alone" }
  local function cell(name, field) return report.number((report.median_of(samples[name], field))) end
  for _, name in ipairs(names) do
    if samples[name] then
      rows[#rows + 1] = {
        name, cell(name, "server_us"), cell(name, "client_us"), cell(name, "server_share"), cell(name, "client_share"),
        cell(name, "server_switches") .. ", " .. cell(name, "client_switches"), cell(name, "p50_us"), cell(name, "p99_us"),
      }
    end
  end
  for _, name in ipairs { "gtls bulk", "our bulk up", "our bulk down" } do
    if samples[name] then
      rows[#rows + 1] = {
        name .. ", µs/MB", cell(name, "server_us_mb"), cell(name, "client_us_mb"), cell(name, "server_share"),
        cell(name, "client_share"), "–", "–", cell(name, "mb_s") .. " MB/s",
      }
    end
  end
  print()
  report.table(rows, io.stdout)
end

local function main()
  parse_options(arg)
  math.randomseed(os.time())
  local path = ("bench/results/%s.jsonl"):format(os.date("%Y%m%d-%H%M%S"))
  results = assert(io.open(path, "w"))
  results:write(report.json {
    kind = "run", date = os.date("!%Y-%m-%dT%H:%M:%SZ"), cpu = proc.read("/proc/cpuinfo"):match("model name%s*: ([^\n]*)") or "",
    kernel = proc.read("/proc/sys/kernel/osrelease"):gsub("\n", ""), commit = os.getenv("BENCH_COMMIT") or "",
    debian = proc.read("/etc/debian_version"):gsub("\n", ""), sizes = sizes, reps = options.reps,
  }, "\n")
  if options.rows.P4 then big_file(sizes.bytes) end
  local gtls = peers.gtls_start(sizes.in_flight)
  local us = not options.peers_only and ours.start() or nil
  if us and options.rows.P1m then us.with_middleware = ours.start "middleware" end
  for rep = 1, options.reps do repetition(rep, gtls, us) end
  proc.stop(gtls.server)
  if us then proc.stop(us.server) end
  if us and us.with_middleware then proc.stop(us.with_middleware.server) end
  summary()
  details()
  print(("\n%d repetitions, server on CPU %s, client on CPU %s; samples in %s"):format(options.reps, proc.server_cpu,
    proc.client_cpu, path))
  results:close()
end

main()
