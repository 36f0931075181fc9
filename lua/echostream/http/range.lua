--- Ranges of bytes (RFC 9110, section 14).

local fields = require "echostream.http.fields"

local M = {}

---@class echostream.http.range
---@field first integer  0 is the first byte
---@field last integer   inclusive

--- Most ranges of one request that are looked at; a request with more gets everything.
M.max_ranges = 16

-- Positions beyond any file count as the largest number; more digits than an integer has are no reason to fail.
local function number(digits)
  digits = digits:gsub("^0+", "")
  if #digits > 18 then
    return math.maxinteger
  end
  return digits == "" and 0 or math.tointeger(tonumber(digits))
end

-- Overlapping ranges become one (section 15.3.7.2), at the place of the first of them.
local function merge(ranges)
  local order = {}
  for i, range in ipairs(ranges) do
    order[i] = { first = range.first, last = range.last, at = i }
  end
  table.sort(order, function(a, b)
    return a.first < b.first or a.first == b.first and a.at < b.at
  end)
  local merged = {}
  for _, range in ipairs(order) do
    local before = merged[#merged]
    if before and range.first <= before.last then
      before.last, before.at = math.max(before.last, range.last), math.min(before.at, range.at)
    else
      merged[#merged + 1] = range
    end
  end
  table.sort(merged, function(a, b)
    return a.at < b.at
  end)
  for i, range in ipairs(merged) do
    merged[i] = { first = range.first, last = range.last }
  end
  return merged
end

--- Reads the field `Range`.
---@param value string?
---@param size integer  of the representation, in bytes
---@return echostream.http.range[]|nil ranges  cut to what is there
---@return "ignored"|"unsatisfiable"|nil why  ignored: no range is asked for, or it is broken, of another unit, or has too many
--- parts: send everything (200). unsatisfiable: 416 with `M.unsatisfied(size)`
function M.parse(value, size)
  local unit, set = (value or ""):match "^([^=]+)=(.*)$"
  if not unit or unit:lower() ~= "bytes" then
    return nil, "ignored"
  end
  local ranges, specs = {}, 0
  for spec in set:gmatch "[^,]+" do
    spec = fields.trim(spec)
    if spec ~= "" then
      specs = specs + 1
      local from, to = spec:match "^(%d*)%-(%d*)$"
      if specs > M.max_ranges or not from or (from == "" and to == "") then
        return nil, "ignored"
      end
      local first, last
      if from == "" then -- the last bytes
        local n = math.min(number(to), size)
        first, last = size - n, size - 1
      else
        first, last = number(from), to == "" and math.maxinteger or number(to)
        if last < first then
          return nil, "ignored"
        end
        last = math.min(last, size - 1)
      end
      if first <= last then
        ranges[#ranges + 1] = { first = first, last = last }
      end
    end
  end
  if specs == 0 then
    return nil, "ignored"
  elseif #ranges == 0 then
    return nil, "unsatisfiable"
  end
  return merge(ranges)
end

--- The field `Content-Range` of one range.
---@param range echostream.http.range
---@param size integer
---@return string
function M.content_range(range, size)
  return ("bytes %d-%d/%d"):format(range.first, range.last, size)
end

--- The field `Content-Range` of a 416.
---@param size integer
---@return string
function M.unsatisfied(size)
  return ("bytes */%d"):format(size)
end

---@class echostream.http.range.part
---@field head string   what goes before the bytes
---@field first integer
---@field last integer

--- The parts of a multipart/byteranges body (section 14.6).
---@param ranges echostream.http.range[]
---@param size integer
---@param content_type string?  of the representation
---@param boundary string       must not occur in the representation: random
---@return echostream.http.range.part[] parts, string tail, integer length  of the whole body
function M.multipart(ranges, size, content_type, boundary)
  local parts, length = {}, 0
  for i, range in ipairs(ranges) do
    local head = ("%s--%s\r\n%sContent-Range: %s\r\n\r\n"):format(i > 1 and "\r\n" or "", boundary,
      content_type and ("Content-Type: %s\r\n"):format(content_type) or "", M.content_range(range, size))
    parts[i] = { head = head, first = range.first, last = range.last }
    length = length + #head + range.last - range.first + 1
  end
  local tail = ("\r\n--%s--\r\n"):format(boundary)
  return parts, tail, length + #tail
end

return M
