--- Medians, the table and the JSON lines of a run.
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

return M
