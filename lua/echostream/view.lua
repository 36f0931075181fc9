--- Tables that people look at: `print(session:stats())` shows what is in them. It costs one metatable, and nothing is loaded
--- before somebody prints one.

local M = {}

--- The metatable of these tables.
M.metatable = {
  __tostring = function(t)
    return require("echostream.pretty").format(t)
  end,
}

local metatable = M.metatable

--- Makes a table printable.
---@generic T: table
---@param t T  without a metatable
---@return T t
function M.of(t)
  return setmetatable(t, metatable)
end

return M
