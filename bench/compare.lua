--- Two checkouts in one run, by turns: what a change did to P1, P3, P4 and P6. Started by bench/compare.sh.
--- usage: compare.lua OLD_DIR [--reps N] [--quick] [--markdown]
local proc = require "proc"
local ours = require "ours"
local report = require "report"

local options = { reps = 5, markdown = false }
local sizes = { calls = 200000, seconds = 2, bytes = 512 << 20, connects = 300, in_flight = 128 }
local quick = { calls = 50000, seconds = 0.5, bytes = 128 << 20, connects = 50 }

local old_dir
local i = 1
while arg[i] do
  local word = arg[i]
  if word == "--reps" then
    i = i + 1
    options.reps = assert(math.tointeger(tonumber(arg[i])), "--reps wants a number")
  elseif word == "--quick" then
    for name, size in pairs(quick) do sizes[name] = size end
  elseif word == "--markdown" then
    options.markdown = true
  elseif word:sub(1, 1) == "-" then
    error("unknown option " .. word, 0)
  else
    old_dir = word
  end
  i = i + 1
end
assert(old_dir, "compare.lua: which directory?")

local samples = report.samples()

local measurements = {
  { "small", function(side) return ours.small(side, sizes.calls, sizes.in_flight) end },
  { "sequential", function(side) return ours.sequential(side, sizes.seconds) end },
  { "bulk up", function(side) return ours.bulk(side, "up", sizes.bytes) end },
  { "bulk down", function(side) return ours.bulk(side, "down", sizes.bytes) end },
  { "connect", function(side) return ours.connect(side, sizes.connects, 32) end },
}

-- { what, measurement, field, smaller is better }
local lines = {
  { "P1 small calls/s, 128 in flight", "small", "rate" },
  { "P1 server CPU µs per call", "small", "server_us", true },
  { "P1 client CPU µs per call", "small", "client_us", true },
  { "P3 sequential calls/s", "sequential", "rate" },
  { "P3 server CPU µs per call", "sequential", "server_us", true },
  { "P3 client CPU µs per call", "sequential", "client_us", true },
  { "P4 MB/s to the server", "bulk up", "mb_s" },
  { "P4 MB/s to the client", "bulk down", "mb_s" },
  { "P4 server CPU µs per MB, to the server", "bulk up", "server_us_mb", true },
  { "P4 server CPU µs per MB, to the client", "bulk down", "server_us_mb", true },
  { "P6 server CPU µs per connect + call", "connect", "server_us", true },
}

samples:open(("bench/results/compare-%s.jsonl"):format(os.date("%Y%m%d-%H%M%S")),
  { quiet = options.markdown, reps = options.reps, sizes = sizes })
local sides = { { "old", ours.start(nil, old_dir) }, { "new", ours.start(nil, proc.run { "pwd" }:gsub("\n", "")) } }
for rep = 1, options.reps do
  for _, measurement in ipairs(measurements) do
    for turn = 1, 2 do -- old first, then new first
      local side = sides[(rep + turn) % 2 + 1]
      samples:keep(rep, side[1] .. " " .. measurement[1], measurement[2], side[2])
    end
  end
end
for _, side in ipairs(sides) do proc.stop(side[2].server) end

local rows = { { "figure", "old: median (low–high)", "new: median (low–high)", "new over old", "" } }
for _, line in ipairs(lines) do
  local old, new = samples.by_name["old " .. line[2]], samples.by_name["new " .. line[2]]
  local a, b = report.median_of(old, line[3]), report.median_of(new, line[3])
  local ratio = a and b and b / a
  local verdict = "–"
  if ratio then
    local worse = line[4] and ratio > 1.1 or not line[4] and ratio < 0.9
    verdict = worse and "fell by more than 10 %" or "holds"
  end
  rows[#rows + 1] = { line[1], report.spread(old, line[3]), report.spread(new, line[3]), ratio and ("%.2f"):format(ratio) or "–", verdict }
  samples:write { kind = "line", what = line[1], old = a or "none", new = b or "none", ratio = ratio or "none" }
end
samples:close()
print(("%s; old %s, new %s; %d repetitions"):format(report.machine(), os.getenv("BENCH_OLD_COMMIT") or old_dir,
  os.getenv("BENCH_COMMIT") or "?", options.reps))
print()
report.table(rows, io.stdout)
