--- Prometheus' text format 0.0.4: one writer, and the one place where text of peers becomes text of metrics.

local M = {}

-- Bytes of a label's value that are kept.
local MAX_VALUE = 128

local function hex(c)
  return ("\\x%02x"):format(c:byte())
end

--- A value as text that is safe in any terminal, log or metric: at most 128 bytes of UTF-8 without control characters; other bytes
--- are written as \xNN.
---@param value any
---@return string
function M.label_value(value)
  local ok, s = pcall(tostring, value)
  if not ok then
    return "?" -- somebody's __tostring
  end
  if #s <= MAX_VALUE and not s:find "[%c\127-\255]" then
    return s
  end
  if #s > MAX_VALUE then
    s = s:sub(1, MAX_VALUE)
    local last = utf8.len(s, 1, -1, true) and 0 or #s:match "[\192-\255]?[\128-\191]*$"
    s = s:sub(1, #s - last) .. "..."
  end
  s = s:gsub("[%c\127]", hex)
  if not utf8.len(s) or s:find "\194[\128-\159]" then -- the second control block is no better than the first
    s = s:gsub("[\128-\255]", hex)
  end
  return s
end

--- Any value as valid UTF-8 of at most `max` bytes; control characters stay.
---@param value any
---@param max integer
---@return string
function M.utf8(value, max)
  local ok, s = pcall(tostring, value)
  if not ok then
    return "?"
  end
  if #s > max then
    s = s:sub(1, max):gsub("[\192-\255]?[\128-\191]*$", "", 1) .. "..."
  end
  return utf8.len(s) and s or (s:gsub("[\128-\255]", hex))
end

local function escape(value)
  return (value:gsub("[\\\n\"]", { ["\\"] = "\\\\", ["\n"] = "\\n", ["\""] = "\\\"" }))
end

--- A number as Prometheus reads it.
---@param n number
---@return string
function M.number(n)
  if math.type(n) == "integer" then
    return ("%d"):format(n)
  elseif n ~= n then
    return "NaN"
  elseif n == math.huge or n == -math.huge then
    return n > 0 and "+Inf" or "-Inf"
  end
  local short = ("%.15g"):format(n)
  return tonumber(short) == n and short or ("%.17g"):format(n)
end

---@class echostream.metrics.writer
---@field _lines string[]
local Writer = {}
Writer.__index = Writer

local function braces(names, values, le)
  local parts = {}
  for i, name in ipairs(names) do
    parts[i] = ("%s=\"%s\""):format(name, escape(values[i]))
  end
  if le then
    parts[#parts + 1] = ("le=\"%s\""):format(le)
  end
  return #parts > 0 and "{" .. table.concat(parts, ",") .. "}" or ""
end

-- Begins a metric: all its samples follow before the next begins.
function Writer:family(name, kind, help)
  local lines = self._lines
  lines[#lines + 1] = ("# HELP %s %s"):format(name, (help:gsub("[\\\n]", { ["\\"] = "\\\\", ["\n"] = "\\n" })))
  lines[#lines + 1] = ("# TYPE %s %s"):format(name, kind)
end

function Writer:sample(name, label_names, label_values, value)
  self._lines[#self._lines + 1] = name .. braces(label_names, label_values) .. " " .. M.number(value)
end

-- Powers of two as bounds: times from 16 µs to 69 s, other values from 1 to 2^34. These counts are exact.
local bounds = {
  seconds = { first = 14, last = 36, step = 1, scale = 1e9 },
  bytes = { first = 6, last = 34, step = 2, scale = 1 },
  count = { first = 0, last = 20, step = 1, scale = 1 },
}

function Writer:histogram(name, label_names, label_values, histogram, unit)
  local lines, of = self._lines, bounds[unit]
  local count, sum = histogram:totals()
  for k = of.first, of.last, of.step do
    local le = M.number(of.scale == 1 and 1 << k or (1 << k) / of.scale)
    lines[#lines + 1] = ("%s_bucket%s %d"):format(name, braces(label_names, label_values, le), histogram:at_most(1 << k))
  end
  lines[#lines + 1] = ("%s_bucket%s %d"):format(name, braces(label_names, label_values, "+Inf"), count)
  self:sample(name .. "_sum", label_names, label_values, of.scale == 1 and sum or sum / of.scale)
  self:sample(name .. "_count", label_names, label_values, count)
end

function Writer:text()
  self._lines[#self._lines + 1] = ""
  return table.concat(self._lines, "\n")
end

---@return echostream.metrics.writer
function M.writer()
  return setmetatable({ _lines = {} }, Writer)
end

--- A histogram of the core as a table: `count`, `sum`, `max`, `p50`, `p95`, `p99`, in the unit that `scale` makes of its integers.
---@param histogram userdata
---@param scale number  how many of its integers are one unit: 1e9 for seconds
---@return { count: integer, sum: number, max: number, p50: number, p95: number, p99: number }
function M.summary(histogram, scale)
  local count, sum, max = histogram:totals()
  if scale ~= 1 then
    sum, max = sum / scale, max / scale
  end
  return {
    count = count,
    sum = sum,
    max = max,
    p50 = histogram:quantile(0.5) / scale,
    p95 = histogram:quantile(0.95) / scale,
    p99 = histogram:quantile(0.99) / scale,
  }
end

return M
