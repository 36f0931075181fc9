-- Figures of many measurements.

local M = {}

--- The value that a share `p` of the list does not exceed; 0 when it is empty. Sorts the list.
---@param list number[]
---@param p number  0 to 1
---@return number
function M.percentile(list, p)
  table.sort(list)
  return list[math.max(1, math.ceil(#list * p))] or 0
end

return M
