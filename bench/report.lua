--- Medians, the table and the JSON lines of a run.
local proc = require "proc"

local M = {}

---@param values number[]
---@return number median, number low, number high
function M.median(values)
  local sorted = table.move(values, 1, #values, 1, {})
  table.sort(sorted)
  local n = #sorted
  local middle = n % 2 == 1 and sorted[(n + 1) // 2] or (sorted[n // 2] + sorted[n // 2 + 1]) / 2
  return middle, sorted[1], sorted[n]
end

--- The values of one field over the samples of one measurement that have it.
---@param samples table[]
---@param field string
---@return number[]
function M.pick(samples, field)
  local values = {}
  for _, sample in ipairs(samples or {}) do
    if type(sample[field]) == "number" then values[#values + 1] = sample[field] end
  end
  return values
end

---@return number|nil median, number|nil low, number|nil high
function M.median_of(samples, field)
  local values = M.pick(samples, field)
  if #values == 0 then return nil end
  return M.median(values)
end

--- 1234567 -> "1,234,567"; small numbers keep three digits.
---@param x number|nil
---@return string
function M.number(x)
  if not x then return "–" end
  if math.abs(x) < 100 then return (("%.3g"):format(x)) end
  local text = ("%d"):format(math.floor(x + 0.5))
  local grouped = text:reverse():gsub("(%d%d%d)", "%1,"):reverse()
  return (grouped:gsub("^,", ""))
end

--- "median (low–high)"
function M.spread(samples, field)
  local middle, low, high = M.median_of(samples, field)
  if not middle then return "–" end
  return ("%s (%s–%s)"):format(M.number(middle), M.number(low), M.number(high))
end

local function display_width(text) return utf8.len(text) or #text end

--- Prints rows of strings as an aligned table; the first row is the head.
---@param rows string[][]
---@param out file*
function M.table(rows, out)
  local widths = {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do widths[i] = math.max(widths[i] or 0, display_width(cell)) end
  end
  for n, row in ipairs(rows) do
    local cells = {}
    for i, cell in ipairs(row) do cells[i] = cell .. (" "):rep(widths[i] - display_width(cell)) end
    out:write("| ", table.concat(cells, " | "), " |\n")
    if n == 1 then
      local rules = {}
      for i, width in ipairs(widths) do rules[i] = ("-"):rep(width) end
      out:write("|-", table.concat(rules, "-|-"), "-|\n")
    end
  end
end

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function encode(value)
  local kind = type(value)
  if kind == "number" then
    if value ~= value or value == math.huge or value == -math.huge then return "null" end
    return math.type(value) == "integer" and tostring(value) or ("%.6g"):format(value)
  elseif kind == "string" then
    return '"' .. value:gsub('["\\%c]', function(c) return escapes[c] or ("\\u%04x"):format(c:byte()) end) .. '"'
  elseif kind == "table" then
    local parts = {}
    if #value > 0 then
      for i, item in ipairs(value) do parts[i] = encode(item) end
      return "[" .. table.concat(parts, ",") .. "]"
    end
    local keys = {}
    for key in pairs(value) do keys[#keys + 1] = key end
    table.sort(keys)
    for i, key in ipairs(keys) do parts[i] = encode(key) .. ":" .. encode(value[key]) end
    return "{" .. table.concat(parts, ",") .. "}"
  end
  return tostring(value)
end
M.json = encode

--- One line about the machine.
---@return string
function M.machine()
  local cpu = proc.read("/proc/cpuinfo"):match("model name%s*: ([^\n]*)") or "unknown CPU"
  local _, cpus = proc.read("/proc/cpuinfo"):gsub("\nprocessor", "")
  return ("Debian %s, Linux %s, %d × %s"):format(proc.read("/etc/debian_version"):gsub("\n", ""),
    proc.read("/proc/sys/kernel/osrelease"):gsub("\n", ""), cpus + 1, cpu)
end

-- Samples: kept by name, written as JSON lines at once ---------------------------------------------------------------

---@class bench.samples
---@field names string[]  in the order they first came
---@field by_name table<string, table[]>
local Samples = {}
Samples.__index = Samples

---@return bench.samples
function M.samples()
  return setmetatable({ names = {}, by_name = {} }, Samples)
end

---@param path string
---@param about { quiet: boolean?, reps: integer, sizes: table }
function Samples:open(path, about)
  self.file = assert(io.open(path, "w"))
  self.quiet, self.reps = about.quiet, about.reps
  self:write { kind = "run", date = os.date("!%Y-%m-%dT%H:%M:%SZ"), machine = M.machine(), commit = os.getenv("BENCH_COMMIT") or "",
    sizes = about.sizes, reps = about.reps }
end

function Samples:write(record)
  self.file:write(encode(record), "\n")
  self.file:flush()
end

function Samples:close() self.file:close() end

local noted = { "rate", "mb_s", "server_us", "client_us", "p50_us", "p99_us", "p50_ms", "in_use_kib", "resident_kib", "ns" }

--- Takes a sample: fn(...) gives a flat table of numbers. What it raises is said and kept too, and the run goes on.
function Samples:keep(rep, name, fn, ...)
  local ok, sample = pcall(fn, ...)
  if not ok then
    io.stderr:write(("%s failed: %s\n"):format(name, sample))
    self:write { kind = "failure", rep = rep, name = name, message = tostring(sample) }
    return
  end
  if not self.by_name[name] then
    self.by_name[name] = {}
    self.names[#self.names + 1] = name
  end
  table.insert(self.by_name[name], sample)
  self:write { kind = "sample", rep = rep, name = name, values = sample }
  if self.quiet then return end
  local note = {}
  for _, field in ipairs(noted) do
    if sample[field] then note[#note + 1] = field .. " " .. M.number(sample[field]) end
  end
  io.stderr:write(("%d/%d %-28s %s\n"):format(rep, self.reps, name, table.concat(note, ", ")))
end

local function verdict(value, first, goal, smaller)
  local function holds(bar)
    if smaller then return value <= bar end
    return value >= bar
  end
  return holds(goal) and "goal" or holds(first) and "ok" or "missed"
end

--- A line of the table: { what, ours, field, peer, its field, first bar, goal }, `smaller`: less is better; without a peer the
--- value itself is judged; without bars nothing is; `share`: at most this, or what the peer has.
---@return string[] cells
function Samples:line(spec)
  local what, mine, field, peer, peer_field, first, goal = table.unpack(spec, 1, 7)
  local smaller = spec.smaller or spec.share ~= nil
  local a = M.median_of(self.by_name[mine], field)
  local b = peer and M.median_of(self.by_name[peer], peer_field)
  local ratio = a and b and a / b
  local judged = ratio
  if spec.share then
    judged, first = a, math.max(spec.share, b or 0)
    goal = spec.share
  elseif not peer then
    judged = a
  end
  local result = judged and first and verdict(judged, first, goal, smaller) or "–"
  self:write { kind = "line", what = what, ours = a or "none", peer = b or "none", ratio = ratio or "none", first = first or "none",
    goal = goal or "none", result = result }
  local sign = smaller and "≤ " or "≥ "
  return {
    what, M.spread(self.by_name[mine], field), peer and ("%s: %s"):format(peer, M.spread(self.by_name[peer], peer_field)) or "–",
    ratio and ("%.2f"):format(ratio) or "–", first and sign .. M.number(first) or "–", goal and sign .. M.number(goal) or "–", result,
  }
end

return M
