-- Names of files and directories that nobody else uses; what was made there goes when the process ends.

local M = {}

local made = setmetatable({}, {
  __gc = function(paths)
    for _, path in ipairs(paths) do
      os.execute("rm -rf '" .. path .. "'")
    end
  end,
})

--- A path below the system's temporary directory where nothing is yet.
---@param suffix? string
---@return string
function M.path(suffix)
  local name = os.tmpname()
  os.remove(name)
  made[#made + 1] = name .. (suffix or "")
  return made[#made]
end

return M
