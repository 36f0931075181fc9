--- What a visitor says of the urgency of a request (RFC 9218): the fields `urgency` and `incremental` of a structured dictionary (RFC 9651).

local M = {}

-- The value of one member of a dictionary, and the rest of the text. Parameters behind it are left out.
local function member(text)
  local key, rest = text:match "^([%l*][%l%d_.*-]*)(.*)$"
  if not key then
    return nil
  end
  local value
  if rest:byte() == 61 then -- "="
    value, rest = rest:match '^=("[^"\\]*"[^,]*)(.*)$'
    if not value then
      value, rest = text:sub(#key + 1):match "^=([^,]*)(.*)$"
    end
    value = value:match "^([^;]-)[ \t]*$" or value:match "^([^;]-)[ \t]*;"
  else
    local parameters
    parameters, rest = rest:match "^([^,]*)(.*)$"
    if parameters:find "^[^;%s]" then
      return nil
    end
    value = "?1" -- a member without a value is true
  end
  return key, value, rest:match "^[ \t]*,[ \t]*(.+)$" or (rest:match "^[ \t]*$" and "")
end

--- Reads the field `Priority`. What cannot be read counts as not said; so do urgencies outside of 0 to 7.
---@param value string?
---@return integer urgency  0 (first) to 7; 3 when nothing is said
---@return boolean incremental  the response is of use in pieces (default: false)
function M.parse(value)
  local urgency, incremental = 3, false
  local text = value and #value <= 256 and value:match "^[ \t]*(.-)[ \t]*$" or ""
  while text ~= "" do
    local key, said, rest = member(text)
    if not key or not said or not rest then
      return 3, false
    elseif key == "u" and said:find "^[0-7]$" then
      urgency = tonumber(said) --[[@as integer]]
    elseif key == "i" and (said == "?0" or said == "?1") then
      incremental = said == "?1"
    end
    text = rest
  end
  return math.tointeger(urgency) or 3, incremental
end

return M
