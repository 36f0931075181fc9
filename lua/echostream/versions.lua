--- Versions of protocols: "1.2", ranges of them "1.0-1.4", and lists of ranges "1.0-1.4,2.0".

local M = {}

---@alias echostream.versions { low: integer[], high: integer[] }[]

local function version_of(text)
  local major, minor = text:match "^(%d+)%.(%d+)$"
  if not major then
    major, minor = text:match "^(%d+)$", "0"
  end
  if major and #major <= 9 and #minor <= 9 then
    return { math.tointeger(tonumber(major)), math.tointeger(tonumber(minor)) }
  end
end

local function before(a, b)
  return a[1] < b[1] or a[1] == b[1] and a[2] < b[2]
end

local function show(version)
  return ("%d.%d"):format(version[1], version[2])
end

-- Ranges in one list.
local MOST = 32

--- Every version.
---@type echostream.versions
M.any = { { low = { 0, 0 }, high = { 999999999, 999999999 } } }

--- Reads a list of ranges; nil when it is none.
---@param text string
---@return echostream.versions?
function M.parse(text)
  local ranges = {}
  for part in (text .. ","):gmatch "%s*([^,]-)%s*," do
    local from, to = part:match "^([%d.]+)%-([%d.]+)$"
    local low = version_of(from or part)
    local high = version_of(to or part)
    if not low or not high or before(high, low) or #ranges >= MOST then
      return nil
    end
    ranges[#ranges + 1] = { low = low, high = high }
  end
  return ranges
end

--- Writes it as text.
---@param ranges echostream.versions
---@return string
function M.text(ranges)
  local parts = {}
  for i, range in ipairs(ranges) do
    local low, high = show(range.low), show(range.high)
    parts[i] = low == high and low or low .. "-" .. high
  end
  return table.concat(parts, ",")
end

--- The highest version that is in both lists, as text; nil when there is none.
---@param ours echostream.versions
---@param theirs echostream.versions
---@return string?
function M.best(ours, theirs)
  local best
  for _, a in ipairs(ours) do
    for _, b in ipairs(theirs) do
      local low = before(a.low, b.low) and b.low or a.low
      local high = before(b.high, a.high) and b.high or a.high
      if not before(high, low) and (not best or before(best, high)) then
        best = high
      end
    end
  end
  return best and show(best) or nil
end

return M
