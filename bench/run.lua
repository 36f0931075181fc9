--- Measures us and our peers in one run, interleaved, and prints ratios of medians. Started by bench/run.sh.
--- usage: run.lua [--reps N] [--rows P1,P3,…] [--peers-only] [--quick] [--markdown]
local proc = require "proc"
local peers = require "peers"
local ours = require "ours"
local report = require "report"
local rows = require "rows"

local options = { reps = 3, peers_only = false, markdown = false }
local samples = report.samples()

-- What rows share: the servers, the sizes, the repetition; `started(server)` is ended with the run.
local run = { sizes = rows.sizes, on = {}, options = options, servers = {} }

function run.started(thing)
  run.servers[#run.servers + 1] = thing.server
  return thing
end

local function parse_options(argv)
  local wanted = table.concat(rows.order, ",")
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
    elseif word == "--markdown" then
      options.markdown = true
    elseif word == "--quick" then
      options.reps = 1
      for name, size in pairs(rows.quick) do run.sizes[name] = size end
    else
      error("unknown option " .. word, 0)
    end
    i = i + 1
  end
  for row in wanted:gmatch("[^,]+") do
    if not rows.rows[row] then error(("--rows: no row %s; there are %s"):format(row, table.concat(rows.order, ", ")), 0) end
    run.on[row] = true
  end
end

local function each_row()
  local i = 0
  return function()
    repeat i = i + 1 until not rows.order[i] or run.on[rows.order[i]]
    return rows.rows[rows.order[i]]
  end
end

local function start_peers()
  local start = { gtls = function() return peers.gtls_start(run.sizes.in_flight) end, grpc = peers.grpc_start }
  for row in each_row() do
    for _, name in ipairs(row.peers or {}) do run[name] = run[name] or run.started(start[name]()) end
  end
end

-- The tables ------------------------------------------------------------------------------------------------------

local function summary()
  local lines = { { "figure", "ours: median (low–high)", "peer", "ratio", "first", "goal", "" } }
  for row in each_row() do
    for _, spec in ipairs(row.lines) do lines[#lines + 1] = samples:line(spec) end
  end
  print()
  report.table(lines, io.stdout)
end

local function details()
  local lines = { { "CPU", "server µs", "client µs", "server share", "client share", "switches/call s, c", "p50 µs", "p99 µs" } }
  for _, name in ipairs(samples.names) do
    local function cell(field) return report.number((report.median_of(samples.by_name[name], field))) end
    local first = samples.by_name[name][1]
    if first.server_us_mb then
      lines[#lines + 1] = { name .. ", a MB", cell("server_us_mb"), cell("client_us_mb"), cell("server_share"), cell("client_share"), "–",
        "–", "–" }
    elseif first.server_us then
      lines[#lines + 1] = { name .. ", a call", cell("server_us"), cell("client_us"), cell("server_share"), cell("client_share"),
        cell("server_switches") .. ", " .. cell("client_switches"), cell("p50_us"), cell("p99_us") }
    end
  end
  if #lines > 1 then
    print()
    report.table(lines, io.stdout)
  end
end

local function main()
  parse_options(arg)
  math.randomseed(os.time())
  local path = ("bench/results/%s.jsonl"):format(os.date("%Y%m%d-%H%M%S"))
  samples:open(path, { quiet = options.markdown, reps = options.reps, sizes = run.sizes })
  start_peers()
  if not options.peers_only then run.us = run.started(ours.start()) end
  for rep = 1, options.reps do
    run.rep = rep
    for row in each_row() do
      row.take(run, function(name, fn, ...) samples:keep(rep, name, fn, ...) end)
    end
  end
  for _, server in ipairs(run.servers) do proc.stop(server) end
  if options.markdown then
    print(("%s; commit %s; `bench/run.sh %s`"):format(report.machine(), os.getenv("BENCH_COMMIT") or "?", table.concat(arg, " ")))
  end
  summary()
  details()
  if not options.markdown then
    print(("\n%d repetitions, server on CPU %s, client on CPU %s; samples in %s"):format(options.reps, proc.server_cpu,
      proc.client_cpu, path))
  end
  samples:close()
end

main()
