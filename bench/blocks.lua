--- Changing data for the bulk rows: block i of a stream is a fresh string cut from a pseudo-random megabyte at an
--- offset that depends on i, so both ends know it and neither sends the same bytes twice in a row.
local M = {}

local SPAN = 1 << 20

--- 64 KiB with the frame's header stays one frame of the size that needs no reservation.
M.size = 65536 - 64

local source

local function get_source()
  if not source then
    math.randomseed(20, 24)
    local words = {}
    for i = 1, (SPAN + M.size) // 8 + 1 do words[i] = string.pack("<i8", math.random(0)) end
    source = table.concat(words)
  end
  return source
end

local function offset(i) return i * 4099 % SPAN + 1 end

---@param i integer
---@return string
function M.make(i)
  local from = offset(i)
  return get_source():sub(from, from + M.size - 1)
end

--- Cheap on purpose: the length, both ends and the middle.
---@param i integer
---@param data string
---@return boolean
function M.check(i, data)
  if #data ~= M.size then return false end
  local from, s = offset(i), get_source()
  for _, at in ipairs { 0, M.size // 2, M.size - 16 } do
    if data:sub(at + 1, at + 16) ~= s:sub(from + at, from + at + 15) then return false end
  end
  return true
end

get_source() -- when the file is loaded, so that no measured second contains it

return M
